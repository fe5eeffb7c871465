"""Any one file of a run damaged in any way: every command gives the right result, or one error that names file and remedy,
and leaves the results as they were."""

import errno
import gc
import json
import os
import re
from contextlib import nullcontext
from pathlib import Path

import pytest

from tests.damage import WAYS, failing, fresh_copy, unreadable, wlsweep
from tests.made_run import THE_19, make_run
from wlsweep.analysis.evaluate import evaluate
from wlsweep.report.page import write_report
from wlsweep.run.layout import RunDir, write_json
from wlsweep.run.status import record_failure

BASE, OTHER, FAILED, LEFT_OUT, HELD = THE_19[0], THE_19[1], THE_19[4], THE_19[2], THE_19[5]
COMMANDS = {
    "status": ["status", "--json"],
    "evaluate": ["evaluate"],
    "report": ["report"],
    "forecast": ["forecast", "--json"],
    "export": ["export", "--jsonl"],
}


@pytest.fixture(scope="module")
def template(tmp_path_factory):
    """A small finished run with a failed condition, one left out and one that another launch holds."""
    root = tmp_path_factory.mktemp("work") / "run"
    run = make_run(root, [BASE, OTHER, LEFT_OUT, FAILED, HELD], n=24, steps=4, leave_out=[LEFT_OUT, FAILED, HELD])
    record_failure(run, FAILED, "train", "out of luck")
    write_json(run.skipped_json, {LEFT_OUT: "no open hypothesis hangs on it"})
    write_json(run.logs / "seconds.json", {"train": 1.0, "all": 2.0})
    lease = {"owner": "node 7", "machine": "elsewhere", "pid": 1, "started": "1", "nonce": "n"}
    run.lease(HELD).write_text(json.dumps(lease))
    write_json(run.plan_json, {"made_at": "2026-01-01T00:00:00Z", "plan": {"gpu_hours": 1.0}})
    worked = {"what": "work", "stage": "train", "conditions": [BASE], "seconds": 9.0}
    write_json(
        run.usage / "group_1.json",
        {"holder": "group", "host": "here", "gpus": 0, "cpus": 2, "began": 0.0, "spans": [worked]},
    )
    for name in (BASE, OTHER):
        write_json(run.condition_config(name), {"condition": {}})
    write_report(run, evaluate(run, draws=20))
    kept = root.with_name("template")
    root.rename(kept)
    return kept


@pytest.fixture(scope="module", autouse=True)
def quick():
    """Evaluations of 20 draws, no PNGs, and no collection of garbage in the middle of a correction."""
    import wlsweep.report.png as png

    kept = evaluate.__defaults__, png.Renderer, gc.collect
    evaluate.__defaults__ = (None, (), 20)
    png.Renderer = nullcontext
    gc.collect = lambda *_: 0  # statsmodels calls it at each correction
    yield
    evaluate.__defaults__, png.Renderer, gc.collect = kept


FILES = [
    "sweep.json", "skipped.json", "data/data.json", "data/test.parquet", "logs/seconds.json",
    *(f"conditions/{name}/{file}" for name in (BASE, OTHER) for file in ("trained.json", "metrics.jsonl", "config.json")),
    *(f"predictions/condition={name}/part-0.parquet" for name in (BASE, OTHER)),
    f"conditions/{FAILED}/failed.json", f"conditions/{HELD}/lease.json",
    "metrics/all_metrics.json", "metrics/all_metrics.parquet", "metrics/by_year.parquet", "metrics/analysis.json",
    "report/index.html", "plan.json", "usage/group_1.json", "metrics/usage.json",
]  # fmt: skip

APART = ("logs", "report", "plan", "usage", "metrics/usage")
"""What `status` and `report` read or write, and no other command."""


def results(run, command):
    """Bytes of what a command writes; `report` may evaluate again before it fails, and that stays."""
    folders = [run.report.parent, run.root / "export", *([run.metrics_json.parent] if command != "report" else [])]
    return {p: p.read_bytes() for folder in folders for p in sorted(folder.rglob("*")) if p.is_file()}


def told(command, run, out):
    """What a command says of each condition: (whether it is done, all that it says, its reason)."""
    if command == "status":
        found = json.loads(out)
        if found["data"] == "missing":  # no prediction can be judged without the test set
            assert not run.data_json.exists() or not run.test_parquet.exists()
            return {}
        return {c["name"]: (c["predict"] == "done", c, c["cause"]) for c in found["conditions"]}
    if command in ("evaluate", "report"):
        if command == "report":
            assert "made" in run.report.read_text()
        return {e["name"]: (e["state"] == "done", e, e["cause"]) for e in json.loads(run.metrics_json.read_text())}
    if command == "forecast":
        found = json.loads(out)
        return {c["name"]: (c.get("measured") is not None, c, None) for c in found["conditions"]}
    return {Path(line).parent.name: (True, Path(line).read_text(), None) for line in out.split()}


@pytest.fixture(scope="module")
def clean(template):
    """What each command says of the undamaged run."""
    found = {}
    for command, arguments in COMMANDS.items():
        root = fresh_copy(template, template.with_name("run"))
        os.utime(RunDir(root).lease(HELD))
        code, out, err = wlsweep(arguments[0], root, *arguments[1:])
        assert code == 0, err
        found[command] = told(command, RunDir(root), out)
    return found


def check(command, run, damaged, clean, done):
    """The one claim: the right result, or one error."""
    code, out, err = done
    rel = str(damaged.relative_to(run.root))
    if code == 2:
        assert err.startswith("error: ") and "Traceback" not in err, err
        assert damaged.name in err or damaged.parent.name.removeprefix("condition=") in err, (
            f"{rel} is not named: {err}"
        )
        assert re.search("delete|move it away|run|permission|give|--only|put", err), err
        return "error"
    assert code == 0, (code, out, err)
    said = told(command, run, out)
    for name, (was_done, all_of_it, _) in clean.items():
        if name not in said:
            assert (command == "export" and name in rel) or (command == "status" and not said), (name, said)
            continue
        is_done, now, why = said[name]
        if (is_done, now) != (was_done, all_of_it) and command != "forecast":
            of_it = name in rel or rel == "skipped.json"
            assert of_it, (rel, name, now, all_of_it)
            if command in ("evaluate", "report") and was_done:
                assert not is_done and why, (now, why)
        if command == "forecast" and not is_done and was_done:
            assert name in rel
    return "result"


@pytest.mark.parametrize("file", FILES)
def test_one_damaged_file_gives_the_right_result_or_one_error(template, clean, file):
    outcomes = set()
    for way in (*WAYS, "no permission"):
        for command, arguments in COMMANDS.items():
            if (file.startswith(APART) or file.endswith("config.json")) and command not in ("status", "report"):
                continue  # nothing else comes near it
            run = RunDir(fresh_copy(template, template.with_name("run")))
            os.utime(run.lease(HELD))  # a heartbeat
            damaged = run.root / file
            before = results(run, command)
            if way == "no permission":
                hidden = unreadable(damaged)
            else:
                WAYS[way](damaged)
                before = results(run, command)
                hidden = nullcontext()
            try:
                with hidden:
                    done = wlsweep(arguments[0], run.root, *arguments[1:])
                outcome = check(command, run, damaged, clean[command], done)
            except Exception as e:
                raise AssertionError(f"{command} with {file} {way}: {type(e).__name__}: {e}") from e
            if outcome == "error":
                assert results(run, command) == before, f"{command} with {file} {way} changed results before its error"
            left = list(run.root.rglob("*.tmp"))
            assert not left, f"{command} with {file} {way} left {left}"
            outcomes.add(outcome)
    assert outcomes


FAULTS = [
    ("write", errno.ENOSPC), ("write", errno.EACCES), ("write", errno.EROFS), ("write", errno.EIO),
    ("rename", errno.EACCES), ("rename", errno.EIO), ("mkdir", errno.ENOSPC), ("mkdir", errno.ENOTDIR),
    ("open", errno.EACCES), ("open", errno.EIO), ("open", errno.EMFILE), ("list", errno.EACCES), ("list", errno.EIO),
    ("stat", errno.EACCES), ("stat", errno.EIO), ("stat", errno.ESTALE),
]  # fmt: skip


@pytest.mark.parametrize("command", COMMANDS)
def test_one_failing_kind_of_system_call_gives_the_right_result_or_one_error(template, clean, command):
    for kind, number in FAULTS:
        run = RunDir(fresh_copy(template, template.with_name("run")))
        os.utime(run.lease(HELD))
        before = results(run, "evaluate")
        with failing({kind: number}, lambda path, root=str(run.root): path.startswith(root)):
            code, out, err = wlsweep(COMMANDS[command][0], run.root, *COMMANDS[command][1:])
        what = f"{command} with {kind} failing with {os.strerror(number)}: {err}"
        if code == 2:
            assert err.startswith("error: ") and str(run.root) in err, what
            assert results(run, "evaluate") == before, what
        else:
            assert code == 0, what
            said = told(command, run, out)
            for name, (was_done, all_of_it, _) in clean[command].items():
                now = said.get(name)
                assert now is None or now[1] == all_of_it or (was_done and not now[0] and now[2]), (what, name, now)
        assert not list(run.root.rglob("*.tmp")), what


def test_the_right_error_for_a_full_disk_names_the_file_and_says_what_to_do(template):
    run = RunDir(fresh_copy(template, template.with_name("run")))
    with failing({"write": errno.ENOSPC}, lambda path: path.startswith(str(run.root))):
        code, _, err = wlsweep("evaluate", run.root)
    assert code == 2
    assert re.search(r"metrics/\w+\.\w+ cannot be written: No space left on device; free some space", err)


def test_a_deleted_working_directory_is_one_error(template, tmp_path, monkeypatch):
    lost = tmp_path / "lost"
    lost.mkdir()
    monkeypatch.chdir(lost)
    lost.rmdir()
    code, _, err = wlsweep("status", template)
    assert code == 2 and err == "error: the working directory was deleted; change to one that exists (cd)\n"


def test_names_and_selections_of_thousands_of_characters_are_short_errors(template):
    for arguments in (
        ["status", "x" * 5000],
        ["plan", "y" * 5000],
        ["plan", "demo", "--data", "z" * 5000],
        ["plan", "demo", "--only", "7" * 5000],
        ["evaluate", template, "--external", "a=" + "w" * 5000],
        ["export", template, "--sharegpt", "v" * 5000],
    ):
        code, _, err = wlsweep(*arguments)
        assert code == 2 and err.startswith("error: "), (arguments[0], err[:300])
        assert len(err) < 6500 and "Traceback" not in err
