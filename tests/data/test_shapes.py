"""Every shape and format of the same rows is the same rows, and what is none of them is named."""

import json
import tomllib

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.data.written import COLUMNS, FORMATS, SHAPES, TABLE_FORMATS, as_alpaca, as_messages, chat, lines
from wlsweep.data.row_files import RowFiles
from wlsweep.data.rows import notes_on, parse_row, read_rows, shape_text
from wlsweep.data.shapes import recognised
from wlsweep.data.token_table import TableKey, ensure_table
from wlsweep.errors import WlsweepError
from wlsweep.spec.data_section import Columns

ROWS = [
    chat(f"r{n}", "Accept" if n % 2 else "Reject", f'# Title, "{n}"\n\nText;\t{n} \u2028 é.\n\nMore.', 2020 + n % 3)
    for n in range(11)
]
EVERY = [(shape, kind) for shape in SHAPES for kind in (TABLE_FORMATS if shape == "table" else FORMATS)]


def written(folder, rows, shape, kind):
    path = folder / f"rows.{kind}"
    path.write_bytes(TABLE_FORMATS[kind]([SHAPES[shape](row) for row in rows]))
    return RowFiles(path, (path,), COLUMNS if shape == "table" else None)


def without_answerer(rows):
    return [row._replace(answerer="") for row in rows]


def refusal_of(folder, *objects, columns=None):
    path = folder / "rows.jsonl"
    path.write_bytes(lines(objects))
    with pytest.raises(WlsweepError) as e:
        list(read_rows(RowFiles(path, (path,), columns)))
    return str(e.value)


@pytest.mark.parametrize(("shape", "kind"), EVERY)
def test_every_shape_in_every_format_gives_the_same_rows(tmp_path, shape, kind):
    expected = without_answerer(parse_row(row) for row in ROWS)
    assert without_answerer(read_rows(written(tmp_path, ROWS, shape, kind))) == expected


TEXT = st.text(st.characters(codec="utf-8"), max_size=30)


@given(
    papers=st.lists(TEXT, min_size=1, max_size=4),
    systems=st.lists(st.none() | TEXT.filter(str.strip), min_size=4, max_size=4),
    label=st.sampled_from(["Accept", "Reject"]),
)
@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_every_shape_of_the_same_rows_gives_the_same_token_table(tmp_path_factory, model, papers, systems, label):
    rows = [chat(f"r{n}", label, f"{n}{p}", 2020 + n, s) for n, (p, s) in enumerate(zip(papers, systems, strict=False))]
    folder, tables = tmp_path_factory.mktemp("shapes"), {}
    for shape, kind in [*((shape, "jsonl") for shape in SHAPES), ("table", "csv"), ("table", "parquet")]:
        key = TableKey(f"{shape} {kind}", "tokenizer", 100, texts=True)
        made = ensure_table(key, written(folder, rows, shape, kind), model, folder, lambda _: None)
        tables[shape, kind] = (made.folder / "tokens.arrow").read_bytes(), made.texts()
    assert len(set(map(str, tables.values()))) == 1


def test_messages_are_told_by_their_turns_under_either_key():
    turns = as_messages(ROWS[0])["messages"]
    assert recognised({"messages": turns}).name == "OpenAI messages"
    assert recognised({"conversations": turns}).name == "OpenAI messages under 'conversations'"
    assert recognised({"messages": ROWS[0]["conversations"]}).name == "ShareGPT under 'messages'"
    assert recognised(as_alpaca(ROWS[0])).name == "alpaca"
    assert recognised({"text": "x", "label": 1}) is None


def test_turns_that_datasets_stored_by_column_are_turns(tmp_path):
    turns = ROWS[0]["conversations"]
    by_column = {**ROWS[0], "conversations": {name: [t[name] for t in turns] for name in ("from", "value")}}
    path = tmp_path / "rows.jsonl"
    path.write_bytes(lines([by_column]))
    assert list(read_rows(path)) == [parse_row(ROWS[0])]


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"messages": None}, '"messages" should be a list of turns, found nothing'),
        (
            {"messages": [{"role": "tool", "content": "x"}]},
            "\"role\" is 'tool'; expected one of system, developer, user, assi",
        ),
        ({"messages": [{"role": "user", "content": None}]}, '"content" should be text, found nothing'),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]},
            "part 1 of \"content\" is 'image_url'; only",
        ),
        (
            {"messages": [{"role": "user", "content": "a", "tool_calls": [1]}]},
            'turn 1 has "tool_calls"; rows with calls',
        ),
        ({"messages": [{"role": "user", "content": "a\n\nb"}]}, "no assistant turn"),
    ],
)
def test_messages_that_are_no_single_question_and_answer_are_refused(tmp_path, changes, reason):
    good = as_messages(ROWS[0])
    assert f"row 2: {reason}" in refusal_of(tmp_path, good, {**as_messages(ROWS[1]), **changes}).replace("turn 1: ", "")


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"history": [["a", "b"]]}, '"history" holds earlier turns'),
        ({"instruction": 3}, '"instruction" should be text, found a number'),
        ({"output": None}, '"output" should be text, found nothing'),
        ({"instruction": "Judge.", "input": " "}, "the paper is empty"),
        ({"output": "Accept"}, "no \\boxed{Accept} or \\boxed{Reject} in the answer 'Accept'"),
    ],
)
def test_alpaca_rows_that_are_no_single_question_and_answer_are_refused(tmp_path, changes, reason):
    assert f"row 2: {reason}" in refusal_of(tmp_path, as_alpaca(ROWS[0]), {**as_alpaca(ROWS[1]), **changes})


def test_alpaca_without_input_is_split_like_a_chat_and_an_empty_history_is_none():
    row = as_alpaca(ROWS[0])
    one = {**row, "instruction": f"{row['instruction']}\n{row['input']}", "input": "", "history": []}
    assert parse_row(one, shape=recognised(one)) == parse_row(row, shape=recognised(row))


def test_the_instruction_of_alpaca_ends_where_its_field_ends():
    row = {"instruction": "Judge.\n\nBe strict.", "input": "# Title\n\nText", "output": "\\boxed{Accept}"}
    read = parse_row(row, shape=recognised(row))
    assert (read.instruction, read.paper) == ("Judge.\n\nBe strict.\n", "# Title\n\nText")


def test_a_row_of_another_shape_than_the_first_is_named(tmp_path):
    said = refusal_of(tmp_path, ROWS[0], as_messages(ROWS[1]), as_alpaca(ROWS[2]))
    assert (
        'row 2: "conversations" should be a list of turns, found nothing (the row looks like OpenAI messages, the'
        in said
    )
    assert "row 3: " in said and "looks like alpaca, the first one like ShareGPT" in said


@pytest.mark.parametrize("shape", [shape for shape in SHAPES if shape != "table"])
def test_duplicates_and_conflicting_labels_are_found_in_every_shape(tmp_path, shape):
    paper = "# Title\n\nThe same."
    rows = [chat("a", "Accept", paper, 2020), chat("a", "Reject", "Other.", 2020), chat("b", "Reject", paper, 2020)]
    said = refusal_of(tmp_path, *map(SHAPES[shape], rows))
    assert "row 2: duplicate id 'a': row 1 has it too, there with the label Accept" in said
    assert "row 3: duplicate text: 'b' has that of 'a' in row 1, there with the label Accept" in said


def test_fields_that_a_shape_does_not_read_are_named_with_those_it_reads(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_bytes(lines({**as_messages(row), "id": n, "source": "x"} for n, row in enumerate(ROWS)))
    (note,) = notes_on(path)
    assert note.startswith("rows.jsonl: not read: 'id', 'source' (read are messages, system, and submission_id")
    assert "[data.columns] id and year name other places" in note


def test_a_shape_is_told_with_its_format(tmp_path):
    for shape, kind, said in (
        ("messages", "jsonl.gz", "OpenAI messages (JSON Lines, gzip)"),
        ("alpaca", "json", "alpaca (JSON)"),
        ("table", "tsv", "table with columns paper and label (CSV)"),
    ):
        assert shape_text(written(tmp_path, ROWS, shape, kind)) == said


UNKNOWN = {
    "prompts and completions": {"prompt": "a", "completion": "b"},
    "pairs of preferences": {"prompt": "a", "chosen": "b", "rejected": "c"},
    "predictions": {"row_id": "a", "p_accept": 0.5},
    "a batch of requests to OpenAI": {"custom_id": "a", "method": "POST", "body": {}},
    "an answer of the hub's data set viewer": {"features": [], "rows": []},
    "columns as pandas' to_json writes them": {"title": {"0": "a"}, "label": {"0": 1}},
    "one object around the rows": {"version": "1", "data": [{"title": "a"}]},
    "a table with the columns title, label": {"title": "a", "label": 1},
}


@pytest.mark.parametrize("name", UNKNOWN)
def test_an_unknown_shape_is_named_with_what_to_do(tmp_path, name):
    said = refusal_of(tmp_path, UNKNOWN[name])
    assert f"rows.jsonl looks like {name}" in said


def test_a_table_is_answered_with_the_columns_as_they_may_be_meant(tmp_path):
    rows = [
        {"paper_id": n, "title": f"Title {n}", "abstract": "A long text. " * 9, "decision": n % 2, "year": 2020, "x": 1}
        for n in range(9)
    ]
    said = refusal_of(tmp_path, *rows)
    section = said[said.index("[data.columns]") : said.index("\n(read are")]
    section = section.replace("positive = [...]", "positive = [1]").replace("negative = [...]", "negative = [0]")
    columns = Columns(**tomllib.loads(section)["data"]["columns"])
    assert columns == Columns(
        text=["title", "abstract"],
        instruction="...",
        label="decision",
        positive=[1],
        negative=[0],
        id="paper_id",
        year="year",
    )
    assert "# which of 0, 1 mean" in section
    assert "docs/your-data.md" in said and json.dumps(rows[0]) not in said
