"""The Ray cluster: join the one that the environment names, or start a local one; notice when it is gone; leave it.

Nothing here waits without an end: a named cluster is asked first whether it answers, its control process is watched as
long as the launch lasts, and leaving it takes seconds even if it does not answer any more.
"""

from __future__ import annotations

import contextlib
import logging
import os
import select
import signal
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from wlsweep.errors import WlsweepError
from wlsweep.orchestrate.capacity import local_cpus
from wlsweep.orchestrate.signals import StopRequest
from wlsweep.orchestrate.stall import LaunchEnded, Silence
from wlsweep.run.causes import one_line
from wlsweep.spec.config import Sweep

_SETTINGS = {
    "RAY_TRAIN_V2_ENABLED": "1",
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5",  # how soon a dead worker is noticed, and a report taken
    "RAY_TRAIN_ENABLE_PRINT_PATCH": "0",
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",  # a process a group; a worker that is lost resumes from its checkpoint
    # A group that finds no room yet (another sweep's, or a lost node's) waits; else each of its conditions would fail.
    "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": str(14 * 24 * 3600),
    "RAY_WARN_BLOCKING_GET_INSIDE_ASYNC": "0",  # Ray Train's controller does so, and would warn of itself
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_usage_stats_enabled": "0",
    "RAY_DEDUP_LOGS": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # the sweep has its own metric log
    "TUNE_MAX_PENDING_TRIALS_PG": "1",
    # Tune would write the state of all its trials into the run directory every ten seconds or more; nothing reads it again.
    "TUNE_GLOBAL_CHECKPOINT_S": str(14 * 24 * 3600),
    "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
    "RAY_ENABLE_AUTO_CONNECT": "0",  # a thread that is left behind must not start another cluster
    "HF_HUB_DISABLE_TELEMETRY": "1",
}
RAY = "2.60.0"
"""The version whose private names are used here and in `worker_group.py`."""
ANSWER_S = 60.0
"""How long a named cluster may take to answer: one that is being started needs some time."""
JOIN_S = 120.0
"""How long Ray may take to join a cluster that answers."""
SILENT_S = 45.0
"""Silence of the cluster's control process after which it counts as gone; Ray itself would end this process after 60."""
LOOK_S = 2.0
"""Seconds between two questions to the control process."""
LEAVE_S = 10.0
"""How long Ray may take to shut down."""
_LONGEST_SOCKET = 107
"""Bytes of the longest path of a UNIX socket on Linux."""
_RAYS_PART = len("/ray/session_2026-01-01_00-00-00_000000_4194304/sockets/plasma_store")
"""What Ray appends to a temporary directory at most."""


def named_cluster() -> str | None:
    """The cluster that RAY_ADDRESS names, or None where a local one is to be started."""
    address = os.environ.get("RAY_ADDRESS", "").strip()
    return None if address in ("", "local") else address


def is_connected() -> bool:
    """Whether this process is connected to a Ray cluster; imports nothing: Ray reads its settings as it is imported."""
    ray = sys.modules.get("ray")
    return bool(ray and ray.is_initialized())


def connect(sweep: Sweep, say: Callable[[str], None], stop: StopRequest) -> None:
    """Join the Ray cluster of RAY_ADDRESS (set inside `ray job submit`), or start one on this machine.

    Raises:
        WlsweepError: if the named cluster does not answer, or no local one can be started here.
        LaunchEnded: if the launch is asked to stop meanwhile, or a local cluster does not start.
    """
    global _watch
    for key, value in _SETTINGS.items():
        os.environ.setdefault(key, value)
    address = named_cluster()
    if address:
        _wait_for_answer(address, say, stop)
    import ray

    if ray.__version__ != RAY:
        raise WlsweepError(
            f"Ray {ray.__version__} is installed, worker groups are written for {RAY}: pip install ray=={RAY}"
        )
    quiet = {"log_to_driver": False, "logging_level": logging.ERROR}
    if address:
        # The cluster's processes were started by others: what must hold in them travels with the job.
        with _ended_if_stuck(f"the Ray cluster at {address} answers, but could not be joined. {_UNSET}", stop):
            ray.init(runtime_env={"env_vars": _SETTINGS}, **quiet)
    else:
        # Below, a raylet warns the terminal of more than four processes a CPU; a sweep has a dozen, most of them idle.
        os.environ.setdefault("RAY_worker_maximum_startup_concurrency", str(max(16, os.cpu_count() or 1)))
        # What an engine started ends with it, however that ended.
        os.environ.setdefault("RAY_process_group_cleanup_enabled", "true")
        folder = short_temporary_folder(say)
        local = {"num_cpus": local_cpus(sweep), "include_dashboard": False, "_temp_dir": folder and str(folder)}
        with _ended_if_stuck("Ray could not be started on this machine", stop):
            try:
                ray.init(address="local", **local, **quiet)
            except Exception as e:  # one of its processes died, or took 30 s, for which Ray has a plain Exception
                raise LaunchEnded(f"Ray could not be started on this machine: {one_line(str(e))}") from e
    for name in ("ray.tune", "ray.train", "ray.data", "ray.air"):
        logging.getLogger(name).setLevel(logging.ERROR)
    _watch = ClusterWatch(address)


_UNSET = "Start it, name another one, or `unset RAY_ADDRESS` to run on this machine"


def _wait_for_answer(address: str, say: Callable[[str], None], stop: StopRequest) -> None:
    """Return once the control process of a named cluster listens.

    Raises:
        WlsweepError: if there is none, or it does not listen for `ANSWER_S` seconds.
    """
    if address == "auto":
        from ray._private.services import canonicalize_bootstrap_address_or_die

        try:
            target = canonicalize_bootstrap_address_or_die("auto")
        except (ConnectionError, ValueError):
            raise WlsweepError(f"RAY_ADDRESS is auto, and no Ray cluster runs on this machine. {_UNSET}") from None
    else:
        target = address.removeprefix("ray://")
    host, colon, port = target.rpartition(":")
    if not (colon and host and port.isdigit()):
        raise WlsweepError(f"RAY_ADDRESS is {address!r}: expected HOST:PORT or auto. {_UNSET}")
    end, why = time.monotonic() + ANSWER_S, ""
    while time.monotonic() < end:
        if stop.asked():
            raise LaunchEnded(f"asked to stop while waiting for the Ray cluster at {address}")
        try:
            socket.create_connection((host.strip("[]"), int(port)), timeout=2).close()
            return
        except OSError as e:
            if not why:
                say(f"waiting up to {ANSWER_S:.0f} s for the Ray cluster at {address} (RAY_ADDRESS): {e.strerror or e}")
            why = e.strerror or str(e)
        time.sleep(0.5)
    raise WlsweepError(
        f"the Ray cluster at {address} (RAY_ADDRESS) does not answer for {ANSWER_S:.0f} s: {why}. {_UNSET}"
    )


@contextmanager
def _ended_if_stuck(problem: str, stop: StopRequest) -> Iterator[None]:
    """End the process if the block does not end, or at a signal: Ray waits in C++, where Python hears of no signal."""
    ours, theirs = socket.socketpair()
    theirs.setblocking(False)
    try:
        before = signal.set_wakeup_fd(theirs.fileno(), warn_on_full_buffer=False)
    except ValueError:  # not in the main thread: signals are heard there
        before = None
    over = threading.Event()

    def watch() -> None:
        end = time.monotonic() + JOIN_S
        while not over.is_set():
            heard = select.select([ours], [], [], 0.2)[0] and ours.recv(64)
            if not over.is_set() and heard and set(heard) & {signal.SIGINT, signal.SIGTERM, signal.SIGUSR1}:
                _end_now(f"asked to stop: {problem}", 75, stop)
            if time.monotonic() > end:
                _end_now(f"error: {problem} ({JOIN_S:.0f} s)", 2, stop)

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        if before is not None:
            signal.set_wakeup_fd(before)
        thread.join()
        ours.close()
        theirs.close()


def _end_now(message: str, code: int, stop: StopRequest) -> None:
    with contextlib.suppress(OSError):
        os.write(1, f"{message}\n".encode())
    try:
        stop.clear()
    finally:  # whatever fails, the process must not stay
        os._exit(code)


def short_temporary_folder(say: Callable[[str], None]) -> Path | None:
    """Where a local cluster keeps its sockets, if not in Ray's own default: UNIX sockets have short paths only.

    Raises:
        WlsweepError: if the temporary directory is too long and no shorter one can be written to.
    """
    for variable in ("RAY_TMPDIR", "TMPDIR"):
        folder = os.environ.get(variable, "")
        if folder and len(os.fsencode(folder)) + _RAYS_PART > _LONGEST_SOCKET:
            break
    else:
        return None
    for short in ("/tmp", "/var/tmp", "/dev/shm"):  # noqa: S108 - made below with mkdtemp's care
        if os.access(short, os.W_OK | os.X_OK):
            found = Path(short) / f"wlsweep-{os.getuid()}"
            found.mkdir(mode=0o700, exist_ok=True)
            if found.stat().st_uid == os.getuid() and not found.is_symlink():
                say(f"{variable} is too long for sockets ({len(folder)} characters): {found} is used instead")
                os.environ["TMPDIR"] = str(found)  # vLLM makes sockets there, too
                os.environ.pop("RAY_TMPDIR", None)
                tempfile.tempdir = None
                return found / "ray"
    raise WlsweepError(
        f"{variable}={folder} is too long: Ray's sockets there would have more than {_LONGEST_SOCKET} characters; "
        f"set {variable} to a folder of at most {_LONGEST_SOCKET - _RAYS_PART} characters"
    )


class ClusterWatch:
    """Watches the cluster that this process is connected to, and gives back what lost processes had booked.

    A placement group outlives the process that asked for it for as long as this driver lives (Ray's own rule); so those of
    trial processes that died are removed here.
    """

    def __init__(self, address: str | None) -> None:
        self.address = address
        self._silence = Silence(SILENT_S)
        self._failure = ""
        self.over = threading.Event()
        threading.Thread(target=self._look, daemon=True).start()

    def lost(self) -> str | None:
        """Why the cluster cannot be used any more, or None. Never waits."""
        for what, process in _local_processes():
            if process.poll() is not None:
                return f"{what} on this machine ended; what was being worked on goes on from its checkpoint"
        self._silence.tick()
        if self._silence.over:
            where = f"at {self.address}" if self.address else "on this machine"
            return f"the control process of the Ray cluster {where} does not answer any more ({self._failure or 'silence'})"
        return None

    def _look(self) -> None:
        while not self.over.wait(LOOK_S):
            try:
                remove_orphaned_placement_groups()
                self._silence.broken()
            except Exception as e:  # noqa: BLE001 - whatever it is, the cluster did not answer
                self._failure = str(e).splitlines()[0] if str(e) else type(e).__name__


_watch: ClusterWatch | None = None


def lost_cluster() -> str | None:
    """Why the cluster cannot be used any more, or None."""
    return _watch.lost() if _watch else None


def who_holds_room() -> str | None:
    """Other living jobs of the cluster, by their commands, if something of this job waits for room; else None.

    Where all that this job asked for has its place, silence is its own, whoever else uses the cluster.
    """
    import ray

    if named_cluster() is None or not _waits_for_room():
        return None
    own = ray.get_runtime_context().get_job_id()
    jobs = ray._private.state.state.job_table()
    others = [j["Entrypoint"] or f"job {j['JobID']}" for j in jobs if not j["IsDead"] and j["JobID"] != own]
    others = [e for e in others if "dashboard" not in e]
    return "; ".join(others) or None


def _placement_groups() -> Iterator[Any]:
    """The placement groups that this job asked for, as the control process records them."""
    import ray
    from ray.core.generated.gcs_pb2 import PlacementGroupTableData

    own = ray.get_runtime_context().get_job_id()
    for data in ray._private.state.state._connect_and_get_accessor().get_placement_group_table():
        group = PlacementGroupTableData.FromString(data)
        if group.creator_job_id.hex() == own:
            yield group


def _waits_for_room() -> bool:
    """Whether a placement group or an actor of this job has no place yet."""
    import ray
    from ray.core.generated import gcs_pb2

    waiting = [gcs_pb2.PlacementGroupTableData.PlacementGroupState.Value(s) for s in ("PENDING", "RESCHEDULING")]
    if any(group.state in waiting for group in _placement_groups()):
        return True
    own = ray.JobID.from_hex(ray.get_runtime_context().get_job_id())
    accessor = ray._private.state.state._connect_and_get_accessor()
    none = (b"", ray.WorkerID.nil().binary())
    # An actor that has a worker process has its place: it is being made, an engine for minutes.
    return any(
        gcs_pb2.ActorTableData.FromString(data).address.worker_id in none
        for state in ("PENDING_CREATION", "RESTARTING")
        for data in accessor.get_actor_table(own, state)
    )


def remove_orphaned_placement_groups() -> None:
    """Remove this job's placement groups whose creating process is dead."""
    import ray
    from ray.util.placement_group import PlacementGroup, remove_placement_group

    driver = ray.ActorID.nil().binary()
    for group in _placement_groups():
        gone = group.state == group.PlacementGroupState.Value("REMOVED")
        by_actor = group.creator_actor_id not in (b"", driver)
        if by_actor and group.creator_actor_dead and not gone:
            remove_placement_group(PlacementGroup(ray._raylet.PlacementGroupID(group.placement_group_id)))


def _local_processes() -> list[tuple[str, Any]]:
    """What the processes of the local cluster are without which nothing goes on, and they; none where it was joined."""
    import ray

    node = ray._private.worker._global_node
    if node is None or not node.head:
        return []
    needed = {"gcs_server": "Ray's control process (gcs_server)", "raylet": "Ray's node process (raylet)"}
    return [(what, info.process) for k, what in needed.items() for info in node.all_processes.get(k, ())]


def leave() -> None:
    """Leave the cluster, and end the local one; takes seconds, whatever state it is in."""
    import ray

    if _watch:
        _watch.over.set()
    thread = threading.Thread(target=ray.shutdown, daemon=True)
    thread.start()
    thread.join(timeout=LEAVE_S)


def local_nodes(sweep: Sweep) -> list[dict[str, float]]:
    """What a local cluster will have, before it is started."""
    gpus = len(list(Path("/proc/driver/nvidia/gpus").glob("*")))
    if (visible := os.environ.get("CUDA_VISIBLE_DEVICES")) is not None:  # which Ray obeys
        gpus = min(gpus, len([g for g in visible.split(",") if g.strip() not in ("", "-1")]))
    return [{"CPU": float(local_cpus(sweep)), "GPU": float(gpus)}]


def cluster_nodes() -> list[dict[str, float]]:
    """Resources of each living node of the cluster that this process is connected to."""
    import ray

    return [n["Resources"] for n in ray.nodes() if n["Alive"]]
