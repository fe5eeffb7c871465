"""`wlsweep evaluate`: read a run, measure every condition, write `metrics/`.

    >>> evaluate(existing_run("runs/demo")).missing    # doctest: +SKIP
    []

Works on an unfinished sweep: conditions without predictions keep their place, with their state and cause.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import TypeAdapter

from wlsweep import __version__
from wlsweep.analysis.compare_conditions import compare_conditions, ece_of
from wlsweep.analysis.condition_metrics import curves, measure
from wlsweep.analysis.evaluation_records import Analysis, Inputs, LogLine, ModelResult, YearMetrics
from wlsweep.analysis.loaded_run import RunPredictions, load_predictions
from wlsweep.errors import DamagedError
from wlsweep.files import JsonObject
from wlsweep.run.layout import RunDir, atomic_files, json_text, read_json
from wlsweep.run.metric_log import read_metric_log
from wlsweep.run.predictions import Scores
from wlsweep.spec.condition import select


@dataclass(frozen=True)
class Evaluation:
    """All that is known of a run's models."""

    conditions: list[ModelResult]
    """Those that are looked at, in the order of the sweep. `all_metrics.json` holds all conditions of the sweep, always."""
    externals: list[ModelResult]
    """Models from outside of the sweep."""
    analysis: Analysis
    files: list[Path] = field(default_factory=list)
    """What was written."""

    @property
    def missing(self) -> list[str]:
        """Names of conditions that have no metrics."""
        return [c.name for c in self.conditions if not c.done]


def evaluate(
    run: RunDir, only: str | None = None, externals: Sequence[tuple[str, Path]] = (), draws: int = 10_000
) -> Evaluation:
    """Measure every condition of a run and write `metrics/`.

    Args:
        run: the run directory; a data stage must have finished.
        only: a selection of conditions to compare and judge; without it all of them. All are measured.
        externals: (name, file) of predictions made elsewhere, to be measured and compared alongside.
        draws: bootstrap draws behind every interval of a difference.

    Raises:
        WlsweepError: if predictions do not fit the test set, naming files and rows.
    """
    whole = load_predictions(run, None, externals)
    loaded = _chosen(whole, only)
    truth, scores = whole.truth, {**whole.scores, **whole.externals}
    measured = {name: measure(truth.accept, s) for name, s in scores.items()}
    found = compare_conditions(loaded, {n: measured[n] for n in (*loaded.scores, *loaded.externals)}, draws)
    others = {name: s for name, s in whole.scores.items() if name not in loaded.scores}
    rest = ece_of(replace(whole, scores=others, externals={}), measured, draws)
    for name, ece in {**found.ece, **rest}.items():
        measured[name] = replace(measured[name], estimates={**measured[name].estimates, "ece": replace(ece, n=truth.n)})
    years = {name: _by_year(loaded, s) for name, s in scores.items()}
    conditions = []
    for c in whole.conditions:
        state, cause = whole.states[c.name]
        conditions.append(ModelResult(c.name, state, cause or None, c, measured.get(c.name), years.get(c.name, ())))
    outside = [ModelResult(name, "done", None, None, measured[name], years[name]) for name in loaded.externals]
    analysis = Analysis(
        **vars(found),
        inputs=inputs_of(run, only, externals),
        draws=draws,
        rows=truth.n,
        years=tuple(truth.years),
        curves={name: curves(truth.accept, scores[name]) for name in (*loaded.scores, *loaded.externals)},
        training={c.name: training_curve(run, c.name) for c in loaded.conditions},
        words=truth.task.words,
    )
    files = _write(run, conditions, outside, analysis)
    chosen = {c.name for c in loaded.conditions}
    return Evaluation([c for c in conditions if c.name in chosen], outside, analysis, files)


def _chosen(whole: RunPredictions, only: str | None) -> RunPredictions:
    conditions = select(whole.declared, only)
    scores = {c.name: whole.scores[c.name] for c in conditions if c.name in whole.scores}
    return replace(whole, conditions=conditions, scores=scores)


def _by_year(loaded: RunPredictions, scores: Scores) -> tuple[YearMetrics, ...]:
    truth, found = loaded.truth, []
    for year in truth.years:
        rows = truth.year == year
        of_year = Scores(scores.log_odds[rows], scores.parsed[rows], scores.p_other[rows])
        found.append(YearMetrics(year, measure(truth.accept[rows], of_year)))
    return tuple(found)


def _write(
    run: RunDir, conditions: Sequence[ModelResult], externals: Sequence[ModelResult], analysis: Analysis
) -> list[Path]:
    entries = [c.flat() for c in conditions]
    plain = TypeAdapter(Analysis).dump_python(analysis, mode="json")
    plain |= {"externals": [e.flat() for e in externals]}
    by_year = [{"name": e["name"], **scalars(year)} for e in entries for year in e.get("by_year", [])]
    files = [run.metrics_json, run.metrics_parquet, run.by_year_parquet, run.analysis_json]
    with atomic_files(*files) as (metrics, table, years, rest):
        metrics.write_text(json_text(entries), encoding="utf-8")
        pq.write_table(_table([scalars(e) for e in entries]), table)
        pq.write_table(_table(by_year), years)
        rest.write_text(json_text(plain | {"seal": _seal(entries, plain)}), encoding="utf-8")
    return files


def _seal(entries: object, plain: JsonObject) -> str:
    """Hash of all results, so that no others are taken for those that were written."""
    return hashlib.sha256(json.dumps([entries, plain], sort_keys=True).encode()).hexdigest()[:16]


def inputs_of(run: RunDir, only: str | None, externals: Sequence[tuple[str, Path]]) -> Inputs:
    """What an evaluation was made from; equal for two evaluations when nothing that they read was added or rewritten."""
    files = [run.sweep_json, run.data_json, run.test_parquet, *sorted(run.predictions.glob("*/*.parquet"))]
    records = ("trained.json", "failed.json", "metrics.jsonl")
    files += [p for name in records for p in sorted(run.root.glob(f"conditions/*/{name}"))]
    files += [run.skipped_json]
    files += [path for _, path in externals]
    seen = [(str(p), p.stat().st_size, p.stat().st_mtime_ns) for p in files if p.exists()]
    hashed = hashlib.sha256(json.dumps([__version__, seen]).encode()).hexdigest()[:16]
    return Inputs(only, tuple((name, str(path.resolve())) for name, path in externals), hashed)


def current(run: RunDir, only: str | None = None) -> Evaluation | None:
    """The evaluation on disk, if it was made from what lies there now and covers the same selection."""
    try:
        plain, rows = read_json(run.analysis_json), read_json(run.metrics_json)
    except DamagedError:  # or missing
        return None
    if not isinstance(plain, dict) or plain.pop("seal", None) != _seal(rows, plain):
        return None
    known = _inputs(plain)
    if known is None or known != inputs_of(run, only, _existing(known)):
        return None
    externals = [ModelResult.from_flat(row) for row in plain.pop("externals")]
    analysis = TypeAdapter(Analysis).validate_python(plain)
    results = [ModelResult.from_flat(row) for row in rows]
    chosen = {c.name for c in select([r.condition for r in results if r.condition is not None], only)}
    return Evaluation([r for r in results if r.name in chosen], externals, analysis)


def up_to_date(run: RunDir, only: str | None = None) -> Evaluation:
    """The evaluation on disk where it is current, else a new one with the external models of the last one.

    Raises:
        WlsweepError: as `evaluate` does.
    """
    return current(run, only) or evaluate(run, only, remembered_externals(run))


def remembered_externals(run: RunDir) -> list[tuple[str, Path]]:
    """The external predictions of the last evaluation that still exist, so that a report that evaluates again keeps them."""
    if not run.analysis_json.exists():
        return []
    plain = read_json(run.analysis_json)
    known = _inputs(plain) if isinstance(plain, dict) else None
    if known is None:
        raise DamagedError(
            f"{run.analysis_json} is damaged or of another version, so which external models it had is not known; run: "
            f"wlsweep evaluate {run.root} (with --external NAME=FILE for each)"
        )
    return _existing(known)


def _inputs(plain: JsonObject) -> Inputs | None:
    """None where another version wrote them."""
    try:
        return TypeAdapter(Inputs).validate_python(plain.get("inputs"))
    except ValueError:
        return None


def _existing(known: Inputs) -> list[tuple[str, Path]]:
    return [(name, Path(path)) for name, path in known.externals if Path(path).is_file()]


def training_curve(run: RunDir, name: str, points: int = 200) -> tuple[LogLine, ...]:
    """The metric log of a condition, thinned to at most about `points` lines and as many that hold a validation, the last of
    which is kept; a half-written last line is left out."""
    lines = read_metric_log(run.metric_log(name))
    validated = [i for i, line in enumerate(lines) if line.validation_bce is not None]
    kept = {*_thinned(range(len(lines)), points), *_thinned(validated, points), *validated[-1:]}
    return tuple(lines[i].model_dump(exclude_unset=True) for i in sorted(kept))


def _thinned(numbers: Sequence[int], points: int) -> Sequence[int]:
    return numbers[:: max(1, -(-len(numbers) // points))]


def scalars(entry: JsonObject) -> JsonObject:
    """Its columns for a table: keys of inner objects are joined to those of the outer one, lists are left out."""
    out: JsonObject = {}
    for key, value in entry.items():
        if isinstance(value, dict):
            out |= {f"{key}_{k}": v for k, v in scalars(value).items()}
        elif not isinstance(value, list):
            out[key] = value
    return out


def _table(rows: list[JsonObject]) -> pa.Table:
    names = list(dict.fromkeys(key for row in rows for key in row))
    return pa.Table.from_pylist([{name: row.get(name) for name in names} for row in rows])
