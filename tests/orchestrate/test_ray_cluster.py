"""What fits on a cluster is known before anything starts, and a cluster that does not answer is named."""

import os
import socket
import tempfile
from types import SimpleNamespace

import pytest
import ray
from ray.core.generated import gcs_pb2

from wlsweep.errors import WlsweepError
from wlsweep.orchestrate import ray_cluster
from wlsweep.orchestrate.capacity import Capacity, capacity, local_cpus
from wlsweep.orchestrate.signals import StopRequest
from wlsweep.orchestrate.stall import LaunchEnded
from wlsweep.spec.config import load_sweep

ICLR = load_sweep("search_spaces/iclr19.toml")  # 4 GPUs and 4 x 4 CPUs a condition, 1 GPU an engine
DEMO = load_sweep("search_spaces/demo.toml")
NODE = {"CPU": 64.0, "GPU": 4.0}


@pytest.mark.parametrize(
    ("nodes", "expected"),
    [
        ([NODE], Capacity(1, 4)),
        ([NODE] * 3, Capacity(3, 12, late=4)),
        ([{"CPU": 64.0, "GPU": 2.0}] * 2, Capacity(1, 4)),
        ([{"CPU": 16.0, "GPU": 4.0}] * 2, Capacity(1, 8, beside=3)),
        ([{"CPU": 64.0, "GPU": 6.0}], Capacity(1, 6, beside=2)),
        ([{"CPU": 64.0, "GPU": 3.0}] * 2, Capacity(1, 6, beside=2)),
    ],
)
def test_groups_and_engines_fill_the_gpus(nodes, expected):
    assert capacity(ICLR, nodes) == expected


def test_a_laptop_holds_one_group_and_one_engine():
    assert capacity(DEMO, [{"CPU": float(local_cpus(DEMO))}]) == Capacity(1, 1)


def test_a_machine_holds_the_groups_that_fit_and_an_engine_in_the_room_of_one_of_them(monkeypatch):
    def rooms(cores, workers, groups):
        monkeypatch.setattr(os, "cpu_count", lambda: cores)
        sweep = DEMO.model_copy(update={"train": DEMO.train.model_copy(update={"workers": workers, "groups": groups})})
        return capacity(sweep, [{"CPU": float(local_cpus(sweep))}])

    assert rooms(2, 1, 2) == Capacity(2, 1, late=1)
    assert rooms(2, 2, 2) == Capacity(1, 1)
    assert rooms(4, 1, 8) == Capacity(3, 1)
    assert rooms(16, 1, 2) == Capacity(2, 1, beside=1, late=1)


@pytest.mark.parametrize(("cpus", "beside"), [([6], 1), ([5], 0), ([3, 3], 0), ([3, 3, 3], 1), ([4, 4, 4], 1)])
def test_an_engine_runs_beside_training_only_where_no_placement_leaves_either_waiting(cpus, beside):
    """Demo: two workers of one CPU, an engine of two on one node, one CPU for Tune and one for Ray Data."""
    assert capacity(DEMO, [{"CPU": float(n)} for n in cpus]) == Capacity(1, 1, beside)


@pytest.mark.parametrize(
    ("sweep", "nodes", "message"),
    [
        (ICLR, [{"CPU": 64.0, "GPU": 3.0}], "training needs 4 workers .* room is for 3"),
        (ICLR, [{"CPU": 64.0}], "a vLLM engine needs 2 CPUs and 1 GPUs"),
        (DEMO, [{"CPU": 2.0}], "needs one more for its own bookkeeping"),
        (DEMO, [{"CPU": 1.0}, {"CPU": 1.0}, {"CPU": 1.0}], "engine needs 2 CPUs and 0 GPUs on one node"),
    ],
)
def test_what_does_not_fit_is_refused_with_what_is_missing(sweep, nodes, message):
    with pytest.raises(WlsweepError, match=message):
        capacity(sweep, nodes)


@pytest.fixture
def asked():
    """What was said, and a request to stop."""
    said = []
    return said, StopRequest(said.append)


def closed_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


@pytest.mark.parametrize("host", ["127.0.0.1", "no-such-host.invalid"])
def test_a_named_cluster_that_does_not_answer_is_one_error_that_names_it_and_the_way_out(monkeypatch, asked, host):
    said, stop = asked
    monkeypatch.setattr(ray_cluster, "ANSWER_S", 0.6)
    address = f"{host}:{closed_port()}"
    monkeypatch.setenv("RAY_ADDRESS", address)
    with pytest.raises(WlsweepError, match=rf"{address} \(RAY_ADDRESS\) does not answer(.|\n)*unset RAY_ADDRESS"):
        ray_cluster.connect(DEMO, said.append, stop)
    assert len(said) == 1 and f"for the Ray cluster at {address} (RAY_ADDRESS): " in said[0]


def test_a_stop_is_heard_while_a_named_cluster_does_not_answer(monkeypatch, asked):
    said, stop = asked
    monkeypatch.setenv("RAY_ADDRESS", f"127.0.0.1:{closed_port()}")
    stop.ask()
    with pytest.raises(LaunchEnded, match="asked to stop while waiting for the Ray cluster"):
        ray_cluster.connect(DEMO, said.append, stop)


@pytest.mark.parametrize(
    ("address", "said"), [("auto", "no Ray cluster runs on this machine"), ("head", "expected HOST:PORT")]
)
def test_an_address_that_leads_to_no_cluster_is_refused(monkeypatch, asked, tmp_path, address, said):
    monkeypatch.setenv("RAY_ADDRESS", address)
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    monkeypatch.setattr("ray._private.services.find_gcs_addresses", set)
    with pytest.raises(WlsweepError, match=f"(?s){said}.*unset RAY_ADDRESS"):
        ray_cluster.connect(DEMO, asked[0].append, asked[1])


@pytest.mark.parametrize("error", [Exception, RuntimeError, ConnectionError])
def test_a_local_ray_that_does_not_start_ends_the_launch_with_what_ray_says(monkeypatch, asked, error):
    """On a busy machine a raylet may take over 30 s: Ray then raises a plain Exception."""

    said, stop = asked

    def start(**settings):
        raise error("The current node timed out during startup.")

    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(ray, "init", start)
    with pytest.raises(LaunchEnded, match="could not be started on this machine: The current node timed out during"):
        ray_cluster.connect(DEMO, said.append, stop)


def test_ray_gets_a_short_temporary_folder_where_the_own_one_is_too_long_for_sockets(monkeypatch, asked):
    said, _ = asked
    monkeypatch.delenv("RAY_TMPDIR", raising=False)
    monkeypatch.setattr(tempfile, "tempdir", None)
    monkeypatch.setenv("TMPDIR", "/tmp/short")
    assert ray_cluster.short_temporary_folder(said.append) is None
    monkeypatch.setenv("TMPDIR", "/tmp/" + 125 * "x")
    folder = ray_cluster.short_temporary_folder(said.append)
    assert folder is not None and len(str(folder)) < 40 and "is too long for sockets (130 characters)" in said[0]
    assert os.environ["TMPDIR"] == str(folder.parent)


def test_where_no_short_folder_can_be_written_to_a_long_one_is_refused(monkeypatch, asked):
    monkeypatch.setenv("RAY_TMPDIR", "/tmp/" + 125 * "x")
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with pytest.raises(WlsweepError, match="set RAY_TMPDIR to a folder of at most 39 characters"):
        ray_cluster.short_temporary_folder(asked[0].append)


OURS, OTHERS = "01000000", "02000000"
GROUP_STATES = gcs_pb2.PlacementGroupTableData.PlacementGroupState
ACTOR_STATES = gcs_pb2.ActorTableData.ActorState


def group(job, state):
    return gcs_pb2.PlacementGroupTableData(creator_job_id=bytes.fromhex(job), state=GROUP_STATES.Value(state))


def actor(job, state, worker=b""):
    address = {"worker_id": worker}
    return gcs_pb2.ActorTableData(job_id=bytes.fromhex(job), state=ACTOR_STATES.Value(state), address=address)


@pytest.mark.parametrize(
    ("groups", "actors", "waits"),
    [
        ([], [], False),
        ([group(OURS, "CREATED")], [actor(OURS, "ALIVE", b"w")], False),
        ([group(OTHERS, "PENDING")], [actor(OTHERS, "PENDING_CREATION")], False),
        ([group(OURS, "CREATED")], [actor(OURS, "PENDING_CREATION", b"an engine that loads")], False),
        ([group(OURS, "CREATED"), group(OURS, "PENDING")], [], True),
        ([group(OURS, "RESCHEDULING")], [], True),
        ([], [actor(OURS, "PENDING_CREATION")], True),
        ([], [actor(OURS, "PENDING_CREATION", ray.WorkerID.nil().binary())], True),
        ([], [actor(OURS, "RESTARTING")], True),
    ],
)
def test_others_excuse_a_silence_only_while_something_of_this_job_waits_for_room(monkeypatch, groups, actors, waits):
    class Accessor:
        def get_placement_group_table(self):
            return [g.SerializeToString() for g in groups]

        def get_actor_table(self, job, state):
            value = ACTOR_STATES.Value(state)
            return [a.SerializeToString() for a in actors if a.job_id == job.binary() and a.state == value]

    jobs = [
        {"JobID": job, "IsDead": dead, "Entrypoint": said}
        for job, dead, said in ((OURS, False, "ours"), (OTHERS, False, "wlsweep run other.toml"), ("03", True, "old"))
    ]
    state = SimpleNamespace(_connect_and_get_accessor=Accessor, job_table=lambda: jobs)
    monkeypatch.setattr(ray._private.state, "state", state)
    monkeypatch.setattr(ray, "get_runtime_context", lambda: SimpleNamespace(get_job_id=lambda: OURS))
    monkeypatch.setenv("RAY_ADDRESS", "head:6379")
    assert ray_cluster.who_holds_room() == ("wlsweep run other.toml" if waits else None)
