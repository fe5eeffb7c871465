"""What a group takes for trained, and what a desk does with a condition that no group has begun with."""

import asyncio
import shutil
from contextlib import nullcontext
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from tests.made_run import make_run
from wlsweep.errors import SharedFailure
from wlsweep.orchestrate import worker_group
from wlsweep.orchestrate.mailbox import Assignment, GroupMailbox, TrialCounter
from wlsweep.orchestrate.worker_group import is_trained
from wlsweep.run.layout import read_json, write_json
from wlsweep.spec.condition import parse_name
from wlsweep.spec.config import load_sweep
from wlsweep.train import loop

PLAIN = parse_name("baseline_gamma1.0_prop1_2")
STAGED = replace(PLAIN, two_stage=True)


def test_a_dropped_model_is_trained_again_only_where_a_second_stage_starts_from_it(tmp_path):
    run = make_run(tmp_path, [PLAIN.name, "accept_gamma2.0_prop1_2"], n=20)
    record = read_json(run.trained(PLAIN.name)) | {"sweep_fingerprint": read_json(run.sweep_json)["fingerprint"]}
    write_json(run.trained(PLAIN.name), record)
    alone = load_sweep("search_spaces/demo.toml")
    staged = type("Space", (), {"conditions": (*alone.conditions, STAGED)})()
    assert is_trained(run, PLAIN, alone) and not is_trained(run, PLAIN, staged)
    run.model(PLAIN.name).mkdir()
    assert is_trained(run, PLAIN, staged)
    shutil.rmtree(run.prediction(PLAIN.name))
    assert is_trained(run, PLAIN, alone)
    run.model(PLAIN.name).rmdir()
    assert not is_trained(run, PLAIN, alone)


def test_a_condition_is_withdrawn_only_before_a_group_begins_with_it():
    async def outcomes():
        found = []
        for taken in (False, True):
            desk = GroupMailbox(max_retries=1)
            await desk.assign(Assignment(None, PLAIN, "", "", "", "me"))
            if taken:
                assert (await desk.take("rank 0")).attempt == 1
            await desk.withdraw()
            found.append((await desk.follow(0))[1] if not taken else desk.outcome)
        return found

    waiting, running = asyncio.run(outcomes())
    assert waiting.state == "stopped" and waiting.attempts == 0 and running is None


def test_the_ledger_counts_what_is_trained():
    ledger = TrialCounter(["a", "b"], done=3)
    ledger.start("a")
    assert [ledger.end("failed"), ledger.end("done")] == [3, 4] and not ledger.is_over()
    ledger.start("b")
    assert ledger.is_over()


class ToldMailbox:
    """Keeps what a group tells its mailbox, without Ray."""

    def __init__(self):
        self.told = []
        self.log = self.finish = self

    def remote(self, *what):
        self.told.append(what)


@pytest.mark.parametrize(
    ("error", "ends", "words"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.03 GiB."), True, "lower train.micro_batch"),
        (SharedFailure("the base model has no head"), False, "has no head"),
    ],
)
def test_what_would_fail_again_is_a_failure_at_once(tmp_path, monkeypatch, error, ends, words):
    run = make_run(tmp_path, [PLAIN.name], n=20)
    mailbox, sweep = ToldMailbox(), load_sweep("search_spaces/demo.toml")

    def fail(*_):
        raise error

    monkeypatch.setattr(worker_group, "_rows", lambda *_: None)
    monkeypatch.setattr(worker_group.ray, "get", lambda x: x)
    monkeypatch.setattr(loop, "_train_condition", fail)
    assignment = Assignment(sweep, PLAIN, str(run.root), "base", str(tmp_path / "stop"), "me")
    # A rank that ran out of memory ends, so that those that wait for it in a collective end, too.
    with pytest.raises(loop.OutOfMemory) if ends else nullcontext():
        worker_group._train(mailbox, assignment, SimpleNamespace(rank=1 if ends else 0))
    ((state, cause),) = mailbox.told
    assert state == "failed" and words in cause
