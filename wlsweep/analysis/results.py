"""A run's results as pandas tables, for notebooks.

>>> results = wlsweep.load_run("runs/demo")                                # doctest: +SKIP
>>> results.metrics[["predicted_accept_rate", "accuracy"]].describe()      # doctest: +SKIP
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from wlsweep.analysis.evaluate import Evaluation, scalars, up_to_date
from wlsweep.analysis.evaluation_records import flat_columns
from wlsweep.analysis.loaded_run import load_predictions
from wlsweep.files import JsonObject
from wlsweep.run.layout import RunDir, existing_run
from wlsweep.run.metric_log import read_metric_log
from wlsweep.run.usage import ConditionUsage, usage_of

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Results:
    """The tables of a run; each is made when it is first asked for. Intervals are 95%, in columns `_low` and `_high`.

    In names of columns and conditions `accept` is the positive class of the task, whatever its label text is."""

    run: RunDir
    evaluation: Evaluation

    @cached_property
    def metrics(self) -> pd.DataFrame:
        """A row for each condition of the sweep, also those that are not done: the columns of `all_metrics.parquet`."""
        import pandas as pd

        return pd.read_parquet(self.run.metrics_parquet).set_index("name", drop=False)

    @cached_property
    def by_year(self) -> pd.DataFrame:
        """The same for each condition and year of the test rows."""
        import pandas as pd

        return pd.read_parquet(self.run.by_year_parquet)

    @cached_property
    def predictions(self) -> pd.DataFrame:
        """A row for each condition and test row: `condition` and the columns of its predictions."""
        import pandas as pd

        named = [
            pd.read_parquet(file).assign(condition=c.name)
            for c in load_predictions(self.run).done
            for file in sorted(self.run.prediction(c.name).glob("*.parquet"))
        ]
        return pd.concat(named, ignore_index=True) if named else pd.DataFrame()

    @cached_property
    def comparisons(self) -> pd.DataFrame:
        """A row for each model besides the baselines: its `baseline`, differences by metric (`accuracy`, `accuracy_low`,
        ...; this minus baseline), `mcnemar_p`; and `minus_moved_accuracy`, its accuracy less that of the baseline with the
        threshold moved, with `moved_mcnemar_p`."""
        return _frame(
            {
                "name": c.name,
                "baseline": c.baseline,
                **flat_columns(c.difference, rows=False),
                "mcnemar_p": c.mcnemar.p,
                **flat_columns({"minus_moved_accuracy": c.moved_threshold.difference}, rows=False),
                "moved_mcnemar_p": c.moved_threshold.test.p,
            }
            for c in self.evaluation.analysis.comparisons
        )

    @cached_property
    def tests(self) -> pd.DataFrame:
        """A row for each condition (its seeds together) and test (`against`): `difference` in accuracy, `p`, `p_holm`."""
        analysis = self.evaluation.analysis
        both = {"baseline": analysis.against_baseline, "moved threshold": analysis.against_moved_threshold}
        return _frame(
            {
                "name": t.name,
                "against": against,
                "seeds": t.seeds,
                **flat_columns({"difference": t.difference}, rows=False),
                "p": t.p,
                "p_holm": t.p_holm,
            }
            for against, tests in both.items()
            for t in tests
        )

    @cached_property
    def verdicts(self) -> pd.DataFrame:
        """A row for each hypothesis and criterion: `key`, `plan`, `title`, `verdict`, `support`, `sentence`, `numbers`."""
        return _frame(dataclasses.asdict(v) for v in self.evaluation.analysis.verdicts)

    @cached_property
    def training(self) -> pd.DataFrame:
        """Every line of every metric log, with its `condition`."""
        return _frame(
            {"condition": c.name, **line.model_dump(exclude_unset=True)}
            for c in self.evaluation.conditions
            for line in read_metric_log(self.run.metric_log(c.name))
        )

    @cached_property
    def usage(self) -> pd.DataFrame:
        """What each condition used, a row each: `attempts`; `training_...`, `prediction_...` and `unfinished_...` (what
        training took in attempts that left no model) with `seconds` (wall time), `gpu_hours`, `core_hours`, `energy_kwh`;
        `checkpoint_bytes` written in all, `model_bytes`, `planned_gpu_hours` of training, `dollars`. The rows `(starting)`
        and `(waiting)` hold what groups and engines took to get ready and while they were idle, all under training."""
        found = usage_of(self.run)
        shared = [
            ConditionUsage("(starting)", training=found.starting),
            ConditionUsage("(waiting)", training=found.waiting),
        ]
        return _frame(scalars(dataclasses.asdict(c)) for c in (*found.conditions, *shared))

    @cached_property
    def validation(self) -> pd.DataFrame:
        """A row for each validation of each condition: `condition`, `step`, `epoch`, and on the papers of validation `loss`
        (the condition's own, weighted), `bce` (unweighted), `auc`, `accuracy`, `accept_rate`; empty without validation."""
        return _frame(
            {"condition": c.name, "step": line.step, "epoch": line.epoch, **judged}
            for c in self.evaluation.conditions
            for line in read_metric_log(self.run.metric_log(c.name))
            if (judged := line.validation) is not None
        )


def load_run(folder: str | Path) -> Results:
    """The results of a run, evaluated first if that is not done yet.

    Raises:
        WlsweepError: if there is no run, or its predictions do not fit its test set.
    """
    run = existing_run(folder)
    return Results(run, up_to_date(run))


def _frame(rows: Iterable[JsonObject]) -> pd.DataFrame:
    import pandas as pd

    return pd.DataFrame(list(rows))
