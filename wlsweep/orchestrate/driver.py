"""A whole sweep: data, training, prediction, evaluation, report; every stage skips what is done.

    data -> token tables -> Tune trials on warm groups -> models -> Ray Data actors -> Parquet -> metrics -> page

Interrupted anywhere - Ctrl-C, SIGTERM, SIGKILL, a lost node - the same command finishes the work.
"""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import socket
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, get_args

from rich.console import Console

from wlsweep.console import Progress
from wlsweep.errors import WlsweepError
from wlsweep.orchestrate.capacity import Capacity, capacity
from wlsweep.orchestrate.overlap import OverlappedPrediction
from wlsweep.run.layout import RunDir
from wlsweep.run.lease import hold, holder
from wlsweep.run.logs import keep_errors_in, show_errors_again
from wlsweep.run.partial import remove_partial_artifacts
from wlsweep.run.provenance import provenance
from wlsweep.run.records import ConditionEntry, Launch, SecondsRecord, SweepRecord
from wlsweep.run.status import RunStatus, record_failure, refuse_other_configuration, refuse_unreadable
from wlsweep.shipped import how_to_install
from wlsweep.spec.condition import Condition, first_stage, select
from wlsweep.spec.config import Sweep
from wlsweep.spec.preflight import refuse_model, sample_rows

Stage = Literal["data", "train", "predict", "evaluate", "report"]
STAGES: tuple[Stage, ...] = get_args(Stage)
STOPPED = 75
"""Exit code of a sweep that was asked to stop and can go on (EX_TEMPFAIL)."""
FAILED = 1
"""Exit code of a sweep that ended with failed conditions."""


class Runner:
    """One launch of `wlsweep run`."""

    def __init__(
        self,
        sweep: Sweep,
        run: RunDir,
        only: str | None,
        last: Stage,
        command: str,
        console: Console,
        connected: bool = False,
    ) -> None:
        self.sweep, self.run, self.last = sweep, run, last
        self.chosen = select(sweep.conditions, only)
        self.command = command
        self.view = Progress(console)
        job = os.environ.get("SLURM_JOB_ID")
        self.owner = f"{socket.gethostname()} process {os.getpid()}" + (f" of job {job}" if job else "")
        self.stop_file = run.root / f".stop-{uuid.uuid4().hex[:8]}"
        self.connected = connected
        self.seconds: dict[str, float] = {}
        self.plots_note = ""

    def go(self, closing: bool = True) -> int:
        """Run the stages up to the last one; returns the exit code. `closing` is the summary at the end."""
        self.closing = closing
        began = time.monotonic()
        refuse_other_configuration(self.run, self.sweep.fingerprint(), self.sweep.name)
        refuse_unreadable(self.run, self.chosen)
        self.run.logs.mkdir(parents=True, exist_ok=True)
        remove_partial_artifacts(self.run)
        self._take_signals()
        keep_errors_in(self.run.logs / "driver.log")
        try:
            code = self._stages()
        finally:
            show_errors_again()
            self.stop_file.unlink(missing_ok=True)
        if self.seconds:  # else the last launch's stay
            spent = SecondsRecord(**self.seconds, all=time.monotonic() - began)
            spent.write(self.run.logs / "seconds.json")
        return code

    @property
    def stopping(self) -> bool:
        """Whether this launch was asked to stop."""
        return self.stop_file.exists()

    def _take_signals(self) -> None:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
            signal.signal(number, self._on_signal)

    def _on_signal(self, number: int, frame: object) -> None:
        if self.stopping:
            raise KeyboardInterrupt
        self.stop_file.touch()
        self.view.say(
            f"{signal.Signals(number).name}: running conditions save a checkpoint, then the sweep stops "
            "(again to end at once)"
        )

    def _stages(self) -> int:
        if self._nothing_to_do():
            self.view.say(f"nothing to do: all {len(self.chosen)} conditions of {self.run.root} are done")
            self._closing()
            return 0
        refuse_model(self.sweep, sample_rows(self.sweep))
        refuse_missing_engines()
        if self.last != "data":
            self._check_room()
        base = self._timed("data", self._data)
        if base is None:
            return self._stopped()
        if self.last == "data":
            self.view.say(f"data: {self.run.data_json}")
            return 0
        self._timed("train", lambda: self._train(base))
        if not self.stopping and self.last != "train":
            self._timed("predict", self._predict)
            if not self.stopping and self.last != "predict":
                # One launch at a time, so that the last of several that meet writes the page of all their conditions.
                with self._holding(self.run.report_lease) as mine:
                    if mine:
                        self._timed(self.last, self._evaluate if self.last == "evaluate" else self._report)
        states = RunStatus(self.run)
        done = [c for c in self.chosen if (states.trained if self.last == "train" else states.predicted)(c.name)]
        if self.stopping:
            return self._stopped()
        self._closing()
        if len(done) < len(self.chosen):
            self.view.say(
                f"{len(self.chosen) - len(done)} of {len(self.chosen)} conditions are not done "
                f"(wlsweep status {self.run.root}); try again with: {self.command}"
            )
            return FAILED
        return 0

    def _stopped(self) -> int:
        """What a sweep says that was asked to stop."""
        states = RunStatus(self.run)
        trained = [c.name for c in self.chosen if states.trained(c.name)]
        done = trained if self.last == "train" else [name for name in trained if states.predicted(name)]
        self.view.say(
            f"stopped with {len(done)} of {len(self.chosen)} conditions done ({len(trained)} trained); "
            f"go on with: {self.command}"
        )
        return STOPPED

    def _timed(self, stage: str, work: Callable[[], Any]) -> Any:
        began = time.monotonic()
        try:
            return work()
        finally:
            self.seconds[stage] = round(time.monotonic() - began, 2)

    def _nothing_to_do(self) -> bool:
        """Everything chosen is predicted and reported on, and the data that it came from has not changed."""
        if not (self.run.sweep_json.is_file() and self.run.data_json.is_file() and self.last == "report"):
            return False
        states = RunStatus(self.run)
        if [c.name for c in states.conditions] != [c.name for c in self.sweep.conditions]:
            return False
        if not all(states.predicted(c.name) for c in self.chosen):
            return False
        newest = max(self.run.prediction(c.name).stat().st_mtime for c in self.chosen)
        page = (
            self.run.report.is_file() and self.run.analysis_json.is_file() and self.run.report.stat().st_mtime >= newest
        )
        from wlsweep.analysis.evaluate import current

        if not page or current(self.run) is None:
            return False  # missing, older than what it rests on, or of a selection
        self._prepare(Path(states.record.base))
        return True

    def _prepare(self, base: Path) -> None:
        from wlsweep.data.prepare import prepare_data

        prepare_data(self.sweep, self.run, base, self.view.note, limit=self.sweep.data.limit)

    def _data(self) -> str | None:
        """The base model, once the data is made; None if the sweep was asked to stop while another launch made it."""
        with self.view.during("data", 0), self._holding(self.run.data_lease) as mine:
            if not mine:
                return None
            base = self._base()
            self._prepare(Path(base))  # refuses other data than this run's before the record is touched
            self._write_sweep_json(base)
        return base

    @contextmanager
    def _holding(self, lease: Path) -> Iterator[bool]:
        """Hold a lease, waiting for another launch as long as it takes; False if this one was asked to stop."""
        while not self.stopping:
            with hold(lease, self.owner, patience_s=1) as mine:
                if mine:
                    yield True
                    return
            who = holder(lease)
            self.view.note(f"waiting for {who.owner if who else 'another launch'}, which holds {lease}")
        yield False

    def _base(self) -> str:
        if self.sweep.model.path is not None:
            path = Path(self.sweep.model.path)
            return str(path.resolve()) if path.is_dir() else str(self.sweep.model.path)  # workers run in other folders
        assert self.sweep.model.tiny is not None
        self.view.note("looking for the tiny base model")
        from wlsweep.data.prepare import base_rows
        from wlsweep.train.tiny_base import ensure_tiny_base

        rows = base_rows(self.sweep, self.run)
        return str(ensure_tiny_base(self.sweep.model.tiny, rows, self.run.cache, self.view.note).resolve())

    def _write_sweep_json(self, base: str) -> None:
        launch = Launch(command=self.command, **dict(provenance()))
        earlier = SweepRecord.find(self.run.sweep_json)
        SweepRecord(
            sweep=self.sweep.model_dump(mode="json"),
            fingerprint=self.sweep.fingerprint(),
            conditions=tuple(ConditionEntry(**c.as_dict()) for c in self.sweep.conditions),
            base=base,
            command=self.command,
            provenance=launch,
            launches=(*(earlier.launches if earlier else ()), launch),
        ).write(self.run.sweep_json)

    def _connect(self) -> Capacity:
        from wlsweep.orchestrate.ray_cluster import cluster_nodes, connect

        if not self.connected:
            self.view.note("starting Ray")
            connect(self.sweep)
            self._take_signals()  # Ray takes SIGTERM for itself when it starts
            self.connected = True
        return capacity(self.sweep, cluster_nodes(), self.last != "train")

    def _check_room(self) -> None:
        """Refuse, before anything is spent, what the cluster cannot hold."""
        from wlsweep.orchestrate.ray_cluster import local_nodes

        if os.environ.get("RAY_ADDRESS"):
            self._connect()
        else:
            capacity(self.sweep, local_nodes(self.sweep), self.last != "train")

    def _train(self, base: str) -> None:
        """Train what is not trained; conditions that another launch holds are waited for, and taken over if it dies."""
        began = len(self.chosen) - len(self._untrained())
        if began == len(self.chosen):
            return
        with self.view.during("train", len(self.chosen)):
            self.view.done = began
            capacity = self._connect()
            states, beside = RunStatus(self.run), OverlappedPrediction(capacity)
            names = [c.name for c in self.chosen if not states.predicted(c.name)] if self.last != "train" else []
            with beside.predicting(
                self.sweep, self.run, names, self.owner, lambda: self.stopping, self.view.on_predicted
            ):
                self._train_all(base, capacity.groups, beside)

    def _train_all(self, base: str, groups: int, beside: OverlappedPrediction) -> None:
        from wlsweep.orchestrate.trials import train_conditions

        tried: set[str] = set()
        while not self.stopping:
            left = self._untrained()
            now = [c for c in left if self._can_start(c)]
            free = [c for c in now if c.name not in tried and not holder(self.run.lease(c.name))]
            if free:
                elsewhere: set[str] = set()
                going, last_ones = {c.name for c in free}, len(free) == len(left)

                def hear(
                    name: str,
                    metrics: dict[str, Any],
                    elsewhere: set[str] = elsewhere,
                    going: set[str] = going,
                    last_ones: bool = last_ones,
                ) -> None:
                    if metrics.get("state") != "running":
                        going.discard(name)
                    beside.hear(name, metrics, going, last_ones)
                    if metrics.get("state") == "elsewhere":
                        elsewhere.add(name)
                    else:
                        self.view.on_condition(name, metrics)

                self._in_thread(
                    lambda free=free, hear=hear: train_conditions(  # type: ignore[misc]
                        self.sweep, self.run, base, free, groups, self.owner, self.stop_file, hear
                    ),
                    saves=True,
                )
                tried |= {c.name for c in free} - elsewhere
                self._record_lost({c.name for c in free} - elsewhere)
            elif all(c.name in tried for c in now):
                break
            else:
                self.view.note(f"waiting for {len(left)} conditions that another launch trains")
                time.sleep(2)
        for c in [] if self.stopping else self._untrained():
            if not self._can_start(c):
                record_failure(
                    self.run, c.name, "train", f"its first stage, {first_stage(c).name}, could not be trained"
                )

    def _record_lost(self, names: set[str]) -> None:
        """A trial process that was killed leaves neither a model nor a cause."""
        states = RunStatus(self.run)
        for name in names:
            if not (self.stopping or states.trained(name) or self.run.failed(name).is_file()):
                record_failure(self.run, name, "train", "its trial process was killed or could not be started")

    def _untrained(self) -> list[Condition]:
        """What is not trained yet, with the first stages that two-stage conditions still lack."""
        states = RunStatus(self.run)
        left = {c.name: c for c in self.chosen if states.trained(c.name) is None}
        lacking = [first_stage(c) for c in left.values() if not self._can_start(c)]
        return list({c.name: c for c in (*lacking, *left.values())}.values())

    def _can_start(self, condition: Condition) -> bool:
        """Whether the model that a condition starts from is there."""
        first = first_stage(condition).name
        return not condition.two_stage or (
            self.run.model(first).is_dir() and RunStatus(self.run).trained(first) is not None
        )

    def _in_thread(self, work: Callable[[], Any], saves: bool) -> None:
        """Run `work` beside the main thread, which is thus free to take signals; Tune would install its own.

        When the sweep is to stop, work that `saves` is waited for; other work is left, it loses nothing.
        """
        errors: list[BaseException] = []

        def run() -> None:
            try:
                work()
            except BaseException as e:  # noqa: BLE001 - raised again below
                errors.append(e)

        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        while thread.is_alive() and not (self.stopping and not saves):
            thread.join(timeout=0.2)
            if saves:
                self.view.while_training(self.run.logs / "driver.log")
        if errors:
            raise errors[0]

    def _predict(self) -> None:
        """Predict what is trained and not predicted; conditions that another launch predicts are waited for."""
        tried: set[str] = set()
        if names := self._unpredicted():
            with self.view.during("predict", len(names)):
                while not self.stopping and (names := [n for n in self._unpredicted() if n not in tried]):
                    if free := [n for n in names if not holder(self.run.lease(n))]:
                        engines = self._connect().engines
                        self._in_thread(partial(self._predict_names, free, engines, tried), saves=False)
                    else:
                        self.view.note(f"waiting for {len(names)} conditions that another launch predicts")
                        time.sleep(2)
        self._drop_models()

    def _unpredicted(self) -> list[str]:
        states = RunStatus(self.run)
        return [c.name for c in self.chosen if states.trained(c.name) and not states.predicted(c.name)]

    def _predict_names(self, names: Sequence[str], engines: int, tried: set[str]) -> None:
        """Predict, and add what was tried to `tried`: all but what turned out to be in another launch's hands."""
        from wlsweep.predict.stage import predict_conditions

        heard: set[str] = set()
        try:
            for result in predict_conditions(self.sweep, self.run, names, engines, self.owner):
                name, cause = result["condition"], result["cause"]
                heard.add(name)
                if cause:
                    record_failure(self.run, name, "predict", cause)
                elif RunStatus(self.run).predicted(name):
                    self.run.failed(name).unlink(missing_ok=True)
                else:
                    continue
                tried.add(name)
                self.view.on_condition(name, {"state": "failed" if cause else "done", "cause": cause})
        except Exception as e:  # noqa: BLE001 - an engine that dies again and again; its conditions say so
            cause = f"the engine could not be kept running: {type(e).__name__}: {e}"
            for name in set(names) - heard:
                record_failure(self.run, name, "predict", cause)
                self.view.on_condition(name, {"state": "failed", "cause": cause})
            tried.update(names)

    def _drop_models(self) -> None:
        """Delete models that need not outlive their predictions; only after these are complete."""
        if self.sweep.keep_models == "all":
            return
        states = RunStatus(self.run)
        records = {c.name: states.trained(c.name) for c in self.sweep.conditions}
        losses = {n: r.unweighted_loss for n, r in records.items() if r and self.run.model(n).is_dir()}
        awaited = {first_stage(c).name for c in self.sweep.conditions if c.two_stage and not states.trained(c.name)}
        best = min(losses, key=losses.__getitem__) if losses and self.sweep.keep_models == "best" else None
        for name in losses:
            if name != best and name not in awaited and states.predicted(name):
                shutil.rmtree(self.run.model(name))

    def _evaluate(self) -> None:
        from wlsweep.analysis.evaluate import evaluate, remembered_externals

        self.evaluation = evaluate(self.run, None, remembered_externals(self.run))

    def _report(self) -> None:
        from wlsweep.report.page import write_report
        from wlsweep.report.png import Renderer

        with Renderer() as renderer:  # it starts while the run is evaluated
            from wlsweep.analysis.evaluate import up_to_date

            self.evaluation = up_to_date(self.run)
            self.plots_note = write_report(self.run, self.evaluation, renderer).note

    def _closing(self) -> None:
        """The table, where everything lies, and the next command."""
        if not self.closing:
            return
        if self.last in ("evaluate", "report"):
            from wlsweep.analysis.evaluate import up_to_date
            from wlsweep.analysis.summary_table import summary_table

            evaluation = getattr(self, "evaluation", None) or up_to_date(self.run)
            self.view.console.print(summary_table(evaluation))
        self.view.say(f"run:     {self.run.root}")
        if self.last == "report":
            self.view.say(f"report:  {self.run.report}")
            if self.plots_note:
                self.view.say(f"plots:   {self.plots_note}")
            page, root = shlex.quote(str(self.run.report)), shlex.quote(str(self.run.root))
            self.view.say(f"next:    open {page}; wlsweep status {root}")
        else:
            self.view.say(f"next:    {self.command.replace(f' --stage {self.last}', '')}")


def refuse_missing_engines() -> None:
    """Refuse what would fail only once workers run.

    Raises:
        WlsweepError: if an engine is not installed.
    """
    engines = {"ray": "train", "deepspeed": "train", "vllm": "predict"}
    missing = [f"{name}, needed to {use}" for name, use in engines.items() if find_spec(name) is None]
    if missing:
        raise WlsweepError(
            "this environment lacks engines of the sweep: "
            + "; ".join(missing)
            + f". Install them:\n{how_to_install()}"
        )


def run_sweep(
    sweep: Sweep, out: Path, only: str | None, last: Stage, arguments: Sequence[str], until_decided: bool = False
) -> int:
    """Run a sweep and return the exit code: 0 all done, 1 some conditions failed, 75 stopped on request.

    With `until_decided`, the baseline is run first, and then one condition after the other for as long as the forecast
    from what was measured leaves a hypothesis in doubt that the condition could settle.

    Raises:
        WlsweepError: if nothing can be started as asked.
    """
    command = "wlsweep " + shlex.join(arguments)
    console, run = Console(file=sys.stdout), RunDir(out)
    if not until_decided:
        run.skipped_json.unlink(missing_ok=True)
        return Runner(sweep, run, only, last, command, console).go()
    if last != "report" or only is not None:
        raise WlsweepError("--until-decided chooses conditions itself: it goes with neither --only nor --stage")
    from wlsweep.orchestrate.adaptive import run_until_decided

    return run_until_decided(sweep, run, command, console)
