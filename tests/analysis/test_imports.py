import subprocess
import sys

import pytest

ENGINES = ("torch", "ray", "vllm", "deepspeed", "transformers")
HEAVY = ("scipy", "statsmodels", "sklearn", "plotly", "kaleido", "pandas", "jinja2")


def loaded_after(code, tmp_path):
    program = f"import sys\n{code}\nprint(*sorted({{m.partition('.')[0] for m in sys.modules}}))"
    return set(
        subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.split()
    )


def test_importing_analysis_and_report_loads_no_engine_and_nothing_heavy(tmp_path):
    names = "evaluate forecast next_conditions summary_table compare_conditions"
    code = "\n".join(f"import wlsweep.analysis.{n}" for n in names.split()) + "\nimport wlsweep.report.page"
    found = loaded_after(code, tmp_path)
    assert not found & {*ENGINES, *HEAVY}


@pytest.mark.slow
def test_evaluating_and_reporting_a_run_loads_no_engine(tmp_path):
    from tests.made_run import THE_19, make_run

    run = make_run(tmp_path / "run", THE_19[:4], n=60)
    code = f"""
from pathlib import Path
from wlsweep.run.layout import RunDir
from wlsweep.analysis.forecast import forecast_run
from wlsweep.analysis.evaluate import evaluate
from wlsweep.report.page import write_report
run = RunDir(Path({str(run.root)!r}))
write_report(run, evaluate(run, draws=100))
forecast_run(run, draws=100)
"""
    assert not loaded_after(code, tmp_path) & set(ENGINES)
