"""Tiny random models of every family that wlsweep trains, for the tests."""

import torch
from transformers import AutoConfig, AutoModelForCausalLM

SIZES = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 32,
    "max_position_embeddings": 2048,
    "pad_token_id": 0,
    "bos_token_id": None,
}
_WINDOW = {"sliding_window": 24}  # shorter than the rows
FAMILIES = {
    "Qwen2": ("qwen2", {}),
    "Qwen2.5, tied": ("qwen2", {"tie_word_embeddings": True}),
    "Qwen3": ("qwen3", {}),
    "Qwen3, tied": ("qwen3", {"tie_word_embeddings": True}),
    "Llama 3": ("llama", {}),
    "SmolLM2 (Llama, tied)": ("llama", {"tie_word_embeddings": True}),
    "Mistral": ("mistral", _WINDOW),
    "Gemma 2": ("gemma2", {**_WINDOW, "final_logit_softcapping": 2.0, "attn_logit_softcapping": 5.0}),
    "Gemma 3": ("gemma3_text", {**_WINDOW, "layer_types": ["sliding_attention", "full_attention"]}),
    "Phi-3": ("phi3", {}),
}
"""By the name of docs/models.md: `model_type` and what differs from `SIZES`; untied unless it says so or the family is
always tied (Gemma)."""


def attention_of(family):
    """The one that the check before a sweep asks for."""
    return "eager" if family == "Gemma 2" else "sdpa"


def tiny(family, vocab, eos, seed=0):
    """A random model whose logits are large enough to be told apart."""
    kind, changes = FAMILIES[family]
    tied = kind.startswith("gemma")
    sizes = {**SIZES, "vocab_size": vocab, "eos_token_id": eos, "tie_word_embeddings": tied, **changes}
    torch.manual_seed(seed)
    lm = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **sizes))
    with torch.no_grad():
        for name, p in lm.named_parameters():
            if p.dim() > 1:
                p.normal_(0, 0.15)
            elif "norm" in name:
                p.add_(0.2 * torch.randn_like(p))
    return lm
