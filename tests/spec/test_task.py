"""Labels, the form of an answer, and the words of a task."""

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from wlsweep.errors import WlsweepError
from wlsweep.spec.config import load_sweep
from wlsweep.spec.task import ICLR, Task

LABEL_TEXTS = st.text(alphabet="aBé1+.}\\ not", min_size=1, max_size=8).map(str.strip)
SPAM = {"positive": "Spam", "negative": "Ham"}


def test_the_default_reads_only_what_is_boxed():
    assert ICLR.parse("Accept") is None
    assert ICLR.parse("I would Accept, but \\boxed{Reject}") == "Reject"
    assert ICLR.parse("\\boxed{Accept}, so \\boxed{Accept}") == "Accept"
    assert ICLR.parse("\\boxed{Accept}, no: \\boxed{Reject}") is None
    assert ICLR.parse("\\boxed{accept}") is None and ICLR.parse("\\boxed{ Accept}") is None


def test_an_answer_of_another_form_is_found_in_a_longer_text_and_a_bare_label_only_alone():
    task = Task(**SPAM, answer="Answer: LABEL")
    assert task.parse("It sells pills.\nAnswer: Spam.") == "Spam"
    assert task.parse("Answer: Spammy") is None and task.parse("Spam") is None and task.parse("answer: Spam") is None
    assert task.parse("Answer: Spam or Answer: Ham") is None
    bare = Task(**SPAM, answer="LABEL")
    assert bare.parse(" Spam\n") == "Spam" and bare.parse("This is Spam") is None and bare.parse("not Spam") is None


def test_a_label_within_the_other_is_told_apart_where_the_form_says_where_the_label_ends():
    assert Task(positive="relevant", negative="irrelevant", answer="LABEL").parse("irrelevant") == "irrelevant"
    boxed = Task(positive="C", negative="C++")
    assert boxed.parse("\\boxed{C++}") == "C++" and boxed.parse("\\boxed{C}") == "C"
    said = Task(positive="spam", negative="not spam", answer="Answer: LABEL")
    assert said.parse("Answer: not spam") == "not spam" and said.parse("Answer: spam") == "spam"


@given(
    LABEL_TEXTS,
    LABEL_TEXTS,
    st.sampled_from([r"\boxed{LABEL}", "LABEL", "A: LABEL", "LABEL!"]),
)
def test_every_pair_that_is_taken_is_read_back_from_its_answers(positive, negative, answer):
    try:
        task = Task(positive=positive, negative=negative, answer=answer)
    except ValidationError:
        return
    for label in task.labels:
        assert task.parse(task.answer_with(label)) == task.parse(f"  {task.answer_with(label)}\n") == label


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"positive": "Spam", "negative": "Spam"}, "are the same"),
        ({"positive": "Spam", "negative": "spam"}, "differ in case or Unicode form alone"),
        ({"positive": "caf\u00e9", "negative": "cafe\u0301"}, "differ in case or Unicode form alone"),
        ({"positive": "<b>"}, "holds < or >"),
        ({"positive": ""}, "task.positive: is empty"),
        ({"negative": "  "}, "task.negative: is empty"),
        ({"negative": "Ham "}, "begins or ends with white space"),
        ({"negative": "Ha\tm"}, "control character '\\t'"),
        ({"answer": "Answer:"}, "holds LABEL 0 times"),
        ({"answer": "LABEL or LABEL"}, "holds LABEL 2 times"),
        ({"answer": "Answer:\nLABEL"}, "control character '\\n'"),
        (
            {"positive": "C", "negative": "C++", "answer": "Answer: LABEL"},
            "does not say whether 'C' is meant or a part of 'C++'",
        ),
        (
            {"positive": "spam", "negative": "not spam", "answer": "LABEL, I say"},
            "does not say whether 'spam' is meant",
        ),
        ({"item": "mes\x00sage"}, "task.item: "),
        ({"question": "spam?"}, "task.question: unknown key"),
    ],
)
def test_a_task_that_cannot_be_is_one_error_that_says_why(given, said, tmp_path):
    keys = "\n".join(f"{key} = {toml(value)}" for key, value in given.items())
    path = tmp_path / "space.toml"
    path.write_text(f'extends = "demo"\nname = "t"\n[task]\n{keys}\n', encoding="utf-8")
    with pytest.raises(WlsweepError) as error:
        load_sweep(path)
    assert said in str(error.value) and len(str(error.value).splitlines()) == 2, str(error.value)


def toml(text):
    return '"' + "".join(c if c.isprintable() and c not in '"\\' else f"\\u{ord(c):04x}" for c in text) + '"'


def test_the_example_of_the_documentation_is_a_search_space(tmp_path):
    path = tmp_path / "spam.toml"
    path.write_text(re.search(r"```toml\n(.*?)```", Path("docs/your-task.md").read_text(), re.S)[1], encoding="utf-8")
    assert load_sweep(path).task == Task(**SPAM, answer="Answer: LABEL", item="message")


def test_words_follow_from_the_labels_and_can_be_given():
    assert ICLR.words[:7] == ("paper", "papers", "accept", "reject", "accepts", "rejects", "accept rate")
    words = Task(**SPAM, item="message").words
    assert words[:7] == (
        "message",
        "messages",
        "spam",
        "ham",
        "spam messages",
        "ham messages",
        "share of spam messages",
    )
    assert Task(positive="AI", negative="Human", item="essay").words.positives == "AI essays"
    given = Task(**SPAM, item="entry", items="entries", positives="spam", rate="spam rate").words
    assert (given.items, given.positives, given.negatives, given.rate) == (
        "entries",
        "spam",
        "ham entries",
        "spam rate",
    )


def test_labels_and_form_decide_the_fingerprint_and_words_do_not(tmp_path):
    def fingerprint(keys):
        path = tmp_path / "space.toml"
        path.write_text(f'extends = "demo"\nname = "t"\n[task]\n{keys}\n', encoding="utf-8")
        return load_sweep(path).fingerprint()

    demo = load_sweep("demo").fingerprint()
    assert fingerprint('item = "submission"') == fingerprint('positive = "Accept"') == demo
    others = [fingerprint(k) for k in ('positive = "Yes"', 'negative = "No"', 'answer = "Answer: LABEL"')]
    assert len({demo, *others}) == 4
