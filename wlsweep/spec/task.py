r"""What a sweep classifies: the two label texts, the form of an answer, and the words that tables, figures and pages use.

    >>> spam = Task(positive="Spam", negative="Ham", answer="Answer: LABEL", item="message")
    >>> spam.answer_with("Spam"), spam.parse("I think so. Answer: Spam"), spam.parse("Spam")
    ('Answer: Spam', 'Spam', None)
    >>> spam.words.positives, spam.words.rate
    ('spam messages', 'share of spam messages')

The positive label is the class that names of conditions, metrics and columns call `accept`: `accept_gamma4.0_prop1_2`
weights the rows of the positive label by 4, `p_accept` is the probability of the positive label. The default is ICLR's
Accept and Reject in `\boxed{}`.
"""

from __future__ import annotations

import re
import unicodedata
from functools import cached_property
from typing import NamedTuple, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator, model_validator

PLACE = "LABEL"
"""Where the label stands in the form of an answer."""


class Words(NamedTuple):
    """What sentences, headings and axes call things; those of the default task are in brackets."""

    item: str
    """One of what is classified ("paper")."""
    items: str
    positive: str
    """The positive class in one word, as an attribute ("accept")."""
    negative: str
    positives: str
    """Items of the positive class ("accepts")."""
    negatives: str
    rate: str
    """Their share ("accept rate"), after "predicted" or "true"."""
    labels: tuple[str, str]
    """The label texts, the positive one first."""

    def variant(self, name: str) -> str:
        """What a variant of the loss is called: after the class whose rows it weights, or `baseline`."""
        return {"accept": self.positive, "reject": self.negative}.get(name, name)

    def counted(self, n: int) -> str:
        """A number of items with its noun."""
        return f"{n:,} {self.item if n == 1 else self.items}"


class Task(BaseModel):
    """What is classified; the positive label is what names of conditions and columns call `accept`."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    positive: str = Field("Accept", max_length=60)
    """The label text of the positive class, as it stands in the rows' answers; case counts."""
    negative: str = Field("Reject", max_length=60)
    """The label text of the other class."""
    answer: str = Field(r"\boxed{LABEL}", max_length=200)
    """The whole answer that is trained on and looked for in what a model writes, with `LABEL` once where the label stands,
    such as `Answer: LABEL`. Of rows and models that write more, it must be found in the text; the form `LABEL` alone must
    be all of the text."""
    item: str | None = Field(None, max_length=60)
    """What one row is called, such as `message`; without it `paper` for the label Accept, else `item`."""
    items: str | None = Field(None, max_length=60)
    """Its plural; without it `item` and an s."""
    positives: str | None = Field(None, max_length=60)
    """What rows of the positive class are called; without it `accepts` for the label Accept, else the label before the
    plural, such as `spam messages`."""
    negatives: str | None = Field(None, max_length=60)
    """What rows of the other class are called; likewise."""
    rate: str | None = Field(None, max_length=60)
    """What the share of the positive class is called after "predicted" and "true"; without it `accept rate` for the label
    Accept, else such as `share of spam messages`."""

    @field_validator("*")
    @classmethod
    def _printable(cls, text: str | None, info: ValidationInfo) -> str | None:
        if text is None:
            return None
        if not text.strip():
            raise ValueError("is empty")
        if text != text.strip():
            raise ValueError(f"{text!r} begins or ends with white space; take it away")
        if info.field_name != "answer" and ("<" in text or ">" in text):
            raise ValueError(f"{text[:60]!r} holds < or >, which figures would read as markup; write it without")
        if odd := next((c for c in text if unicodedata.category(c) in ("Cc", "Cs", "Zl", "Zp")), None):
            raise ValueError(f"{text[:60]!r} holds the control character {odd!r}; write it in one line of plain text")
        return text

    @model_validator(mode="after")
    def _told_apart(self) -> Self:
        if self.answer.count(PLACE) != 1:
            raise ValueError(
                f"answer = {self.answer!r} holds {PLACE} {self.answer.count(PLACE)} times; write it once, where the label "
                rf'stands, such as "\\boxed{{{PLACE}}}" or "Answer: {PLACE}"'
            )
        both = f"positive = {self.positive!r} and negative = {self.negative!r}"
        plain = [unicodedata.normalize("NFKC", label).casefold() for label in self.labels]
        if plain[0] == plain[1]:
            how = "are the same" if self.positive == self.negative else "differ in case or Unicode form alone"
            raise ValueError(f"{both} {how}")
        before, after = self.answer.split(PLACE)
        for one, other in (self.labels, self.labels[::-1]):
            at_end = bool(before) and not after and other.startswith(one) and not _word(other[len(one)])
            at_start = bool(after) and not before and other.endswith(one) and not _word(other[-len(one) - 1])
            if at_end or at_start or self.parse(self.answer_with(one)) != one:
                raise ValueError(
                    f"{both}: answer = {self.answer!r} does not say whether {one!r} is meant or a part of {other!r}; "
                    rf'give one that encloses the label, such as "\\boxed{{{PLACE}}}"'
                )
        return self

    @property
    def labels(self) -> tuple[str, str]:
        """The two label texts, the positive one first."""
        return self.positive, self.negative

    @property
    def identity(self) -> tuple[str, str, str] | None:
        """What of a task decides results; None for the default, so that it changes no earlier fingerprint."""
        found = (self.positive, self.negative, self.answer)
        return None if found == ("Accept", "Reject", r"\boxed{LABEL}") else found

    @property
    def notes(self) -> list[str]:
        """What a reader of a plan should know of a task that is not the default."""
        if self.identity is None:
            return []
        return [
            f"task: {self.positive!r} is the positive class (accept in names of conditions and columns), {self.negative!r} "
            f"the other one (reject); the answer is {self.answer!r}"
        ]

    def answer_with(self, label: str) -> str:
        r"""The whole answer with a label, such as `\boxed{Accept}`."""
        return self.answer.replace(PLACE, label)

    def parse(self, text: str) -> str | None:
        """The label that a text answers with, read strictly: None if it has none, or two different ones."""
        found = self.labels_in(text)
        return found.pop() if len(found) == 1 else None

    def labels_in(self, text: str) -> set[str]:
        """The different labels that a text answers with."""
        return set(self._pattern.findall(text))

    @cached_property
    def _pattern(self) -> re.Pattern[str]:
        before, after = self.answer.split(PLACE)
        label = "(" + "|".join(re.escape(text) for text in sorted(self.labels, key=len, reverse=True)) + ")"
        if not before and not after:
            return re.compile(rf"\A\s*{label}\s*\Z")
        start, end = re.escape(before) or r"(?<!\w)", re.escape(after) or r"(?!\w)"
        return re.compile(start + label + end)

    @cached_property
    def words(self) -> Words:
        """The words of sentences, with every default in place."""
        item = self.item or ("paper" if self.positive.casefold() == "accept" else "item")
        items = self.items or f"{item}s"
        positive, negative = map(_in_sentence, self.labels)
        positives = self.positives or _plural(positive, items)
        rate = self.rate or ("accept rate" if positives == "accepts" else f"share of {positives}")
        negatives = self.negatives or _plural(negative, items)
        return Words(item, items, positive, negative, positives, negatives, rate, self.labels)


ICLR = Task()
"""The default: Accept and Reject, boxed."""


def capital(text: str) -> str:
    """A text as the start of a sentence."""
    return text[:1].upper() + text[1:]


def _word(sign: str) -> bool:
    return re.match(r"\w", sign) is not None


def _in_sentence(label: str) -> str:
    """A label within a sentence: `Spam` without its capital, `AI` and `A` as they are."""
    return label[0].lower() + label[1:] if len(label) > 1 and label[1:] == label[1:].lower() else label


def _plural(word: str, items: str) -> str:
    return {"accept": "accepts", "reject": "rejects"}.get(word.lower(), f"{word} {items}")
