"""What a killed step left half-written goes; what another launch writes right now, and whatever is whole, stays."""

import os
import time

from tests.made_run import THE_19, make_run
from wlsweep.run.lease import hold
from wlsweep.run.partial import remove_partial_accounts, remove_partial_artifacts, remove_temporaries

A, B = THE_19[:2]


def leave(path, folder=False):
    path.parent.mkdir(parents=True, exist_ok=True)
    if folder:
        path.mkdir()
        (path / "weights.safetensors").write_bytes(b"0" * 100)
    else:
        path.write_text("half")
    return path


def snapshot(run):
    return {p: p.read_bytes() for p in sorted(run.root.rglob("*")) if p.is_file() and p.name != "lease.json"}


def test_everything_half_written_of_nobody_goes_and_the_rest_stays(tmp_path):
    run = make_run(tmp_path / "r", [A, B], n=8)
    whole = snapshot(run)
    left = {
        leave(run.condition(A) / ".model.tmp", folder=True),
        leave(run.condition(A) / ".trained.json.0a1b2c3d.tmp"),
        leave(run.checkpoints(B) / ".step_00000010.tmp", folder=True),
        leave(run.predictions / f".condition={B}.0a1b2c3d.tmp", folder=True),
        leave(run.data / ".test.parquet.0a1b2c3d.tmp"),
        leave(run.root / ".sweep.json.0a1b2c3d.tmp"),
        leave(run.metrics_json.parent / ".analysis.json.0a1b2c3d.tmp"),
        leave(run.report.parent / ".index.html.0a1b2c3d.tmp"),
    }
    assert set(remove_partial_artifacts(run)) == left
    assert snapshot(run) == whole and remove_partial_artifacts(run) == []


def test_what_a_live_launch_writes_stays(tmp_path):
    run = make_run(tmp_path / "r", [A, B], n=8)
    mine = leave(run.condition(A) / ".model.tmp", folder=True)
    theirs = leave(run.condition(B) / ".model.tmp", folder=True)
    predicted = leave(run.predictions / f".condition={B}.0a1b2c3d.tmp", folder=True)
    with hold(run.lease(B), "the other launch"):
        assert remove_partial_artifacts(run) == [mine]
    assert theirs.is_dir() and set(remove_partial_artifacts(run)) == {theirs, predicted}


def test_half_written_parts_of_the_shared_cache_go_after_a_day(tmp_path):
    run = make_run(tmp_path / "r", [A], n=8)
    fresh = leave(run.cache / "tokens" / ".table.0a1b2c3d.tmp", folder=True)
    old = leave(run.cache / "tokens" / ".other.0a1b2c3d.tmp", folder=True)
    os.utime(old, (time.time() - 2 * 86400,) * 2)
    assert remove_partial_artifacts(run) == [old] and fresh.is_dir()


def test_a_failed_condition_leaves_no_half_written_model(tmp_path):
    run = make_run(tmp_path / "r", [A], n=8)
    half = leave(run.condition(A) / ".model.tmp", folder=True)
    kept = leave(run.condition(A) / "model", folder=True)
    assert remove_temporaries(run.condition(A)) == [half] and kept.is_dir()


def test_a_half_written_account_stays_while_it_may_be_being_written(tmp_path):
    run = make_run(tmp_path / "r", [A], n=8)
    fresh, old = (leave(run.usage / f".group_{i}.json.{i}.tmp") for i in (1, 2))
    os.utime(old, (time.time() - 15,) * 2)
    assert remove_partial_artifacts(run) == [old]
    os.utime(fresh, (time.time() - 15,) * 2)
    assert remove_partial_accounts(run) == [fresh]
