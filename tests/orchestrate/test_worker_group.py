"""What a group takes for trained, and how conditions pass from a trial to its workers."""

import os
import shutil
import socket
import threading
import time
from contextlib import nullcontext
from dataclasses import replace
from multiprocessing import AuthenticationError
from types import SimpleNamespace

import pytest
import torch

from tests.made_run import make_run
from wlsweep.errors import SharedFailure
from wlsweep.orchestrate import worker_group
from wlsweep.orchestrate.mailbox import Assignment, Attempt, GroupMailbox, GroupMember, MailboxServer, Outcome
from wlsweep.orchestrate.worker_group import is_trained
from wlsweep.run.layout import RunDir, read_json, write_json
from wlsweep.run.usage_meter import UsageMeter
from wlsweep.spec.condition import parse_name
from wlsweep.spec.config import load_sweep
from wlsweep.train import loop
from wlsweep.train.job import OutOfMemory

PLAIN = parse_name("baseline_gamma1.0_prop1_2")
ASSIGNED = Assignment(None, PLAIN, "", "", "me")
FIRST, SECOND = Attempt(PLAIN.name, 1), Attempt(PLAIN.name, 2)
NEXT = replace(ASSIGNED, condition=parse_name("accept_gamma2.0_prop1_2"))
STAGED = replace(PLAIN, two_stage=True)


def in_thread(work):
    thread = threading.Thread(target=work)
    thread.start()
    return thread


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


def test_a_condition_that_no_group_began_with_can_be_withdrawn():
    box = GroupMailbox(max_retries=1)
    box.assign(ASSIGNED)
    box.withdraw()
    assert box.follow(0, 0)[1] == Outcome("stopped", None, 0)


def test_a_condition_that_a_group_began_with_is_not_withdrawn():
    box = GroupMailbox(max_retries=1)
    box.assign(ASSIGNED)
    assert box.take("rank 0").attempt == 1
    box.withdraw()
    assert box.outcome is None


def test_a_condition_whose_workers_die_is_tried_again_and_then_fails_with_the_cause():
    box = GroupMailbox(max_retries=1)
    box.assign(ASSIGNED)
    assert [box.take("first").attempt, box.take("second").attempt] == [1, 2]
    box.note(SECOND, "the first word counts")
    box.note(SECOND, "what followed from it")
    third = in_thread(lambda: box.take("third"))
    assert box.follow(0, 5)[1] == Outcome("failed", "the first word counts", 2)
    box.close()
    third.join(5)


def test_an_attempt_that_a_lost_node_ended_is_not_counted():
    nodes = {"a", "b"}
    box = GroupMailbox(max_retries=0, node_lives=nodes.__contains__)
    box.assign(ASSIGNED)
    box.join("rank 0", "a")
    assert box.take("first").attempt == 1
    nodes.remove("a")
    box.join("rank 0 again", "b")
    assert box.take("second").attempt == 2, "a node left: not the condition's fault"
    third = in_thread(lambda: box.take("third"))
    assert box.follow(0, 5)[1].state == "failed", "no node left this time"
    box.close()
    third.join(5)


def test_a_node_that_left_after_the_group_had_moved_away_excuses_no_attempt():
    nodes = {"a", "b"}
    box = GroupMailbox(max_retries=1, node_lives=nodes.__contains__)
    box.assign(ASSIGNED)
    box.join("first", "a")
    box.take("first")
    box.left("first")
    box.join("second", "b")
    box.take("second")
    nodes.remove("a")  # nothing of the second attempt ran there
    box.left("second")
    box.join("third", "b")
    third = in_thread(lambda: box.take("third"))
    assert box.follow(0, 5)[1].state == "failed" and box.excused == 0
    box.close()
    third.join(5)


def test_a_node_that_left_before_a_condition_began_excuses_no_attempt_of_it():
    nodes = {"a", "b"}
    box = GroupMailbox(max_retries=1, node_lives=nodes.__contains__)
    box.join("first", "a")
    nodes.remove("a")
    box.join("second", "b")
    box.assign(ASSIGNED)
    box.take("second")
    box.take("third")
    assert box.excused == 0


def test_a_condition_whose_group_lost_its_workers_can_be_withdrawn_until_it_is_taken_again():
    box = GroupMailbox(max_retries=1)
    box.assign(ASSIGNED)
    box.take("first")
    box.take("second")
    box.left("first")  # noticed late: the second has it
    box.withdraw()
    assert box.outcome is None
    box.left("second")
    box.withdraw()
    assert box.outcome == Outcome("stopped", None, 2)


def test_what_a_worker_says_late_does_not_count_for_the_next_condition():
    box = GroupMailbox(max_retries=0)
    box.assign(ASSIGNED)
    box.take("first")
    box.finish(FIRST, "done")
    box.finish(FIRST, "failed", "the first end counts")
    assert box.outcome == Outcome("done", None, 1)
    box.assign(NEXT)
    box.take("first")
    box.log(FIRST, {"step": 9})
    box.note(FIRST, "of the condition before")
    box.finish(FIRST, "failed", "of the condition before")
    assert (box.lines, box.cause, box.outcome) == ([], None, None)
    box.note(None, "said before a condition was known")
    assert box.cause == "said before a condition was known"


@pytest.fixture
def opened():
    box = GroupMailbox(max_retries=1)
    server = MailboxServer(box, "127.0.0.1")
    yield box, server
    server.close()


def test_a_worker_takes_logs_and_finishes_over_its_connection(opened):
    box, server = opened
    box.assign(ASSIGNED)
    member = GroupMember(server.address, "node")
    assert member.take() == replace(ASSIGNED, attempt=1)
    member.log({"step": 1})
    member.finish("failed", "nan", True)
    assert box.follow(0, 0) == ([{"step": 1}], Outcome("failed", "nan", 1, True))
    box.close()
    assert member.take() is None
    member.leave()


def test_a_worker_asks_its_trial_whether_to_stop(opened):
    box, server = opened
    box.assign(ASSIGNED)
    member = GroupMember(server.address, "node")
    member.take()
    assert not member.asked_to_stop()
    box.withdraw()
    assert member.asked_to_stop() and box.outcome is None, "it has the condition in hand, and saves it"
    member.finish("stopped")
    assert box.outcome.state == "stopped"
    member.leave()


def test_a_worker_that_lost_its_connection_has_nothing_in_hand(opened):
    box, server = opened
    box.assign(ASSIGNED)
    member = GroupMember(server.address, "node")
    assert member.take().attempt == 1
    member.leave()
    with socket.socket(fileno=os.dup(member._connection.fileno())) as s:
        s.shutdown(socket.SHUT_RDWR)  # what the end of its process does
    end = time.monotonic() + 5
    while box._members and time.monotonic() < end:
        time.sleep(0.001)
    box.withdraw()
    assert box.outcome == Outcome("stopped", None, 1)


@pytest.mark.skipif(not hasattr(socket, "TCP_USER_TIMEOUT"), reason="Linux has it")
def test_a_message_to_a_machine_that_vanished_is_given_up_after_a_minute(opened):
    _, server = opened
    member = GroupMember(server.address, "node", orphaned=lambda: None)
    with socket.socket(fileno=os.dup(member._connection.fileno())) as s:
        assert s.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 60_000


def test_a_worker_that_cannot_reach_its_trial_leaves_the_cause_in_its_log(tmp_path, monkeypatch, capsys):
    context = SimpleNamespace(get_world_rank=lambda: 0, get_node_id=lambda: "node")
    monkeypatch.setattr(worker_group.ray.train, "get_context", lambda: context)
    monkeypatch.setattr(worker_group.ray, "get_runtime_context", lambda: context)
    monkeypatch.setattr(worker_group, "log_process_to", lambda log: None)

    def refuse(*_):
        raise ConnectionRefusedError("nobody listens")

    monkeypatch.setattr(worker_group, "GroupMember", refuse)
    with pytest.raises(ConnectionRefusedError):
        worker_group.work(
            {"logs": tmp_path, "group": "g", "mailbox": None, "usage": tmp_path / "usage", "gpus": 0, "cpus": 2}
        )
    (held,) = (tmp_path / "usage").iterdir()
    assert read_json(held)["cpus"] == 2, "what it held until then is counted"
    assert "ConnectionRefusedError: nobody listens" in capsys.readouterr().err


def test_a_group_takes_nothing_once_it_was_closed_and_is_not_started_again_for_ever(tmp_path, monkeypatch):
    over, made = threading.Event(), {}

    class Trainer:
        def __init__(self, work, **settings):
            made.update(settings)

        def fit(self):
            over.wait(20)

    monkeypatch.setattr(worker_group, "OwnedTrainer", Trainer)
    monkeypatch.setattr(worker_group.ray.util, "get_node_ip_address", lambda: "127.0.0.1")
    monkeypatch.setattr(worker_group, "CLOSE_PATIENCE_S", 0.01)
    group = worker_group.WorkerGroup(load_sweep("search_spaces/demo.toml").train, "g", RunDir(tmp_path))
    assert group.alive
    group.close()  # its workers hang, and outlast the patience
    assert group._thread.is_alive() and not group.alive
    over.set()
    group._thread.join(5)
    assert 0 < made["run_config"].failure_config.max_failures <= 1000


def test_a_worker_hears_at_once_that_its_trial_is_gone(opened):
    _, server = opened
    orphaned = threading.Event()
    GroupMember(server.address, "node", orphaned.set)
    server.close()
    assert orphaned.wait(5)


def test_a_worker_that_is_started_again_replaces_the_one_before(opened):
    box, server = opened
    dead, living = GroupMember(server.address, "node"), GroupMember(server.address, "node")
    found = []
    thread = in_thread(lambda: found.append(dead.take()))
    while box._taker is None:
        time.sleep(0.001)
    waiting = in_thread(lambda: found.append(living.take()))
    thread.join(5)
    assert found == [None], "a call of a dead process must not take a condition with it"
    box.assign(ASSIGNED)
    waiting.join(5)
    assert found[1].attempt == 1
    for member in (dead, living):
        member.leave()


def test_a_stranger_gets_nothing_and_keeps_nobody_waiting(opened):
    box, server = opened
    silent = socket.create_connection((server.address.host, server.address.port))
    with pytest.raises(AuthenticationError):
        GroupMember(server.address._replace(key=b"guessed"), "node")
    box.assign(ASSIGNED)
    member = GroupMember(server.address, "node")
    assert member.take().attempt == 1
    member.leave()
    silent.close()


class Told:
    """Keeps what a worker tells its trial."""

    def __init__(self):
        self.ends = []
        self.log = lambda line: None
        self.asked_to_stop = lambda: False

    def finish(self, *end):
        self.ends.append(end)


@pytest.mark.parametrize(
    ("error", "ends", "words", "shared"),
    [
        (
            torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.03 GiB."),
            True,
            "lower train.micro_batch",
            False,
        ),
        (SharedFailure("the base model has no head"), False, "has no head", True),
    ],
)
def test_what_would_fail_again_is_a_failure_at_once(tmp_path, monkeypatch, error, ends, words, shared):
    run = make_run(tmp_path, [PLAIN.name], n=20)
    member, sweep = Told(), load_sweep("search_spaces/demo.toml")

    def fail(*_):
        raise error

    monkeypatch.setattr(worker_group, "_rows", lambda *_: None)
    monkeypatch.setattr(worker_group, "log_process_to", lambda log: None)
    monkeypatch.setattr(loop, "_train_condition", fail)
    assignment = Assignment(sweep, PLAIN, str(run.root), "base", "me")
    # A rank that ran out of memory ends, so that those that wait for it in a collective end, too.
    with pytest.raises(OutOfMemory) if ends else nullcontext():
        place = SimpleNamespace(rank=1 if ends else 0)
        worker_group._train(
            member, assignment, place, tmp_path / "group.log", UsageMeter(tmp_path / "usage", "group", "train")
        )
    ((state, cause, *rest),) = member.ends
    assert state == "failed" and words in cause and rest == ([True] if shared else [])
