"""What an evaluation says, as typed records: the analysis makes them, the report and the terminal read them.

`all_metrics.json` holds a `ModelResult` for each condition in flat columns (`accuracy`, `accuracy_low`, ...), which is
what users load as a table; `analysis.json` holds an `Analysis`, nested as it is here. Nothing heavy is imported.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal, NamedTuple, get_args

from wlsweep.estimate import Estimate
from wlsweep.files import JsonObject
from wlsweep.spec.condition import Condition, parse_name
from wlsweep.spec.task import ICLR, Words

MetricName = Literal[
    "accuracy",
    "predicted_accept_rate",
    "actual_accept_rate",
    "precision",
    "recall",
    "precision_reject",
    "recall_reject",
    "unknown_rate",
    "f1",
    "f1_reject",
    "auc",
    "average_precision",
    "brier",
    "log_loss",
    "ece",
    "ece_equal_mass",
]
METRICS: tuple[MetricName, ...] = get_args(MetricName)
RATES = tuple(m for m in METRICS if m not in ("auc", "average_precision", "brier", "log_loss", "ece", "ece_equal_mass"))
"""Those that need decisions only, so that the generated text has them too."""
Verdict = Literal["pass", "fail", "not testable"]
FlatRow = JsonObject
"""A row of `all_metrics.json`: scalars in flat columns; `counts`, `strict` and `parsed` one level down, `by_year` a list."""


class Counts(NamedTuple):
    """How labels (accept, reject) meet readings (accept, reject, unknown)."""

    tp: int
    fn: int
    unknown_accept: int
    fp: int
    tn: int
    unknown_reject: int


class BrierParts(NamedTuple):
    """Brier score = reliability - resolution + uncertainty + within-bin part (Murphy 1973, Stephenson et al. 2008)."""

    reliability: float
    resolution: float
    uncertainty: float
    within: float


@dataclass(frozen=True)
class Metrics:
    """All metrics of one model on one set of rows."""

    n: int
    """Rows, at least 1."""
    estimates: Mapping[MetricName, Estimate]
    """The headline: decisions are the sign of the margin."""
    strict: Mapping[MetricName, Estimate]
    """Decisions from the generated text; an answer that cannot be read is wrong."""
    parsed: Mapping[MetricName, Estimate]
    """The same on the rows whose answer can be read."""
    brier_parts: BrierParts
    ece_noise: float
    """ECE that a perfectly calibrated model would show by chance, on average."""
    ece_by_chance: float
    """ECE that a perfectly calibrated model stays below in 97.5% of samples."""
    counts: Counts
    unknown: int
    """Answers that could not be read."""
    ties: int
    """Margins of exactly 0, which count as Reject."""
    text_differs: int
    """Answers that could be read and contradict the margin."""
    p_other_mean: float | None
    """Mean probability of neither label."""

    def __getitem__(self, metric: MetricName) -> Estimate:
        return self.estimates[metric]

    def flat(self) -> FlatRow:
        """`{"n": ..., "accuracy": ..., "accuracy_low": ..., ...}`, as `all_metrics.json` has it."""
        return {
            "n": self.n,
            **flat_columns(self.estimates),
            **{f"brier_{part}": value for part, value in self.brier_parts._asdict().items()},
            "ece_noise": self.ece_noise,
            "ece_by_chance": self.ece_by_chance,
            "counts": self.counts._asdict(),
            "unknown": self.unknown,
            "ties": self.ties,
            "text_differs": self.text_differs,
            "p_other_mean": self.p_other_mean,
            "strict": flat_columns(self.strict),
            "parsed": flat_columns(self.parsed),
        }

    @classmethod
    def from_flat(cls, row: FlatRow) -> Metrics:
        """The inverse of `flat`."""
        plain = ("n", "ece_noise", "ece_by_chance", "unknown", "ties", "text_differs", "p_other_mean")
        return cls(
            estimates={m: _estimate(row, m) for m in METRICS},
            strict={m: _estimate(row["strict"], m) for m in RATES},
            parsed={m: _estimate(row["parsed"], m) for m in RATES},
            brier_parts=BrierParts(*(row[f"brier_{part}"] for part in BrierParts._fields)),
            counts=Counts(**row["counts"]),
            **{name: row[name] for name in plain},
        )


def flat_columns(
    estimates: Mapping[MetricName, Estimate] | Mapping[str, Estimate], rows: bool = True
) -> dict[str, float | None]:
    """`accuracy`, `accuracy_low`, `accuracy_high` and, with `rows`, `accuracy_n` of each metric."""
    out: dict[str, float | None] = {}
    for name, e in estimates.items():
        out |= {name: e.value, f"{name}_low": e.low, f"{name}_high": e.high} | ({f"{name}_n": e.n} if rows else {})
    return out


def _estimate(row: FlatRow, metric: MetricName) -> Estimate:
    return Estimate(row[metric], row[f"{metric}_low"], row[f"{metric}_high"], row[f"{metric}_n"])


class YearMetrics(NamedTuple):
    """Metrics on the papers of one year."""

    year: int
    metrics: Metrics


@dataclass(frozen=True)
class ModelResult:
    """A condition of the sweep, or a model from outside of it: where it stands and, once it is done, its metrics."""

    name: str
    state: str
    """`done`, `trained`, `failed` or `missing`."""
    cause: str | None = None
    """Why it is not done."""
    condition: Condition | None = None
    """None for a model from outside."""
    metrics: Metrics | None = None
    by_year: tuple[YearMetrics, ...] = ()

    @property
    def done(self) -> bool:
        """Whether it has metrics."""
        return self.metrics is not None

    def __getitem__(self, metric: MetricName) -> Estimate:
        """A metric; without a value where the model is not done."""
        return Estimate(None) if self.metrics is None else self.metrics[metric]

    def flat(self) -> FlatRow:
        """The entry of `all_metrics.json`."""
        out: FlatRow = {"name": self.name} if self.condition is None else {}
        out |= {"state": self.state, "cause": self.cause}
        if self.metrics is not None:
            out |= self.metrics.flat()
            out["by_year"] = [{"year": y.year, **y.metrics.flat()} for y in self.by_year]
        return out | ({} if self.condition is None else self.condition.as_dict())

    @classmethod
    def from_flat(cls, row: FlatRow) -> ModelResult:
        """The inverse of `flat`."""
        return cls(
            row["name"],
            row["state"],
            row["cause"],
            replace(parse_name(row["name"]), index=row["index"]) if "index" in row else None,
            Metrics.from_flat(row) if "n" in row else None,
            tuple(YearMetrics(y["year"], Metrics.from_flat(y)) for y in row.get("by_year", ())),
        )


@dataclass(frozen=True)
class PairedTest:
    """Exact McNemar test of two models on the same papers: about these two trainings."""

    only_this: int
    """Papers that only this model decides correctly."""
    only_other: int
    p: float


@dataclass(frozen=True)
class CellTest:
    """One test of a condition over all its seeds: a difference in accuracy to the baselines, or to what they decide with
    their threshold moved."""

    name: str
    """That of seed 0, or of the model from outside."""
    seeds: int
    difference: Estimate
    """Mean over seeds; with several, the interval and p count other seeds and other papers."""
    p: float | None
    """Of several seeds Satterthwaite's t test of the mean; where they share a baseline, the test over papers and trainings,
    and None where that noise is not known. Of one seed the test over papers and trainings or, where their
    noise is not known, the exact McNemar test of these two trainings; against a moved threshold always the latter."""
    p_holm: float | None = None
    """Corrected over the declared family of cells."""


@dataclass(frozen=True)
class MovedThreshold:
    """A condition against its baseline with the threshold moved to the same accept rate."""

    accuracy: float
    moved_accuracy: float
    difference: Estimate
    """In accuracy."""
    test: PairedTest
    papers_decided_differently: int


@dataclass(frozen=True)
class Comparison:
    """A model against its baseline, on the same papers."""

    name: str
    baseline: str
    difference: Mapping[MetricName, Estimate]
    """This minus baseline."""
    mcnemar: PairedTest
    """Of these two trainings: other papers count, other trainings do not."""
    moved_threshold: MovedThreshold


@dataclass(frozen=True)
class TheoryRow:
    """What theory expected of a condition, and what came."""

    name: str
    baseline: str
    expected_shift: float
    """Of the log-odds against the baseline, natural log units."""
    covered: bool
    """Whether theory says anything of this kind of loss."""
    note: str
    """Why not."""
    observed_shift: Estimate
    forecast: Mapping[MetricName, Estimate] | None
    """From the baseline's predictions alone."""
    inside: bool | None
    """Whether the measured accept rate lies in the forecast's interval."""


@dataclass(frozen=True)
class Slope:
    """Line through observed on expected shifts, of the first kind of fine-tuning that has any; theory is slope 1 and
    intercept 0."""

    slope: Estimate
    intercept: float | None
    r2: float | None
    n: int
    """Conditions."""


@dataclass(frozen=True)
class KindSlope:
    """How far a kind of fine-tuning moves conditions, against the sweep's first kind, on the conditions that both have."""

    finetuning: str
    """Such as `lora16`."""
    slope: Slope
    first: Slope
    """Of the first kind, on the same conditions."""
    difference: Estimate
    """Slope less the first kind's, over papers and trainings or, without known noise, the scatter around the lines."""


@dataclass(frozen=True)
class BaselineCalibration:
    """How the baseline's log-odds miss the labels."""

    baseline: str
    offset: float
    offset_error: float
    slope: float
    slope_error: float


@dataclass(frozen=True)
class OracleFit:
    """The baseline's log-odds on the true ones of synthetic papers."""

    slope: float
    intercept: float
    correlation: float


@dataclass(frozen=True)
class Term:
    """A coefficient of the model of all accept rates."""

    name: str
    estimate: Estimate


@dataclass(frozen=True)
class SeedShare:
    """How much of the differences between conditions goes back to seeds."""

    count: int
    explained: float


@dataclass(frozen=True)
class Effects:
    """The logistic model of all conditions' accept rates, or why there is none."""

    note: str = ""
    """Why it cannot be fitted; empty where it is."""
    terms: tuple[Term, ...] = ()
    explained: Mapping[str, float] = field(default_factory=dict)
    """Share of the null deviance, by term and for `all` of them."""
    conditions: int = 0
    residual_degrees: int = 0
    lack_of_fit_sd: float = 0.0
    """SD of conditions' log-odds around the model, beyond the noise of the draws."""
    would_pass: Mapping[str, float] = field(default_factory=dict)
    """Share of draws of the coefficients in which S2, and S2v, would pass."""
    seeds: SeedShare | None = None


@dataclass(frozen=True)
class SeedMean:
    """A metric over the seeds of one condition."""

    seeds: int
    mean: Estimate
    """Its interval counts other seeds and other papers."""
    between_seed_sd: float
    paper_sd: float | None
    p: float | None
    """Of the hypothesis that the mean is 0, by the same noise; None where seeds share a baseline of unknown noise."""


@dataclass(frozen=True)
class SeedGroup:
    """A condition with several seeds."""

    name: str
    """That of seed 0."""
    members: tuple[str, ...]
    metrics: Mapping[MetricName, SeedMean]
    baselines: tuple[str, ...] = ()
    """Baseline of each member; empty where they have none."""
    difference: Mapping[MetricName, SeedMean] = field(default_factory=dict)
    """To the baselines."""


@dataclass(frozen=True)
class Judged:
    """A verdict with its numbers."""

    key: str
    title: str
    verdict: Verdict
    sentence: str
    numbers: list[str]
    support: float | None
    """Share of draws with the same verdict; None where it is not testable."""
    plan: str = ""
    """Its number in the experiment's plan, where that differs."""


@dataclass(frozen=True)
class ReliabilityBin:
    """Papers that a model accepts with about the same probability."""

    low: float
    high: float
    n: int
    mean_p: float
    accepts: int
    share: Estimate
    """Of them that were accepted."""


@dataclass(frozen=True)
class CoveragePoint:
    """Accuracy on the most confident share of the papers."""

    coverage: float
    n: int
    accuracy: Estimate


@dataclass(frozen=True)
class Curves:
    """The curves of one model."""

    reliability: tuple[ReliabilityBin, ...]
    reliability_equal_mass: tuple[ReliabilityBin, ...]
    coverage: tuple[CoveragePoint, ...]


LogLine = Mapping[str, float | None]
"""A line of a metric log: column -> value."""


@dataclass(frozen=True)
class NoiseOfTrainings:
    """How much trainings differ that differ in their seed alone, in mean log-odds; None where it is not known."""

    source: Literal["seeds", "misfit", "both"] | None
    """What it was estimated from: several seeds, how far conditions miss theory, or that and seeds of one condition."""
    sd: float | None
    """Of one training, as far as it can be seen."""
    own_sd: float | None
    shared_sd: float | None
    """Of what conditions of one mix and seed share."""
    common_sd: float | None
    """Of what all conditions of one seed share."""
    sentence: str
    """What the intervals count."""
    of_ranks: str
    """What those of AUC and average precision count, which a common offset of log-odds does not move."""


@dataclass(frozen=True)
class Findings:
    """What the conditions say together."""

    family: int
    """Declared conditions besides the baseline (seeds of one count once) and models from outside: Holm corrects over it."""
    comparisons: tuple[Comparison, ...]
    against_baseline: tuple[CellTest, ...]
    against_moved_threshold: tuple[CellTest, ...]
    theory: tuple[TheoryRow, ...]
    slope: Slope
    calibration: BaselineCalibration | None
    oracle: OracleFit | None
    effects: Effects
    seeds: tuple[SeedGroup, ...]
    verdicts: tuple[Judged, ...]
    ece: Mapping[str, Estimate]
    """Expected calibration error of every model, with the interval that resampling gives it."""
    trainings: NoiseOfTrainings
    kinds: tuple[KindSlope, ...]
    """Of each kind of fine-tuning but the first."""


@dataclass(frozen=True)
class Inputs:
    """What an evaluation was made from."""

    only: str | None
    externals: tuple[tuple[str, str], ...]
    """(name, file)."""
    files: str
    """Hash over names, sizes and times of all files read."""


@dataclass(frozen=True)
class Analysis(Findings):
    """What `analysis.json` holds."""

    inputs: Inputs
    draws: int
    """Bootstrap draws behind the intervals of differences."""
    rows: int
    """Test rows."""
    years: tuple[int, ...]
    curves: Mapping[str, Curves]
    training: Mapping[str, tuple[LogLine, ...]]
    words: Words = ICLR.words
    """What the task calls things."""
