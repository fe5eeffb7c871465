"""The test set and the predictions of it: read from Parquet, and held against each other by the one set of checks.

Whether a condition counts as predicted (`wlsweep.run.status`), every metric, and predictions made elsewhere all go
through `scores_of`, so that no two commands can differ in what they take for complete.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from wlsweep.errors import DamagedError, UnreadableError, os_error_text, refuse_all
from wlsweep.files import open_file
from wlsweep.run.columns import PREDICTION, TRUTH
from wlsweep.spec.task import ICLR, Task

FloatArray = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]
IntArray = npt.NDArray[np.int64]

UNKNOWN = -1
"""Code of an answer that could not be parsed; 1 is the positive label and 0 the other one."""
_LARGEST = 700.0  # log-odds beyond it are indistinguishable in float64 probabilities; keeps means finite
_CHECKED = pa.schema([f for f in PREDICTION if f.name not in ("year", "text", "prompt_tokens", "truncated")])
_AGAIN = "delete data/data.json and run the sweep again: the data stage is made again, what is trained is kept"


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
    """ln P(positive)/P(negative) given the text, where the world is synthetic."""
    task: Task = ICLR
    """What the labels are."""

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
    """ln P(positive)/P(negative) of the two labels at the decision position, within +-700."""
    parsed: npt.NDArray[np.int8]
    """The generated text read strictly: 1 the positive label, 0 the other one, -1 unknown."""
    p_other: FloatArray
    """Probability of neither label; NaN where an external file does not say."""

    @property
    def decision(self) -> BoolArray:
        """The positive label exactly where the margin is above 0."""
        return self.log_odds > 0


class DoNotFit(Exception):
    """Predictions that are not the wanted ones: `foreign` (of another model or test set) or `damaged`."""

    def __init__(self, kind: Literal["foreign", "damaged"], problems: Sequence[str]) -> None:
        super().__init__("; ".join(problems))
        self.kind, self.problems = kind, list(problems)


def read_parquet(path: Path, columns: Sequence[str], needed: Sequence[str] = ()) -> pa.Table:
    """Some columns of a Parquet file, which must have the `needed` ones too.

    Raises:
        FileNotFoundError: if there is none.
        UnreadableError: if the system does not let this process read it.
        DamagedError: if it is no whole Parquet file, or lacks a column.
    """
    try:
        with open_file(path) as f:
            file = pq.ParquetFile(f)
            missing = [c for c in (needed or columns) if c not in file.schema_arrow.names]
            if missing:
                raise DamagedError(f"{path} lacks the column {', '.join(missing)}")
            return file.read(list(columns), use_threads=False).select(list(columns))
    except FileNotFoundError:
        raise
    except (OSError, ValueError, pa.ArrowException) as e:
        if isinstance(e, OSError) and e.errno is not None:
            raise UnreadableError(os_error_text(e, path)) from None
        raise DamagedError(f"{path} is no whole Parquet file ({_first_line(e)})") from None


def read_truth(path: Path, task: Task = ICLR) -> Truth:
    """The test set of a task.

    Raises:
        WlsweepError: if the file is missing, unreadable or cut short, or holds a wrong label or a doubled id.
    """
    schema = pa.schema([f for f in TRUTH if f.name != "prompt"])
    try:
        table = read_parquet(path, schema.names).cast(schema)
    except FileNotFoundError:
        raise DamagedError(f"{path} is missing: there is no test set; {_AGAIN}") from None
    except DamagedError as e:
        raise DamagedError(f"the test set is damaged: {e}; {_AGAIN}") from None
    except (pa.ArrowException, ValueError) as e:
        raise DamagedError(f"the test set is damaged: {path}: {_first_line(e)}; {_AGAIN}") from None
    row_id = table["row_id"].combine_chunks()
    label = table["label"].combine_chunks()
    wrong = pc.invert(pc.is_in(label, pa.array(task.labels)))
    problems = [f"{path}: row {r} has label {label[int(r)]}" for r in np.flatnonzero(wrong.to_numpy(False))[:5]]
    doubled = _doubled(row_id)
    if doubled:
        problems.append(f"{path}: ids that occur more than once: {few(doubled)}")
    if not len(row_id):
        problems.append(f"{path}: holds no row")
    refuse_all(
        f"the test set must hold each id once, labelled {task.positive} or {task.negative} ({_AGAIN}):", problems
    )
    true = table["true_log_odds"].to_numpy().astype(np.float64)
    return Truth(
        row_id=row_id,
        row_hash=table["row_hash"].combine_chunks(),
        accept=pc.equal(label, task.positive).to_numpy(False),
        year=pc.fill_null(table["year"].combine_chunks(), UNKNOWN).to_numpy(False).astype(np.int64),
        truncated=table["truncated"].combine_chunks().to_numpy(False),
        true_log_odds=None if np.isnan(true).any() else true,
        task=task,
    )


def prediction_files(folder: Path) -> list[Path]:
    """The Parquet files of a condition, sorted; empty where it has none.

    Raises:
        UnreadableError: if the system does not let this process look.
    """
    try:
        return sorted(p for p in folder.iterdir() if p.suffix == ".parquet" and not p.name.startswith("."))
    except FileNotFoundError:
        return []
    except OSError as e:
        raise UnreadableError(os_error_text(e, folder)) from None


def read_scores(files: Sequence[Path], truth: Truth, model_fingerprint: str) -> Scores:
    """A condition's predictions in the truth's order, if they are complete and of this model.

    Raises:
        DoNotFit: otherwise, with every reason.
        UnreadableError: if the system does not let this process read a file.
    """
    tables, damaged = [], []
    for path in files:
        try:
            tables.append(read_parquet(path, _CHECKED.names, PREDICTION.names))
        except FileNotFoundError:
            damaged.append(f"{path} was deleted while it was read")
        except DamagedError as e:
            damaged.append(str(e))
    if damaged:
        raise DoNotFit("damaged", damaged)
    try:
        table = pa.concat_tables(tables).cast(_CHECKED)
    except (pa.ArrowException, ValueError) as e:
        raise DoNotFit("damaged", [f"{files[0].parent}: {_first_line(e)}"]) from None
    made_by = pc.unique(table["model_fingerprint"]).to_pylist()
    if made_by not in ([model_fingerprint], []):
        raise DoNotFit("foreign", [f"{files[0].parent}: its predictions are not those of the model that is trained"])
    return scores_of(table, truth, str(files[0].parent))


def scores_of(table: pa.Table, truth: Truth, place: str) -> Scores:
    """Predictions joined to the truth by row id, and every check on them.

    Args:
        table: columns as in `PREDICTION`; only `row_id` and either `p_accept` or both log-probabilities must be there.
        truth: of the run.
        place: named in every reason.

    Raises:
        DoNotFit: with every reason.
    """
    row_id = table["row_id"].combine_chunks()
    at = pc.index_in(truth.row_id, value_set=row_id)
    lost = pc.filter(truth.row_id, pc.is_null(at)).to_pylist()
    foreign = pc.filter(row_id, pc.invert(pc.is_in(row_id, value_set=truth.row_id))).to_pylist()
    doubled = _doubled(row_id)
    problems = []
    if lost:
        problems.append(f"{place}: {len(lost)} of {truth.n} test rows have no prediction: {few(lost)}")
    if foreign:
        problems.append(f"{place}: {len(foreign)} rows are no test rows: {few(foreign)}")
    if doubled:
        problems.append(f"{place}: {len(doubled)} rows are predicted more than once: {few(doubled)}")
    if problems:
        raise DoNotFit("foreign" if foreign else "damaged", problems)
    table = table.take(at)

    def differing(column: str, expected: pa.Array) -> list[str]:
        if column not in table.column_names:
            return []
        same = pc.fill_null(pc.equal(table[column].combine_chunks(), expected), False)
        return list(pc.filter(truth.row_id, pc.invert(same)).to_pylist())

    if other := differing("row_hash", truth.row_hash):
        problems.append(f"{place}: {len(other)} rows are of another text than the test set's: {few(other)}")
    if other := differing("label", pc.if_else(pa.array(truth.accept), *truth.task.labels)):
        problems.append(f"{place}: {len(other)} rows have another label than the test set's: {few(other)}")
    if problems:
        raise DoNotFit("foreign", problems)
    log_odds, problems = _log_odds(table, truth, place)
    parsed = (log_odds > 0).astype(np.int8)
    if "parsed" in table.column_names:
        said = table["parsed"].combine_chunks()
        codes = pc.index_in(said, value_set=pa.array(truth.task.labels[::-1]))
        odd = pc.unique(pc.filter(said, pc.and_(pc.is_valid(said), pc.is_null(codes)))).to_pylist()
        if odd:
            problems.append(
                f"{place}: parsed holds {few(odd)}; expected {truth.task.positive}, {truth.task.negative} or nothing"
            )
        parsed = pc.fill_null(codes, UNKNOWN).to_numpy(False).astype(np.int8)
    p_other = np.full(truth.n, np.nan)
    if "p_other" in table.column_names:
        p_other = table["p_other"].to_numpy().astype(np.float64)
        if (out := ~(np.isnan(p_other) | ((p_other >= 0) & (p_other <= 1)))).any():
            problems.append(f"{place}: p_other is no probability in {_at(truth, out)}")
    if problems:
        raise DoNotFit("damaged", problems)
    return Scores(log_odds, parsed, p_other)


def _log_odds(table: pa.Table, truth: Truth, place: str) -> tuple[FloatArray, list[str]]:
    names, problems = table.column_names, []
    p = table["p_accept"].to_numpy().astype(np.float64) if "p_accept" in names else None
    if "logprob_accept" in names and "logprob_reject" in names:
        both = [table[c].to_numpy().astype(np.float64) for c in ("logprob_accept", "logprob_reject")]
        # float32 log-probabilities of 1 come out a little above 0
        if (above := (both[0] > 1e-4) | (both[1] > 1e-4)).any():
            problems.append(f"{place}: a log-probability is above 0 in {_at(truth, above)}")
        with np.errstate(invalid="ignore"):
            log_odds = both[0] - both[1]
    else:
        assert p is not None
        with np.errstate(divide="ignore", invalid="ignore"):
            log_odds = np.log(p) - np.log1p(-p)
    bad = np.isnan(log_odds) | (np.zeros(truth.n, bool) if p is None else ~((p >= 0) & (p <= 1)))
    log_odds = np.clip(log_odds, -_LARGEST, _LARGEST)
    if p is not None:
        with np.errstate(over="ignore"):
            bad |= ~(np.abs(1 / (1 + np.exp(-log_odds)) - p) <= 1e-5)
    if bad.any():
        problems.append(
            f"{place}: no number, or a p_accept that is not sigmoid(logprob_accept - logprob_reject), in "
            f"{_at(truth, bad)}"
        )
    return log_odds, problems


def _at(truth: Truth, rows: BoolArray) -> str:
    ids = truth.row_id.take(pa.array(np.flatnonzero(rows))).to_pylist()
    return f"{len(ids)} rows: {few(ids)}"


def _doubled(row_id: pa.Array) -> list[str]:
    counts = pc.value_counts(row_id)
    return list(pc.filter(counts.field("values"), pc.greater(counts.field("counts"), 1)).to_pylist())


def few(values: Sequence[object], show: int = 5) -> str:
    """The first of some values, and how many more there are."""
    shown = ", ".join(repr(v)[:80] for v in values[:show])
    return shown + (f" and {len(values) - show} more" if len(values) > show else "")


def _first_line(e: BaseException) -> str:
    return (str(e) or type(e).__name__).strip().splitlines()[0][:120]
