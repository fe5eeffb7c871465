"""The batch script: its exact text, its shell, and what hostile names do to it."""

from __future__ import annotations

import os
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wlsweep.errors import WlsweepError
from wlsweep.slurm.script import Job, JobResources, index_ranges, job_resources, render_script, sbatch_command
from wlsweep.slurm.site import Site, load_site
from wlsweep.slurm.submit import SubmitOptions, submit
from wlsweep.spec.config import load_sweep

ROOT = Path(__file__).parents[2]
HERE = Path(__file__).parent
GPU = load_site(ROOT / "cluster/sites/gpu-4.toml")
CPU = load_site(ROOT / "cluster/sites/cpu.toml")
ICLR19 = load_sweep(ROOT / "search_spaces/iclr19.toml")
DEMO = load_sweep(ROOT / "search_spaces/demo.toml")


def a_job(site: Site, base: str, ask: JobResources, **changes) -> Job:
    """A job whose folders lie in `base`."""
    workdir = Path(base)
    run = workdir / "runs" / "s"
    script = run / "slurm" / "20260102T030405-00ff.sh"
    driver = ("run", str(script.with_suffix(".toml")), "--out", str(run))
    return replace(Job("wl-s", site, ask, workdir, run, script, driver, None, None), **changes)


ONE = a_job(GPU, "/project/me", job_resources(GPU, ICLR19, 2, array=False), only="7-10,accept_*")
ARRAY = a_job(
    CPU.model_copy(update={"requeue": False}),
    "/home/me",
    job_resources(CPU, DEMO, 1, array=True),
    array="0-2,7",
    only="0-2,7",
)
GOLDEN = {"allocation.sh": ONE, "array.sh": ARRAY}


@pytest.mark.parametrize("name", GOLDEN)
def test_the_script_is_the_one_that_was_read_and_approved(name):
    path = HERE / "golden" / name
    script = render_script(GOLDEN[name])
    if os.environ.get("WLSWEEP_WRITE_GOLDEN"):
        path.write_text(script)
    assert script == path.read_text(), (
        "if the change is meant: WLSWEEP_WRITE_GOLDEN=1 pytest tests/slurm, and read the diff"
    )


@pytest.mark.parametrize("name", GOLDEN)
def test_shellcheck_has_nothing_to_say(name):
    if not shutil.which("shellcheck"):
        pytest.skip("shellcheck is not installed")
    done = subprocess.run(["shellcheck", "-"], input=render_script(GOLDEN[name]), capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_a_condition_of_an_array_asks_for_its_share_of_a_node():
    # 4 workers of one GPU each fill the site's node; 2 workers would take half of it.
    half = ICLR19.model_copy(update={"train": ICLR19.train.model_copy(update={"workers": 2})})
    assert job_resources(GPU, ICLR19, 1, array=True) == JobResources(1, 64, 4, 256 * 1024)
    assert job_resources(GPU, half, 1, array=True) == JobResources(1, 32, 2, 128 * 1024)
    assert job_resources(GPU, ICLR19, 2, array=True) == JobResources(2, 32, 2, 128 * 1024)
    assert job_resources(CPU, DEMO, 1, array=True) == JobResources(1, 3, 0, 32 * 1024 * 3 // 16)


def test_whole_nodes_are_asked_for_whole():
    whole = GPU.model_copy(update={"whole_nodes": True})
    assert job_resources(whole, ICLR19, 2, array=True) == JobResources(2, 64, 4, 256 * 1024)


def test_a_sweep_that_does_not_fit_is_refused_before_it_waits_in_the_queue():
    with pytest.raises(WlsweepError, match="training needs 4 workers of 4 CPUs and 1 GPUs each; room is for 0"):
        job_resources(CPU, ICLR19, 1, array=False)


def test_a_cluster_that_listens_on_loopback_has_one_node():
    with pytest.raises(WlsweepError, match='listen = "network"'):
        job_resources(CPU, DEMO, 2, array=False)


@given(st.sets(st.integers(0, 60), min_size=1))
def test_index_ranges_say_the_same_indices(indices):
    back: set[int] = set()
    for part in index_ranges(sorted(indices)).split(","):
        lo, _, hi = part.partition("-")
        back |= set(range(int(lo), int(hi or lo) + 1))
    assert back == indices


NASTY = [
    "a b",
    "it's",
    'say "hi"',
    "$(touch BAD)",
    "`touch BAD`",
    "$HOME;touch BAD",
    "-rf",
    "*",
    "a&b|c>d",
    "{{ 7 * 7 }}",
    "ünï",
]


@pytest.mark.parametrize("nasty", NASTY)
def test_hostile_names_reach_the_sweep_as_they_are(tmp_path, nasty):
    """The script runs under bash with SLURM's and wlsweep's commands replaced by one that prints its arguments."""
    base = tmp_path / nasty
    base.mkdir()
    fake = tmp_path / "bin"
    fake.mkdir()
    show = """#!/bin/bash
    if [ "$2 $3" = "wlsweep.slurm.job_steps begin" ]; then mkdir -p "$4/a"; echo "$4/a"; echo 127.0.0.1:1; fi
    if [ "$2" = wlsweep.slurm.node ]; then echo $$ >"$WLSWEEP_ATTEMPT/step"; exec sleep 30; fi
    if [ "$2" = wlsweep ]; then printf '%s\\0' "$@" >"$SEEN"; fi
    """
    (fake / "srun").write_text('#!/bin/bash\nwhile [ "${1#--}" != "$1" ]; do shift; done\nexec "$@"\n')
    (fake / "py thon").write_text(show)
    (fake / "scancel").write_text('#!/bin/bash\nkill "${2#7.}"\n')
    for f in fake.iterdir():
        f.chmod(0o755)
    site = CPU.model_copy(
        update={"python": str(fake / "py thon"), "setup": [], "shared": str(tmp_path), "scratch": str(tmp_path / nasty)}
    )
    job = a_job(site, str(base), job_resources(CPU, DEMO, 1, array=False), only=nasty)
    job = replace(job, driver=(*job.driver, "--data", f"{nasty}.json"))
    seen = tmp_path / "seen"
    environment = {
        **os.environ,
        "PATH": f"{fake}:{os.environ['PATH']}",
        "SLURM_JOB_ID": "7",
        "SEEN": str(seen),
        "SLURM_JOB_NODELIST": "n",
    }
    done = subprocess.run(
        ["bash", "-c", render_script(job)], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    got = seen.read_text().split("\0")[:-1]
    assert got == ["-m", "wlsweep", *job.driver, "--only", nasty]
    assert not list(tmp_path.rglob("BAD"))


def attempts(tmp_path, status, starts, work="true", signal=""):
    """Which of some starts of one job ask to come back, with SLURM's and wlsweep's commands replaced.

    `status` is what the sweep ends with, `work` what each start does to the run directory `$RUN`.
    """
    fake = tmp_path / "bin"
    fake.mkdir()
    show = f"""#!/bin/bash
    if [ "$2 $3" = "wlsweep.slurm.job_steps begin" ]; then mkdir -p "$4/a"; echo "$4/a"; echo 127.0.0.1:1; fi
    if [ "$2" = wlsweep.slurm.node ]; then echo $$ >"$WLSWEEP_ATTEMPT/step"; exec sleep 30; fi
    if [ "$2" = wlsweep ]; then {work}; {f"kill -{signal} $PPID; sleep 1.5" if signal else ":"}; exit {status}; fi
    """
    (fake / "srun").write_text('#!/bin/bash\nwhile [ "${1#--}" != "$1" ]; do shift; done\nexec "$@"\n')
    (fake / "python").write_text(show)
    (fake / "scancel").write_text('#!/bin/bash\nkill "${2#7.}"\n')
    (fake / "scontrol").write_text('#!/bin/bash\necho "$@" >>"$ASKED"; kill -KILL $PPID\n')
    for f in fake.iterdir():
        f.chmod(0o755)
    site = CPU.model_copy(update={"python": str(fake / "python"), "shared": str(tmp_path), "scratch": str(tmp_path)})
    job = a_job(site, str(tmp_path), job_resources(CPU, DEMO, 1, array=False))
    job.script.parent.mkdir(parents=True)
    asked = tmp_path / "asked"
    path = f"{fake}:{os.environ['PATH']}"
    found = []
    for start in range(starts):
        environment = {**os.environ, "PATH": path, "SLURM_JOB_ID": "7", "SLURM_JOB_NODELIST": "n", "ASKED": str(asked)}
        environment |= {"SLURM_RESTART_COUNT": str(start), "RUN": str(job.run)}
        asked.unlink(missing_ok=True)
        subprocess.run(
            ["bash", "-c", render_script(job)], cwd=tmp_path, env=environment, capture_output=True, timeout=60
        )
        (tmp_path / "wl7.d").mkdir(exist_ok=True)  # as after a start that was killed: the next one must not stumble
        found.append(asked.exists() and asked.read_text() == "requeue 7\n")
    return found


STEP = 'mkdir -p "$RUN/conditions/a"; echo step >>"$RUN/conditions/a/metrics.jsonl"'


def test_a_sweep_that_ended_itself_comes_back_as_long_as_it_makes_steps(tmp_path):
    assert attempts(tmp_path, 75, 3, STEP) == [True, True, True]


def test_a_sweep_that_made_no_step_in_two_starts_does_not_come_back_a_third_time(tmp_path):
    assert attempts(tmp_path, 75, 2) == [True, False]


def test_a_sweep_that_is_warned_before_it_makes_a_step_twice_does_not_come_back(tmp_path):
    assert attempts(tmp_path, 75, 2, signal="USR1") == [True, False]


def test_a_sweep_that_failed_does_not_come_back(tmp_path):
    assert attempts(tmp_path, 1, 1, STEP) == [False]


PLAIN = {
    "partition": "p", "account": "a", "qos": "q", "gres": "gpu", "time": "60", "python": "python", "shared": "/s",
    "scratch": "/t", "login": "me@login",
}  # fmt: skip
LISTS = {"prefix": "run", "sbatch": "--constraint=x", "setup": "true"}
BARE = ("partition", "account", "qos", "gres", "time", "sbatch")
"""What stands in `#SBATCH` lines, where nothing can be quoted."""
TEXT = st.text(st.sampled_from("ab1/$`'\"\\ ;#-=%&\n\r\t\u2028\x00")) | st.text()


@given(st.sampled_from([*PLAIN, *LISTS]), TEXT, st.sampled_from(["", "/s", "--constraint=", "p"]))
def test_no_value_of_a_site_adds_a_line_to_the_script(key, text, before):
    def script(values: dict) -> list[str]:
        site = Site(cpus_per_node=4, memory_gb=8, gpus_per_node=1, **values)
        return render_script(a_job(site, f"{site.shared}/me", JobResources(1, 3, 1, 1000))).split("\n")

    values = PLAIN | {k: [v] for k, v in LISTS.items()}
    hostile = before + text
    try:
        found = script(values | {key: [hostile] if key in LISTS else hostile})
    except (ValueError, WlsweepError):
        return  # refused
    harmless = script(values)
    options = [[line for line in lines if line.startswith("#SBATCH")] for lines in (found, harmless)]
    assert len(found) == len(harmless) and len(options[0]) == len(options[1])
    if key not in BARE:
        assert options[0] == options[1]
    else:
        assert set(hostile).isdisjoint(" \t'\"\\$`;#%")


@pytest.mark.parametrize("bad", ["a\nb", "a\rb", "50%j", "a\\b", "a\x1bb"])
def test_paths_that_slurm_would_read_as_something_else_are_refused(bad):
    with pytest.raises(WlsweepError, match="rename it"):
        render_script(a_job(CPU, f"/home/{bad}", JobResources(1, 3, 0, 1000)))


def test_a_run_outside_the_shared_directory_is_refused_and_a_dry_run_shows_the_script_first(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    asked, said = SubmitOptions(Path("runs/demo")), []
    with pytest.raises(WlsweepError, match="does not lie in /home"):
        submit(DEMO, CPU, asked, dry_run=False, say=said.append)
    assert not any(tmp_path.iterdir()) and not said
    with pytest.raises(WlsweepError, match=r"without --dry-run this is refused(.|\n)*does not lie in /home"):
        submit(DEMO, CPU, asked, dry_run=True, say=said.append)
    assert any(line.startswith("submit:  sbatch") for line in said)
    assert len(list(tmp_path.glob("runs/demo/slurm/*.sh"))) == 1
    (resolved,) = tmp_path.glob("runs/demo/slurm/*.json")
    assert load_sweep(resolved) == DEMO


def test_the_sbatch_line_holds_paths_as_single_arguments():
    command = sbatch_command(a_job(CPU, "/home/me/a b", JobResources(1, 3, 0, 1000), array="0-3"))
    assert command == [
        "sbatch",
        "--parsable",
        "--array=0-3",
        "--chdir=/home/me/a b",
        "--output=/home/me/a b/runs/s/slurm/job_%j.out",
        "/home/me/a b/runs/s/slurm/20260102T030405-00ff.sh",
    ]
