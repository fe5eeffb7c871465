"""What `wlsweep submit` refuses before a job waits in the queue."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from bench import papers, qwen_like
from wlsweep.errors import WlsweepError
from wlsweep.slurm.checks import environment_problems, job_problems, job_sweep, warning_time_problems, write_speed
from wlsweep.slurm.site import Site, load_site, seconds_of
from wlsweep.slurm.submit import SubmitOptions, submit
from wlsweep.spec.config import load_sweep

ROOT = Path(__file__).parents[2]
DEMO = load_sweep(ROOT / "search_spaces/demo.toml")
GPU = load_site(ROOT / "cluster/sites/gpu-4.toml")


def site_in(folder, **changes):
    values = {"cpus_per_node": 8, "memory_gb": 32, "time": "60", "shared": str(folder), "python": sys.executable}
    return Site(**{**values, **changes})


def row(number, label):
    turns = [("human", f"Judge.\n\n# Paper {number}\n\nText {number}."), ("assistant", f"\\boxed{{{label}}}")]
    return {
        "conversations": [{"from": who, "value": text} for who, text in turns],
        "_metadata": {"submission_id": f"r{number}"},
    }


def write_rows(folder, train=range(8), test=range(8, 12)):
    folder.mkdir(parents=True, exist_ok=True)
    for name, numbers in (("train", train), ("test", test)):
        rows = [row(n, "Accept" if n % 2 else "Reject") for n in numbers]
        (folder / f"{name}.json").write_text(json.dumps(rows))
    return folder


@pytest.fixture
def shared(tmp_path):
    (tmp_path / "shared").mkdir()
    return tmp_path / "shared"


def refused(sweep, site, workdir):
    return "\n".join(job_problems(sweep, site, workdir, print))


def with_data(path):
    return load_sweep(ROOT / "search_spaces/demo.toml", data=None if path is None else str(path))


def test_a_sound_sweep_passes(shared):
    assert refused(with_data(write_rows(shared / "papers")), site_in(shared), shared) == ""
    assert refused(DEMO, site_in(shared), shared) == ""


def test_a_job_without_rows_or_with_rows_that_run_would_refuse_is_not_submitted(shared):
    no_rows = DEMO.model_copy(update={"data": DEMO.data.model_copy(update={"synthetic": None})})
    assert "no rows to train on: give --data" in refused(no_rows, site_in(shared), shared)
    assert "no such file" in refused(with_data(shared / "missing.json"), site_in(shared), shared)
    leaking = write_rows(shared / "leaking", test=range(7, 12))
    assert "'r7' is in both" in refused(with_data(leaking), site_in(shared), shared)
    bad = write_rows(shared / "bad")
    (bad / "train.json").write_text(json.dumps([{"conversations": []}]))
    assert "train.json" in refused(with_data(bad), site_in(shared), shared)


def test_rows_that_compute_nodes_do_not_see_are_refused(shared, tmp_path):
    rows = write_rows(tmp_path / "home")
    message = refused(with_data(rows), site_in(shared), shared)
    assert f"{rows / 'train.json'} does not lie in {shared}" in message


def test_an_environment_that_does_not_start_is_refused_with_its_own_words(shared):
    message = refused(DEMO, site_in(shared, setup=["source .venv-gpu/bin/activate"], python="no-such-python"), shared)
    assert "no-such-python" in message and "make EXTRA=cpu" in message


def test_a_container_that_only_compute_nodes_have_is_a_note(shared):
    said = []
    assert job_problems(DEMO, site_in(shared, prefix=["no-such-apptainer", "exec"]), shared, said.append) == []
    assert any("environment was not checked: no-such-apptainer" in line for line in said)


def test_a_sweep_on_gpus_needs_a_torch_that_is_built_with_cuda():
    whole = dict.fromkeys(("wlsweep", "ray", "deepspeed", "vllm"), True)
    assert environment_problems({**whole, "torch": "2.13.0", "cuda": "13.0"}, "python", "gpu") == []
    (problem,) = environment_problems({**whole, "torch": "2.13.0+cpu", "cuda": None}, "python", "gpu")
    assert "built without CUDA" in problem and ".venv-gpu" in problem
    assert environment_problems({**whole, "torch": "2.13.0+cpu", "cuda": None}, "python", "cpu") == []
    (problem,) = environment_problems({**whole, "vllm": False, "torch": "2.13.0", "cuda": "13.0"}, "python", "gpu")
    assert "lacks vllm; make EXTRA=gpu" in problem


def test_the_probe_of_an_environment_finds_what_this_one_has(shared):
    gpu = DEMO.model_copy(update={"train": DEMO.train.model_copy(update={"gpu": True})})
    message = refused(gpu, site_in(shared), shared)
    assert "built without CUDA" in message  # all else is installed here


def test_the_example_site_activates_the_environment_that_make_extra_gpu_makes():
    assert any(".venv-gpu/" in line for line in GPU.setup)
    assert not any("cuda/12" in line for line in GPU.setup)


def test_the_base_model_goes_into_the_job_as_a_folder(shared, monkeypatch):
    folder = shared / "model"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    monkeypatch.chdir(shared)
    sweep = load_sweep(ROOT / "search_spaces/iclr19.toml", model="model")
    found, problems = job_sweep(sweep, site_in(shared))
    assert found.model.path == str(folder) and problems == []
    _, (problem,) = job_sweep(load_sweep(ROOT / "search_spaces/iclr19.toml"), site_in(shared))
    assert f"hf download Qwen/Qwen2.5-7B-Instruct --local-dir {shared}/models/Qwen2.5-7B-Instruct" in problem


def test_a_model_folder_that_does_not_exist_is_named_and_no_download_of_it_is_advised(shared):
    for path in (shared / "none", "./models/none"):
        _, (problem,) = job_sweep(load_sweep(ROOT / "search_spaces/iclr19.toml", model=str(path)), site_in(shared))
        assert f"model.path {str(path)!r}: no such folder" in problem and "hf download" not in problem


def test_a_model_that_plan_and_run_would_refuse_is_refused_before_the_job(shared):
    (shared / "model").mkdir()
    (shared / "model" / "config.json").write_text('{"model_type": "gpt_neox"}')
    sweep = load_sweep(ROOT / "search_spaces/demo.toml", model=str(shared / "model"))
    assert "'gpt_neox' is none of the families" in refused(sweep, site_in(shared), shared)


def test_a_model_outside_of_the_shared_directory_is_refused(shared, tmp_path):
    from transformers import AutoConfig, AutoModelForCausalLM

    sizes = {"vocab_size": 2048, "hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 1}
    config = AutoConfig.for_model("qwen2", num_attention_heads=2, num_key_value_heads=1, **sizes)
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path / "model")
    qwen_like.build(papers.paragraphs(100, seed=5)).save_pretrained(tmp_path / "model")
    sweep = load_sweep(ROOT / "search_spaces/demo.toml", model=str(tmp_path / "model"))
    assert f"base model {tmp_path / 'model'} does not lie in {shared}" in refused(sweep, site_in(shared), shared)


def test_a_dry_run_checks_as_a_submission_does(shared, monkeypatch):
    monkeypatch.chdir(shared)
    wish = SubmitOptions(Path("runs/demo"))
    with pytest.raises(WlsweepError, match="the job would fail"):
        submit(DEMO, site_in(shared, python="no-such-python"), wish, False, print)
    assert not (shared / "runs").exists()
    said = []
    with pytest.raises(WlsweepError, match="without --dry-run this is refused"):
        submit(DEMO, site_in(shared, python="no-such-python"), wish, True, said.append)
    assert any(line.startswith("submit:  sbatch") for line in said)
    submit(DEMO, site_in(shared), wish, True, print)
    assert list((shared / "runs/demo/slurm").glob("*.sh"))


@pytest.mark.parametrize(
    ("time", "seconds"),
    [("60", 3600), ("60:30", 3630), ("12:00:00", 43200), ("2-12", 216000), ("2-12:30", 217800), ("1-00:00:05", 86405)],
)
def test_time_limits_are_read_as_slurm_reads_them(time, seconds):
    assert seconds_of(time) == seconds


def test_a_warning_longer_than_the_time_limit_is_refused(tmp_path):
    with pytest.raises(ValueError, match="warning_s 300 is not shorter than the time limit 5"):
        site_in(tmp_path, time="5", warning_s=300)
    site_in(tmp_path, time="5", warning_s=299)


def test_a_warning_too_short_to_save_in_is_refused_at_the_given_bandwidth(tmp_path):
    seven_b = load_sweep(ROOT / "search_spaces/iclr19.toml")
    enough, slow = site_in(tmp_path, write_mb_s=2000), site_in(tmp_path, write_mb_s=200)
    assert warning_time_problems(seven_b, enough, tmp_path, 1, print) == []
    (problem,) = warning_time_problems(seven_b, slow, tmp_path, 1, print)
    assert "saving takes 457 s (1 x 91 GB at 200 MB/s" in problem and "set warning_s = 600" in problem
    (problem,) = warning_time_problems(seven_b, enough, tmp_path, 8, print)
    assert "8 x 91 GB" in problem
    adapters = load_sweep(ROOT / "search_spaces/iclr19_lora.toml")
    assert warning_time_problems(adapters, slow, tmp_path, 8, print) == []


def test_a_measured_bandwidth_that_is_too_low_is_a_warning(tmp_path, monkeypatch):
    from wlsweep.slurm import checks

    said = []
    monkeypatch.setattr(checks, "write_speed", lambda folder: 100.0)
    assert (
        warning_time_problems(
            load_sweep(ROOT / "search_spaces/iclr19.toml"), site_in(tmp_path), tmp_path, 1, said.append
        )
        == []
    )
    assert "measured now" in said[0] and "set warning_s" in said[0]
    assert warning_time_problems(DEMO, site_in(tmp_path), tmp_path, 1, said.append) == []
    assert len(said) == 1


def test_the_speed_of_writing_is_measured_and_nothing_is_left(tmp_path):
    assert write_speed(tmp_path / "not" / "yet", size=8 << 20) > 0
    assert list(tmp_path.iterdir()) == []
