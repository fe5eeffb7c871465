"""The mixes as LLaMA-Factory data sets, for those who train elsewhere: the one place that writes text once per mix."""

from __future__ import annotations

import json
from contextlib import ExitStack
from pathlib import Path
from typing import TextIO

import pyarrow.parquet as pq

from wlsweep.data.rows import read_rows, to_sharegpt
from wlsweep.data.sources import FileState, find_inputs, state_of
from wlsweep.data.tokenise import place_system
from wlsweep.errors import WlsweepError
from wlsweep.run.layout import RunDir, atomic_file, read_json, write_json
from wlsweep.spec.config import Sweep

NAME = "iclr_weighted_loss"
TAGS = {
    "role_tag": "from",
    "content_tag": "value",
    "user_tag": "human",
    "assistant_tag": "gpt",
    "system_tag": "system",
}


def dataset_name(k: int) -> str:
    """Name of a training mix in `dataset_info.json`, such as `iclr_weighted_loss_train_1_3`."""
    return f"{NAME}_train_1_{k}"


def export_sharegpt(run: RunDir, sweep: Sweep, out: Path) -> list[Path]:
    """Write `NAME/data.json` for every mix and the test set, and one `dataset_info.json`, in one pass over the source.

    Texts are whole: LLaMA-Factory truncates by itself, with `cutoff_len`. A repeated row stands as often as it is used.

    Returns:
        The files, `dataset_info.json` last.

    Raises:
        WlsweepError: if the data stage is not finished, or the source is no longer what it read.
    """
    if not run.data_json.is_file():
        raise WlsweepError(f"{run.root} has no data yet; run: wlsweep run SWEEP.toml --stage data --out {run.root}")
    record = read_json(run.data_json)
    inputs = find_inputs(sweep.data, run.cache)
    for role, path in inputs._asdict().items():
        if path and state_of(path, FileState(**record["files"][role])).sha256 != record["files"][role]["sha256"]:
            raise WlsweepError(f"{path} has changed since the data stage of {run.root}; put the old file back")
    uses: dict[str, dict[str, int]] = {}
    for mix in record["mixes"]:
        k = int(mix.removeprefix("1/"))
        manifest = pq.read_table(run.manifest(k)).to_pydict()
        uses[dataset_name(k)] = dict(zip(manifest["row_id"], manifest["multiplicity"], strict=True))
    uses[f"{NAME}_test"] = dict.fromkeys(pq.read_table(run.test_parquet)["row_id"].to_pylist(), 1)
    paths = {name: out / name / "data.json" for name in uses}
    with ExitStack() as stack:
        files = {name: _Array(stack.enter_context(_opened(stack, path))) for name, path in paths.items()}
        for path in filter(None, inputs):
            for row in read_rows(path):
                text = json.dumps(to_sharegpt(place_system(row, sweep.data.system)), ensure_ascii=False)
                for name, of in uses.items():
                    files[name].add(text, of.get(row.row_id, 0))
        for name, file in files.items():
            file.end()
            if file.rows != sum(uses[name].values()):
                raise WlsweepError(f"{paths[name]}: {file.rows} rows, expected {sum(uses[name].values())}")
    info = {
        name: {
            "file_name": str(path.relative_to(out)),
            "formatting": "sharegpt",
            "columns": {"messages": "conversations"},
            "tags": TAGS,
        }
        for name, path in paths.items()
    }
    write_json(out / "dataset_info.json", info)
    return [*paths.values(), out / "dataset_info.json"]


def _opened(stack: ExitStack, path: Path) -> TextIO:
    return stack.enter_context(atomic_file(path)).open("w", encoding="utf-8", newline="\n")


class _Array:
    """A JSON array that is written row by row."""

    def __init__(self, file: TextIO) -> None:
        self.file, self.rows = file, 0

    def add(self, text: str, times: int) -> None:
        for _ in range(times):
            self.file.write(("[\n" if self.rows == 0 else ",\n") + text)
            self.rows += 1

    def end(self) -> None:
        self.file.write("\n]\n" if self.rows else "[]\n")
