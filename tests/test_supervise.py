"""However the process ends that does the work of `wlsweep run`, the one that the user started says so and ends too."""

import os
import signal
import subprocess
import sys
import time
from contextlib import suppress

import psutil
import pytest

PROGRAM = """
import os, signal, subprocess, sys, time
from wlsweep.supervise import ends_in_order, supervised
sys.argv = ["wlsweep", "run", "a sweep"]
for number in (signal.SIGHUP, signal.SIGINT):
    signal.signal(number, signal.SIG_DFL)  # under nohup, or in the background, it would be ignored
def work():
{}
supervised(work)
"""


def started(*lines, **more):
    code = PROGRAM.format("\n".join(f"    {line}" for line in lines))
    return subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        start_new_session=True, **more,
    )  # fmt: skip


def ended(*lines):
    process = started(*lines)
    out, err = process.communicate(timeout=60)
    return process.returncode, out, err


def is_over(pid, seconds=30):
    """Whether a process ends; a zombie has ended and waits for its parent."""
    end = time.monotonic() + seconds
    with suppress(psutil.NoSuchProcess):
        while psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
            if time.monotonic() > end:
                return False
            time.sleep(0.02)
    return True


@pytest.mark.parametrize(
    ("line", "code"),
    [
        ("pass", 0), ("sys.exit(2)", 2), ("os._exit(130)", 130), ("os._exit(75)", 75),
        ("ends_in_order(); os._exit(1)", 1), ("sys.exit(1)", 1),
    ],
)  # fmt: skip
def test_an_end_that_is_meant_is_passed_on_without_a_word(line, code):
    assert ended(line) == (code, "", "")


def test_a_traceback_is_an_end_that_is_told_already():
    code, out, err = ended("raise ValueError('a bug')")
    assert (code, out) == (1, "") and err.rstrip().endswith("ValueError: a bug")


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("os._exit(1)", "Ray ended this launch: its node process (raylet) on this machine is gone"),
        ("os.kill(os.getpid(), signal.SIGKILL)", "SIGKILL (by the system where memory ran out, or by hand)"),
        ("os.kill(os.getpid(), signal.SIGSEGV)", "SIGSEGV"),
    ],
)
def test_an_end_without_a_word_is_told_and_can_be_gone_on_with(line, why):
    code, out, err = ended(line)
    assert (code, err) == (75, "") and why in out
    assert out.endswith("goes on from its checkpoint with: wlsweep run 'a sweep'\n") and out.count("\n") == 1


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1])
@pytest.mark.parametrize("whom", ["the process", "its group, as a terminal does"])
def test_a_signal_is_passed_on_once(number, whom):
    process = started(
        "heard = []",
        f"signal.signal({int(number)}, lambda n, _: heard.append(n))",
        "print('ready', flush=True)",
        "while not heard: time.sleep(0.01)",
        "time.sleep(0.3)",
        "print(heard)",
    )
    assert process.stdout.readline() == "ready\n"
    os.kill(process.pid, number) if whom == "the process" else os.killpg(process.pid, number)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out, err) == (0, f"[{int(number)}]\n", "")


def test_stopped_and_continued_like_a_job_of_a_shell():
    process = started("print('ready', os.getpid(), flush=True)", "time.sleep(1000)")
    child = psutil.Process(int(process.stdout.readline().split()[1]))
    both = [psutil.Process(process.pid), child]
    for number, state in ((signal.SIGTSTP, True), (signal.SIGCONT, False)):
        os.killpg(process.pid, number)
        end = time.monotonic() + 30
        while [p.status() == psutil.STATUS_STOPPED for p in both] != [state, state]:
            assert time.monotonic() < end, (number, [p.status() for p in both])
            time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=60) == 75 and "SIGTERM" in process.stdout.read()


def test_the_child_ends_with_its_supervisor():
    process = started("print(os.getpid(), flush=True)", "time.sleep(1000)")
    child = int(process.stdout.readline())
    process.kill()
    process.wait()
    assert is_over(child)


@pytest.mark.parametrize("end", ["os._exit(0)", "os._exit(1)", "os.kill(os.getpid(), signal.SIGKILL)"])
def test_what_a_launch_started_ends_with_it_also_what_its_own_processes_started_before_they_were_killed(end):
    other = subprocess.Popen(["sleep", "1000"])
    process = started(
        "child = subprocess.Popen(['bash', '-c', 'sleep 1000 & echo $!; wait'], stdout=subprocess.PIPE, text=True)",
        "orphan = int(child.stdout.readline())",
        "child.kill()",
        "child.wait()",
        "alone = subprocess.Popen(['sleep', '1000'], start_new_session=True)",
        "print(orphan, alone.pid, flush=True)",
        end,
    )
    pids = [int(word) for word in process.stdout.readline().split()]
    assert len(pids) == 2
    process.wait(timeout=60)
    try:
        assert not any(psutil.pid_exists(pid) for pid in pids), "its end was not waited for"
        assert other.poll() is None
    finally:
        other.kill()
        other.wait()


def test_a_launch_whose_process_is_killed_says_how_to_go_on(tmp_path):
    process = subprocess.Popen(
        [sys.executable, "-m", "wlsweep", "run", "demo", "--stage", "data", "--out", "out"],
        cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    assert process.stdout.readline() == "data: begins\n"
    (driver,) = psutil.Process(process.pid).children()
    driver.kill()
    out, err = process.communicate(timeout=60)
    assert process.returncode == 75 and "Traceback" not in err
    assert out.endswith("goes on from its checkpoint with: wlsweep run demo --stage data --out out\n")
