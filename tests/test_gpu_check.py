"""The first day on a GPU, tried without one: lines, verdicts, going on, and parts that crash or hang."""

import json
import subprocess
import sys
import textwrap

import psutil
import pytest
import torch

from bench import gpu_check
from bench.gpu_check import Part, check_all, run_part
from wlsweep import self_check
from wlsweep.self_check import Line, judged, kernels, unmeasured


@pytest.fixture(autouse=True)
def work(tmp_path, monkeypatch):
    monkeypatch.setattr(gpu_check, "WORK", tmp_path)
    return tmp_path


def as_subprocess(monkeypatch, code):
    """Make a part's process run this code instead of the part."""
    real = subprocess.Popen

    def start(command, **more):
        return real([sys.executable, "-c", textwrap.dedent(code)], **more)

    monkeypatch.setattr(self_check.subprocess, "Popen", start)


def test_a_part_that_crashes_is_a_failed_line_with_its_last_words(monkeypatch):
    as_subprocess(monkeypatch, "raise RuntimeError('no kernel image is available')")
    (line,) = run_part("kernels", Part(lambda cpu: []), True, 60)
    assert line.verdict == "fail" and "no kernel image is available" in line.measured


def test_a_part_that_hangs_is_ended_and_not_measured(monkeypatch):
    as_subprocess(monkeypatch, "import time; time.sleep(600)")
    (line,) = run_part("kernels", Part(lambda cpu: [], limit_s=0.5), True, 60)
    assert line == unmeasured("kernels", line.measured) and "not done after" in line.measured


def test_what_a_part_started_ends_with_it_also_in_a_session_of_its_own():
    """As torchrun's ranks have; one that lived on would hold the GPU of the parts after it."""
    code = """if True:
        import subprocess, sys, time
        rank = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'], start_new_session=True)
        print(rank.pid, flush=True)
        time.sleep(600)
    """
    part = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, start_new_session=True)
    rank = psutil.Process(int(part.stdout.readline()))
    self_check.kill_with_all(part)
    assert psutil.wait_procs([rank], timeout=60)[1] == []


def test_a_part_whose_engine_is_missing_says_which():
    (line,) = run_part("memory", Part(lambda cpu: [], ("no_such_engine",)), True, 60)
    assert line.verdict == "not measured" and "no_such_engine is not installed" in line.measured


def test_what_is_settled_is_not_run_again_and_what_failed_is(monkeypatch, work):
    ran = []

    def fake(name, part, cpu, left):
        ran.append(name)
        return [judged(name, "", "1", name == "good" or len(ran) > 2)]

    monkeypatch.setattr(gpu_check, "run_part", fake)
    every = {"good": Part(lambda cpu: []), "bad": Part(lambda cpu: [])}
    assert check_all(every, True, again=False) == 1
    assert check_all(every, True, again=False) == 0
    assert ran == ["good", "bad", "bad"]
    assert check_all(every, True, again=True) == 0 and ran[3:] == ["good", "bad"]
    record = json.loads((work / "results.json").read_text())
    assert record["device"] == "CPU" and record["parts"]["good"] == [["good", "", "1", "pass"]]


def test_a_part_that_does_not_run_on_a_cpu_is_no_success(monkeypatch):
    monkeypatch.setattr(gpu_check, "run_part", lambda name, *_: [unmeasured(name, "its engine did not start")])
    assert check_all({"speed": Part(lambda cpu: [])}, True, again=True) == 1


def test_results_of_another_device_are_not_taken_over(monkeypatch, work):
    old = {"device": "NVIDIA H100", "parts": {"good": [["x", "", "", "pass"]]}}
    (work / "results.json").write_text(json.dumps(old))
    monkeypatch.setattr(gpu_check, "run_part", lambda *_: [Line("new", "", "", "pass")])
    check_all({"good": Part(lambda cpu: [])}, True, again=False)
    assert json.loads((work / "results.json").read_text())["parts"]["good"][0][0] == "new"


def test_attention_as_training_calls_it_is_judged_against_float32():
    lines = kernels(True)
    assert [line.verdict for line in lines] == ["pass", "pass"]


def test_a_kernel_that_is_wrong_fails_its_line(monkeypatch):
    from wlsweep.train import packed

    right = packed.packed_attention

    def leaking(*arguments, boundaries, **more):  # rows that see each other
        return right(*arguments, boundaries=boundaries[[0, -1]], **more)

    monkeypatch.setattr(packed, "packed_attention", leaking)
    assert [line.verdict for line in kernels(True)] == ["pass", "fail"]


def test_without_a_gpu_nothing_is_claimed(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["gpu_check"])
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert gpu_check.main() == 0
    assert capsys.readouterr().out.startswith("not measured: no GPU")
