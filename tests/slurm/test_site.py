"""A site file is read whole, and no value of it can become a line or a command of its own."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from wlsweep.errors import WlsweepError
from wlsweep.slurm.site import load_site

SITES = sorted((Path(__file__).parents[2] / "cluster" / "sites").glob("*.toml"))
LEAST = 'cpus_per_node = 4\nmemory_gb = 8\ntime = "60"\nshared = "/shared"\n'


def read(tmp_path: Path, text: str):
    """The site of a text."""
    (tmp_path / "site.toml").write_text(text)
    return load_site(tmp_path / "site.toml")


@pytest.mark.parametrize("path", SITES, ids=lambda p: p.name)
def test_every_shipped_site_is_valid(path):
    assert load_site(path).cpus_per_node >= 2


def test_there_are_a_gpu_and_a_cpu_site():
    assert {load_site(p).gpus_per_node > 0 for p in SITES} == {True, False}


def test_nothing_listens_beyond_loopback_unless_the_site_says_so(tmp_path):
    assert read(tmp_path, LEAST).listen == "loopback"


def test_all_wrong_keys_are_named_at_once(tmp_path):
    with pytest.raises(WlsweepError) as e:
        read(tmp_path, LEAST.replace("shared", "shred") + 'gpus_per_node = -1\nlisten = "everywhere"\n')
    message = str(e.value)
    assert str(tmp_path / "site.toml") in message
    for part in ("shred: unknown key", "shared: Field required", "gpus_per_node", "listen"):
        assert part in message


HOSTILE = [
    "x\n#SBATCH --wrap=id",
    "x\ry",
    "a b",
    "$(id)",
    "`id`",
    "x;id",
    "--uid=0",
    "",
    "x'y",
    'x"y',
    "\u2028x",
    "x\x00y",
]


@pytest.mark.parametrize("key", ["partition", "account", "qos", "gres", "login"])
@pytest.mark.parametrize("value", HOSTILE)
def test_a_word_that_could_be_more_than_a_word_is_refused(tmp_path, key, value):
    with pytest.raises(WlsweepError, match=f"{key}: |no readable TOML"):
        read(tmp_path, LEAST + f"{key} = {json.dumps(value)}\n")


@pytest.mark.parametrize(
    "option",
    [
        "--wrap=id",
        "--output=/etc/x",
        "--signal=TERM",
        "constraint=a100",
        "--comment=a b",
        "--comment=a\n#SBATCH --wrap=id",
        "-J x",
    ],
)
def test_an_extra_option_that_is_ours_or_no_option_is_refused(tmp_path, option):
    with pytest.raises(WlsweepError, match="sbatch"):
        read(tmp_path, LEAST + f"sbatch = [{json.dumps(option)}]\n")


@pytest.mark.parametrize("time", ["60", "60:30", "12:00:00", "2-12", "2-12:30", "2-12:30:00"])
def test_every_form_of_time_that_slurm_knows_is_taken(tmp_path, time):
    assert read(tmp_path, LEAST.replace('"60"', f'"{time}"')).time == time


@pytest.mark.parametrize("time", ["2 days", "1h", "-5", "60;id", "1:2:3:4"])
def test_other_times_are_refused(tmp_path, time):
    with pytest.raises(WlsweepError, match="time: "):
        read(tmp_path, LEAST.replace('"60"', f'"{time}"'))


def test_a_scratch_path_too_long_for_sockets_is_refused(tmp_path):
    with pytest.raises(WlsweepError, match="scratch"):
        read(tmp_path, LEAST + f'scratch = "/{"x" * 40}"\n')
