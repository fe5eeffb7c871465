"""One set of rows, written in every shape and format that is read."""

import csv
import gzip
import io
import json

import pyarrow as pa
import pyarrow.parquet as pq

from wlsweep.spec.data_section import Columns

COLUMNS = Columns(text="paper", instruction="Judge this paper.", label="label", id="key", year="year", system="system")
"""Of `as_table`."""


def chat(row_id, label, paper, year, system="You review.", answer=None):
    """A ShareGPT row whose instruction is that of `COLUMNS`."""
    turns = [{"from": "system", "value": system}] if system else []
    turns += [
        {"from": "human", "value": f"Judge this paper.\n\n{paper}"},
        {"from": "gpt", "value": answer or f"\\boxed{{{label}}}"},
    ]
    return {"conversations": turns, "_metadata": {"submission_id": row_id, "year": year}}


def as_messages(row):
    roles = {"system": "system", "human": "user", "gpt": "assistant"}
    turns = [{"role": roles[turn["from"]], "content": turn["value"]} for turn in row["conversations"]]
    return {"messages": turns, "_metadata": row["_metadata"]}


def as_parts(row):
    """OpenAI messages whose contents are lists of text parts."""
    turns = [{**t, "content": [{"type": "text", "text": t["content"]}]} for t in as_messages(row)["messages"]]
    return {"messages": turns, "_metadata": row["_metadata"]}


def as_alpaca(row):
    *system, human, answer = [turn["value"] for turn in row["conversations"]]
    instruction, _, paper = human.partition("\n\n")
    found = {"instruction": f"{instruction}\n", "input": paper, "output": answer, "_metadata": row["_metadata"]}
    return {**found, "system": system[0]} if system else found


def as_top_system(row):
    """ShareGPT with LLaMA-Factory's system prompt beside the turns."""
    turns = row["conversations"]
    if turns[0]["from"] != "system":
        return row
    return {**row, "conversations": turns[1:], "system": turns[0]["value"]}


def as_table(row):
    *system, human, answer = [turn["value"] for turn in row["conversations"]]
    meta = row["_metadata"]
    label = answer.removeprefix("\\boxed{").removesuffix("}")
    paper = human.partition("\n\n")[2]
    found = {"key": meta["submission_id"], "paper": paper, "label": label, "year": meta["year"]}
    return {**found, "system": system[0] if system else None}


SHAPES = {
    "ShareGPT": dict,
    "messages": as_messages,
    "messages in parts": as_parts,
    "alpaca": as_alpaca,
    "top-level system": as_top_system,
    "table": as_table,
}


def lines(rows):
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def array(rows):
    return json.dumps(list(rows), ensure_ascii=False, indent=1).encode(errors="replace")


def csv_bytes(rows, delimiter=","):
    out = io.StringIO(newline="")
    writer = csv.DictWriter(out, list(rows[0]), delimiter=delimiter)
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue().encode()


def parquet(rows):
    out = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(list(rows)), out)
    return out.getvalue()


def arrow_stream(rows):
    table, out = pa.Table.from_pylist(list(rows)), io.BytesIO()
    with pa.ipc.new_stream(out, table.schema) as writer:
        writer.write_table(table, max_chunksize=5)
    return out.getvalue()


def arrow_file(rows):
    table, out = pa.Table.from_pylist(list(rows)), io.BytesIO()
    with pa.ipc.new_file(out, table.schema) as writer:
        writer.write_table(table, max_chunksize=5)
    return out.getvalue()


def zstd(data):
    out = pa.BufferOutputStream()
    with pa.CompressedOutputStream(out, "zstd") as f:
        f.write(data)
    return out.getvalue().to_pybytes()


FORMATS = {
    "json": array,
    "jsonl": lines,
    "jsonl.gz": lambda rows: gzip.compress(lines(rows)),
    "jsonl.zst": lambda rows: zstd(lines(rows)),
    "json.gz": lambda rows: gzip.compress(array(rows)),
    "json.zst": lambda rows: zstd(array(rows)),
    "parquet": parquet,
    "arrow": arrow_stream,
}
"""For every shape; the name is the file's ending."""
TABLE_FORMATS = FORMATS | {
    "csv": csv_bytes,
    "csv.gz": lambda rows: gzip.compress(csv_bytes(rows)),
    "csv.zst": lambda rows: zstd(csv_bytes(rows)),
    "tsv": lambda rows: csv_bytes(rows, "\t"),
    "arrow file": arrow_file,
}


def save_to_disk(folder, rows, pieces=2, **state):
    """A folder as `Dataset.save_to_disk` writes it."""
    folder.mkdir(parents=True)
    size = -(-len(rows) // pieces)
    names = [f"data-{n:05d}-of-{pieces:05d}.arrow" for n in range(pieces)]
    for n, name in enumerate(names):
        (folder / name).write_bytes(arrow_stream(rows[n * size : (n + 1) * size]))
    found = {"_data_files": [{"filename": name} for name in names], "_fingerprint": "x", "_split": None} | state
    (folder / "state.json").write_text(json.dumps(found))
    (folder / "dataset_info.json").write_text("{}")
    return folder


def save_splits_to_disk(folder, **splits):
    """A folder as `DatasetDict.save_to_disk` writes it."""
    for name, rows in splits.items():
        save_to_disk(folder / name, rows)
    (folder / "dataset_dict.json").write_text(json.dumps({"splits": list(splits)}))
    return folder


def shards(folder, name, parts, ending="parquet"):
    """`name-00000-of-0000N.ending`, one for each part."""
    folder.mkdir(parents=True, exist_ok=True)
    for n, rows in enumerate(parts):
        (folder / f"{name}-{n:05d}-of-{len(parts):05d}.{ending}").write_bytes(TABLE_FORMATS[ending](rows))
    return folder
