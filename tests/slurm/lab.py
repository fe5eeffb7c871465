"""A throw-away SLURM on one Linux machine: slurmctld, slurmd and munge from packages, each node in its own namespaces.

Every machine (login, node1, node2 ...) has its own process numbers, mounts, network, host name, /tmp and /dev/shm, so
that SLURM and Ray behave as on separate hosts, and SIGKILL to its first process is a crash. It needs root, and leaves
nothing outside its own folder: no user, no address and no service of the host is touched.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).parent
REPOSITORY = HERE.parents[1]
NET = "10.77.0"
USERS = {"owner": 2001, "stranger": 2002}
NEEDED = ("slurmctld", "slurmd", "sbatch", "munged", "ip", "unshare", "nsenter", "setpriv")
PYTHON = REPOSITORY / ".venv" / "bin" / "python"
ENDED = ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "PREEMPTED", "OUT_OF_MEMORY")


def why_not() -> str | None:
    """Why a test cluster cannot run here, or None."""
    if os.geteuid() != 0:
        return "needs root, for namespaces"
    missing = [c for c in NEEDED if not shutil.which(c)]
    if missing:
        return f"needs {', '.join(missing)} (Debian: slurmctld slurmd slurm-client munge iproute2 util-linux)"
    return None if subprocess.run(["unshare", "--net", "true"], check=False).returncode == 0 else "needs namespaces"


def _python() -> str:
    return str(PYTHON) if PYTHON.exists() else sys.executable


def until(true, seconds: float, what: str, every: float = 0.2):
    """Wait until a call returns something true; returns it."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if found := true():
            return found
        time.sleep(every)
    raise AssertionError(f"after {seconds:.0f} s: {what}")


class Lab:
    """The running cluster."""

    def __init__(self, nodes: int = 2, spare: int = 1, cpus: int = 6, memory_mb: int = 12_000, gpus: int = 2) -> None:
        """Spare nodes are known to SLURM, and off until a test boots them."""
        self.root = Path(tempfile.mkdtemp(prefix="wlslurm", dir="/tmp"))
        self.root.chmod(0o755)
        self.nodes, self.cpus, self.memory_mb, self.gpus = nodes, cpus, memory_mb, gpus
        self.known = nodes + spare
        self.first: dict[str, int] = {}
        self.started: dict[str, str] = {}
        for folder in ("etc", "log", "state", "ctld", "spool", "machines", "munge", "home"):
            (self.root / folder).mkdir(mode=0o755)
        for user, uid in USERS.items():
            self.home(user).mkdir(mode=0o755)
            os.chown(self.home(user), uid, uid)
        shutil.chown(self.root / "ctld", "slurm")
        self._write_etc()
        self._munge()

    def home(self, user: str = "owner") -> Path:
        """A user's home, on the shared file system."""
        return self.root / "home" / user

    def _write_etc(self) -> None:
        etc = self.root / "etc"
        names = [f"{NET}.254 login", *(f"{NET}.{i} node{i}" for i in range(1, self.known + 1))]
        (etc / "hosts").write_text("\n".join(["127.0.0.1 localhost", *names]) + "\n")
        passwd, group = Path("/etc/passwd").read_text(), Path("/etc/group").read_text()
        for user, uid in USERS.items():
            passwd += f"{user}:x:{uid}:{uid}::{self.home(user)}:/bin/bash\n"
            group += f"{user}:x:{uid}:\n"
        (etc / "passwd").write_text(passwd)
        (etc / "group").write_text(group)
        (etc / "resolv.conf").write_text("nameserver 127.0.0.1\noptions timeout:1 attempts:1\n")
        freezer = "/sys/fs/cgroup/freezer cgroup " in Path("/proc/mounts").read_text()
        (etc / "slurm.conf").write_text(
            f"""ClusterName=wltest
SlurmctldHost=login({NET}.254)
SlurmUser=slurm
AuthType=auth/munge
AuthInfo=cred_expire=5
CredType=cred/munge
MpiDefault=none
ProctrackType=proctrack/{"cgroup" if freezer else "pgid"}
TaskPlugin=task/none
AccountingStorageType=accounting_storage/none
StateSaveLocation={self.root}/ctld
SlurmdSpoolDir={self.root}/spool/%n
SlurmctldPidFile={self.root}/ctld/pid
SlurmdPidFile={self.root}/state/slurmd.%n.pid
SlurmctldLogFile={self.root}/log/slurmctld.log
SlurmdLogFile={self.root}/log/slurmd.%n.log
SlurmdParameters=config_overrides
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
GresTypes=gpu
SchedulerParameters=bf_interval=2,sched_interval=2,sched_min_interval=0,batch_sched_delay=0
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
SlurmctldParameters=preempt_send_user_signal
JobRequeue=1
KillWait=8
MinJobAge=3600
SlurmdTimeout=15
SlurmctldTimeout=15
ReturnToService=2
UnkillableStepTimeout=30
NodeName=node[1-{self.known}] NodeAddr={NET}.[1-{self.known}] CPUs={self.cpus} RealMemory={self.memory_mb} """
            f"""Gres=gpu:{self.gpus} State=UNKNOWN
PartitionName=normal Nodes=ALL Default=YES MaxTime=INFINITE PriorityTier=10 PreemptMode=OFF
PartitionName=scavenge Nodes=ALL MaxTime=INFINITE PriorityTier=1 PreemptMode=REQUEUE GraceTime=60
"""
        )
        (etc / "gres.conf").write_text(
            f"AutoDetect=off\nNodeName=node[1-{self.known}] Name=gpu Flags=nvidia_gpu_env "
            f"File=/dev/fakegpu[0-{self.gpus - 1}]\n"
        )
        (etc / "cgroup.conf").write_text("CgroupPlugin=cgroup/v1\nCgroupMountpoint=/sys/fs/cgroup\n")

    def _munge(self) -> None:
        folder = self.root / "munge"
        (folder / "key").write_bytes(os.urandom(1024))
        (folder / "key").chmod(0o400)
        for path in (folder, folder / "key"):
            shutil.chown(path, "munge", "munge")
        options = {
            "key-file": "key",
            "socket": "munge.socket.2",
            "pid-file": "pid",
            "seed-file": "seed",
            "log-file": "log",
        }
        command = [
            "setpriv",
            "--reuid=munge",
            "--regid=munge",
            "--clear-groups",
            shutil.which("munged") or "munged",
            "-F",
        ]
        with (self.root / "log" / "munged.out").open("w") as out:
            self.munged = subprocess.Popen(
                [*command, *(f"--{k}={folder / v}" for k, v in options.items())], stdout=out, stderr=out
            )

    def up(self) -> Lab:
        """Start all machines and wait until SLURM has them all."""
        self._start("login")
        self._in_net(
            "login",
            f"ip link set lo up; ip link add br0 type bridge; ip addr add {NET}.254/24 dev br0; ip link set br0 up",
        )
        until((self.root / "munge" / "munge.socket.2").exists, 10, "munge did not start")
        (self.root / "state" / "login.net").touch()
        for i in range(1, self.nodes + 1):
            self.boot(i)
        self.wait_for_nodes(self.nodes)
        return self

    def wait_for_nodes(self, count: int, seconds: float = 60) -> None:
        """Wait until so many nodes are idle."""

        def idle() -> bool:
            done = self.on("login", "sinfo", "-h", "-N", "-p", "normal", "-t", "idle", "-o", "%N", check=False)
            return len(done.stdout.split()) == count

        until(idle, seconds, f"SLURM has not {count} idle nodes; logs in {self.root}/log")

    def boot(self, i: int) -> None:
        """Start (again) the machine node`i`."""
        name = f"node{i}"
        self._start(name)
        self._in_net(
            "login",
            f"ip link add v{i} type veth peer name eth0 netns {self.first[name]}; ip link set v{i} master br0 up",
        )
        self._in_net(
            name,
            f"ip link set lo up; ip addr add {NET}.{i}/24 dev eth0; ip link set eth0 up; "
            f"ip route add default via {NET}.254",
        )
        (self.root / "state" / f"{name}.net").touch()

    def _start(self, name: str) -> None:
        for mark in ("booted", "net"):
            (self.root / "state" / f"{name}.{mark}").unlink(missing_ok=True)
        seen = dict.fromkeys(str(p.resolve()) for p in (REPOSITORY, Path(sys.prefix), Path(sys.base_prefix)))
        command = [
            "unshare",
            "--fork",
            "--pid",
            "--kill-child",
            "--mount-proc",
            "--mount",
            "--uts",
            "--ipc",
            "--net",
            "--cgroup",
        ]
        with (self.root / "log" / f"{name}.out").open("w") as out:
            shell = subprocess.Popen(
                [*command, "bash", str(HERE / "machine.sh"), str(self.root), name, str(self.gpus), *seen],
                stdin=subprocess.DEVNULL, stdout=out, stderr=out, start_new_session=True,
                env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/root"},
            )  # fmt: skip
        children = Path(f"/proc/{shell.pid}/task/{shell.pid}/children")
        self.first[name] = int(until(lambda: children.read_text().strip(), 10, f"{name} did not start"))
        until((self.root / "state" / f"{name}.booted").exists, 20, f"{name} did not boot: {self.root}/log/{name}.out")

    def _in_net(self, name: str, script: str) -> None:
        subprocess.run(["nsenter", "-t", str(self.first[name]), "-n", "sh", "-ec", script], check=True)

    def crash(self, name: str) -> None:
        """Power off: every process of the machine gets SIGKILL, nobody is told."""
        pid = self.first.pop(name)
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        until(
            lambda: not Path(f"/proc/{pid}/stat").exists() or " Z " in Path(f"/proc/{pid}/stat").read_text(), 20, name
        )

    def down(self) -> None:
        """End everything, and remove the folder."""
        for name in list(self.first):
            self.crash(name)
        self.munged.terminate()
        self.munged.wait(10)
        end = time.monotonic() + 10
        for folder in Path("/sys/fs/cgroup").glob("*/slurm_node*"):
            for path in [*sorted(folder.rglob("*/"), reverse=True), folder]:
                # Busy until the processes killed above are gone; for longer, they are those of a cluster beside this one.
                while path.exists() and time.monotonic() < end:
                    with contextlib.suppress(OSError):
                        path.rmdir()
                    time.sleep(0.05)
        shutil.rmtree(self.root, ignore_errors=True)

    def on(
        self, name: str, *command: str, user: str | None = None, cwd: Path | None = None, check: bool = True,
        env: dict[str, str] | None = None, timeout: float = 120,
    ) -> subprocess.CompletedProcess[str]:  # fmt: skip
        """Run a command on a machine, as root or as one of the users."""
        where = cwd or (self.home(user) if user else Path("/"))
        become = []
        environment = {"PATH": "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin", "LANG": "C.UTF-8", **(env or {})}
        if user:
            become = ["setpriv", f"--reuid={USERS[user]}", f"--regid={USERS[user]}", "--clear-groups"]
            environment |= {
                "HOME": str(self.home(user)), "USER": user, "PYTHONPATH": str(REPOSITORY), "HF_HUB_OFFLINE": "1",
                "PYTHONDONTWRITEBYTECODE": "1",
            } | (env or {})  # fmt: skip
        done = subprocess.run(
            ["nsenter", "-t", str(self.first[name]), "-m", "-u", "-i", "-n", "-p", "-C", f"--wd={where}", "env", "-i",
             *(f"{k}={v}" for k, v in environment.items()), *become, *command],
            capture_output=True, text=True, timeout=timeout, check=False,
        )  # fmt: skip
        assert not check or done.returncode == 0, (
            f"{command} on {name}: {done.returncode}\n{done.stdout}\n{done.stderr}"
        )
        return done

    def wlsweep(
        self, *arguments: str, user: str = "owner", check: bool = True, **more
    ) -> subprocess.CompletedProcess[str]:
        """`wlsweep` on the login machine."""
        return self.on("login", _python(), "-m", "wlsweep", *arguments, user=user, check=check, **more)

    def python(self, name: str, *arguments: str, **more) -> subprocess.CompletedProcess[str]:
        """Python on a machine, as the owner unless told otherwise."""
        return self.on(name, _python(), *arguments, **{"user": "owner", **more})

    def site(self, **changes) -> Path:
        """A site file for this cluster."""
        values = {
            "partition": "normal", "cpus_per_node": 3, "memory_gb": 5, "time": "10", "warning_s": 60,
            "shared": str(self.root / "home"), "listen": "network", "python": _python(), **changes,
        }  # fmt: skip
        path = self.home() / f"site-{len(list(self.home().glob('site-*')))}.toml"
        path.write_text("".join(f"{k} = {json.dumps(v)}\n" for k, v in values.items() if v is not None))
        return path

    def submit(self, sweep: Path, *options: str, site: Path | None = None) -> int:
        """Submit a sweep as the owner; returns the job id."""
        out = self.wlsweep("submit", str(sweep), "--site", str(site or self.site()), *options).stdout
        return next(int(line.split()[1]) for line in out.splitlines() if line.startswith("job:"))

    def variant(self, name: str, **changes) -> Path:
        """The small sweep under another name, with other values for some keys."""
        text = re.sub('name = ".*"', f'name = "{name}"', (HERE / "small.toml").read_text())
        for key, value in changes.items():
            text, hits = re.subn(rf"^{key} = .*$", f"{key} = {json.dumps(value)}", text, flags=re.M)
            if not hits:
                text = text.replace("[train]", f"[train]\n{key} = {json.dumps(value)}")
        path = self.home() / f"{name}.toml"
        path.write_text(text)
        return path

    def steps(self, run: str, condition: str = "baseline_gamma1.0_prop1_2") -> list[str]:
        """Lines of a condition's metric log so far, one a step."""
        path = self.home() / "runs" / run / "conditions" / condition / "metrics.jsonl"
        return path.read_text().splitlines() if path.exists() else []

    def until_step(self, run: str, step: int, seconds: float = 600) -> None:
        """Wait until a run's first condition has trained for so many steps."""
        until(lambda: len(self.steps(run)) >= step, seconds, f"{run} has not reached step {step}")

    def job(self, job: int | str) -> dict[str, str]:
        """What SLURM says of a job."""
        text = self.on("login", "scontrol", "-o", "show", "job", str(job)).stdout.splitlines()[0]
        return dict(part.split("=", 1) for part in text.split() if "=" in part)

    def wait(self, job: int | str, seconds: float = 300) -> dict[str, str]:
        """Wait until a job has ended for good; returns what SLURM says of it."""
        until(lambda: self.job(job)["JobState"] in ENDED, seconds, f"job {job} still runs", every=1)
        return self.job(job)

    def training_on(self, *names: str) -> bool:
        """Whether training workers of the owner run on each of these machines at this moment."""
        return all(any(p.startswith("ray::RayTrainWorker") for p in self.processes(n)) for n in names)

    def processes(self, name: str, user: str = "owner") -> list[str]:
        """What a user runs on a machine."""
        return self.on(name, "ps", "-u", str(USERS[user]), "-o", "args=", check=False).stdout.splitlines()
