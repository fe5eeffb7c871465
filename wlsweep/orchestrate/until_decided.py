"""`wlsweep run --until-decided`: the baseline, what tests the theory, then one condition after the other that is in doubt.

Each is a launch of its own up to its predictions; what was left out, and why, is kept for the page. Verdicts that a tested
theory forecasts are printed as forecasts; the page judges what was measured.
"""

from __future__ import annotations

from rich.console import Console

from wlsweep.analysis.forecast import forecast_run
from wlsweep.analysis.hypotheses import kinds_of
from wlsweep.analysis.next_conditions import undecided
from wlsweep.errors import WlsweepError
from wlsweep.orchestrate.driver import FAILED, STOPPED, Driver, new_launch
from wlsweep.run.layout import RunDir
from wlsweep.run.records import SkippedRecord
from wlsweep.run.status import RunStatus
from wlsweep.spec.condition import baseline_of
from wlsweep.spec.config import Sweep


def run_until_decided(sweep: Sweep, run: RunDir, command: str, console: Console) -> int:
    """Run what the forecast leaves in doubt, then the report of it; returns the exit code of `run_sweep`.

    A condition that failed is tried once and not again for the report. Without the baseline there is no forecast, so its
    failure ends the run.

    Raises:
        WlsweepError: if the grid has no baseline to forecast from, or several kinds of fine-tuning.
    """
    if len(kinds := kinds_of(sweep.conditions)) > 1:
        names = ", ".join(members[0].finetuning for members in kinds.values())
        raise WlsweepError(
            f"--until-decided forecasts from one baseline, which speaks for one kind of fine-tuning, and the sweep has"
            f" {len(kinds)} ({names}); run each kind as a sweep of its own, or this one without --until-decided"
        )
    following = [c.name for c in sweep.conditions if baseline_of(c).name == c.name][:1]
    if not following:
        raise WlsweepError(
            f"--until-decided needs {baseline_of(sweep.conditions[0]).name} in the grid to forecast from"
        )
    tried: list[str] = []
    while following:
        launch = new_launch(sweep, run, following[0], "predict", command, console)
        code = Driver(launch, closing=False).go()
        if code == STOPPED or (code == FAILED and not tried):
            return code
        tried.append(following[0])
        found = forecast_run(run)
        decision = undecided(found)
        following = [name for name in decision.names if name not in tried]
        if following:
            reason = dict(decision.wanted)[following[0]]
            console.print(f"next:    {following[0]}: {reason}", highlight=False, soft_wrap=True)
    SkippedRecord(**dict(decision.skipped)).write(run.skipped_json)  # the page says so of each
    states = RunStatus(run)
    failed = [name for name in tried if not states.predicted(name)]
    predicted = ",".join(name for name in tried if name not in failed)
    code = Driver(new_launch(sweep, run, predicted, "report", command, console)).go()
    console.print(f"theory:  {found.theory.sentence()}", highlight=False, soft_wrap=True)
    for p in found.prospects:
        console.print(f"verdict: {p.key}  {p.sentence()}", highlight=False, soft_wrap=True)
    for name, why in decision.skipped:
        console.print(f"skipped: {name}: {why}", highlight=False, soft_wrap=True)
    if failed:
        names = ", ".join(failed)
        console.print(f"failed:  {names}; try again with: {command}", highlight=False, soft_wrap=True)
    return code or (FAILED if failed else 0)
