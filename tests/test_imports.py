"""Commands for a login node answer without the engines, and what a sweep starts with waits for none that it need not."""

import subprocess
import sys
from importlib.util import find_spec

import pytest

HEAVY = ("pandas", "scipy", "plotly", "statsmodels", "sklearn")
ENGINES = ("torch", "ray", "vllm", "deepspeed", "transformers")


@pytest.mark.parametrize(
    "code",
    [
        "import wlsweep",
        "from wlsweep.spec.plan import make_plan; from wlsweep.spec.config import load_sweep; "
        "make_plan(load_sweep('search_spaces/demo.toml'))",
        "import wlsweep.run.status, wlsweep.cli",
        "import wlsweep.analysis.evaluate, wlsweep.report.page",
        "import wlsweep.orchestrate.driver, wlsweep.orchestrate.mailbox, wlsweep.train.tiny_base",
    ],
)
def test_light_commands_import_no_engine(code):
    assert loaded(code) == set()


def test_the_driver_starts_trials_without_torch():
    assert "torch" not in loaded("import wlsweep.orchestrate.trials")


@pytest.mark.skipif(find_spec("mlflow") is None, reason="MLflow is not installed: make .venv/.installed-trackers")
def test_a_training_worker_does_not_wait_for_the_trackers_that_deepspeed_would_import():
    code = "import wlsweep.train.zero3, sys; assert not {'mlflow', 'wandb'} & {*sys.modules}; import mlflow"
    assert loaded(code, ("mlflow",)) == {"mlflow"}, "it can still be imported"


def test_the_package_and_plan_answer_without_what_reports_are_made_with():
    assert loaded("import wlsweep", (*ENGINES, *HEAVY, "numpy", "pydantic")) == set()
    planned = "from wlsweep.spec.plan import make_plan; from wlsweep.spec.config import load_sweep; "
    assert loaded(planned + "make_plan(load_sweep('search_spaces/demo.toml'))", (*ENGINES, *HEAVY)) == set()


def loaded(code, names=ENGINES):
    """Which of `names` a new process has imported after some code."""
    check = f"{code}\nimport sys; print(*[m for m in {names} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True)
    return set(done.stdout.strip("\n").splitlines()[-1].split()) if done.stdout.strip() else set()
