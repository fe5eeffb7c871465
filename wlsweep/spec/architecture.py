"""The shape of a base model, read from its `config.json` alone: parameters, layers, heads. No engine, no weights.

Parameters are exact for the families below (`tests/spec/test_architecture.py` compares each with transformers' own model on
the meta device), or counted from the headers of the folder's safetensors files; for anything else they are unknown.
"""

from __future__ import annotations

import math
import os
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from wlsweep.errors import WlsweepError
from wlsweep.files import open_file, parse_json, read_file
from wlsweep.spec.train_section import Model


class Family(NamedTuple):
    """What the layers of one family of decoders have, beside attention and a gated MLP."""

    defaults: Mapping[str, Any]
    """Values that a published `config.json` may leave out: those of the family's configuration class."""
    qkv_bias: bool = False
    """Whether query, key and value projections always have a bias; where `attention_bias` decides, it also decides here."""
    qk_norm: bool = False
    """Whether queries and keys are normalised, with one weight a channel of a head."""
    norms: int = 2
    """Norms of a layer over the hidden size."""
    every_nth_full: int = 0
    """Where a sliding window is used, every n-th layer attends to all earlier tokens; 0: none does."""


_PLAIN = {"tie_word_embeddings": False, "attention_bias": False, "mlp_bias": False, "sliding_window": None}
_GEMMA = {"tie_word_embeddings": True, "hidden_size": 2304, "intermediate_size": 9216, "num_hidden_layers": 26}
_GEMMA |= {"num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 256, "sliding_window": 4096}
FAMILIES: Mapping[str, Family] = {
    "qwen2": Family({**_PLAIN, "num_key_value_heads": 32, "use_sliding_window": False}, qkv_bias=True),
    "qwen3": Family({**_PLAIN, "num_key_value_heads": 32, "use_sliding_window": False, "head_dim": 128}, qk_norm=True),
    "llama": Family(_PLAIN),
    "mistral": Family({**_PLAIN, "num_key_value_heads": 8, "sliding_window": 4096}),
    "gemma2": Family({**_PLAIN, **_GEMMA, "vocab_size": 256_000}, norms=4, every_nth_full=2),
    "gemma3_text": Family({**_PLAIN, **_GEMMA, "vocab_size": 262_208}, qk_norm=True, norms=4, every_nth_full=6),
    "phi3": Family(_PLAIN),
}
"""Families whose parameters are known exactly, by `model_type`. SmolLM2 is of the family `llama`."""
_NESTED = {"gemma3": "gemma3_text"}
"""Models with a vision tower: `text_config` holds the language model."""


class Architecture(NamedTuple):
    """A decoder: attention with grouped key-value heads, a gated MLP, norms. Defaults are Qwen2's."""

    vocab: int
    width: int
    mlp: int
    layers: int
    heads: int
    kv_heads: int
    tied: bool
    head: int = 0
    """Channels of a head; 0: width / heads."""
    qkv_bias: bool = True
    out_bias: bool = False
    mlp_bias: bool = False
    qk_norm: bool = False
    norms: int = 2
    window: int = 0
    """Tokens that a layer with a sliding window looks back on."""
    windowed: int = 0
    """Layers with a sliding window."""
    family: str = "qwen2"
    """`model_type`."""
    stored: int | None = None
    """Parameters counted in the headers of the safetensors files, where they could be read."""

    @property
    def head_size(self) -> int:
        """Channels of a head."""
        return self.head or self.width // self.heads

    @property
    def layer_parameters(self) -> int:
        """Parameters of one decoder layer."""
        q, kv = self.heads * self.head_size, self.kv_heads * self.head_size
        attention = self.width * (q + 2 * kv) + q * self.width
        biases = (q + 2 * kv) * self.qkv_bias + self.width * self.out_bias + (2 * self.mlp + self.width) * self.mlp_bias
        norms = self.norms * self.width + 2 * self.head_size * self.qk_norm
        return attention + 3 * self.width * self.mlp + biases + norms

    @property
    def parameters(self) -> int:
        """All parameters; tied embeddings count once."""
        if self.stored is not None:
            return self.stored
        embeddings = self.vocab * self.width * (1 if self.tied else 2)
        return embeddings + self.layers * self.layer_parameters + self.width

    def mean_context(self, tokens: int) -> float:
        """Tokens that a token attends to, on average over a row of so many tokens and over all layers."""
        w = min(self.window, tokens)
        share = self.windowed / self.layers
        return (1 - share) * tokens / 2 + share * (w - w * w / (2 * tokens))


# Published configurations, so that a plan needs no hub.
_QWEN3: dict[str, Any] = {"head": 128, "qkv_bias": False, "qk_norm": True, "family": "qwen3"}
_LLAMA: dict[str, Any] = {"qkv_bias": False, "family": "llama"}
_GEMMA2: dict[str, Any] = {"head": 256, "qkv_bias": False, "norms": 4, "window": 4096, "family": "gemma2"}
_KNOWN = {
    "Qwen/Qwen2.5-0.5B-Instruct": Architecture(151936, 896, 4864, 24, 14, 2, True),
    "Qwen/Qwen2.5-1.5B-Instruct": Architecture(151936, 1536, 8960, 28, 12, 2, True),
    "Qwen/Qwen2.5-3B-Instruct": Architecture(151936, 2048, 11008, 36, 16, 2, True),
    "Qwen/Qwen2.5-7B-Instruct": Architecture(152064, 3584, 18944, 28, 28, 4, False),
    "Qwen/Qwen2.5-14B-Instruct": Architecture(152064, 5120, 13824, 48, 40, 8, False),
    "Qwen/Qwen2.5-32B-Instruct": Architecture(152064, 5120, 27648, 64, 40, 8, False),
    "Qwen/Qwen3-0.6B": Architecture(151936, 1024, 3072, 28, 16, 8, True, **_QWEN3),
    "Qwen/Qwen3-8B": Architecture(151936, 4096, 12288, 36, 32, 8, False, **_QWEN3),
    "meta-llama/Llama-3.1-8B-Instruct": Architecture(128256, 4096, 14336, 32, 32, 8, False, **_LLAMA),
    "meta-llama/Llama-3.2-1B-Instruct": Architecture(128256, 2048, 8192, 16, 32, 8, True, **_LLAMA),
    "mistralai/Mistral-7B-Instruct-v0.3": Architecture(
        32768, 4096, 14336, 32, 32, 8, False, qkv_bias=False, family="mistral"
    ),
    "google/gemma-2-9b-it": Architecture(256000, 3584, 14336, 42, 16, 8, True, windowed=21, **_GEMMA2),
    "HuggingFaceTB/SmolLM2-135M-Instruct": Architecture(49152, 576, 1536, 30, 9, 3, True, **_LLAMA),
}


def architecture(model: Model) -> Architecture | None:
    """The base model's shape; None where neither a folder nor a known name shows it, or the family is not known.

    Raises:
        WlsweepError: if the folder's `config.json` cannot be read, or lacks a number that its family needs.
    """
    if model.tiny is not None:
        t = model.tiny
        vocab = -(-t.vocab // 64) * 64
        return Architecture(vocab, t.width, 2 * t.width, t.layers, t.heads, max(1, t.heads // 2), False)
    assert model.path is not None
    folder = model_folder(model.path)
    if folder is None:
        return _KNOWN.get(model.path)
    return from_config(read_config(folder), folder)


def model_folder(path: str) -> Path | None:
    """The folder of a base model: a folder itself, or a snapshot in the Hugging Face cache; None where there is neither."""
    if (Path(path) / "config.json").is_file():
        return Path(path)
    if path.count("/") != 1 or path.startswith((".", "/", "~")):
        return None
    repository = hub_cache() / ("models--" + path.replace("/", "--"))
    reference = repository / "refs" / "main"
    try:
        snapshot = repository / "snapshots" / reference.read_text().strip()
    except OSError:
        return None
    return snapshot if (snapshot / "config.json").is_file() else None


def hub_cache() -> Path:
    """Where huggingface_hub keeps what it downloads, by its own environment variables."""
    if cache := os.environ.get("HF_HUB_CACHE"):
        return Path(cache)
    home = os.environ.get("HF_HOME") or Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "huggingface"
    return Path(home) / "hub"


def read_config(folder: Path) -> dict[str, Any]:
    """`config.json` of a model folder.

    Raises:
        WlsweepError: if it is no JSON object.
    """
    file = folder / "config.json"
    try:
        found = parse_json(read_file(file))
    except (OSError, ValueError) as e:
        raise WlsweepError(f"{file} cannot be read as a model's configuration: {e}") from None
    if not isinstance(found, dict):
        raise WlsweepError(f"{file} holds no JSON object; is {folder} a model folder?")
    return found


def from_config(config: Mapping[str, Any], folder: Path | None = None) -> Architecture | None:
    """The shape that a `config.json` describes; None for a family that is not in `FAMILIES`.

    Args:
        config: the whole file.
        folder: where its safetensors files lie, if they are there; their parameters are counted.

    Raises:
        WlsweepError: if a number is missing or is none.
    """
    kind = str(config.get("model_type"))
    if kind in _NESTED:
        config, kind = config.get("text_config") or {}, _NESTED[kind]
    family = FAMILIES.get(kind)
    if family is None:
        return None
    c = {**family.defaults, **config}
    names = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
    wrong = [n for n in names if not (isinstance(c.get(n), int) and c[n] > 0)]
    if wrong:
        raise WlsweepError(
            f"{folder or 'config.json'}: the configuration of a {kind} model lacks {', '.join(wrong)}; "
            "fetch the model's config.json again"
        )
    bias = bool(c["attention_bias"])
    found = Architecture(
        c["vocab_size"],
        c["hidden_size"],
        c["intermediate_size"],
        c["num_hidden_layers"],
        c["num_attention_heads"],
        c.get("num_key_value_heads") or c["num_attention_heads"],
        bool(c["tie_word_embeddings"]),
        head=c.get("head_dim") or 0,
        qkv_bias=family.qkv_bias or (bias and kind not in ("mistral", "phi3")),
        out_bias=bias and kind not in ("qwen2", "mistral", "phi3"),
        mlp_bias=bool(c["mlp_bias"]) and kind == "llama",
        qk_norm=family.qk_norm,
        norms=family.norms,
        window=int(c["sliding_window"] or 0),
        windowed=_windowed_layers(c, family),
        family=kind,
    )
    return found._replace(stored=_stored_parameters(folder, found.tied)) if folder is not None else found


def _windowed_layers(c: Mapping[str, Any], family: Family) -> int:
    """How many layers attend within a sliding window only."""
    layers, types = int(c["num_hidden_layers"]), c.get("layer_types")
    if not c["sliding_window"] or not c.get("use_sliding_window", True):
        return 0
    if isinstance(types, list):
        return types.count("sliding_attention")
    if "use_sliding_window" in c:  # Qwen: the layers from `max_window_layers` on
        return max(0, layers - int(c.get("max_window_layers", 28)))
    nth = int(c.get("sliding_window_pattern") or 0) or family.every_nth_full
    return layers - layers // nth if nth else layers


def _stored_parameters(folder: Path, tied: bool) -> int | None:
    """Parameters in the folder's safetensors files, from their headers; None if there are none or one is incomplete.

    A head that is tied to the embeddings counts once, also where the files hold both; vision towers do not count.
    """
    index = folder / "model.safetensors.index.json"
    try:
        if index.is_file():
            files = sorted({folder / str(f) for f in parse_json(read_file(index))["weight_map"].values()})
        else:
            files = sorted(folder.glob("model*.safetensors"))
        shapes: dict[str, list[int]] = {}
        for file in files:
            shapes |= _header(file)
    except (OSError, ValueError, KeyError, AttributeError, struct.error):
        return None
    embeddings = [n for n in shapes if n.endswith("embed_tokens.weight")]
    if not embeddings:
        return None
    skipped = ("vision_tower", "multi_modal_projector")
    return sum(
        math.prod(shape)
        for name, shape in shapes.items()
        if not (tied and name.endswith("lm_head.weight")) and not any(part in name for part in skipped)
    )


def _header(file: Path) -> dict[str, list[int]]:
    """Shape of each tensor of a safetensors file."""
    with open_file(file) as f:
        (length,) = struct.unpack("<Q", f.read(8))
        if length > 100_000_000:
            raise ValueError(f"{file}: no safetensors header")
        header = parse_json(f.read(length))
    return {name: tensor["shape"] for name, tensor in header.items() if name != "__metadata__"}
