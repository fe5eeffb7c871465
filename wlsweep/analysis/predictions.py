"""Read a run's predictions, joined to the truth by row id and refused where they do not fit it.

    >>> loaded = load_predictions(existing_run("runs/demo"))                                   # doctest: +SKIP
    >>> loaded.scores["baseline_gamma1.0_prop1_2"].log_odds.shape == (loaded.truth.n,)    # doctest: +SKIP

Every later number rests on these joins, so a file that is cut short, a row that is missing, doubled or foreign, and a
prediction of another test set are errors that name the file and the rows, never a metric over fewer rows.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from wlsweep.errors import WlsweepError, refuse_all
from wlsweep.run.columns import ACCEPT, LABELS, PREDICTION, REJECT, TRUTH
from wlsweep.run.layout import RunDir, read_json
from wlsweep.run.lease import holder
from wlsweep.spec.condition import Condition, condition_from, select

FloatArray = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]
IntArray = npt.NDArray[np.int64]

UNKNOWN = -1
"""Code of an answer that could not be parsed; 1 is Accept and 0 is Reject."""
_LARGEST = 700.0  # log-odds beyond it are indistinguishable in float64 probabilities; keeps means finite
_COLUMNS = ["row_id", "row_hash", "label", "parsed", "logprob_accept", "logprob_reject", "p_accept", "p_other"]
_OF_CONDITIONS = [*_COLUMNS, "model_fingerprint"]

State = Literal["done", "trained", "failed", "missing"]


@dataclass(frozen=True)
class Truth:
    """The test set, in the order of `data/test.parquet`; every array has shape (n,)."""

    row_id: pa.Array
    row_hash: pa.Array
    accept: BoolArray
    year: IntArray
    """-1 where the row has none."""
    truncated: BoolArray
    true_log_odds: FloatArray | None
    """ln P(Accept)/P(Reject) given the text, where the world is synthetic."""

    @property
    def n(self) -> int:
        """Rows."""
        return len(self.accept)

    @property
    def years(self) -> list[int]:
        """The years that occur, ascending."""
        return [int(y) for y in np.unique(self.year) if y >= 0]


@dataclass(frozen=True)
class Scores:
    """One model's predictions in the truth's row order; every array has shape (n,)."""

    log_odds: FloatArray
    """ln P(Accept)/P(Reject) of the two labels at the decision position, within +-700."""
    parsed: npt.NDArray[np.int8]
    """The generated text read strictly: 1 Accept, 0 Reject, -1 unknown."""
    p_other: FloatArray
    """Probability of neither label; NaN where an external file does not say."""

    @property
    def decision(self) -> BoolArray:
        """Accept exactly where the margin is above 0."""
        return self.log_odds > 0


@dataclass(frozen=True)
class RunPredictions:
    """All that an evaluation starts from."""

    run: RunDir
    sweep: Mapping[str, Any]
    """`sweep.json`."""
    data: Mapping[str, Any]
    """`data/data.json`; empty where it is missing."""
    truth: Truth
    conditions: tuple[Condition, ...]
    """Chosen conditions, in the order of the sweep."""
    declared: tuple[Condition, ...]
    """All conditions of the sweep."""
    states: Mapping[str, tuple[State, str]]
    """Per chosen condition its state and, where it is not done, why."""
    scores: Mapping[str, Scores]
    """Per chosen condition that is done."""
    externals: Mapping[str, Scores] = field(default_factory=dict)
    """Predictions that no condition of the sweep made, by the name given to them."""

    @property
    def done(self) -> list[Condition]:
        """Chosen conditions with complete predictions, in order."""
        return [c for c in self.conditions if c.name in self.scores]


def declared_conditions(sweep: Mapping[str, Any]) -> tuple[Condition, ...]:
    """The conditions that `sweep.json` lists, in order."""
    return tuple(replace(condition_from(entry), index=i) for i, entry in enumerate(sweep["conditions"]))


def load_predictions(
    run: RunDir, only: str | None = None, externals: Sequence[tuple[str, Path]] = ()
) -> RunPredictions:
    """Read truth, states and predictions of a run.

    Args:
        run: the run directory.
        only: a selection such as `0-6,accept_*`; without it all conditions.
        externals: (name, file) of further predictions, Parquet or JSON Lines with the columns of `schema.PREDICTION`
            (at least `row_id` and `p_accept` or both log-probabilities).

    Raises:
        WlsweepError: listing everything that does not fit the test set, over all conditions at once.
    """
    sweep = read_json(run.sweep_json)
    declared = declared_conditions(sweep)
    conditions = select(declared, only)
    truth = read_truth(run.test_parquet)
    data = read_json(run.data_json) if run.data_json.exists() else {}
    states: dict[str, tuple[State, str]] = {}
    scores: dict[str, Scores] = {}
    problems: list[str] = []
    for c in conditions:
        files = sorted(run.prediction(c.name).glob("*.parquet"))
        if not files:
            states[c.name] = _state_without_predictions(run, c.name)
            continue
        table, found = _read_parquet(files, _OF_CONDITIONS)
        if table is not None and _of_another_model(run, c.name, table):
            states[c.name] = ("trained", "its predictions are not those of the model that is trained; predict it again")
            continue
        if table is not None:
            read, more = _join(table, truth, str(run.prediction(c.name)))
            found += more
            if read is not None:
                scores[c.name] = read
                states[c.name] = ("done", "")
        problems += found
    others: dict[str, Scores] = {}
    for name, path in externals:
        if name in others or name in {c.name for c in declared}:
            problems.append(f"external {name!r}: the name is taken; give another one")
            continue
        read, found = _read_external(path, truth)
        problems += found
        if read is not None:
            others[name] = read
    refuse_all(
        f"predictions do not fit the test set {run.test_parquet}"
        " (delete what is named and predict it again, or leave it out with --only):",
        problems,
    )
    return RunPredictions(run, sweep, data, truth, conditions, declared, states, scores, others)


def read_truth(path: Path) -> Truth:
    """The test set.

    Raises:
        WlsweepError: if the file is missing or cut short, or holds a wrong label or a doubled id.
    """
    if not path.is_file():
        raise WlsweepError(f"{path} is missing: there is no test set yet; run the sweep's data stage first")
    columns = [name for name in TRUTH.names if name != "prompt"]
    table, problems = _read_parquet([path], columns)
    refuse_all("the test set cannot be read (run the data stage again):", problems)
    assert table is not None
    row_id = table["row_id"].combine_chunks()
    label = table["label"].combine_chunks()
    wrong = pc.invert(pc.is_in(label, pa.array(LABELS)))
    problems = [f"{path}: row {r} has label {label[int(r)]}" for r in np.flatnonzero(wrong.to_numpy(False))[:5]]
    doubled = _doubled(row_id)
    if doubled:
        problems.append(f"{path}: ids that occur more than once: {_few(doubled)}")
    if not len(row_id):
        problems.append(f"{path}: holds no row")
    refuse_all(f"the test set must hold each id once, labelled {ACCEPT} or {REJECT}:", problems)
    true = table["true_log_odds"].to_numpy()
    return Truth(
        row_id=row_id,
        row_hash=table["row_hash"].combine_chunks(),
        accept=pc.equal(label, ACCEPT).to_numpy(False),
        year=pc.fill_null(table["year"].combine_chunks(), UNKNOWN).to_numpy(False).astype(np.int64),
        truncated=table["truncated"].combine_chunks().to_numpy(False),
        true_log_odds=None if np.isnan(true.astype(np.float64)).any() else true.astype(np.float64),
    )


def _state_without_predictions(run: RunDir, name: str) -> tuple[State, str]:
    if run.failed(name).exists():
        record = read_json(run.failed(name))
        return "failed", f"{record.get('stage', '?')}: {record.get('cause', 'no cause recorded')}"
    if run.trained(name).exists():
        return "trained", "trained, not yet predicted"
    if who := holder(run.lease(name)):
        return "missing", f"in the hands of {who['owner']} right now"
    why = read_json(run.skipped_json).get(name) if run.skipped_json.exists() else None
    return "missing", f"left out by --until-decided: {why}" if why else "not yet trained"


def _of_another_model(run: RunDir, name: str, table: pa.Table) -> bool:
    """Whether rows were predicted by another model than the one that is trained now; False where no record tells."""
    if not run.trained(name).exists():
        return False
    trained = read_json(run.trained(name))["model"]["fingerprint"]
    return bool(pc.unique(table["model_fingerprint"]).to_pylist() != [trained])


def _read_parquet(files: Sequence[Path], columns: list[str]) -> tuple[pa.Table | None, list[str]]:
    """One table of all files with the columns wanted, or what is wrong with them."""
    tables, problems = [], []
    for path in files:
        try:
            file = pq.ParquetFile(path)
            missing = [c for c in columns if c not in file.schema_arrow.names]
            if missing:
                problems.append(f"{path}: lacks the column {', '.join(missing)}")
            else:
                tables.append(file.read(columns))
        except (OSError, pa.ArrowException) as e:
            problems.append(f"{path}: no whole Parquet file ({str(e).splitlines()[0][:120]})")
    return (None, problems) if problems else (pa.concat_tables(tables), [])


def _doubled(row_id: pa.Array) -> list[str]:
    counts = pc.value_counts(row_id)
    return list(pc.filter(counts.field("values"), pc.greater(counts.field("counts"), 1)).to_pylist())


def _few(values: Sequence[object], show: int = 5) -> str:
    shown = ", ".join(repr(v) for v in values[:show])
    return shown + (f" and {len(values) - show} more" if len(values) > show else "")


def _join(table: pa.Table, truth: Truth, place: str) -> tuple[Scores | None, list[str]]:
    """Predictions in the truth's order, or every way in which they do not fit."""
    problems = []
    row_id = table["row_id"].combine_chunks().cast(pa.string())
    at = pc.index_in(truth.row_id, value_set=row_id)
    lost = pc.filter(truth.row_id, pc.is_null(at)).to_pylist()
    if lost:
        problems.append(f"{place}: {len(lost)} of {truth.n} test rows have no prediction: {_few(lost)}")
    foreign = pc.filter(row_id, pc.invert(pc.is_in(row_id, value_set=truth.row_id))).to_pylist()
    if foreign:
        problems.append(f"{place}: {len(foreign)} rows are no test rows: {_few(foreign)}")
    doubled = _doubled(row_id)
    if doubled:
        problems.append(f"{place}: {len(doubled)} rows are predicted more than once: {_few(doubled)}")
    if problems:
        return None, problems
    table = table.take(at)

    def differing(column: str, expected: pa.Array) -> list[str]:
        if column not in table.column_names:
            return []
        same = pc.fill_null(pc.equal(table[column].combine_chunks(), expected), False)
        return list(pc.filter(truth.row_id, pc.invert(same)).to_pylist())

    if other := differing("row_hash", truth.row_hash):
        problems.append(f"{place}: {len(other)} rows are of another text than the test set's: {_few(other)}")
    if other := differing("label", pc.if_else(pa.array(truth.accept), ACCEPT, REJECT)):
        problems.append(f"{place}: {len(other)} rows have another label than the test set's: {_few(other)}")
    log_odds, found = _log_odds(table, truth, place)
    problems += found
    if problems:
        return None, problems
    parsed = (log_odds > 0).astype(np.int8)
    if "parsed" in table.column_names:
        codes = pc.index_in(table["parsed"].combine_chunks(), value_set=pa.array([REJECT, ACCEPT]))
        parsed = pc.fill_null(codes, UNKNOWN).to_numpy(False).astype(np.int8)
    p_other = table["p_other"].to_numpy() if "p_other" in table.column_names else np.full(truth.n, np.nan)
    return Scores(log_odds, parsed, p_other), []


def _log_odds(table: pa.Table, truth: Truth, place: str) -> tuple[FloatArray, list[str]]:
    names = table.column_names
    p = table["p_accept"].to_numpy().astype(np.float64) if "p_accept" in names else None
    if "logprob_accept" in names and "logprob_reject" in names:
        both = [table[c].to_numpy().astype(np.float64) for c in ("logprob_accept", "logprob_reject")]
        with np.errstate(invalid="ignore"):
            log_odds = both[0] - both[1]
    else:
        assert p is not None
        with np.errstate(divide="ignore"):
            log_odds = np.log(p) - np.log1p(-p)
    bad = np.isnan(log_odds) | (np.zeros(truth.n, bool) if p is None else ~((p >= 0) & (p <= 1)))
    log_odds = np.clip(log_odds, -_LARGEST, _LARGEST)
    if p is not None:
        with np.errstate(over="ignore"):
            bad |= ~(np.abs(1 / (1 + np.exp(-log_odds)) - p) <= 1e-5)
    if bad.any():
        rows = truth.row_id.take(pa.array(np.flatnonzero(bad))).to_pylist()
        return log_odds, [
            f"{place}: {len(rows)} rows hold no number, or a p_accept that is not sigmoid(logprob_accept - "
            f"logprob_reject): {_few(rows)}"
        ]
    return log_odds, []


def _read_external(path: Path, truth: Truth) -> tuple[Scores | None, list[str]]:
    if not path.is_file():
        return None, [f"{path}: no such file"]
    known = set(PREDICTION.names) - {"text", "model_fingerprint"}
    if path.suffix == ".parquet":
        try:
            table = pq.read_table(path)
        except (OSError, pa.ArrowException) as e:
            return None, [f"{path}: no whole Parquet file ({str(e).splitlines()[0][:120]})"]
    else:
        rows: list[dict[str, Any]] = []
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
            try:
                row = json.loads(line) if line.strip() else None
            except ValueError as e:
                return None, [f"{path}: line {number} is no JSON ({e}); expected one object a line"]
            if row is not None and not isinstance(row, dict):
                return None, [f"{path}: line {number} is no JSON object"]
            if row is not None:
                rows.append({k: v for k, v in row.items() if k in known})
        every = list(dict.fromkeys(key for row in rows for key in row))
        try:
            table = pa.table({key: [row.get(key) for row in rows] for key in every})
        except (pa.ArrowException, TypeError) as e:
            return None, [f"{path}: a column holds values of several kinds ({str(e).splitlines()[0][:120]})"]
    names = table.column_names
    if "row_id" not in names or not ("p_accept" in names or {"logprob_accept", "logprob_reject"} <= set(names)):
        return None, [
            f"{path}: needs row_id and either p_accept or logprob_accept and logprob_reject; it has {', '.join(names)}"
        ]
    try:
        return _join(table.select([n for n in names if n in known]), truth, str(path))
    except (pa.ArrowException, TypeError, ValueError) as e:
        kinds = ", ".join(f"{f.name} {f.type}" for f in table.schema)
        return None, [
            f"{path}: columns are of other kinds than predictions have ({kinds}): {str(e).splitlines()[0][:120]}"
        ]


def share_of_accepts(data: Mapping[str, Any], k: int) -> float:
    """The accept share that training at proportion 1/k really saw: from the mix's counts, else 1/k itself."""
    mix = data.get("mixes", {}).get(f"1/{k}")
    if mix and mix["accepts"] > 0 and mix["rejects"] > 0:
        return float(mix["accepts"] / (mix["accepts"] + mix["rejects"]))
    return 1 / k


def logit(p: float) -> float:
    """ln(p / (1 - p)) for 0 < p < 1."""
    return math.log(p) - math.log1p(-p)
