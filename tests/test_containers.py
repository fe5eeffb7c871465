"""The container recipes hold all that an installation needs. They are read here, and not built: that takes a registry."""

import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

RECIPES = ("cluster/wlsweep.def", "cluster/Dockerfile")


def copied(recipe):
    """(file or folder of the checkout, its place below /opt/wlsweep) of everything that a recipe copies."""
    text = Path(recipe).read_text()
    if recipe.endswith(".def"):
        files = re.search(r"^%files\n(.*?)\n\n", text, re.M | re.S)[1]
        return [(a, b.removeprefix("/opt/wlsweep/")) for a, b in (line.split() for line in files.splitlines())]
    return [
        (source, source if to == "./" else to)
        for *sources, to in (line.split()[1:] for line in text.splitlines() if line.startswith("COPY "))
        for source in sources
    ]


def steps(recipe):
    """Lines that run while the image is made, without continuations."""
    text = Path(recipe).read_text()
    if recipe.endswith(".def"):
        return re.search(r"^%post\n(.*?)\n\n", text, re.M | re.S)[1]
    return "\n".join(re.findall(r"^RUN (.*?[^\\])$", text, re.M | re.S))


@pytest.mark.parametrize("recipe", RECIPES)
def test_what_a_recipe_copies_can_be_installed_from_the_gpu_lock(recipe, tmp_path):
    for source, to in copied(recipe):
        if Path(source).is_dir():
            shutil.copytree(source, tmp_path / to, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, tmp_path / to)
    (target,) = re.findall(r"make (EXTRA=gpu \S+)", steps(recipe))
    would = subprocess.run(["make", "-n", *target.split()], cwd=tmp_path, capture_output=True, text=True)
    assert would.returncode == 0 and "grep '^torch==' locks/gpu.lock" in would.stdout, would.stderr
    command = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "-q",
        "--no-deps",
        "--no-build-isolation",
        "--no-index",
        "-w",
        "wheel",
        ".",
    ]
    built = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert built.returncode == 0, built.stderr[-2000:]
    (wheel,) = (tmp_path / "wheel").glob("wlsweep-*.whl")
    held = zipfile.ZipFile(wheel).namelist()
    assert {"wlsweep/locks/gpu.lock", "wlsweep/search_spaces/iclr19.toml", "wlsweep/sites/gpu-4.toml"} <= set(held)


def test_both_recipes_start_from_one_image_and_install_the_same():
    first, second = (Path(recipe).read_text() for recipe in RECIPES)
    assert re.search(r"^From: (.*)", first, re.M)[1] == re.search(r"^FROM (.*)", second, re.M)[1]
    assert copied(RECIPES[0]) == copied(RECIPES[1])
    packages = [re.search(r"apt-get install .*?recommends ([^\\\n]+)", steps(r))[1].split() for r in RECIPES]
    assert packages[0] == packages[1]
