"""Commands for a login node answer without the engines, and what a sweep starts with waits for none that it need not."""

import subprocess
import sys

import pytest

ENGINES = ("torch", "ray", "vllm", "deepspeed", "transformers")


@pytest.mark.parametrize(
    "code",
    [
        "import wlsweep",
        "from wlsweep.plan import make_plan; from wlsweep.config import load_sweep; "
        "make_plan(load_sweep('search_spaces/demo.toml'))",
        "import wlsweep.state, wlsweep.cli",
        "import wlsweep.analysis.evaluate, wlsweep.report.page",
        "import wlsweep.sweep.run, wlsweep.sweep.desk, wlsweep.train.tiny_base",
    ],
)
def test_light_commands_import_no_engine(code):
    check = f"{code}\nimport sys; print([m for m in {ENGINES} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True)
    assert done.stdout.strip().splitlines()[-1] == "[]"


def test_the_driver_starts_trials_without_torch():
    check = "import wlsweep.sweep.trials, sys; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True)
    assert done.stdout.strip().splitlines()[-1] == "False"
