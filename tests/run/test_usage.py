"""What processes held is counted once, whatever became of them, and summed by condition beside the plan of then."""

import json
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import pytest
from rich.console import Console
from typer.testing import CliRunner

import wlsweep
from tests.made_run import THE_19, make_run
from wlsweep.analysis.evaluate import evaluate
from wlsweep.cli import app
from wlsweep.orchestrate.stages import ENGINES
from wlsweep.report.page import write_report
from wlsweep.run import nvml, usage_meter
from wlsweep.run.layout import RunDir, read_json, write_json
from wlsweep.run.records import PlanRecord, UsageRecord, UsageSpan
from wlsweep.run.status import RunStatus
from wlsweep.run.usage import read_accounts, usage_of
from wlsweep.run.usage_meter import UsageMeter
from wlsweep.spec.config import load_sweep
from wlsweep.spec.plan import make_plan

A, B, C = THE_19[:3]
HOUR = 3600.0


def span(what, seconds, *conditions, stage="train", outcome="done", **more):
    return UsageSpan(what=what, stage=stage, conditions=list(conditions), seconds=seconds, outcome=outcome, **more)


def account(run, name, *spans, holder="group", gpus=1.0, cpus=8.0, rank=0, began=0.0, **more):
    run.usage.mkdir(exist_ok=True)
    UsageRecord(
        holder=holder, rank=rank, host="here", gpus=gpus, cpus=cpus, began=began, spans=list(spans), **more
    ).write(run.usage / f"{name}.json")


def priced(run, price=2.0):
    record = read_json(run.sweep_json)
    record["sweep"]["budget"]["price_per_gpu_hour"] = price
    write_json(run.sweep_json, record)


@pytest.fixture
def run(tmp_path):
    """Two ranks of two GPUs: B was killed once, C failed; an engine predicted A alone, and B and C together."""
    made = make_run(tmp_path, [A, B, C], n=40)
    priced(made)
    for rank in (0, 1):
        account(
            made,
            f"killed{rank}",
            span("start", HOUR),
            span("work", 2 * HOUR, A, attempt=1, checkpoint_bytes=100 if rank == 0 else 0),
            span("wait", HOUR / 2),
            span("work", HOUR, B, outcome=None, attempt=1),
            rank=rank,
        )
        account(
            made,
            f"second{rank}",
            span("start", HOUR),
            span("work", 2 * HOUR, B, attempt=2),
            span("work", HOUR, C, outcome="failed", attempt=1),
            rank=rank,
        )
    account(
        made,
        "engine",
        span("start", HOUR / 2, stage="predict"),
        span("work", HOUR, A, stage="predict"),
        span("work", HOUR, B, C, stage="predict"),
        span("wait", HOUR / 4, stage="predict"),
        holder="engine",
        gpus=1,
        cpus=2,
    )
    account(made, "first", span("work", 10 * HOUR), holder="launch", gpus=0, cpus=0, began=0, largest_bytes=7000)
    account(made, "beside", span("work", 4 * HOUR), holder="launch", gpus=0, cpus=0, began=8 * HOUR)
    plan = {"gpu_hours": 9.0, "cost_dollars": 27.0, "gpu_hours_by_condition": {A: 3.0, B: 3.0, C: 3.0}}
    PlanRecord(made_at="2026-01-01T00:00:00Z", plan=plan | {"storage_bytes": {"models_kept": 5e6, "peak": 9e6}}).write(
        made.plan_json
    )
    return made


def test_every_attempt_counts_also_those_that_were_killed_or_failed(run):
    of = {c.name: c for c in usage_of(run).conditions}
    assert [of[n].attempts for n in (A, B, C)] == [1, 2, 1]
    assert [of[n].training.gpu_hours for n in (A, B, C)] == [4, 2 + 4, 2]
    assert [of[n].unfinished.gpu_hours for n in (A, B, C)] == [0, 2, 2]
    assert of[B].training.seconds == 3 * HOUR, "two ranks at the same time are one wall time"
    assert of[A].training.core_hours == 2 * 2 * 8
    assert of[A].checkpoint_bytes == 100


def test_conditions_that_an_engine_predicts_together_share_its_time_evenly(run):
    of = {c.name: c.prediction for c in usage_of(run).conditions}
    assert [of[n].gpu_hours for n in (A, B, C)] == [1, 0.5, 0.5] and of[B].seconds == HOUR / 2


def test_start_and_idle_time_stand_alone_and_the_sum_is_all_that_was_held(run):
    usage = usage_of(run)
    assert usage.starting.gpu_hours == 4.5 and usage.waiting.gpu_hours == 1.25
    held = sum(a.gpus * s.seconds for a in read_accounts(run)[0] for s in a.spans) / HOUR
    assert usage.total.gpu_hours == pytest.approx(held, abs=1e-12)


def test_launches_at_the_same_time_are_one_wall_time(run):
    assert usage_of(run).wall_seconds == 12 * HOUR


def test_dollars_are_hours_at_the_given_price_and_unknown_without_one(run):
    usage = usage_of(run)
    assert usage.dollars == 2 * usage.total.gpu_hours
    assert usage.conditions[1].dollars == 2 * (6 + 0.5)
    priced(run, None)
    usage = usage_of(run)
    assert usage.dollars is None and usage.conditions[1].dollars is None and "$" not in usage.sentence()


def test_what_the_plan_had_said_is_that_of_then(run):
    usage = usage_of(run)
    assert usage.plan.gpu_hours == 9 and usage.conditions[0].planned_gpu_hours == 3
    assert "GPU-hours (plan: 9 for training)" in usage.sentence() and "(plan: $27)" in usage.sentence()
    assert "(plan: 5 MB)" in usage.sentence()
    run.plan_json.write_text("{")
    assert usage_of(run).plan is None, "a damaged plan is no plan, and no error"


@pytest.mark.parametrize("space", ["demo", "iclr19", "demo_lora"])
def test_the_plan_of_a_first_launch_is_kept_and_a_later_one_leaves_it(tmp_path, space):
    sweep = load_sweep(f"search_spaces/{space}.toml")
    launch = SimpleNamespace(sweep=sweep, run=RunDir(tmp_path))
    ENGINES.plan(launch)
    kept = PlanRecord.read(launch.run.plan_json)
    assert kept.plan == json.loads(json.dumps(make_plan(sweep)))
    launch.sweep = sweep.model_copy(update={"keep_models": "none"})
    ENGINES.plan(launch)
    assert PlanRecord.read(launch.run.plan_json) == kept
    launch.sweep = sweep.model_copy(update={"grid": sweep.grid[:1]})
    ENGINES.plan(launch)
    assert PlanRecord.read(launch.run.plan_json).plan == json.loads(json.dumps(make_plan(launch.sweep)))


def test_a_plan_that_cannot_be_kept_is_told_of_and_ends_no_sweep(tmp_path):
    said = []
    run = RunDir(tmp_path)
    run.plan_json.mkdir(parents=True)  # a folder where the file belongs
    view = SimpleNamespace(note=said.append)
    ENGINES.plan(SimpleNamespace(sweep=load_sweep("search_spaces/demo.toml"), run=run, view=view))
    (line,) = said
    assert line.startswith("no plan to compare what is used with: ") and "plan.json" in line


def test_without_gpus_the_hours_are_those_of_cores(tmp_path):
    made = make_run(tmp_path, [A], n=40)
    account(made, "a", span("work", HOUR, A), gpus=0, cpus=2)
    usage = usage_of(made)
    assert usage.total.gpu_hours == 0 and usage.unit == "CPU core-hours" and usage.hours(usage.total) == 2
    assert usage.sentence().startswith("used: 2 CPU core-hours") and "energy" not in usage.sentence()


def test_energy_that_was_not_measured_everywhere_says_for_how_much_it_was(tmp_path):
    made = make_run(tmp_path, [A], n=40)
    account(made, "a", span("work", HOUR, A, energy_joules=3.6e6))
    assert usage_of(made).energy(usage_of(made).total) == "1 kWh"
    account(made, "b", span("work", HOUR, A), rank=1)
    assert usage_of(made).energy(usage_of(made).total) == "1 kWh (measured for 50% of the GPU-hours)"


def test_a_damaged_account_is_named_and_left_out(run):
    before = usage_of(run).total.gpu_hours
    (run.usage / "engine.json").write_text("{")
    after = usage_of(run)
    assert after.unreadable == (str(run.usage / "engine.json"),) and after.total.gpu_hours == before - 2.75


def test_a_run_of_an_older_version_says_that_nothing_was_recorded(tmp_path):
    made = make_run(tmp_path, [A], n=40)
    usage = usage_of(made)
    assert not usage.recorded and usage.unrecorded == (A,) and "not recorded" in usage.sentence()


def test_status_json_page_csv_and_load_run_say_the_same(run):
    usage = usage_of(run)
    with Console().capture():
        said = CliRunner().invoke(app, ["status", str(run.root)]).output
    assert usage.sentence() in said.replace("\n", " ")
    assert RunStatus(run).as_json()["usage"]["total"]["gpu_hours"] == usage.total.gpu_hours
    write_report(run, evaluate(run, draws=100))
    page = run.report.read_text()
    assert "What it took" in page and "of these in attempts that left no model" in page
    assert read_json(run.usage_json)["conditions"][1]["attempts"] == 2
    table = wlsweep.load_run(run.root).usage.set_index("name")
    assert table.loc[B, "training_gpu_hours"] == 6 and table.loc[B, "unfinished_gpu_hours"] == 2
    both = table["training_gpu_hours"].sum() + table["prediction_gpu_hours"].sum()
    assert both == pytest.approx(usage.total.gpu_hours)


# What a process writes.


def test_a_span_within_another_is_counted_once(tmp_path):
    meter = UsageMeter(tmp_path, "engine", "predict", gpus=1)
    with meter.during("work", [A]):
        time.sleep(0.02)
        with meter.during("start"):
            time.sleep(0.02)
        time.sleep(0.02)
    meter.wait()
    meter.close()
    (record,) = [UsageRecord.read(p) for p in tmp_path.glob("*.json")]
    kinds = [(s.what, s.outcome) for s in record.spans]
    assert kinds[1:4] == [("work", "goes on"), ("start", "done"), ("work", "done")]
    assert all(0.02 <= s.seconds < 1 for s in record.spans[1:4])
    assert not list(tmp_path.glob(".*"))


def test_an_attempt_that_raises_has_failed_unless_it_says_otherwise(tmp_path):
    meter = UsageMeter(tmp_path, "group", "train")

    def attempt(said=None):
        with meter.during("work", [A], attempt=1):
            if said:
                meter.outcome(said)
            raise ValueError

    for said in (None, "stopped"):
        with pytest.raises(ValueError):
            attempt(said)
    meter.close()
    (record,) = [UsageRecord.read(p) for p in tmp_path.glob("*.json")]
    assert [s.outcome for s in record.spans if s.what == "work"] == ["failed", "stopped"]


def test_an_account_with_many_spans_goes_on_in_another_file(tmp_path, monkeypatch):
    monkeypatch.setattr(usage_meter, "MOST_SPANS", 5)
    made = make_run(tmp_path, [A], n=40)
    meter = UsageMeter(made.usage, "group", "train", gpus=1)
    for attempt in range(12):
        with meter.during("work", [A], attempt=attempt):
            pass
    meter.close()
    assert len(list(made.usage.glob("*.json"))) > 2 and usage_of(made).conditions[0].attempts == 12


def test_an_account_that_cannot_be_written_ends_nothing(tmp_path, capsys):
    folder = tmp_path / "usage"
    folder.write_text("a file stands in its place")
    meter = UsageMeter(folder, "group", "train")
    with meter.during("work", [A]):
        meter.wrote_checkpoint(5)
    meter.close()
    assert "could not be written" in capsys.readouterr().out


KILLED = """
import sys, time
from pathlib import Path
from wlsweep.run import usage_meter
usage_meter.BEAT_S = 0.05
meter = usage_meter.UsageMeter(Path(sys.argv[1]), "group", "train", gpus=1)
with meter.during("work", [sys.argv[2]], attempt=int(sys.argv[3])):
    meter.wrote_checkpoint(10)
    print("works", flush=True)
    time.sleep(float(sys.argv[4]))
meter.close()
"""


def test_a_killed_attempt_counts_up_to_the_last_beat_and_is_not_counted_again(tmp_path):
    made = make_run(tmp_path, [A], n=40)
    first = subprocess.Popen(
        [sys.executable, "-c", KILLED, made.usage, A, "1", "60"], stdout=subprocess.PIPE, text=True
    )
    assert first.stdout.readline() == "works\n"
    began = time.monotonic()
    while not any(a.spans[-1].seconds > 0.3 for a in read_accounts(made)[0]):
        assert time.monotonic() - began < 20
        time.sleep(0.01)
    first.send_signal(signal.SIGKILL)
    first.wait()
    worked = time.monotonic() - began
    killed = usage_of(made).conditions[0]
    assert 0.3 < killed.training.seconds <= worked + 1 and killed.attempts == 1
    assert killed.unfinished == killed.training

    subprocess.run([sys.executable, "-c", KILLED, made.usage, A, "2", "0"], check=True, stdout=subprocess.DEVNULL)
    both = usage_of(made).conditions[0]
    assert both.attempts == 2 and both.checkpoint_bytes == 20
    assert both.unfinished == killed.training, "what the killed attempt took stays what it was"
    assert both.training.seconds > killed.training.seconds


def test_other_ranks_write_their_account_when_work_ends_and_not_when_it_begins(tmp_path):
    for rank, written in ((0, 1), (1, 0)):
        meter = UsageMeter(tmp_path / str(rank), "group", "train", gpus=1, rank=rank)
        with meter.during("work", [A]):
            assert len(list((tmp_path / str(rank)).glob("*.json"))) == written
        (record,) = [UsageRecord.read(p) for p in (tmp_path / str(rank)).glob("*.json")]
        assert record.spans[1].outcome == "done", "a SIGKILL from now on loses nothing of it"
        meter.close()


def test_a_launch_notices_how_large_the_run_was(tmp_path, monkeypatch):
    monkeypatch.setattr(usage_meter, "LOOK_S", 0.0)
    monkeypatch.setattr(usage_meter, "BEAT_S", 0.01)
    sizes = iter([5, 9, *[4] * 10_000])
    meter = UsageMeter(tmp_path, "launch", "train", size=lambda: next(sizes))
    time.sleep(0.1)
    meter.close()
    (record,) = [UsageRecord.read(p) for p in tmp_path.glob("*.json")]
    assert record.largest_bytes == 9


# Energy.


class Nvml(SimpleNamespace):
    """A module like pynvml with cards that have used 1,000 J for each letter of their name."""

    def __init__(self, refuse=""):
        super().__init__(refuse=refuse)

    def nvmlInit(self):
        if self.refuse == "driver":
            raise RuntimeError("no driver")

    def nvmlDeviceGetHandleByIndex(self, i):
        return "x" * (i + 1)

    def nvmlDeviceGetHandleByUUID(self, name):
        if name.startswith("MIG"):
            raise RuntimeError("a share of a card")
        return name

    def nvmlDeviceGetTotalEnergyConsumption(self, card):
        if self.refuse == "energy":
            raise RuntimeError("not supported")
        return 1e6 * len(card)


def test_energy_is_the_sum_over_the_cards_of_the_process(monkeypatch):
    monkeypatch.setitem(sys.modules, "pynvml", Nvml())
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,2")
    assert nvml.gpu_energy()() == 1000 + 3000
    assert nvml.gpu_energy(["GPU-a"])() == 5000


@pytest.mark.parametrize("refuse", ["driver", "energy", "module", "share", "no card"])
def test_energy_that_cannot_be_told_is_none_and_no_error(monkeypatch, refuse):
    monkeypatch.setitem(sys.modules, "pynvml", None if refuse == "module" else Nvml(refuse))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", {"share": "MIG-1", "no card": ""}.get(refuse, "0"))
    assert nvml.gpu_energy()() is None


def test_the_energy_of_a_span_is_what_was_used_in_it(tmp_path):
    meter = UsageMeter(tmp_path, "group", "train", gpus=1)
    readings = iter([10.0, 10.0, 10.0, 25.0, *[25.0] * 100])
    meter.measure_energy(lambda: next(readings))
    with meter.during("work", [A]):
        pass
    meter.close()
    (record,) = [UsageRecord.read(p) for p in tmp_path.glob("*.json")]
    assert sum(s.energy_joules for s in record.spans) == 15
    assert json.loads(json.dumps(record.model_dump()))["spans"][1]["conditions"] == [A]


def test_work_that_is_done_is_in_the_account_although_the_process_is_killed_at_once(tmp_path):
    meter = UsageMeter(tmp_path, "engine", "predict", cpus=2)
    with meter.during("work", [A]), meter.during("start"):
        pass
    (file,) = tmp_path.glob("*.json")
    spans = UsageRecord.read(file).spans  # what a SIGKILL leaves now
    meter.close()
    assert [(s.what, s.outcome) for s in spans][-3:-1] == [("start", "done"), ("work", "done")]
