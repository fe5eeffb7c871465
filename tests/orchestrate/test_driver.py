"""What a driver decides: stopping, taking over, keeping models, failures, first stages, and what it says at the end."""

import json
import os
import shutil
import signal
import threading
import time
from importlib.util import find_spec

import pytest

from tests.orchestrate import fakes as fake
from tests.orchestrate.fakes import NAMES, SMALL, FakeStages, go
from wlsweep.errors import WlsweepError
from wlsweep.orchestrate import launch as launches
from wlsweep.orchestrate import stages
from wlsweep.orchestrate.driver import FAILED, STOPPED
from wlsweep.orchestrate.stall import LaunchEnded
from wlsweep.orchestrate.training import OFTEN
from wlsweep.run.layout import RunDir, write_json
from wlsweep.run.lease import hold
from wlsweep.run.logs import show_errors_again
from wlsweep.run.records import FailedRecord
from wlsweep.run.status import RunStatus
from wlsweep.spec.condition import first_stage

A, B, C = NAMES


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """Signals go back to pytest, and nothing is looked at five times a second."""
    before = {n: signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)}
    monkeypatch.setattr(launches, "TICK_S", 0.002)
    monkeypatch.setattr(launches, "OTHERS_S", 0.05)
    yield
    show_errors_again()
    for number, handler in before.items():
        signal.signal(number, handler)


def test_an_engine_that_is_not_installed_is_refused_with_the_way_out(monkeypatch):
    stages.refuse_missing_engines()
    monkeypatch.setattr(stages, "find_spec", lambda name: None if name == "vllm" else find_spec(name))
    with pytest.raises(
        WlsweepError, match=r"lacks engines of the sweep: vllm, needed to predict(.|\n)*pip install torch=="
    ):
        stages.refuse_missing_engines()


def test_a_launch_trains_and_predicts_everything_and_names_the_next_command(tmp_path):
    fakes = FakeStages()
    ran = go(tmp_path, fakes)
    assert ran.code == 0 and ran.done() == NAMES and fakes.rounds == [NAMES]
    assert ran.said.splitlines()[-2:] == [f"run:     {tmp_path}", "next:    wlsweep run x"]
    assert set(json.loads((tmp_path / "logs" / "seconds.json").read_text())) == {"data", "train", "predict", "all"}


def test_what_threads_print_after_a_launch_has_lost_ray_goes_to_its_log_and_not_to_the_terminal(tmp_path, capfd):
    def lose(_launch):
        raise LaunchEnded("Ray's node process on this machine ended")

    ran = go(tmp_path, FakeStages(on_base=lose))
    os.write(2, b"Traceback of a thread that waited for Ray")
    assert ran.code == STOPPED and "node process on this machine ended\nnothing is trained yet; go on" in ran.said
    assert "Traceback" in (tmp_path / "logs" / "driver.log").read_text()
    assert not capfd.readouterr().err


def test_what_is_done_is_not_done_again(tmp_path):
    go(tmp_path, FakeStages(), "train")
    again = FakeStages()
    assert go(tmp_path, again).code == 0
    assert again.rounds == [] and again.predicted == [NAMES]


def test_a_failed_condition_fails_alone_and_is_tried_once_a_launch(tmp_path):
    fakes = FakeStages(fates={B: ["failed"]})
    ran = go(tmp_path, fakes)
    assert ran.code == FAILED and ran.done() == [A, C] and fakes.rounds == [NAMES]
    assert "1 of 3 conditions are not done" in ran.said and "try again with: wlsweep run x" in ran.said
    again = FakeStages()
    assert go(tmp_path, again).code == 0 and again.rounds == [[B]]


def test_a_failure_that_all_conditions_would_meet_stops_the_sweep_at_the_first(tmp_path):
    fakes = FakeStages(fates={A: ["shared"]})
    with pytest.raises(WlsweepError, match=f"{A}: shared\nevery condition would fail alike"):
        go(tmp_path, fakes)
    assert [RunStatus(RunDir(tmp_path)).trained(n) for n in (B, C)] == [None, None]


@pytest.mark.parametrize("fate", ["lost", "step and lost", "silent"])
def test_a_condition_whose_processes_were_lost_is_tried_again_and_not_to_blame(tmp_path, fate):
    fakes = FakeStages(fates={B: [fate, fate]})
    ran = go(tmp_path, fakes)
    assert ran.code == 0 and ran.done() == NAMES and fakes.rounds == [NAMES, [B], [B]]
    assert "not the condition's fault" in ran.said and not ran.launch.run.failed(B).exists()


def test_processes_that_are_lost_before_any_step_again_and_again_end_the_launch(tmp_path):
    ran = go(tmp_path, FakeStages(fates={name: ["lost"] * 9 for name in NAMES}))
    assert ran.code == STOPPED
    assert "lost 3 times in a row before any step" in ran.said and "go on with: wlsweep run x" in ran.said


def test_a_condition_that_loses_its_processes_again_and_again_fails_at_last(tmp_path):
    ran = go(tmp_path, FakeStages(fates={B: ["step and lost"] * OFTEN}))
    assert ran.code == FAILED and ran.done() == [A, C]
    assert f"lost {OFTEN} times" in FailedRecord.read(ran.launch.run.failed(B)).cause


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1])
def test_a_signal_lets_running_conditions_save_and_starts_no_other(tmp_path, number):
    fakes = FakeStages(fates={B: [lambda launch: _signalled(launch, number)]})
    ran = go(tmp_path, fakes)
    assert ran.code == STOPPED and fakes.predicted == []
    assert f"{signal.Signals(number).name}: running conditions save" in ran.said
    assert "0 of 3 conditions are done (1 trained); go on with: wlsweep run x" in ran.said


def test_the_processes_of_a_launch_are_told_once_that_it_was_asked_to_stop(tmp_path):
    words = []

    def stop(launch):
        _signalled(launch, signal.SIGTERM)
        end = time.monotonic() + 10
        while not words:
            assert time.monotonic() < end
            time.sleep(0.001)
        time.sleep(0.02)  # ten more looks of the main thread

    ran = go(tmp_path, FakeStages(fates={A: [stop]}), tell=words.append)
    assert ran.code == STOPPED and words == [ran.launch.stop.word]


def _signalled(launch, number):
    os.kill(os.getpid(), number)
    while not launch.stop.asked():
        time.sleep(0.001)


def test_a_stop_is_heard_while_the_base_model_is_made(tmp_path):
    ran = go(tmp_path, FakeStages(on_base=lambda launch: launch.stop.ask()))
    assert ran.code == STOPPED and "nothing is trained yet" in ran.said
    assert not (tmp_path / "data.lease").exists() and not (tmp_path / "sweep.json").exists()


def test_what_another_launch_trains_is_waited_for_and_named(tmp_path):
    over = threading.Event()
    started = threading.Event()

    def other():
        with hold(RunDir(tmp_path).lease(B), "launch of a colleague") as mine:
            assert mine
            started.set()
            over.wait(5)
            fake.write_trained(RunDir(tmp_path), B)

    thread = threading.Thread(target=other)
    thread.start()
    started.wait()
    fakes = FakeStages(fates={C: [lambda launch: threading.Timer(0.1, over.set).start()]})
    ran = go(tmp_path, fakes)
    thread.join()
    assert ran.code == 0 and fakes.rounds == [[A, C]]
    assert "another launch trains: launch of a colleague" in ran.said


def test_what_a_dead_launch_held_is_taken_over(tmp_path):
    lease = RunDir(tmp_path).lease(B)
    lease.parent.mkdir(parents=True)
    with hold(lease, "dead") as mine:
        assert mine
        record = json.loads(lease.read_text())
    write_json(lease, record | {"pid": 2**22 + 1})  # no process has this number
    fakes = FakeStages()
    assert go(tmp_path, fakes).code == 0 and fakes.rounds == [NAMES]


def test_half_an_account_of_a_launch_that_was_killed_just_before_goes_when_this_one_ends(tmp_path):
    def killed_just_before(launch):
        half = launch.run.usage / ".group_1.json.1.tmp"
        half.parent.mkdir(exist_ok=True)
        half.write_text("half")
        os.utime(half, (time.time() - 15,) * 2)

    ran = go(tmp_path, FakeStages(fates={B: [killed_just_before]}))
    assert ran.code == 0 and ran.done() == NAMES
    assert list(ran.launch.run.usage.glob(".*")) == []


def test_a_condition_that_another_launch_took_first_is_not_counted_as_tried(tmp_path):
    fakes = FakeStages(fates={B: ["elsewhere"]})
    assert go(tmp_path, fakes).code == 0 and fakes.rounds == [NAMES, [B]]


def test_engines_that_are_lost_are_started_again_and_given_up_after_the_third_time(tmp_path):
    again = FakeStages(engine_losses=2)
    assert go(tmp_path / "again", again).code == 0 and again.predicted == [NAMES] * 3
    ran = go(tmp_path / "up", FakeStages(engine_losses=3))
    assert (
        ran.code == FAILED and "engine could not be kept running" in FailedRecord.read(ran.launch.run.failed(A)).cause
    )


def test_a_prediction_that_fails_fails_alone(tmp_path):
    ran = go(tmp_path, FakeStages(predictions={A: ["differs by 0.5"]}))
    assert ran.code == FAILED and ran.done() == [B, C] and f"{A} FAILED: differs by 0.5" in ran.said


def test_a_second_stage_is_trained_after_its_first_and_fails_with_it(tmp_path):
    grid = [SMALL.grid[0], SMALL.grid[1].model_copy(update={"two_stage": [True]})]
    sweep = type(SMALL).model_validate(
        SMALL.model_dump(mode="json") | {"grid": [g.model_dump(mode="json") for g in grid]}
    )
    names = [c.name for c in sweep.conditions]
    firsts = list(dict.fromkeys(first_stage(c).name for c in sweep.conditions if c.two_stage))
    fakes = FakeStages()
    assert go(tmp_path / "both", fakes, "train", sweep).code == 0
    assert set(fakes.rounds[0]) == {*firsts, names[0]} and fakes.rounds[1] == names[1:]

    failing = FakeStages(fates={firsts[-1]: ["failed"]})
    ran = go(tmp_path / "failing", failing, "train", sweep)
    assert ran.code == FAILED
    causes = [FailedRecord.read(ran.launch.run.failed(n)).cause for n in names if ran.launch.run.failed(n).exists()]
    assert f"its first stage, {firsts[-1]}, could not be trained" in causes


@pytest.mark.parametrize(("keep", "left"), [("all", NAMES), ("best", [A]), ("none", [])])
def test_models_outlive_their_predictions_as_the_search_space_says(tmp_path, keep, left):
    go(tmp_path, FakeStages(), "train")
    for name, loss in zip(NAMES, (0.1, 0.2, 0.3), strict=True):
        fake.write_trained(RunDir(tmp_path), name, loss)
    sweep = SMALL.model_copy(update={"keep_models": keep})
    ran = go(tmp_path, FakeStages(), sweep=sweep)
    assert ran.code == 0 and [n for n in NAMES if ran.launch.run.model(n).is_dir()] == left


def test_a_model_that_was_dropped_is_trained_again_where_its_predictions_are_lost(tmp_path):
    sweep = SMALL.model_copy(update={"keep_models": "none"})
    go(tmp_path, FakeStages(), sweep=sweep)
    shutil.rmtree(RunDir(tmp_path).prediction(B))
    fakes = FakeStages()
    ran = go(tmp_path, fakes, sweep=sweep)
    assert ran.code == 0 and fakes.rounds == [[B]] and ran.done() == NAMES


def test_a_report_that_fails_says_that_predictions_are_kept(tmp_path):
    def broken(launch):
        raise OSError("no space left")

    ran = go(tmp_path, FakeStages(on_report=broken), "report")
    assert ran.code == FAILED and ran.done() == NAMES
    assert "the report failed: OSError: no space left" in ran.said and "FAILED" not in ran.said
    assert f"try again with: wlsweep report {tmp_path}" in ran.said


def test_a_cluster_that_is_gone_ends_the_launch_though_its_work_never_ends(tmp_path):
    never, gone = threading.Event(), []
    fakes = FakeStages(fates={B: [lambda launch: (gone.append("gcs_server ended"), never.wait(20))]})
    ran = go(tmp_path, fakes, cluster_lost=lambda: gone[0] if gone else None)
    never.set()
    assert ran.code == STOPPED and ran.said.splitlines()[-2] == "gcs_server ended"
    assert "(1 trained); go on with" in ran.said.splitlines()[-1]
