"""`wlsweep export`: training mixes and predictions in the formats of LLaMA-Factory.

>>> export_jsonl(existing_run("runs/demo"))[0]    # doctest: +SKIP
PosixPath('runs/demo/export/baseline_gamma1.0_prop1_2/predictions.jsonl')
"""

from __future__ import annotations

import json
from collections import Counter
from contextlib import ExitStack
from pathlib import Path

from wlsweep.data.load import finished_data, load_validation, read_manifest
from wlsweep.data.row_files import state_of
from wlsweep.data.rows import read_rows, to_sharegpt
from wlsweep.data.sources import find_inputs
from wlsweep.data.tokenise import place_system
from wlsweep.errors import WlsweepError
from wlsweep.run.layout import RunDir, atomic_file, write_json
from wlsweep.run.predictions import prediction_files, read_parquet, read_truth
from wlsweep.run.status import RunStatus
from wlsweep.spec.condition import select
from wlsweep.spec.config import Sweep
from wlsweep.spec.task import ICLR, Task

NAME = "iclr_weighted_loss"
TAGS = {
    "role_tag": "from",
    "content_tag": "value",
    "user_tag": "human",
    "system_tag": "system",
}


def dataset_name(k: int, task: Task = ICLR) -> str:
    """Name of a mix in `dataset_info.json`, such as `iclr_weighted_loss_train_1_3`; other labels leave `iclr` out."""
    return f"{_prefix(task)}_train_1_{k}"


def _prefix(task: Task) -> str:
    return NAME if task.identity is None else NAME.removeprefix("iclr_")


def export_sharegpt(run: RunDir, sweep: Sweep, out: Path) -> list[Path]:
    """Write `NAME/data.json` for every mix, validation and the test set, and one `dataset_info.json`, in one pass over the
    source.

    Texts are whole: LLaMA-Factory truncates by itself, with `cutoff_len`. A repeated row stands as often as it is used.
    Who answers is called what the first row of the source calls it, since LLaMA-Factory knows one name a data set.

    Returns:
        The files, `dataset_info.json` last.

    Raises:
        WlsweepError: if the data stage is not finished, or the source is no longer what it read.
    """
    record = finished_data(run)
    inputs = find_inputs(sweep.data, run.cache, sweep.task)
    for role, source in inputs.named.items():
        known = record.files.get(role)
        if known is None or state_of(source, known).sha256 != known.sha256:
            raise WlsweepError(f"{source} has changed since the data stage of {run.root}; put the old file back")
    uses: dict[str, dict[str, int]] = {}
    for mix in record.mixes:
        k = int(mix.removeprefix("1/"))
        uses[dataset_name(k, sweep.task)] = read_manifest(run, k)
    if (validation := load_validation(run)) is not None:
        uses[f"{_prefix(sweep.task)}_validation"] = dict.fromkeys(validation.row_ids, 1)
    uses[f"{_prefix(sweep.task)}_test"] = dict.fromkeys(read_truth(run.test_parquet, sweep.task).row_id.to_pylist(), 1)
    paths = {name: out / name / "data.json" for name in uses}
    answerer = ""
    with ExitStack() as stack:
        files, rows = {}, Counter[str]()
        for name, path in paths.items():
            temporary = stack.enter_context(atomic_file(path))
            files[name] = stack.enter_context(temporary.open("w", encoding="utf-8", newline="\n"))
        for source in inputs.named.values():
            for row in read_rows(source, sweep.task):
                answerer = answerer or row.answerer
                said = place_system(row, sweep.data.system)._replace(answerer=answerer)
                text = json.dumps(to_sharegpt(said, sweep.task), ensure_ascii=False)
                for name, times in uses.items():
                    for _ in range(times.get(row.row_id, 0)):
                        files[name].write((",\n" if rows[name] else "[\n") + text)
                        rows[name] += 1
        for name, file in files.items():
            file.write("\n]\n" if rows[name] else "[]\n")
            if rows[name] != sum(uses[name].values()):
                raise WlsweepError(f"{paths[name]}: {rows[name]} rows, expected {sum(uses[name].values())}")
    info = {
        name: {
            "file_name": str(path.relative_to(out)),
            "formatting": "sharegpt",
            "columns": {"messages": "conversations"},
            "tags": TAGS | {"assistant_tag": answerer},
        }
        for name, path in paths.items()
    }
    write_json(out / "dataset_info.json", info)
    return [*paths.values(), out / "dataset_info.json"]


def export_jsonl(run: RunDir, only: str | None = None) -> list[Path]:
    """Write `export/CONDITION/predictions.jsonl` for every predicted condition, in the order of the test set.

    `label` is the answer that training would have asked for, such as `\\boxed{Accept}`; `predict` is the generated text.

    Raises:
        WlsweepError: if predictions do not fit the test set, or there are none.
    """
    finished_data(run)
    status = RunStatus(run)
    done = [c for c in select(status.conditions, only) if status.prediction(c.name)[0].state == "done"]
    if not done:
        raise WlsweepError(f"{run.root}: no condition is predicted yet, so there is nothing to export")
    truth = read_parquet(run.test_parquet, ["row_id", "prompt", "label"]).to_pylist()
    written = []
    for c in done:
        tables = [read_parquet(f, ["row_id", "text"]) for f in prediction_files(run.prediction(c.name))]
        texts = {row["row_id"]: row["text"] for table in tables for row in table.to_pylist()}
        with atomic_file(run.exported(c.name)) as temporary, temporary.open("w", encoding="utf-8") as out:
            for row in truth:
                answer = status.record.task.answer_with(row["label"])
                said = {"prompt": row["prompt"], "predict": texts[row["row_id"]], "label": answer}
                out.write(json.dumps(said, ensure_ascii=False) + "\n")
        written.append(run.exported(c.name))
    return written
