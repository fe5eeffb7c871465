"""`wlsweep evaluate`: read a run, measure every condition, write `metrics/`.

    >>> evaluate(existing_run("runs/demo")).missing    # doctest: +SKIP
    []

Works on an unfinished sweep: conditions without predictions keep their place, with their state and cause.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from wlsweep import __version__
from wlsweep.analysis.compare_conditions import compare_conditions
from wlsweep.analysis.condition_metrics import curves, measure, subset
from wlsweep.analysis.metrics import rows_of_year
from wlsweep.analysis.predictions import RunPredictions, Scores, load_predictions
from wlsweep.run.layout import RunDir, atomic_file, read_json, write_json


@dataclass(frozen=True)
class Evaluation:
    """What `evaluate` found and wrote."""

    entries: list[dict[str, Any]]
    """One per condition, in order: what `all_metrics.json` holds."""
    analysis: dict[str, Any]
    """What `analysis.json` holds: comparisons, verdicts, curves, externals."""
    files: list[Path]
    """Written files."""

    @property
    def missing(self) -> list[str]:
        """Names of conditions that have no metrics."""
        return [e["name"] for e in self.entries if e["state"] != "done"]


def evaluate(
    run: RunDir, only: str | None = None, externals: Sequence[tuple[str, Path]] = (), draws: int = 10_000
) -> Evaluation:
    """Measure every condition of a run and write `metrics/`.

    Args:
        run: the run directory; a data stage must have finished.
        only: a selection of conditions; without it all of them.
        externals: (name, file) of predictions made elsewhere, to be measured and compared alongside.
        draws: bootstrap draws behind every interval of a difference.

    Raises:
        WlsweepError: if predictions do not fit the test set, naming files and rows.
    """
    loaded = load_predictions(run, only, externals)
    entries = [_entry(loaded, c.name) | c.as_dict() for c in loaded.conditions]
    external = [{"name": name, "state": "done", **_measured(loaded, s)} for name, s in loaded.externals.items()]
    found = compare_conditions(loaded, [*entries, *external], draws)
    for entry in [*entries, *external]:
        if at := found["ece_intervals"].get(entry["name"]):
            entry["ece_low"], entry["ece_high"] = at
    analysis: dict[str, Any] = {
        **found,
        "inputs": inputs_of(run, only, externals),
        "draws": draws,
        "rows": loaded.truth.n,
        "years": loaded.truth.years,
        "curves": {name: curves(loaded.truth.accept, s) for name, s in {**loaded.scores, **loaded.externals}.items()},
        "externals": external,
        "training": {c.name: training_curve(run, c.name) for c in loaded.conditions},
    }
    write_json(run.metrics_json, entries)
    write_json(run.analysis_json, analysis)
    _write_table(run.metrics_parquet, [_scalars(e) for e in entries])
    _write_table(run.by_year_parquet, _by_year(entries))
    return Evaluation(
        entries, analysis, [run.metrics_json, run.metrics_parquet, run.by_year_parquet, run.analysis_json]
    )


def inputs_of(run: RunDir, only: str | None, externals: Sequence[tuple[str, Path]]) -> dict[str, Any]:
    """What an evaluation was made from; equal for two evaluations when nothing that they read was added or rewritten."""
    files = [run.sweep_json, run.data_json, run.test_parquet, *sorted(run.predictions.glob("*/*.parquet"))]
    records = ("trained.json", "failed.json", "metrics.jsonl")
    files += [p for name in records for p in sorted(run.root.glob(f"conditions/*/{name}"))]
    files += [run.skipped_json]
    files += [path for _, path in externals]
    seen = [(str(p), p.stat().st_size, p.stat().st_mtime_ns) for p in files if p.exists()]
    return {
        "only": only,
        "externals": [[name, str(path.resolve())] for name, path in externals],
        "files": hashlib.sha256(json.dumps([__version__, seen]).encode()).hexdigest()[:16],
    }


def current(run: RunDir, only: str | None = None) -> Evaluation | None:
    """The evaluation on disk, if it was made from what lies there now and covers the same selection."""
    if not (run.analysis_json.exists() and run.metrics_json.exists()):
        return None
    analysis = read_json(run.analysis_json)
    if analysis["inputs"] != inputs_of(run, only, remembered_externals(run)):
        return None
    return Evaluation(read_json(run.metrics_json), analysis, [])


def remembered_externals(run: RunDir) -> list[tuple[str, Path]]:
    """The external predictions of the last evaluation that still exist, so that a report that evaluates again keeps them."""
    if not run.analysis_json.exists():
        return []
    known = [(name, Path(path)) for name, path in read_json(run.analysis_json)["inputs"]["externals"]]
    return [(name, path) for name, path in known if path.is_file()]


def _entry(loaded: RunPredictions, name: str) -> dict[str, Any]:
    state, cause = loaded.states[name]
    entry: dict[str, Any] = {"state": state, "cause": cause or None}
    return entry | _measured(loaded, loaded.scores[name]) if name in loaded.scores else entry


def _measured(loaded: RunPredictions, scores: Scores) -> dict[str, Any]:
    truth = loaded.truth
    years = [(year, rows_of_year(truth, year)) for year in truth.years]
    return measure(truth.accept, scores) | {
        "by_year": [{"year": year, **measure(truth.accept[rows], subset(scores, rows))} for year, rows in years]
    }


def training_curve(run: RunDir, name: str, points: int = 200) -> list[dict[str, Any]]:
    """The metric log of a condition, thinned to at most about `points` lines; a half-written last line is left out."""
    path = run.metric_log(name)
    if not path.exists():
        return []
    lines = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            lines.append(json.loads(line))
        except ValueError:
            break
    step = max(1, -(-len(lines) // points))
    return lines[::step]


def _scalars(entry: dict[str, Any]) -> dict[str, Any]:
    out: dict[str, Any] = {}
    for key, value in entry.items():
        if isinstance(value, dict):
            out |= {f"{key}_{k}": v for k, v in _scalars(value).items()}
        elif not isinstance(value, list):
            out[key] = value
    return out


def _by_year(entries: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{"name": e["name"], **_scalars(slice_)} for e in entries for slice_ in e.get("by_year", [])]


def _write_table(path: Path, rows: list[dict[str, Any]]) -> None:
    names = list(dict.fromkeys(key for row in rows for key in row))
    table = pa.Table.from_pylist([{name: row.get(name) for name in names} for row in rows])
    with atomic_file(path) as temporary:
        pq.write_table(table, temporary)
