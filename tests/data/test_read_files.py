"""Files are told apart by their content; what holds no rows, or not whole ones, is named with what to do."""

import gzip

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.data.written import COLUMNS, arrow_file, arrow_stream, as_table, chat, csv_bytes, lines, parquet, zstd
from wlsweep.data.read_files import column_names, format_of, read_objects
from wlsweep.data.read_json import BadObjectError
from wlsweep.data.row_files import RowFiles
from wlsweep.data.rows import read_rows
from wlsweep.errors import WlsweepError

ROWS = [{"title": f"T{n}", "label": "a,b\n'\"c"} for n in range(40)]


def written(folder, content, name="rows"):
    path = folder / name
    path.write_bytes(content)
    return path


def objects(folder, content):
    return [value for _, value in read_objects(written(folder, content), "rows")]


def refusal_of(folder, content):
    with pytest.raises(WlsweepError) as e:
        objects(folder, content)
    return str(e.value)


def broken(folder, content):
    """(rows before the break, why it breaks)."""
    *good, last = objects(folder, content)
    assert isinstance(last, BadObjectError), last
    return len(good), str(last)


NO_ROWS = {
    b"<!DOCTYPE html><html>": "is a web page (HTML or XML), not the file itself",
    b"\xef\xbb\xbf\n <html>": "is a web page",
    b"version https://git-lfs.github.com/spec/v1\noid": "is a Git LFS pointer, not the file itself; fetch it (git lfs pull)",
    b"PK\x03\x04...": "is a zip archive or an Excel workbook; unpack it (unzip), or save the sheet as CSV (UTF-8)",
    b"BZh9...": "is bzip2-compressed; unpack it",
    b"\xfd7zXZ\x00": "is xz-compressed",
    b"SQLite format 3\x00": "is an SQLite database; export the table as CSV",
    b"%PDF-1.7": "is a PDF",
    b"\x80\x04\x95...": "is a Python pickle",
    "a,b\n1,2".encode("utf-16"): "is UTF-16 or UTF-32; save it as UTF-8",
    b"x" * 257 + b"ustar": "is a tar archive; unpack it (tar xf)",
    b"": "is empty (0 bytes)",
    gzip.compress(b""): "is empty (gzip)",
    gzip.compress(parquet(ROWS)): "is a gzip file around Parquet or Arrow",
    gzip.compress(b"<html>"): "is a web page",
    b"- a: 1\n- b: 2\n": "starts with b'-'; expected rows as a JSON array, JSON Lines, CSV, Parquet or Arrow",
}


@pytest.mark.parametrize("content", NO_ROWS, ids=NO_ROWS.values())
def test_a_file_that_holds_no_rows_is_named_with_what_to_do(tmp_path, content):
    said = refusal_of(tmp_path, content)
    assert said.startswith(f"{tmp_path}/rows ") and NO_ROWS[content] in said


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (lines(ROWS), ("JSON Lines", "")),
        (gzip.compress(lines(ROWS)), ("JSON Lines", "gzip")),
        (zstd(csv_bytes(ROWS)), ("CSV", "zstd")),
        (csv_bytes(ROWS, "\t"), ("CSV", "")),
        (csv_bytes(ROWS, ";"), ("CSV", "")),
        (b"\xef\xbb\xbf" + csv_bytes(ROWS), ("CSV", "")),
        (parquet(ROWS), ("Parquet", "")),
        (arrow_stream(ROWS), ("Arrow", "")),
        (arrow_file(ROWS), ("Arrow", "")),
    ],
)
def test_the_content_tells_the_format_and_every_format_gives_the_same_objects(tmp_path, content, kind):
    assert format_of(written(tmp_path, content)) == kind
    assert objects(tmp_path, content) == ROWS
    assert column_names(tmp_path / "rows") == ([] if kind[0] == "JSON Lines" else ["title", "label"])


@pytest.mark.parametrize("pack", [gzip.compress, zstd])
def test_a_packed_file_that_is_cut_is_refused_as_such(tmp_path, pack):
    packed = pack(lines({"n": n, "text": hash(str(n))} for n in range(20_000)))
    for cut in (len(packed) // 2, len(packed) - 4):
        assert f"is no whole {'zstd' if pack is zstd else 'gzip'} file" in refusal_of(tmp_path, packed[:cut])


def test_packed_files_of_several_parts_are_read_to_their_end(tmp_path):
    for pack in (gzip.compress, zstd):
        assert objects(tmp_path, pack(lines(ROWS[:5])) + pack(lines(ROWS[5:]))) == ROWS


def test_cells_keep_commas_quotes_line_breaks_and_white_space(tmp_path):
    assert objects(tmp_path, b'a,b\n"x, ""y""\r\nz", 1 \n') == [{"a": 'x, "y"\r\nz', "b": " 1 "}]


def test_empty_lines_and_carriage_returns_of_csv_do_no_harm_and_an_unnamed_column_gets_a_name(tmp_path):
    assert objects(tmp_path, b"\r\n,title\r\n\r\n0,x\r\n") == [{"column 1": "0", "title": "x"}]


@pytest.mark.parametrize(
    ("content", "good", "reason"),
    [
        (b"a,b\n1,2\n1,2,3\n", 1, "3 cells where the header has 2 (line 3; a text with commas, quotes or"),
        (b'a,b\n1,2\n1,"2\n3,4\n', 1, "the CSV breaks here (unexpected end of data)"),
        (b"a,a\n1,2\n", 0, "the header has the column 'a' twice"),
        (
            "a,b\n1,2\n1,caf\u00e9\n".encode("latin-1"),
            0,
            "byte 0xe9 here or soon after is no UTF-8; save the file as UTF-8",
        ),
        (arrow_stream(ROWS)[:400], 0, "the Arrow file breaks here"),
        (b"ARROW1 and then nothing", 0, "the Arrow file breaks here"),
        (b'{\n  "title": "x"\n}\n', 0, "an object that goes on over several lines (or whose line is cut); write one"),
    ],
)
def test_where_a_file_breaks_is_said(tmp_path, content, good, reason):
    before, said = broken(tmp_path, content)
    assert before == good and said.startswith(reason)


def test_class_numbers_of_datasets_are_read_by_their_names(tmp_path):
    import json

    import pyarrow as pa
    import pyarrow.parquet as pq

    features = {"label": {"_type": "ClassLabel", "names": ["Reject", "Accept"]}, "text": {"_type": "Value"}}
    meta = {"huggingface": json.dumps({"info": {"features": features}})}
    table = pa.table({"label": [1, 0, -1, None], "text": ["a", "b", "c", "d"]}).replace_schema_metadata(meta)
    pq.write_table(table, tmp_path / "rows")
    read = [value["label"] for _, value in read_objects(tmp_path / "rows", "rows")]
    assert read == ["Accept", "Reject", None, None]


TABLE = [as_table(chat(f"r{n}", "Accept", f"Text {n}.", 2020)) for n in range(4)]


@given(at=st.floats(0, 1), noise=st.binary(max_size=4), kind=st.sampled_from([csv_bytes, arrow_stream, arrow_file]))
@settings(max_examples=150, deadline=None)
def test_no_damage_of_a_table_ends_in_anything_but_rows_or_one_clear_error(tmp_path_factory, at, noise, kind):
    path, content = tmp_path_factory.getbasetemp() / "fuzzed.table", kind(TABLE)
    place = int(at * len(content))
    path.write_bytes(content[:place] + noise + content[place + len(noise) :])
    try:
        fine = all(row.label in ("Accept", "Reject") for row in read_rows(RowFiles(path, (path,), COLUMNS)))
    except WlsweepError as e:
        fine = str(path) in str(e)
    assert fine
