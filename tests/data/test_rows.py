import codecs
import hashlib
import json
import tracemalloc
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.data.fuzzed import JSON, file_contents, mutated
from tests.data.sharegpt import TASK, corpus, sharegpt, write_lines
from wlsweep.data import read_json
from wlsweep.data.rows import notes_on, parse_row, read_rows, to_sharegpt
from wlsweep.data.shapes import split_human_turn
from wlsweep.errors import WlsweepError

REAL = Path(__file__).parents[3] / "shared" / "data" / "iclr_2017_2018.json"


def refusal_of(path):
    with pytest.raises(WlsweepError) as error:
        list(read_rows(path))
    return str(error.value)


def lines(tmp_path, *rows):
    return write_lines(tmp_path / "rows.jsonl", rows)


def test_json_array_json_lines_and_parquet_of_the_same_rows_read_the_same(tmp_path):
    rows = corpus(3, 2)
    array, parquet = tmp_path / "rows.json", tmp_path / "rows.parquet"
    array.write_text(json.dumps(rows, indent=1), encoding="utf-8")
    pq.write_table(pa.Table.from_pylist(rows), parquet)
    read = [list(read_rows(p)) for p in (array, lines(tmp_path, *rows), parquet)]
    assert read[0] == read[1] == read[2]
    assert [(r.row_id, r.label, r.year) for r in read[0]][::3] == [("r0", "Accept", 2020), ("r3", "Reject", 2020)]


def test_the_content_of_a_file_not_its_name_tells_the_format(tmp_path):
    misnamed = lines(tmp_path, *corpus(1, 1)).rename(tmp_path / "rows.json")
    assert len(list(read_rows(misnamed))) == 2


def test_byte_order_marks_carriage_returns_and_blank_lines_do_no_harm(tmp_path):
    path = tmp_path / "rows.jsonl"
    text = "\r\n".join(json.dumps(r) for r in corpus(1, 1)) + "\r\n\r\n"
    path.write_bytes(codecs.BOM_UTF8 + text.encode())
    assert [r.row_id for r in read_rows(path)] == ["r0", "r1"]
    path.write_bytes(codecs.BOM_UTF8 + json.dumps(corpus(1, 1)).encode())
    assert [r.row_id for r in read_rows(path)] == ["r0", "r1"]


def test_the_human_turn_is_split_at_its_first_blank_line_and_loses_nothing():
    for text, instruction in (
        ("Judge.\n - so\n\n# Title\n\nText", "Judge.\n - so\n\n"),
        ("Judge.\r\n\r\n# Title", "Judge.\r\n\r\n"),
        ("Judge. \n \t\n\n# Title", "Judge. \n \t\n\n"),
        ("\n\nJudge.\n\nText", "\n\nJudge.\n\n"),
        ("all of it\nis paper", ""),
    ):
        assert split_human_turn(text) == (instruction, text.removeprefix(instruction))


@given(st.text(alphabet="ab \n\r\t", max_size=40))
def test_instruction_and_paper_are_the_human_turn(text):
    assert "".join(split_human_turn(text)) == text


def test_both_roles_of_the_answer_and_both_ways_to_box_it_are_read():
    row = sharegpt("a", "Accept")
    row["conversations"][-1] = {"from": "assistant", "value": "Outcome: \\boxed{Reject}"}
    assert parse_row(row).label == "Reject"


def test_the_hash_is_of_the_paper_whatever_its_white_space():
    expected = hashlib.sha256(b"#TitleSometext").hexdigest()
    for paper in ("# Title\n\nSome text\n", "# Title   Some\ttext"):
        for label in ("Accept", "Reject"):
            assert parse_row(sharegpt("a", label, paper)).row_hash == expected


def test_a_row_without_metadata_is_known_by_its_text(tmp_path):
    row = sharegpt(None, "Accept", "Some text", system=None)
    parsed = parse_row(row)
    assert parsed.row_id == "text-" + hashlib.sha256(b"Sometext").hexdigest()[:20]
    assert (parsed.year, parsed.system, parsed.true_log_odds) == (None, None, None)
    assert "duplicate id 'text-" in refusal_of(lines(tmp_path, row, row))


def test_a_row_survives_being_written_as_sharegpt():
    for raw in (sharegpt("a", "Accept"), sharegpt("b", "Reject", system=None, instruction="", year=None)):
        row = parse_row(raw)
        assert parse_row(json.loads(json.dumps(to_sharegpt(row)))) == row


def changed(**fields):
    return {**sharegpt("bad", "Accept"), **fields}


def with_turns(*turns):
    return changed(conversations=[{"from": role, "value": value} for role, value in turns])


HUMAN = ("human", TASK + "\n\nA paper.")
BAD_ROWS = {
    "no \\boxed{Accept} or \\boxed{Reject} in the answer 'Accept'": with_turns(HUMAN, ("gpt", "Accept")),
    "two different labels": with_turns(HUMAN, ("gpt", "\\boxed{Accept} \\boxed{Reject}")),
    "no assistant turn": with_turns(HUMAN),
    "the paper is empty": with_turns(("human", TASK + "\n\n \n"), ("gpt", "\\boxed{Accept}")),
    "turns human, assistant, human, assistant": with_turns(*[HUMAN, ("gpt", "\\boxed{Accept}")] * 2),
    "turns assistant, human": with_turns(("gpt", "\\boxed{Accept}"), HUMAN),
    "turn 2: \"from\" is 'tool'": with_turns(HUMAN, ("tool", "x"), ("gpt", "\\boxed{Accept}")),
    'turn 1: "value" should be text, found nothing': with_turns(("human", None), ("gpt", "\\boxed{Accept}")),
    '"conversations" should be a list of turns, found nothing': changed(conversations=None),
    '"conversations" should be a list of turns, found text': changed(conversations="hi"),
    'turn 1: expected an object with "from" and "value", found a list': changed(conversations=[["human"]]),
    'expected an object with "conversations", found a list': [[sharegpt("a", "Accept")]],
    '"_metadata" should be an object, found text': changed(_metadata="x"),
    '"_metadata.submission_id" should be text or a whole number, found a list': changed(
        _metadata={"submission_id": []}
    ),
    '"_metadata.submission_id" is empty': changed(_metadata={"submission_id": "  "}),
    "\"_metadata.year\" is 'soon'": changed(_metadata={"year": "soon"}),
    '"_metadata.true_log_odds" is inf': changed(_metadata={"true_log_odds": float("inf")}),
}


@pytest.mark.parametrize("reason", BAD_ROWS)
def test_a_bad_row_is_refused_with_file_row_and_reason(tmp_path, reason):
    message = refusal_of(lines(tmp_path, sharegpt("good", "Accept"), BAD_ROWS[reason]))
    assert f"row 2: {reason}" in message and "rows.jsonl" in message
    assert "row 1" not in message


def test_all_bad_rows_are_listed_in_one_error(tmp_path):
    rows = [sharegpt(f"g{n}", "Accept") if n % 2 else row for n, row in enumerate(BAD_ROWS.values())]
    message = refusal_of(lines(tmp_path, *rows))
    assert [f"row {n + 1}:" in message for n in range(len(rows))] == [n % 2 == 0 for n in range(len(rows))]


def test_duplicate_ids_are_refused_and_a_changed_label_is_said(tmp_path):
    path = lines(
        tmp_path, sharegpt("a", "Accept"), sharegpt("b", "Accept"), sharegpt("a", "Reject"), sharegpt("b", "Accept")
    )
    message = refusal_of(path)
    assert "row 3: duplicate id 'a': row 1 has it too, there with the label Accept" in message
    assert "row 4: duplicate id 'b': row 2 has it too" in message


def test_nothing_is_yielded_after_the_first_bad_row(tmp_path):
    path, found = lines(tmp_path, sharegpt("a", "Accept"), {}, sharegpt("b", "Accept")), []
    with pytest.raises(WlsweepError):
        found.extend(row.row_id for row in read_rows(path))
    rows = read_rows(path)
    assert next(rows).row_id == "a"
    with pytest.raises(WlsweepError):
        next(rows)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "is empty (0 bytes)"),
        (b"[]", "holds no rows"),
        (b" \n ", "holds no rows"),
        (b" " * 70_000, "white space"),
        (b"hello", "starts with b'h'"),
        (codecs.BOM_UTF16_LE + "[]".encode("utf-16-le"), "UTF-16"),
        (b'[{"conversations": [', "row 1: the JSON ends or breaks here"),
        (b"[" * 100_000, "row 1"),
        (b'{"a": ' * 100_000, "row 1: no JSON object on this line"),
        (b'{"a": "\xff"}', "row 1: no JSON object on this line"),
        (b'[{"a": "\xff"}]', "row 1: the JSON ends or breaks here"),
        (b"[1" + b"0" * 5000 + b"]", "row 1"),
        (b"PAR1 and then nothing", "row 1: the Parquet file breaks here"),
    ],
)
def test_files_that_hold_no_rows_are_refused(tmp_path, content, reason):
    path = tmp_path / "rows"
    path.write_bytes(content)
    assert reason in refusal_of(path)


def test_a_missing_file_a_folder_and_a_foreign_table_are_refused(tmp_path):
    assert "cannot be read: No such file" in refusal_of(tmp_path / "none.json")
    assert "cannot be read" in refusal_of(tmp_path)
    pq.write_table(pa.table({"text": ["a"]}), tmp_path / "t.parquet")
    assert "looks like a table with the columns text" in refusal_of(tmp_path / "t.parquet")


def test_rows_of_ten_megabytes_are_read_and_memory_is_that_of_a_few(tmp_path):
    path, count = tmp_path / "rows.json", 10
    with path.open("w") as out:
        for n in range(count):
            row = sharegpt(f"r{n}", "Accept", f"{n} " + ("letters" * 14 + "  ") * 100_000)
            out.write(("[" if n == 0 else ",") + json.dumps(row))
        out.write("]")
    tracemalloc.start()
    lengths = [len(row.paper) for row in read_rows(path)]
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert lengths == [10_000_002] * count
    assert peak < path.stat().st_size  # measured: 63 MB, a row and copies of it; all rows would be 100 MB and copies


def test_lone_surrogates_are_read_the_same_from_array_and_lines(tmp_path):
    row = json.dumps(sharegpt("a", "Accept", "x \ud800 y"))
    (tmp_path / "a").write_text(f"[{row}]")
    (tmp_path / "b").write_text(row)
    (one,), (other,) = read_rows(tmp_path / "a"), read_rows(tmp_path / "b")
    assert one == other and one.paper == "x ? y"


@given(raw=JSON | mutated())
@settings(max_examples=300)
def test_any_json_value_is_a_row_or_is_refused_with_a_reason(raw):
    try:
        row = parse_row(raw)
    except ValueError as e:
        reason = str(e)
    else:
        reason = "none"
        assert row.label in ("Accept", "Reject") and row.paper.strip() and row.row_id
    assert reason


@given(
    content=file_contents(),
    cut=st.floats(0, 1),
    noise=st.binary(max_size=3),
)
@settings(max_examples=300)
def test_no_bytes_end_in_anything_but_rows_or_one_clear_error(tmp_path_factory, content, cut, noise):
    path = tmp_path_factory.getbasetemp() / "fuzzed"
    at = int(cut * len(content))
    path.write_bytes(content[:at] + noise + content[at:])
    try:
        rows = list(read_rows(path))
    except WlsweepError as e:
        rows = [str(path) in str(e)]
    assert rows and all(rows)


@given(cut=st.integers(0, 4000), noise=st.binary(max_size=8))
@settings(max_examples=100)
def test_a_damaged_parquet_file_is_refused_or_read(tmp_path_factory, cut, noise):
    path = tmp_path_factory.getbasetemp() / "fuzzed.parquet"
    pq.write_table(pa.Table.from_pylist(corpus(2, 2)), path)
    content = path.read_bytes()
    at = 4 + cut % (len(content) - 4)
    path.write_bytes(content[:at] + noise + content[at + len(noise) :])
    try:
        fine = len(list(read_rows(path))) == 4
    except WlsweepError as e:
        fine = str(path) in str(e)
    assert fine


@pytest.mark.skipif(not REAL.is_file(), reason=f"{REAL} is not there")
def test_the_real_submissions_are_read_with_their_published_counts():
    rows = list(read_rows(REAL))
    assert len(rows) == 1275
    assert sum(r.label == "Accept" for r in rows) == 535
    assert {r.year for r in rows} == {2017, 2018}
    assert len({r.instruction for r in rows}) == 1 and all(r.paper.startswith("# ") for r in rows)


def test_the_same_text_under_two_ids_is_refused_whatever_its_labels(tmp_path):
    rows = [
        sharegpt("a", "Accept", "One text."),
        sharegpt("b", "Accept", "One  text."),
        sharegpt("c", "Reject", "One text."),
    ]
    message = refusal_of(lines(tmp_path, *rows))
    assert "row 2: duplicate text: 'b' has that of 'a' in row 1; keep one" in message
    assert "row 3: duplicate text: 'c' has that of 'a' in row 1, there with the label Accept" in message


def test_the_documented_top_level_system_is_the_system_prompt():
    row = sharegpt("a", "Accept", system=None) | {"system": "You judge."}
    assert parse_row(row).system == "You judge." == parse_row(sharegpt("a", "Accept", system="You judge.")).system
    assert parse_row(sharegpt("a", "Accept", system="You judge.") | {"system": "You judge."}).system == "You judge."
    assert parse_row(sharegpt("a", "Accept", system="You judge.") | {"system": ""}).system == "You judge."
    for field, reason in (("Other.", "differ"), (3, "should be text")):
        with pytest.raises(ValueError, match=reason):
            parse_row(sharegpt("a", "Accept") | {"system": field})


def test_fields_that_are_not_read_and_answers_that_say_more_are_named_once(tmp_path):
    rows = [sharegpt(f"r{i}", "Accept") | {"id": i, "year": 2020} for i in range(5)]
    rows[1]["conversations"][-1]["value"] = "I think so: \\boxed{Accept}"
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "rows.parquet")
    for path in (lines(tmp_path, *rows), tmp_path / "rows.parquet"):
        unread, longer = notes_on(path)
        assert f"{path.name}: not read: 'id', 'year' (read are" in unread
        assert "1 of the first 1,000 answers hold more than" in longer and longer.endswith(
            "LABEL}; trained on is that alone"
        )
    assert notes_on(lines(tmp_path, *(sharegpt(f"r{i}", "Accept") for i in range(3)))) == []


@pytest.mark.parametrize("form", ["array", "lines"])
def test_array_and_lines_take_and_refuse_the_same(tmp_path, form):
    good = json.dumps(sharegpt("a", "Accept", "x \u2028 y"), ensure_ascii=False)
    other = good.replace('"a"', '"b"').replace("x \u2028 y", "z")
    path = tmp_path / "rows"

    def read(*texts):
        path.write_text(f"[{','.join(texts)}]" if form == "array" else "\n".join(texts), encoding="utf-8")
        return list(read_rows(path))

    for number in ("NaN", "-Infinity", "1e999"):
        assert len(read(good, other.replace('"_metadata": {', f'"score": {number}, "_metadata": {{'))) == 2
    assert read(good.replace("2024", "NaN"))[0].year is None
    path.write_text("")
    with pytest.raises(WlsweepError, match=r"row 2: .*the key 'submission_id' occurs twice"):
        read(good, other.replace('"submission_id"', '"submission_id": "x", "submission_id"'))
    with pytest.raises(WlsweepError, match="row 2: "):
        read(good, other[: len(other) // 2])


def test_rows_are_the_same_wherever_the_reader_stops_to_read_on(tmp_path, monkeypatch):
    rows = [*corpus(4, 4), sharegpt("u", "Accept", '\u00e9\U0001f600 \\ " \n' * 9)]
    path = tmp_path / "rows.json"
    path.write_text(json.dumps(rows, indent=1, ensure_ascii=False), encoding="utf-8")
    expected = [parse_row(row) for row in rows]
    for chunk in (1, 2, 3, 7, 64, 1000):
        monkeypatch.setattr(read_json, "_CHUNK", chunk)
        assert list(read_rows(path)) == expected


def test_gzip_is_read_and_other_packings_are_named(tmp_path):
    import gzip

    rows = corpus(2, 2)
    content = json.dumps(rows).encode()
    (tmp_path / "a.gz").write_bytes(gzip.compress(content))
    assert list(read_rows(tmp_path / "a.gz")) == [parse_row(row) for row in rows]
    (tmp_path / "cut.gz").write_bytes(gzip.compress(content)[:-9])
    assert "no whole gzip file" in refusal_of(tmp_path / "cut.gz")
    for magic, said in (
        (b"\x28\xb5\x2f\xfd..", "zstd"),
        (b"version https://git-lfs.github.com/spec/v1", "git lfs pull"),
    ):
        (tmp_path / "packed").write_bytes(magic)
        assert said in refusal_of(tmp_path / "packed")
