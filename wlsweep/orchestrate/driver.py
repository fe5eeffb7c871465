"""A whole sweep: data, training, prediction, evaluation, report; every stage skips what is done.

    data -> token tables -> Tune trials on warm groups -> models -> Ray Data actors -> Parquet -> metrics -> page

Interrupted anywhere - Ctrl-C, SIGTERM, SIGKILL, a lost node - the same command finishes the work. Stages are functions
that are handed in (`stages.py`), so that what is decided here is tested without an engine.
"""

from __future__ import annotations

import shlex
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console

from wlsweep.console import Progress
from wlsweep.errors import WlsweepError
from wlsweep.orchestrate.launch import STAGES, Launch, Stage
from wlsweep.orchestrate.predicting import OverlappedPrediction, Prediction, drop_models
from wlsweep.orchestrate.signals import StopRequest, remove_dead_marks
from wlsweep.orchestrate.stages import ENGINES, Stages
from wlsweep.orchestrate.stall import LaunchEnded, StallLimit
from wlsweep.orchestrate.training import Training, untrained
from wlsweep.run.layout import RunDir
from wlsweep.run.logs import keep_errors_in, show_errors_again
from wlsweep.run.partial import remove_partial_accounts, remove_partial_artifacts
from wlsweep.run.provenance import provenance
from wlsweep.run.records import ConditionEntry, SecondsRecord, SweepRecord
from wlsweep.run.records import Launch as LaunchRecord
from wlsweep.run.status import RunStatus, refuse_other_configuration, refuse_unreadable
from wlsweep.run.usage import storage
from wlsweep.run.usage_meter import UsageMeter
from wlsweep.spec.condition import select
from wlsweep.spec.config import Sweep

__all__ = ["FAILED", "STAGES", "STOPPED", "Driver", "Stage", "new_launch", "run_sweep"]

STOPPED = 75
"""Exit code of a sweep that was asked to stop, or ended itself, and can go on (EX_TEMPFAIL)."""
FAILED = 1
"""Exit code of a sweep that ended with failed conditions."""
LEAVE_S = 5.0
"""How long work that loses nothing may take to notice that the launch was asked to stop."""


def new_launch(sweep: Sweep, run: RunDir, only: str | None, last: Stage, command: str, console: Console) -> Launch:
    """A launch of what `only` selects, up to the stage `last`."""
    view = Progress(console)
    stop = StopRequest(view.say)
    return Launch(
        sweep, run, select(sweep.conditions, only), last, command, view, stop, StallLimit(60 * sweep.stall_minutes)
    )


class Driver:
    """Takes a launch through its stages."""

    def __init__(self, launch: Launch, stages: Stages = ENGINES, closing: bool = True) -> None:
        self.launch, self.stages = launch, stages
        self.closing = closing
        """Whether a summary ends the launch."""
        self.seconds: dict[str, float] = {}
        self.evaluation: Any = None
        self.plots_note = ""
        self.meter: UsageMeter | None = None
        """Counts the time of the launch."""

    def go(self) -> int:
        """Run the stages up to the last one; returns the exit code.

        Raises:
            WlsweepError: for what the user can fix.
        """
        launch, began = self.launch, time.monotonic()
        self.refuse()
        launch.run.logs.mkdir(parents=True, exist_ok=True)
        remove_partial_artifacts(launch.run)
        remove_dead_marks(launch.run.root)
        launch.stop.take_signals()
        keep_errors_in(launch.run.logs / "driver.log")
        abandoned = False
        try:
            # Ray prints to Python's standard output, too; the console has the real one.
            with redirect_stdout(sys.stderr):
                code = self._stages()
        except LaunchEnded as e:
            launch.view.say(f"{e}\n{self._how_far()}; go on with: {launch.command}")
            code, abandoned = STOPPED, True
        finally:
            if self.meter is not None:
                self.meter.close()
            if not abandoned:  # threads that still wait for Ray will print how they failed
                show_errors_again()
            launch.stop.clear()
            # Of launches beside this one, or just before it, and of its own workers that were killed meanwhile.
            remove_dead_marks(launch.run.root)
            remove_partial_accounts(launch.run)
        if self.seconds:  # else the last launch's stay
            spent = SecondsRecord(**self.seconds, all=time.monotonic() - began)
            spent.write(launch.run.logs / "seconds.json")
        return code

    def refuse(self) -> None:
        """Refuse a run directory of another configuration, or one that cannot be read; changes nothing.

        Raises:
            WlsweepError: saying what was found.
        """
        launch = self.launch
        refuse_other_configuration(launch.run, launch.sweep.fingerprint(), launch.sweep.name)
        refuse_unreadable(launch.run, launch.chosen)

    def _stages(self) -> int:
        launch, last = self.launch, self.launch.last
        if self._nothing_to_do():
            launch.view.say(f"nothing to do: all {len(launch.chosen)} conditions of {launch.run.root} are done")
            self._summary()
            return 0
        self.stages.check(launch)
        base = self._timed("data", self._data)
        if launch.stop.asked() or base is None:
            return self._stopped()
        if last == "data":
            launch.view.say(f"data: {launch.run.data_json}")
            return 0
        self._timed("train", lambda: self._train(base))
        if not launch.stop.asked() and last != "train":
            self._timed("predict", self._predict)
        if launch.stop.asked():
            return self._stopped()
        code = self._timed(last, self._results) if last in ("evaluate", "report") else 0
        if launch.stop.asked():
            return self._stopped()
        if code == 0:
            self._summary()
        return code or self._verdict()

    def _verdict(self) -> int:
        launch = self.launch
        if not (left := len(launch.chosen) - len(self._done())):
            return 0
        launch.view.say(
            f"{left} of {len(launch.chosen)} conditions are not done (wlsweep status {launch.run.root}); "
            f"try again with: {launch.command}"
        )
        return FAILED

    def _done(self) -> list[str]:
        states = RunStatus(self.launch.run)
        is_done = states.trained if self.launch.last == "train" else states.predicted
        return [c.name for c in self.launch.chosen if is_done(c.name)]

    def _stopped(self) -> int:
        self.launch.view.say(f"stopped: {self._how_far()}; go on with: {self.launch.command}")
        return STOPPED

    def _how_far(self) -> str:
        launch = self.launch
        if not launch.run.sweep_json.is_file():
            return "nothing is trained yet"
        trained = [c.name for c in launch.chosen if RunStatus(launch.run).trained(c.name)]
        return f"{len(self._done())} of {len(launch.chosen)} conditions are done ({len(trained)} trained)"

    def _timed(self, stage: str, work: Callable[[], Any]) -> Any:
        began = time.monotonic()
        if self.meter is None:  # a launch that has nothing to do leaves no account
            run = self.launch.run
            self.meter = UsageMeter(run.usage, "launch", stage, size=lambda: sum(storage(run).values()))
        try:
            with self.meter.during("work", stage=stage):
                return work()
        finally:
            self.meter.look()
            self.seconds[stage] = round(time.monotonic() - began, 2)
            self.launch.stall.heard()

    def _nothing_to_do(self) -> bool:
        """Everything chosen is predicted and reported on, and the data that it came from has not changed."""
        launch, run = self.launch, self.launch.run
        if not (run.sweep_json.is_file() and run.data_json.is_file() and launch.last == "report"):
            return False
        states = RunStatus(run)
        if [c.name for c in states.conditions] != [c.name for c in launch.sweep.conditions]:
            return False
        if not all(states.predicted(c.name) for c in launch.chosen):
            return False
        newest = max(run.prediction(c.name).stat().st_mtime for c in launch.chosen)
        page = run.report.is_file() and run.analysis_json.is_file() and run.report.stat().st_mtime >= newest
        from wlsweep.analysis.evaluate import current

        if not page or current(run) is None:
            return False  # missing, older than what it rests on, or of a selection
        self.stages.prepare(launch, states.record.base, launch.view.note)
        return True

    def _data(self) -> str | None:
        """The base model, once the data is made; None if the launch was asked to stop meanwhile."""
        launch = self.launch

        def note(text: str) -> None:
            launch.stall.heard()
            launch.view.note(text)
            if launch.stop.asked():
                raise _Left  # ends the work between two of its steps, so that it removes what it has half made

        def work() -> str | None:
            try:
                base = self.stages.base(launch, note)
                # Refuses other data than this run's, before the record is touched.
                self.stages.prepare(launch, base, note)
            except _Left:
                return None
            return base

        with launch.view.during("data", 0), launch.holding(launch.run.data_lease) as mine:
            if not mine:
                return None
            base: str | None = launch.beside(work, False, "the base model and the data", LEAVE_S)
            if base is not None:
                self._write_sweep_json(base)
                self.stages.plan(launch)
        return base

    def _write_sweep_json(self, base: str) -> None:
        run, sweep = self.launch.run, self.launch.sweep
        launch = LaunchRecord(command=self.launch.command, **dict(provenance()))
        earlier = SweepRecord.find(run.sweep_json)
        SweepRecord(
            sweep=sweep.model_dump(mode="json"),
            fingerprint=sweep.fingerprint(),
            conditions=tuple(ConditionEntry(**c.as_dict()) for c in sweep.conditions),
            base=base,
            command=self.launch.command,
            provenance=launch,
            launches=(*(earlier.launches if earlier else ()), launch),
        ).write(run.sweep_json)

    def _train(self, base: str) -> None:
        launch = self.launch
        began = len(launch.chosen) - len(untrained(launch))
        if began == len(launch.chosen):
            return
        with launch.view.during("train", len(launch.chosen), began):
            capacity = self.stages.connect(launch)
            states = RunStatus(launch.run)
            names = [c.name for c in launch.chosen if not states.predicted(c.name)] if launch.last != "train" else []
            overlap = OverlappedPrediction(launch, capacity, partial(self.stages.predict, launch))
            training = Training(launch, partial(self.stages.train, launch), overlap)
            with overlap.predicting(names):
                training.run(base, capacity)

    def _predict(self) -> None:
        launch = self.launch
        prediction = Prediction(launch, lambda names, engines: self.stages.predict(launch, names, engines, None, False))
        if names := prediction.left():
            with launch.view.during("predict", len(names)):
                prediction.run(self.stages.connect(launch).engines)
        drop_models(launch.sweep, launch.run)

    def _results(self) -> int:
        """Evaluate or report; what fails here fails alone, models and predictions are complete."""
        launch = self.launch
        # One launch at a time, so that the last of several that meet writes the page of all their conditions.
        with launch.holding(launch.run.report_lease) as mine:
            if not mine:
                return 0
            try:
                if launch.last == "evaluate":
                    self.evaluation = self.stages.evaluate(launch)
                else:
                    self.evaluation, self.plots_note = self.stages.report(launch)
            except WlsweepError:
                raise
            except Exception as e:  # noqa: BLE001 - said below, its traceback is in driver.log
                traceback.print_exc()
                launch.view.say(
                    f"the {launch.last} failed: {type(e).__name__}: {e} ({launch.run.logs / 'driver.log'} has more). "
                    f"Models and predictions are kept; try again with: wlsweep {launch.last} {launch.run.root}"
                )
                return FAILED
        return 0

    def _summary(self) -> None:
        """The table, where everything lies, and the next command."""
        launch = self.launch
        if not self.closing:
            return
        say = launch.view.say
        if launch.last in ("evaluate", "report"):
            self._print_table()
        say(f"run:     {launch.run.root}")
        if launch.last == "report":
            say(f"report:  {launch.run.report}")
            if self.plots_note:
                say(f"plots:   {self.plots_note}")
            page, root = shlex.quote(str(launch.run.report)), shlex.quote(str(launch.run.root))
            say(f"next:    open {page}; wlsweep status {root}")
        else:
            say(f"next:    {launch.command.replace(f' --stage {launch.last}', '')}")

    def _print_table(self) -> None:
        from wlsweep.analysis.evaluate import up_to_date
        from wlsweep.analysis.summary_table import summary_table

        self.launch.view.console.print(summary_table(self.evaluation or up_to_date(self.launch.run)))


class _Left(Exception):
    """Work that loses nothing was left because the launch was asked to stop."""


def run_sweep(
    sweep: Sweep, out: Path, only: str | None, last: Stage, arguments: Sequence[str], until_decided: bool = False
) -> int:
    """Run a sweep and return the exit code: 0 all done, 1 some conditions failed, 75 ended early and can go on.

    With `until_decided`, the baseline is run first, and then one condition after the other for as long as the forecast
    from what was measured leaves a hypothesis in doubt that the condition could settle.

    Raises:
        WlsweepError: if nothing can be started as asked.
    """
    command = "wlsweep " + shlex.join(arguments)
    console, run = Console(file=sys.stdout, markup=False), RunDir(out)
    if not until_decided:
        driver = Driver(new_launch(sweep, run, only, last, command, console))
        driver.refuse()  # a run that is not continued stays as it is
        run.skipped_json.unlink(missing_ok=True)
        return driver.go()
    if last != "report" or only is not None:
        raise WlsweepError("--until-decided chooses conditions itself: it goes with neither --only nor --stage")
    from wlsweep.orchestrate.until_decided import run_until_decided

    return run_until_decided(sweep, run, command, console)
