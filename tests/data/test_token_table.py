import json
import multiprocessing
import time

import pyarrow.parquet as pq
import pytest

from tests.data.sharegpt import corpus, sharegpt, write_lines
from wlsweep.data.rows import read_rows
from wlsweep.data.token_table import BATCH, TableKey, ensure_table, open_table
from wlsweep.data.tokenise import find_answer_tokens, tokenise_rows
from wlsweep.errors import WlsweepError

KEY = TableKey("source", "tokenizer", 100, texts=True)


def quiet(_):
    return None


def everything_in(folder):
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*"))


def test_a_table_holds_what_the_tokenizer_gives_row_for_row_over_several_batches(tmp_path, model, tokenizer):
    source = write_lines(tmp_path / "s.jsonl", corpus(BATCH, BATCH + 3))
    table = ensure_table(KEY, source, model, tmp_path, quiet)
    rows, answer = list(read_rows(source)), find_answer_tokens(tokenizer)
    prompts = tokenise_rows(tokenizer, rows, 100, answer)
    assert table.answer == answer
    assert [table.prompt(i).tolist() for i in range(len(table))] == [p.ids for p in prompts]
    assert table.texts() == [p.text for p in prompts]
    assert table.lengths.tolist() == [len(p.ids) for p in prompts]
    assert table.row_ids == [r.row_id for r in rows] and table.years == [r.year for r in rows]
    assert table.accept.tolist() == [r.label == "Accept" for r in rows]
    assert table.row_hashes == [r.row_hash for r in rows]


def test_prompts_are_views_of_the_mapped_file_not_copies(tmp_path, model):
    table = ensure_table(KEY, write_lines(tmp_path / "s.jsonl", corpus(2, 2)), model, tmp_path, quiet)
    prompt = table.prompt(1)
    assert prompt.base is not None and not prompt.flags.owndata and not prompt.flags.writeable


def test_every_part_of_the_key_gives_another_table():
    keys = [
        KEY,
        KEY._replace(source_sha256="x"),
        KEY._replace(tokenizer_sha256="x"),
        KEY._replace(cutoff=101),
        KEY._replace(selection="limit=8"),
        KEY._replace(texts=False),
    ]
    assert len({k.fingerprint for k in keys}) == len(keys)


def test_a_table_is_made_once_and_found_again(tmp_path, model):
    source = write_lines(tmp_path / "s.jsonl", corpus(2, 2))
    first = ensure_table(KEY, source, model, tmp_path, quiet)
    source.unlink()  # what is found needs no source
    assert ensure_table(KEY, source, model, tmp_path, quiet).row_ids == first.row_ids


def test_a_cutoff_without_room_names_the_one_that_is_needed_and_leaves_nothing(tmp_path, model, tokenizer):
    long = "\n".join(["A long instruction."] * 30) + "\n\n"
    rows = [*corpus(2, BATCH), sharegpt("long", "Accept", instruction=long), *corpus(0, 2, "z")]
    source, cache = write_lines(tmp_path / "s.jsonl", rows), tmp_path / "cache"
    with pytest.raises(WlsweepError, match=r"set \[data\] cutoff to at least (\d+)") as error:
        ensure_table(KEY._replace(cutoff=40), source, model, cache, quiet)
    needed = int(str(error.value).rsplit(" ", 1)[1])
    assert everything_in(cache) == ["tokens"]
    assert len(ensure_table(KEY._replace(cutoff=needed), source, model, cache, quiet)) == len(rows)
    with pytest.raises(WlsweepError, match=f"row 'long' needs {needed} tokens"):
        ensure_table(KEY._replace(cutoff=needed - 1), source, model, cache, quiet)


def test_bad_rows_leave_nothing_behind(tmp_path, model):
    source = write_lines(tmp_path / "s.jsonl", [*corpus(BATCH, BATCH), {}])
    with pytest.raises(WlsweepError, match=f"row {2 * BATCH + 1}"):
        ensure_table(KEY, source, model, tmp_path / "cache", quiet)
    assert everything_in(tmp_path / "cache") == ["tokens"]


def test_a_table_that_is_not_whole_is_refused(tmp_path, model):
    table = ensure_table(KEY, write_lines(tmp_path / "s.jsonl", corpus(2, 2)), model, tmp_path, quiet)
    tokens = table.folder / "tokens.arrow"
    size = tokens.stat().st_size
    tokens.write_bytes(tokens.read_bytes()[:-8])
    with pytest.raises(WlsweepError, match=f"has {size - 8} bytes, expected {size}; delete"):
        open_table(table.folder)
    with pytest.raises(WlsweepError, match="no token table"):
        open_table(tmp_path / "none")


def _make(source, model, cache, start):
    while time.time() < start:
        time.sleep(0.001)
    table = ensure_table(KEY, source, model, cache, quiet)
    assert [len(table.prompt(i)) for i in range(len(table))] == table.lengths.tolist()


def test_two_processes_at_once_end_with_one_whole_table(tmp_path, model):
    source = write_lines(tmp_path / "s.jsonl", corpus(BATCH, BATCH))
    alone = ensure_table(KEY, source, model, tmp_path / "alone", quiet)
    context = multiprocessing.get_context("spawn")
    together = [
        context.Process(target=_make, args=(source, model, tmp_path / "both", time.time() + 5)) for _ in range(2)
    ]
    for p in together:
        p.start()
    for p in together:
        p.join(100)
    assert [p.exitcode for p in together] == [0, 0]
    (folder,) = (tmp_path / "both" / "tokens").iterdir()
    assert (folder / "tokens.arrow").read_bytes() == (alone.folder / "tokens.arrow").read_bytes()
    assert pq.read_table(folder / "prompts.parquet").equals(pq.read_table(alone.folder / "prompts.parquet"))
    assert json.loads((folder / "table.json").read_text())["rows"] == 2 * BATCH
