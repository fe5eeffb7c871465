"""`[data.columns]`: which columns of a table hold what."""

import datetime
import json
import re
import tomllib
from pathlib import Path

import pytest
from pydantic import ValidationError

from tests.data.written import as_messages, chat, csv_bytes, lines, parquet
from wlsweep.data.row_files import RowFiles
from wlsweep.data.rows import notes_on, read_rows
from wlsweep.data.shapes import recognised
from wlsweep.errors import WlsweepError
from wlsweep.spec.config import load_sweep
from wlsweep.spec.data_section import Columns
from wlsweep.spec.task import Task

PAPERS = [
    {"no": "7", "title": "One", "abstract": "First.\n\nMore.", "decision": "accepted", "when": "2023", "who": "x"},
    {"no": "8", "title": "", "abstract": "Second.", "decision": "rejected", "when": "", "who": "y"},
]
COLUMNS = {"text": ["title", "abstract"], "label": "decision", "positive": ["accepted"], "negative": ["rejected"]}


def table(folder, rows=PAPERS, write=csv_bytes, **columns):
    path = folder / "papers"
    path.write_bytes(write(rows))
    return RowFiles(path, (path,), Columns.model_validate(COLUMNS | columns))


def read(*args, task=None, **columns):
    return list(read_rows(table(*args, **columns), *([task] if task else [])))


def refusal_of(*args, **columns):
    with pytest.raises(WlsweepError) as e:
        read(*args, **columns)
    return str(e.value)


def test_text_columns_are_joined_by_blank_lines_after_the_instruction_and_empty_ones_left_out(tmp_path):
    one, two = read(tmp_path, id="no", year="when", instruction="Will it\n\nbe accepted?\n")
    assert (one.instruction, one.paper) == ("Will it\n\nbe accepted?\n\n", "One\n\nFirst.\n\nMore.")
    assert two.paper == "Second."
    assert [(r.row_id, r.year, r.label, r.system) for r in (one, two)] == [
        ("7", 2023, "Accept", None),
        ("8", None, "Reject", None),
    ]


def test_without_an_instruction_the_whole_text_is_the_paper_and_without_an_id_its_hash_is_the_id(tmp_path):
    one, _ = read(tmp_path)
    assert (one.instruction, one.paper) == ("", "One\n\nFirst.\n\nMore.") and one.row_id.startswith("text-")


def test_a_prompt_column_is_split_like_the_turn_of_a_chat(tmp_path):
    (row,) = read(tmp_path, [{"p": "Judge.\n\n# T\n\nText", "l": "\\boxed{Reject}"}], text=None, prompt="p", label="l",
                  positive=None, negative=None)  # fmt: skip
    assert (row.instruction, row.paper, row.label) == ("Judge.\n\n", "# T\n\nText", "Reject")


@pytest.mark.parametrize(
    ("values", "positive", "negative"),
    [
        ([1, 0], 1, [0]),
        ([1.0, 0.0], ["1"], "0"),
        ([True, False], True, False),
        (["1", "0 "], [1], [0]),
        ([2, -1], [1, 2], [-1]),
    ],
)
def test_numbers_and_booleans_of_a_label_column_are_matched_as_csv_writes_them(tmp_path, values, positive, negative):
    rows = [{"t": f"Text {n}", "y": value} for n, value in enumerate(values)]
    write = parquet if not isinstance(values[0], str) else csv_bytes
    read_labels = [
        r.label for r in read(tmp_path, rows, write, text="t", label="y", positive=positive, negative=negative)
    ]
    assert read_labels == ["Accept", "Reject"]


def test_labels_are_the_words_of_the_task_bare_or_as_its_answers(tmp_path):
    rows = [{"t": "Buy!", "y": "Spam"}, {"t": "Hi.", "y": "Answer: Ham"}]
    task = Task(positive="Spam", negative="Ham", answer="Answer: LABEL")
    columns = {"text": "t", "label": "y", "positive": None, "negative": None}
    assert [r.label for r in read(tmp_path, rows, task=task, **columns)] == ["Spam", "Ham"]
    said = refusal_of(tmp_path, rows, **columns)
    assert (
        "row 1: the label is 'Spam'; expected Accept or Reject (or say what the values mean: [data.columns] posi"
        in said
    )


def test_values_become_the_label_texts_of_the_task(tmp_path):
    task = Task(positive="Spam", negative="Ham")
    assert [r.label for r in read(tmp_path, task=task)] == ["Spam", "Ham"]


def test_a_label_that_is_neither_value_is_refused(tmp_path):
    said = refusal_of(tmp_path, [PAPERS[0], {**PAPERS[1], "decision": "withdrawn"}])
    assert (
        "row 2: 'decision' is 'withdrawn', which [data.columns] names as neither class ('accepted', 'rejected')" in said
    )


@pytest.mark.parametrize("write", [csv_bytes, parquet, lines])
def test_a_column_that_is_not_there_is_refused_with_those_that_are(tmp_path, write):
    said = refusal_of(tmp_path, PAPERS, write, text=["Title", "abstract"], label="outcome")
    assert "lacks columns that [data.columns] names (it has no, title, abstract, decision, when, who):" in said
    assert "\n  - 'Title'; did you mean 'title'?\n  - 'outcome'" in said


def test_empty_texts_ids_and_labels_are_refused_with_their_row(tmp_path):
    rows = [
        {**PAPERS[0], "title": "", "abstract": " "},
        {**PAPERS[1], "no": ""},
        {**PAPERS[1], "no": "9", "decision": ""},
    ]
    said = refusal_of(tmp_path, rows, id="no")
    assert "row 1: the paper is empty (its columns are empty)" in said
    assert 'row 2: "no" is empty' in said and "row 3: 'decision' is ''" in said


def test_lists_in_a_text_column_and_years_that_are_none_are_refused(tmp_path):
    rows = [{**PAPERS[0], "abstract": ["a"]}, {**PAPERS[1], "when": "soon"}]
    said = refusal_of(tmp_path, rows, lines, year="when")
    assert "row 1: 'abstract' should be text, found a list" in said
    assert "row 2: \"when\" is 'soon'; expected a year such as 2024" in said


def test_years_are_read_from_numbers_text_and_dates(tmp_path):
    for value in (2023, 2023.0, datetime.date(2023, 5, 1), datetime.datetime(2023, 5, 1)):
        assert read(tmp_path, [{**PAPERS[0], "when": value}], parquet, year="when")[0].year == 2023
    assert read(tmp_path, [{**PAPERS[0], "when": "2023.0"}], year="when")[0].year == 2023


def test_duplicates_and_conflicting_labels_of_a_table_are_found(tmp_path):
    rows = [PAPERS[0], {**PAPERS[0], "no": "9", "decision": "rejected"}, {**PAPERS[1], "no": "7"}]
    said = refusal_of(tmp_path, rows, id="no")
    assert "row 2: duplicate text: '9' has that of '7' in row 1, there with the label Accept" in said
    assert "row 3: duplicate id '7': row 1 has it too" in said


def test_columns_that_are_not_read_are_named(tmp_path):
    (note,) = notes_on(table(tmp_path, instruction="Accept?"))
    assert note == (
        "papers: not read: 'no', 'when', 'who' (read are title, abstract, decision; [data.columns] names them)"
    )


def test_id_and_year_of_chats_may_stand_in_columns_of_their_own(tmp_path):
    rows = [{**as_messages(chat("old", "Accept", f"Text {n}", 1999)), "key": n, "y": 2001} for n in range(2)]
    path = tmp_path / "rows"
    path.write_bytes(lines(rows))
    files = RowFiles(path, (path,), Columns(id="key", year="y"))
    assert [(r.row_id, r.year) for r in read_rows(files)] == [("0", 2001), ("1", 2001)]
    with pytest.raises(WlsweepError, match=r"lacks columns that (.|\n)*'paper_id'"):
        list(read_rows(files._replace(columns=Columns(id="paper_id"))))


@pytest.mark.parametrize(
    ("columns", "reason"),
    [
        ({"label": "y"}, "give one of text"),
        ({"label": "y", "text": "t", "prompt": "p"}, "give one of text"),
        ({"text": "t"}, "text needs label"),
        ({"system": "s"}, "system needs label"),
        ({"label": "y", "prompt": "p", "instruction": "Judge."}, "no text is named"),
        ({"label": "y", "text": "t", "positive": 1}, "belong together"),
        (
            {"label": "y", "text": "t", "positive": [1, 2], "negative": ["2"]},
            "'2' is named as positive and as negative",
        ),
        ({"label": "y", "text": "t", "titel": "x"}, "Extra inputs are not permitted"),
    ],
)
def test_columns_that_contradict_each_other_are_refused(columns, reason):
    with pytest.raises(ValidationError, match=reason):
        Columns.model_validate(columns)


def test_columns_are_set_on_the_command_line_and_excluded_by_synthetic_papers():
    settings = ['data.columns.text=["title","abstract"]', "data.columns.label=decision", "data.columns.positive=1",
                "data.columns.negative=0"]  # fmt: skip
    columns = load_sweep("abstracts", "papers.csv", settings=settings).data.columns
    assert (columns.text, columns.positive, columns.negative) == (["title", "abstract"], ["1"], ["0"])
    with pytest.raises(WlsweepError, match="columns\\) exclude each other"):
        load_sweep("demo", settings=["data.columns.text=a", "data.columns.label=b"])


def test_the_fingerprint_of_a_sweep_does_not_hold_the_columns_which_the_data_stage_compares():
    plain = load_sweep("abstracts", "papers.csv")
    assert load_sweep("abstracts", "papers.csv", settings=["data.columns.id=x"]).fingerprint() == plain.fingerprint()


def test_the_examples_of_the_documentation_are_rows_of_the_shapes_that_it_names():
    page = Path("docs/your-data.md").read_text(encoding="utf-8")
    examples = [json.loads(block) for block in re.findall(r"```json\n(.*?)```", page, re.S)]
    assert [recognised(e).name for e in examples] == ["ShareGPT", "OpenAI messages", "alpaca"]
    for example in examples:
        assert recognised(example).read(example).answer == r"\boxed{Accept}"
    (table,) = re.findall(r"```toml\n(.*?)```", page, re.S)
    assert Columns(**tomllib.loads(table)["data"]["columns"]).label == "decision"


def test_a_column_of_other_words_than_the_labels_is_a_line_for_each_word(tmp_path):
    rows = [PAPERS[n % 2] | {"no": str(n), "abstract": f"Text {n}."} for n in range(40)]
    said = refusal_of(tmp_path, rows, positive=None, negative=None)
    assert "row 1 and 19 more: the label is 'accepted'; expected Accept or Reject" in said
    assert "row 2 and 19 more: the label is 'rejected'" in said and len(said.splitlines()) == 3


def test_texts_without_an_instruction_are_told_of(tmp_path):
    told = [notes_on(table(tmp_path, instruction=asked)) for asked in (None, "Accept it?")]
    assert ["is all that the model is given" in " ".join(lines) for lines in told] == [True, False]
