"""What is refused of a base model in the first second, in plain words, by plan and run alike."""

import json
import subprocess
import sys
import time

import pytest
from transformers import AutoConfig, AutoModelForCausalLM

from bench import papers, qwen_like
from wlsweep.errors import WlsweepError
from wlsweep.spec.config import load_sweep
from wlsweep.spec.preflight import check_model, find_model, refuse_model
from wlsweep.spec.task import Task

SIZES = {
    "vocab_size": 2048,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 32,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
ROW = {
    "conversations": [
        {"from": "system", "value": "Be fair."},
        {"from": "human", "value": "Judge this paper.\n\n# A title\n\nAn abstract."},
        {"from": "assistant", "value": "\\boxed{Accept}"},
    ]
}


@pytest.fixture(scope="module")
def tokenizer():
    return qwen_like.build(papers.paragraphs(100, seed=5))


@pytest.fixture
def make_model(tokenizer, tmp_path):
    """Writes a whole model folder of a family, with changes to its configuration."""

    def make(family="qwen2", **changes):
        folder = tmp_path / "model"
        config = AutoConfig.for_model(family, **{**SIZES, **changes})
        AutoModelForCausalLM.from_config(config).save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        return folder

    return make


def sweep_on(path, attention="sdpa", cutoff=512):
    sweep = load_sweep("search_spaces/iclr19.toml", model=str(path))
    update = {
        "model": sweep.model.model_copy(update={"attention": attention}),
        "data": sweep.data.model_copy(update={"cutoff": cutoff}),
    }
    return sweep.model_copy(update=update)


def test_a_whole_model_of_a_known_family_passes(make_model):
    folder = make_model()
    assert refuse_model(sweep_on(folder)) == folder
    assert check_model(sweep_on(folder), ask_hub=False).warnings == []


@pytest.mark.parametrize(
    ("gpus", "use"), [(1, None), (2, None), (4, None), (7, "1, 2 or 4"), (8, "1, 2 or 4"), (3, "1 or 2")]
)
def test_an_engine_over_gpus_that_the_model_cannot_be_split_over_is_refused_with_those_that_fit(make_model, gpus, use):
    """28 heads and 4 of keys and values, as Qwen2.5-7B has them, and a layer of 5 x 2^8 units."""
    folder = make_model(num_attention_heads=28, num_key_value_heads=4, head_dim=32, intermediate_size=1280)
    sweep = sweep_on(folder)
    sweep = sweep.model_copy(update={"predict": sweep.predict.model_copy(update={"gpus_per_engine": gpus})})
    problems = check_model(sweep).problems
    assert problems == [] if use is None else problems[0].endswith(f"1280 units a layer; use {use}"), problems


def test_a_tiny_base_is_split_by_the_same_rule():
    sweep = load_sweep("search_spaces/demo.toml")
    heads = sweep.model.tiny.heads
    sweep = sweep.model_copy(update={"predict": sweep.predict.model_copy(update={"gpus_per_engine": heads + 1})})
    with pytest.raises(WlsweepError, match=rf"gpus_per_engine = {heads + 1}: .* {heads} attention heads"):
        refuse_model(sweep)


def test_a_tiny_base_needs_no_check():
    assert refuse_model(load_sweep("search_spaces/demo.toml")) is None


def test_an_architecture_that_is_not_trained_is_named_with_those_that_are(make_model):
    folder = make_model()
    config = json.loads((folder / "config.json").read_text()) | {"model_type": "gpt_neox"}
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(WlsweepError, match=r"'gpt_neox' is none of the families .*llama"):
        refuse_model(sweep_on(folder))


def test_a_model_without_a_chat_template_is_refused(make_model):
    folder = make_model()
    (folder / "chat_template.jinja").unlink()
    with pytest.raises(WlsweepError, match="no chat template; use an instruct model"):
        refuse_model(sweep_on(folder))


def test_a_template_that_refuses_the_turns_of_the_rows_is_refused(make_model):
    from wlsweep.data.rows import parse_row

    folder = make_model()
    template = folder / "chat_template.jinja"
    no_system = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    template.write_text(no_system + template.read_text())
    with pytest.raises(WlsweepError, match="System role not supported"):
        refuse_model(sweep_on(folder), [parse_row(ROW)])


def test_labels_that_the_tokenizer_writes_alike_or_that_end_a_turn_are_refused_by_plan(make_model):
    folder = make_model()

    def problems(task):
        return check_model(sweep_on(folder).model_copy(update={"task": task}), ask_hub=False).problems

    assert problems(Task(positive="Spam", negative="Ham", answer="LABEL")) == []
    assert (
        "spells the control token"
        in problems(Task(positive="<|im_end|>".strip("<>"), negative="a", answer="<LABEL>"))[0]
    )
    template = folder / "chat_template.jinja"
    template.write_text(template.read_text().replace("m['content']", "m['content'].replace('Ham', 'Spam')"))
    assert "writes Spam and Ham alike" in problems(Task(positive="Spam", negative="Ham", answer="LABEL"))[0]


def test_attention_that_a_model_cannot_have_is_refused_by_the_name_of_the_setting(make_model):
    gemma = make_model("gemma2")
    with pytest.raises(WlsweepError, match=r'model.attention = "sdpa".*set model.attention = "eager"'):
        refuse_model(sweep_on(gemma))
    refuse_model(sweep_on(gemma, "eager"))
    windowed = make_model("mistral", sliding_window=128)
    with pytest.raises(WlsweepError, match=r'2 of 2 layers .*window of 128 tokens.*set model.attention = "sdpa"'):
        refuse_model(sweep_on(windowed, "packed"))
    refuse_model(sweep_on(windowed, "sdpa"))


def test_a_cutoff_beyond_the_models_positions_is_refused(make_model):
    folder = make_model(max_position_embeddings=1024)
    refuse_model(sweep_on(folder, cutoff=1024))
    with pytest.raises(WlsweepError, match=r"data.cutoff = 1025: the model knows 1024 positions"):
        refuse_model(sweep_on(folder, cutoff=1025))


def test_an_unfinished_download_is_refused_to_run_and_a_warning_to_plan(make_model):
    folder = make_model()
    (folder / "model.safetensors").unlink()
    with pytest.raises(WlsweepError, match="holds no weights"):
        refuse_model(sweep_on(folder))
    found = check_model(sweep_on(folder), ask_hub=False)
    assert not found.problems and "holds no weights" in found.warnings[0]
    index = {"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(WlsweepError, match=r"lacks 2 of 2 weight files \(model-00001-of-00002"):
        refuse_model(sweep_on(folder))


def test_a_mistyped_folder_is_refused_even_by_plan(tmp_path):
    (tmp_path / "models").mkdir()
    for path in (tmp_path / "modles" / "qwen", tmp_path / "models" / "qwem"):
        with pytest.raises(WlsweepError, match="no such folder"):
            check_model(sweep_on(path), ask_hub=False)
    with pytest.raises(WlsweepError, match=r"holds no config.json"):
        check_model(sweep_on(tmp_path / "models"), ask_hub=False)


def test_without_a_hub_the_answer_comes_at_once_and_says_how_to_fetch_the_model(monkeypatch):
    name = "Qwen/Qwen2.5-7B-Instruct"
    began = time.monotonic()
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(
        WlsweepError, match=r"HF_HUB_OFFLINE is set(.|\n)*hf download Qwen/Qwen2.5-7B(.|\n)*--model Qwen2.5-7B-Instruct"
    ):
        find_model(name, ask_hub=True)
    monkeypatch.delenv("HF_HUB_OFFLINE")
    monkeypatch.delenv("HTTPS_PROXY", raising=False)
    monkeypatch.delenv("https_proxy", raising=False)
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(WlsweepError, match=r"127.0.0.1 does not answer"):
        find_model(name, ask_hub=True)
    assert time.monotonic() - began < 5
    assert find_model(name, ask_hub=False) is None


@pytest.mark.parametrize("command", ["plan", "run"])
def test_plan_and_run_refuse_alike_with_exit_code_2(make_model, tmp_path, command):
    folder = make_model("gemma2")
    rows = tmp_path / "rows.json"
    rejected = {"conversations": [*ROW["conversations"][:2], {"from": "assistant", "value": "\\boxed{Reject}"}]}
    rejected["conversations"][1] = {"from": "human", "value": "Judge this paper.\n\n# Another"}
    rows.write_text(json.dumps([ROW, rejected]))
    more = ["--out", str(tmp_path / "run")] if command == "run" else []
    arguments = [sys.executable, "-m", "wlsweep", command, "search_spaces/iclr19.toml", "--data", str(rows)]
    done = subprocess.run([*arguments, "--model", str(folder), *more], capture_output=True, text=True)
    assert done.returncode == 2, done.stdout + done.stderr
    assert 'set model.attention = "eager"' in done.stderr and "Traceback" not in done.stderr


def test_a_sound_model_is_checked_without_torch(make_model):
    code = (
        "from wlsweep.spec.preflight import refuse_model; from wlsweep.spec.config import load_sweep; import sys; "
        f"refuse_model(load_sweep('search_spaces/demo.toml', model={str(make_model())!r})); print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
