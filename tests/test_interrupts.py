"""A signal at any moment before a launch has begun, and during any other command: 128 + its number, one line, no traceback,
nothing half-written. From then on `wlsweep run` stops in order (tests/end_to_end)."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.made_run import THE_19, make_run

SMALL = [
    "--set", "data.synthetic.base_rows=1600", "--set", "data.synthetic.train_rows=200",
    "--set", "data.synthetic.test_rows=60",
]  # fmt: skip


def started(*arguments, cwd):
    for number in (signal.SIGHUP, signal.SIGINT):
        if signal.getsignal(number) == signal.SIG_IGN:  # under nohup, or in the background; processes would inherit it
            signal.signal(number, signal.SIG_DFL)
    return subprocess.Popen(
        [sys.executable, "-m", "wlsweep", *map(str, arguments)],
        cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )  # fmt: skip


def takes_signals(process) -> bool:
    """Whether Python has put a handler of ours in the place of its own: SIGTERM is caught."""
    try:
        status = Path(f"/proc/{process.pid}/status").read_text()
    except OSError:
        return False
    caught = next((line.split()[1] for line in status.splitlines() if line.startswith("SigCgt")), "0")
    return bool(int(caught, 16) >> (signal.SIGTERM - 1) & 1)


def until(true, what, seconds=120):
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, what
        time.sleep(0.005)


def ended(process, *numbers):
    """Exit code and standard error after signals."""
    for number in numbers:
        process.send_signal(number)
    out, err = process.communicate(timeout=120)
    assert "Traceback" not in err + out and "Error" not in err, err
    return process.returncode, err, out


def half_written(root):
    return [p for p in root.rglob("*") if p.name.endswith(".tmp") or p.name.startswith(".training-")]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("wait_s", [0.0, 0.05, 0.2])
def test_a_signal_during_imports_is_one_line(tmp_path, number, wait_s):
    process = started("run", "demo", *SMALL, "--stage", "data", "--out", "out", cwd=tmp_path)
    until(lambda: takes_signals(process) or process.poll() is not None, "no handler")
    time.sleep(wait_s)
    code, err, _ = ended(process, number)
    assert code == 128 + number and err.count("\n") == 2 and number.name in err, err
    assert not half_written(tmp_path)


@pytest.mark.parametrize("command", [["evaluate"], ["report"], ["export", "--jsonl", "--csv"]])
def test_a_signal_while_results_are_written_leaves_the_old_ones_or_the_new_ones(tmp_path, command):
    run = make_run(tmp_path / "run", THE_19[:6], n=200, steps=4)
    for wait_s in (0.3, 0.8, 1.5, 2.5):
        process = started(command[0], run.root, *command[1:], cwd=tmp_path)
        until(lambda p=process: takes_signals(p) or p.poll() is not None, "no handler")
        time.sleep(wait_s)
        code, err, _ = ended(process, signal.SIGTERM)
        # -15: when the work is done Python takes its handlers back before it ends, so a signal then has its default action.
        assert code in (0, 143, -signal.SIGTERM), err
        assert not half_written(tmp_path), (wait_s, half_written(tmp_path))
    done = started(command[0], run.root, *command[1:], cwd=tmp_path)
    assert ended(done)[0] == 0


def test_a_signal_during_the_data_stage_stops_it_and_the_same_command_goes_on(tmp_path):
    arguments = ("run", "demo", *SMALL, "--stage", "data", "--out", "out")
    moments = {
        "the launch begins": lambda: (tmp_path / "out/logs/driver.log").exists(),
        "papers or the base model are half-made": lambda: any(tmp_path.glob("**/.cache/**/*.tmp")),
    }
    for numbers in ([signal.SIGTERM], [signal.SIGTERM, signal.SIGTERM]):
        for moment, is_there in moments.items():
            process = started(*arguments, cwd=tmp_path)
            until(lambda p=process: takes_signals(p) or p.poll() is not None, "no handler")
            until(lambda p=process, m=is_there: m() or p.poll() is not None, f"{moment}: never")
            code, err, out = ended(process, *numbers)
            assert code in (0, 75, 130, 143, -signal.SIGTERM), (moment, code, err, out)
            if code == 75:
                assert "go on with: wlsweep run demo" in out, (moment, out)
            assert not half_written(tmp_path), (moment, half_written(tmp_path))
    assert ended(started(*arguments, cwd=tmp_path))[0] == 0


def test_a_signal_that_the_parent_ignores_stays_ignored(tmp_path):
    make_run(tmp_path / "run", THE_19[:2], n=20, steps=2)
    line = f"trap '' HUP; exec {sys.executable} -m wlsweep status run"
    process = subprocess.Popen(
        ["bash", "-c", line], cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    until(lambda: takes_signals(process) or process.poll() is not None, "no handler")
    assert ended(process, signal.SIGHUP)[0] == 0
