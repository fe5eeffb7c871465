"""Parameters of base models from configuration alone, against transformers' own models and published numbers."""

import json

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from wlsweep.errors import WlsweepError
from wlsweep.spec.architecture import FAMILIES, architecture, from_config, model_folder
from wlsweep.spec.train_section import Model

SMALL = {
    "vocab_size": 1000,
    "hidden_size": 96,
    "intermediate_size": 224,
    "num_hidden_layers": 5,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
VARIANTS = [
    ("qwen2", {}),
    ("qwen2", {"num_key_value_heads": 4}),
    ("qwen3", {"head_dim": 32}),
    ("qwen3", {"head_dim": 64, "attention_bias": True}),
    ("llama", {}),
    ("llama", {"attention_bias": True, "mlp_bias": True, "head_dim": 48}),
    ("mistral", {"head_dim": 40}),
    ("gemma2", {"head_dim": 32}),
    ("gemma2", {"head_dim": 32, "attention_bias": True}),
    ("gemma3_text", {"head_dim": 64}),
    ("phi3", {}),
]


def parameters_of(config):
    with torch.device("meta"):
        return sum(p.numel() for p in AutoModelForCausalLM.from_config(config).parameters())


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize(("family", "changes"), VARIANTS)
def test_the_formula_of_each_family_counts_what_transformers_builds(family, changes, tied):
    config = AutoConfig.for_model(family, **{**SMALL, **changes, "tie_word_embeddings": tied})
    assert from_config(config.to_dict()).parameters == parameters_of(config)


@pytest.mark.parametrize("family", FAMILIES)
def test_numbers_that_a_config_leaves_out_are_those_of_the_familys_own_class(family):
    needed = {k: SMALL[k] for k in ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers")}
    special = {k: SMALL[k] for k in ("pad_token_id", "bos_token_id", "eos_token_id")}
    needed |= {"num_attention_heads": 32, "hidden_size": 512}
    sizes = special if family.startswith("gemma") else {**needed, **special}
    assert from_config({"model_type": family, **sizes}).parameters == parameters_of(
        AutoConfig.for_model(family, **sizes)
    )


def test_the_language_model_of_gemma_3_is_found_in_its_text_config():
    text = {**SMALL, "head_dim": 64, "model_type": "gemma3_text"}
    del text["vocab_size"]  # as published
    found = from_config({"model_type": "gemma3", "text_config": text, "vision_config": {"hidden_size": 1152}})
    assert found.parameters == parameters_of(AutoConfig.for_model(**text))


@pytest.mark.parametrize(
    ("name", "published"),
    [
        ("Qwen/Qwen2.5-7B-Instruct", 7_615_616_512),
        ("Qwen/Qwen3-0.6B", 596_049_920),
        ("Qwen/Qwen3-8B", 8_190_735_360),
        ("meta-llama/Llama-3.1-8B-Instruct", 8_030_261_248),
        ("meta-llama/Llama-3.2-1B-Instruct", 1_235_814_400),
        ("mistralai/Mistral-7B-Instruct-v0.3", 7_248_023_552),
        ("google/gemma-2-9b-it", 9_241_705_984),
        ("HuggingFaceTB/SmolLM2-135M-Instruct", 134_515_008),
    ],
)
def test_models_known_by_name_have_their_published_parameters(name, published):
    assert architecture(Model(path=name)).parameters == published


def test_layers_with_a_sliding_window_are_counted_as_transformers_lays_them_out():
    for family in ("gemma2", "gemma3_text", "mistral"):
        config = AutoConfig.for_model(family, **{**SMALL, "num_hidden_layers": 13, "head_dim": 32})
        plain = {k: v for k, v in config.to_dict().items() if k != "layer_types"}
        types = getattr(config, "layer_types", ["sliding_attention"] * 13)
        assert from_config(plain).windowed == types.count("sliding_attention")
        assert from_config(config.to_dict()).windowed == types.count("sliding_attention")


def test_the_mean_context_of_a_window_is_the_sum_over_positions():
    a = from_config({**SMALL, "model_type": "mistral", "sliding_window": 100})
    by_hand = sum(min(position, 100) for position in range(1000)) / 1000
    assert a.mean_context(1000) == pytest.approx(by_hand, rel=0.01)
    assert a.mean_context(50) == pytest.approx(25)


@pytest.mark.parametrize("tied", [False, True])
def test_an_unknown_count_is_read_from_the_headers_of_the_weights(tmp_path, tied):
    config = AutoConfig.for_model("llama", **{**SMALL, "tie_word_embeddings": tied})
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path, max_shard_size="200KB")
    assert (tmp_path / "model.safetensors.index.json").is_file()
    found = architecture(Model(path=str(tmp_path)))
    assert found.stored == parameters_of(config)


def test_an_unfinished_download_leaves_the_formula_in_charge(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({**SMALL, "model_type": "llama"}))
    (tmp_path / "model.safetensors").write_bytes(b"\x10\x00")
    found = architecture(Model(path=str(tmp_path)))
    assert found.stored is None and found.parameters == parameters_of(AutoConfig.for_model("llama", **SMALL))


def test_a_family_without_a_formula_is_unknown_and_not_guessed(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({**SMALL, "model_type": "gpt_neox"}))
    assert architecture(Model(path=str(tmp_path))) is None
    assert architecture(Model(path="somebody/unheard-of")) is None


def test_a_config_that_lacks_a_number_is_named(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama", "hidden_size": 64}))
    with pytest.raises(WlsweepError, match=r"llama model lacks vocab_size, intermediate_size.*config.json"):
        architecture(Model(path=str(tmp_path)))
    (tmp_path / "config.json").write_text("[]")
    with pytest.raises(WlsweepError, match="no JSON object"):
        architecture(Model(path=str(tmp_path)))


def test_a_model_in_the_hub_cache_is_found_by_its_name(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    repository = tmp_path / "models--someone--small"
    (repository / "snapshots" / "abc").mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("abc")
    assert model_folder("someone/small") is None
    (repository / "snapshots" / "abc" / "config.json").write_text("{}")
    assert model_folder("someone/small") == repository / "snapshots" / "abc"
