"""`wlsweep run --until-decided`: what it does where a condition fails."""

import signal
from io import StringIO
from types import SimpleNamespace

import pytest
from rich.console import Console

from tests.orchestrate.fakes import NAMES, SMALL, FakeStages
from wlsweep.analysis.next_conditions import Decision
from wlsweep.errors import WlsweepError
from wlsweep.orchestrate import driver as drivers
from wlsweep.orchestrate import until_decided
from wlsweep.orchestrate.driver import FAILED, Driver, run_sweep
from wlsweep.run.layout import RunDir, write_json
from wlsweep.run.status import RunStatus
from wlsweep.spec.config import load_sweep

A, B, C = NAMES


@pytest.fixture
def run_with(tmp_path, monkeypatch):
    """Runs on fake stages, with a forecast that leaves all other conditions in doubt; returns the code and what was said."""
    before = {n: signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)}
    run, text = RunDir(tmp_path), StringIO()
    forecast = SimpleNamespace(theory=SimpleNamespace(sentence=lambda: "untested"), prospects=[])

    def forecast_run(run):
        if not RunStatus(run).predicted(A):
            raise WlsweepError("nothing to forecast from")
        return forecast

    monkeypatch.setattr(until_decided, "forecast_run", forecast_run)
    monkeypatch.setattr(until_decided, "undecided", lambda found: Decision([(B, "in doubt"), (C, "in doubt")], []))
    monkeypatch.setattr(Driver, "_print_table", lambda self: None)

    def go(fakes):
        monkeypatch.setattr(
            until_decided, "Driver", lambda launch, closing=True: Driver(launch, fakes.stages(), closing)
        )
        code = until_decided.run_until_decided(SMALL, run, "wlsweep run x", Console(file=text, width=200))
        return code, text.getvalue()

    yield go
    for number, handler in before.items():
        signal.signal(number, handler)


def test_a_condition_that_failed_is_trained_once_and_the_rest_is_reported_on(run_with):
    fakes = FakeStages(fates={B: ["failed", "failed"]})
    code, said = run_with(fakes)
    assert code == FAILED and fakes.rounds == [[A], [B], [C]]
    assert fakes.calls.count("report") == 1 and f"failed:  {B}; try again with: wlsweep run x" in said


def test_all_that_is_in_doubt_is_run_one_after_the_other(run_with):
    fakes = FakeStages()
    code, said = run_with(fakes)
    assert code == 0 and fakes.rounds == [[A], [B], [C]] and "failed:" not in said


def test_a_baseline_that_failed_ends_the_run_with_the_code_of_a_failed_condition(run_with):
    fakes = FakeStages(fates={A: ["failed"]})
    code, said = run_with(fakes)
    assert code == FAILED and fakes.rounds == [[A]] and "report" not in fakes.calls
    assert "1 of 1 conditions are not done" in said


def test_a_run_of_another_configuration_keeps_what_it_says_of_skipped_conditions(tmp_path):
    run = RunDir(tmp_path)
    Driver(
        drivers.new_launch(SMALL, run, None, "data", "x", Console(file=StringIO())), FakeStages().stages()
    )._write_sweep_json("base")
    write_json(run.skipped_json, {B: "sure"})
    other = load_sweep("search_spaces/demo.toml")
    with pytest.raises(WlsweepError, match="holds a run of another configuration"):
        run_sweep(other, tmp_path, None, "report", ["run", "x"])
    assert run.skipped_json.is_file()
