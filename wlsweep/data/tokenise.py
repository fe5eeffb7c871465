"""Chats to tokens: where the answer's label stands, and how a paper is cut so that everything else survives.

A row is always the exact tokenisation of a well-formed chat: a paper that is too long is cut at a character and the
chat rendered and tokenised again, rather than tokens removed from the middle of a row. ICLR papers run 10-13k tokens,
so at a cutoff of 4096 most rows are cut; a cut at the end of the *row* would drop the answer.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from wlsweep.data.rows import Row
from wlsweep.errors import WlsweepError
from wlsweep.spec.data_section import SystemTurns
from wlsweep.spec.task import ICLR, Task

_MARK = "\u2402here goes the paper\u2403"
_PROBE = " \n<b> a & b 'c' \n"  # white space at both ends and characters that templates trim or escape
_CHARS_PER_TOKEN = 5
"""First guess of how many characters of a paper can matter, per token of the cutoff; doubled where it is too few."""
_OTHER_PLACES = (
    'set data.system = "merge" (the text of the system turn goes before the user\'s) '
    'or data.system = "drop" (no system turn)'
)
_TOKENIZER_FILES = ("tokenizer*", "*.jinja", "special_tokens_map.json", "added_tokens.json", "vocab*", "merges.txt")


class AnswerTokens(NamedTuple):
    """Token ids of the two answers. The decision is the first token in which they differ; p(accept) is defined there."""

    prefix: tuple[int, ...]
    """What both begin with (`\\boxed{`); may be nothing."""
    accept: int
    """The decision's token in the positive answer: the whole label, its first piece, or more than the label."""
    reject: int
    suffix: tuple[int, ...]
    """What follows the decision: the rest of the label if there is any, `}` and the end-of-turn token."""
    reject_suffix: tuple[int, ...] | None = None
    """What follows it in the other answer; None: the same."""

    def ids(self, accept: bool) -> list[int]:
        """All tokens of the answer with the positive label, or with the other one."""
        if accept:
            return [*self.prefix, self.accept, *self.suffix]
        return [*self.prefix, self.reject, *(self.suffix if self.reject_suffix is None else self.reject_suffix)]

    @property
    def length(self) -> int:
        """Tokens of the longer answer."""
        return max(len(self.ids(True)), len(self.ids(False)))

    def lengths(self, accept: NDArray[np.bool_]) -> NDArray[np.int64]:
        """[n] int64: tokens of the answer of each row, given whether its label is the positive one."""
        return np.where(accept, len(self.ids(True)), len(self.ids(False)))

    @property
    def end(self) -> int:
        """The end-of-turn token of both."""
        return self.suffix[-1]


class Prompt(NamedTuple):
    """What the model reads of one row, up to and with the assistant header."""

    ids: list[int]
    text: str
    truncated: bool
    cleaned: bool
    """Whether the paper spelled a control token, which was broken up."""


class CutoffError(WlsweepError):
    """The cutoff has no room for system prompt, instruction, assistant header, answer and one character of paper."""


@dataclass(frozen=True)
class _Frame:
    """The rendered chat around a paper: the same for all rows that share system prompt and instruction."""

    head: str
    tail: str
    strip: bool
    """Whether the template trims turns."""

    def around(self, paper: str) -> str:
        return self.head + (paper.rstrip() if self.strip else paper) + self.tail


@dataclass
class _Draft:
    frame: _Frame
    paper: str
    upto: int
    """Characters of the paper in the current attempt."""
    cleaned: bool
    """Whether it differs from the row's."""
    shrunk: bool = False
    """Whether a longer attempt was too long."""


def load_tokenizer(model: Path | str) -> Any:
    """The fast tokenizer of a model folder (or of a hub name, where a hub can be reached).

    Raises:
        WlsweepError: if there is none, or it has no chat template.
    """
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(str(model), trust_remote_code=False)
    except (OSError, ValueError, KeyError) as e:
        raise WlsweepError(f"{model}: no tokenizer can be loaded: {str(e).splitlines()[0][:200]}") from None
    if not tokenizer.is_fast:
        raise WlsweepError(f"{model}: a fast tokenizer (tokenizer.json) is needed for the places where texts are cut")
    if not tokenizer.chat_template:
        raise WlsweepError(f"{model}: the tokenizer has no chat template; use an instruct model")
    return tokenizer


def tokenizer_hash(model: Path | str) -> str:
    """sha256 (hex) of everything that decides tokens: vocabulary, merges, special tokens, chat template.

    For a folder it hashes the files without loading them, so that asking again costs milliseconds.

    Raises:
        WlsweepError: if there is no tokenizer.
    """
    folder = Path(model)
    digest = hashlib.sha256()
    if folder.is_dir():
        files = sorted({f for pattern in _TOKENIZER_FILES for f in folder.glob(pattern) if f.is_file()})
        if not files:
            raise WlsweepError(f"{folder} holds no tokenizer (tokenizer.json, tokenizer_config.json)")
        for f in files:
            digest.update(f"{f.name}\0{f.stat().st_size}\0".encode() + f.read_bytes())
    else:
        tokenizer = load_tokenizer(model)
        digest.update(tokenizer.backend_tokenizer.to_str().encode() + str(tokenizer.chat_template).encode())
    return digest.hexdigest()


def place_system(row: Row, how: SystemTurns) -> Row:
    """The row with its system turn kept, merged into the user's turn (before its text) or dropped."""
    if how == "keep" or row.system is None:
        return row
    if how == "drop" or not row.system.strip():
        return row._replace(system=None)
    return row._replace(system=None, instruction=f"{row.system.strip()}\n\n{row.instruction}")


def chat_messages(row: Row) -> list[dict[str, str]]:
    """The turns before the answer, as chat templates take them."""
    return _messages(row.system, row.instruction + row.paper)


def find_answer_tokens(tokenizer: Any, task: Task = ICLR) -> AnswerTokens:
    """Find the decision in context: tokenise whole chats that end in either answer of the task, and compare.

    The chats have no system turn: every template takes such chats, and whether it also takes the rows' own system turns is
    tried with those (`tokenise_rows`).

    Raises:
        WlsweepError: if the tokenizer writes both labels alike, an answer spells a control token, the template does not end
            a turn with a special token, or the prompt is not tokenised the same with and without an answer after it.
    """
    turns = _messages(None, "Paper.")
    prompt = _render(tokenizer, turns, add_generation_prompt=True)
    prompt_ids = _encode(tokenizer, prompt)
    specials = set(tokenizer.all_special_ids) | {n for n, t in tokenizer.added_tokens_decoder.items() if t.special}
    answers = {}
    for label in task.labels:
        said = task.answer_with(label)
        if inside := set(_encode(tokenizer, said)) & specials:
            raise WlsweepError(
                f"[task]: the answer {said!r} spells the control token {tokenizer.decode([min(inside)])!r} of the model, "
                "which would end the turn; give labels and a form of the answer without it"
            )
        chat = _render(tokenizer, [*turns, {"role": "assistant", "content": said}])
        ids = _encode(tokenizer, chat)
        if ids[: len(prompt_ids)] != prompt_ids:
            raise WlsweepError(
                "the chat template does not write the assistant header that it prompts with before an answer (or the "
                "answer changes the tokens before it); this model cannot be trained on a prompt and its answer"
            )
        rest = ids[len(prompt_ids) :]
        end = next((n for n, token in enumerate(rest) if token in specials), None)
        if end is None:
            raise WlsweepError(
                "the chat template ends the assistant's turn without a special token, so none can stop it"
            )
        answers[label] = rest[: end + 1]
    accept, reject = answers[task.positive], answers[task.negative]
    if accept == reject:
        pieces = " | ".join(tokenizer.decode([token]) for token in accept)
        raise WlsweepError(
            f"the tokenizer writes {' and '.join(map(task.answer_with, task.labels))} alike, as {pieces}: no model with "
            "this tokenizer can tell the two labels apart; use another model, or other label texts"
        )
    # Both end with a special token, so neither is the beginning of the other.
    same = next(n for n, (a, r) in enumerate(zip(accept, reject, strict=False)) if a != r)
    after_accept, after_reject = tuple(accept[same + 1 :]), tuple(reject[same + 1 :])
    return AnswerTokens(
        tuple(accept[:same]),
        accept[same],
        reject[same],
        after_accept,
        None if after_reject == after_accept else after_reject,
    )


def tokenise_rows(tokenizer: Any, rows: Sequence[Row], cutoff: int, answer: AnswerTokens) -> list[Prompt]:
    """Tokenise the prompts of a batch of rows, cutting papers at their end so that prompt and answer fit the cutoff.

    Control tokens that a paper happens to spell (such as `<|im_end|>`) are broken up with a space, or they would end
    the turn.

    Args:
        tokenizer: a fast tokenizer with a chat template.
        rows: any number; a few hundred at a time bound the memory and keep all cores busy.
        cutoff: longest prompt plus answer, in tokens.
        answer: of this tokenizer.

    Returns:
        One prompt a row, in order; `len(ids) + answer.length <= cutoff`.

    Raises:
        CutoffError: if a row does not fit even with one character of its paper.
    """
    budget = cutoff - answer.length
    frames = _Frames(tokenizer)
    done: dict[int, Prompt] = {}
    drafts: dict[int, _Draft] = {}
    for i, row in enumerate(rows):
        frame = frames.of(row.system, row.instruction)
        paper = frames.clean(row.paper)
        cleaned = paper != row.paper
        if frame.strip and not row.instruction:
            paper = paper.lstrip()
        drafts[i] = _Draft(frame, paper, min(len(paper), _CHARS_PER_TOKEN * cutoff), cleaned)
    while drafts:
        texts = [d.frame.around(d.paper[: d.upto]) for d in drafts.values()]
        for (i, d), text, encoding in zip(list(drafts.items()), texts, _encode_batch(tokenizer, texts), strict=True):
            if len(encoding) > budget:
                if d.upto == 1:
                    needed = len(encoding) + answer.length
                    raise CutoffError(f"cutoff {cutoff} is too small: row {rows[i].row_id!r} needs {needed} tokens")
                d.upto, d.shrunk = _shorter(encoding, text, d, budget), True
            elif d.shrunk or d.upto == len(d.paper):
                done[i] = Prompt(encoding.ids, text, d.upto < len(d.paper), d.cleaned)
                del drafts[i]
            else:
                d.upto = min(len(d.paper), 2 * d.upto)
    return [done[i] for i in range(len(rows))]


def smallest_cutoff(tokenizer: Any, rows: Sequence[Row], answer: AnswerTokens) -> int:
    """The smallest cutoff, in tokens, at which none of these rows is refused by `tokenise_rows`."""
    frames = _Frames(tokenizer)
    texts = [frames.of(row.system, row.instruction).around(frames.clean(row.paper)[:1]) for row in rows]
    return max((len(e) for e in _encode_batch(tokenizer, texts)), default=0) + answer.length


class _Frames:
    """The rendered chats around papers, each made once."""

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        self.known: dict[tuple[str | None, str], _Frame] = {}
        special = {t.content for t in tokenizer.added_tokens_decoder.values() if t.special}
        special |= set(tokenizer.all_special_tokens)
        self.controls = re.compile("|".join(map(re.escape, sorted((t for t in special if len(t) > 1), reverse=True))))

    def clean(self, text: str) -> str:
        if not self.controls.pattern:
            return text
        return self.controls.sub(lambda m: f"{m[0][0]} {m[0][1:]}", text)

    def of(self, system: str | None, instruction: str) -> _Frame:
        key = (system, instruction)
        if key not in self.known:
            self.known[key] = self._make(None if system is None else self.clean(system), self.clean(instruction))
        return self.known[key]

    def _make(self, system: str | None, instruction: str) -> _Frame:
        def chat(paper: str) -> str:
            return _render(self.tokenizer, _messages(system, instruction + paper), add_generation_prompt=True)

        head, found, tail = chat(_MARK).partition(_MARK)
        trimmed = _PROBE.rstrip() if instruction else _PROBE.strip()
        frame = _Frame(head, tail, strip=head + trimmed + tail == chat(_PROBE))
        if not found or (not frame.strip and frame.around(_PROBE) != chat(_PROBE)):
            raise WlsweepError("the chat template changes the text of a user turn; wlsweep cannot tell where texts end")
        if system is not None and system.strip() not in head:
            raise WlsweepError(f"the model's chat template leaves system turns out; {_OTHER_PLACES}")
        return frame


def _shorter(encoding: Any, text: str, d: _Draft, budget: int) -> int:
    """Characters of the paper for the next attempt: what the budget holds after the tokens behind the paper."""
    start, end = len(d.frame.head), len(text) - len(d.frame.tail)
    behind = 0
    while behind < len(encoding) and encoding.token_to_chars(len(encoding) - 1 - behind)[0] >= end:
        behind += 1
    last = budget - behind - 1
    kept = encoding.token_to_chars(last)[1] - start if last >= 0 else 1
    return max(1, min(kept, d.upto - 1))


def _encode_batch(tokenizer: Any, texts: list[str]) -> list[Any]:
    """An `Encoding` of the tokenizers library for each text: lists of all tokens' offsets, which it also gives, are slow."""
    return list(tokenizer.backend_tokenizer.encode_batch(texts, add_special_tokens=False))


def _encode(tokenizer: Any, text: str) -> list[int]:
    return list(_encode_batch(tokenizer, [text])[0].ids)


def _messages(system: str | None, user: str) -> list[dict[str, str]]:
    turns = [] if system is None else [{"role": "system", "content": system}]
    return [*turns, {"role": "user", "content": user}]


def _render(tokenizer: Any, turns: list[dict[str, str]], add_generation_prompt: bool = False) -> str:
    from jinja2 import TemplateError

    try:
        return str(tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=add_generation_prompt))
    except TemplateError as e:
        roles = [t["role"] for t in turns]
        advice = f"; {_OTHER_PLACES}" if "system" in roles else ""
        raise WlsweepError(f"the model's chat template refuses turns {', '.join(roles)}: {e}{advice}") from None
