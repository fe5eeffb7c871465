"""Run by a test: one real engine under swaps, right and broken; what it said is saved for the test to compare.

python -m tests.predict.swaps MODEL OTHER_MODEL OUT
"""

import json
import os
import shutil
import sys
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from tests.train.families import tiny
from tests.train.made_rows import drawn_rows
from wlsweep.predict import vllm_engine, worker
from wlsweep.predict.vllm_engine import Engine, Probe, SwapFailed, engine_environment
from wlsweep.spec.config import Predict

CONFIG = Predict(gpus_per_engine=0, cpus_per_engine=1, dtype="float32", answer_tokens=6)


def probe(model, rows):
    """What the model itself says of the longest rows (the cache reuses whole blocks of 128 tokens only)."""
    lm = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32).eval()
    found = []
    for i in np.argsort(-rows.lengths)[:4]:
        ids = [*rows.prompt(i).tolist(), *rows.answer.prefix]
        with torch.no_grad():
            logprobs = torch.log_softmax(lm(torch.tensor([ids])).logits[0, -1], -1)
        found.append(Probe(rows.prompt(i).tolist(), *logprobs[[rows.answer.accept, rows.answer.reject]].tolist()))
    return found


def refusal(engine, model, probes):
    try:
        engine.use(model, probes)
    except SwapFailed as e:
        return str(e)
    return None


def tied(first, folder, rows):
    """Swaps of models whose head is the embeddings' weight, right and with a head that is not packed again."""
    tokenizer, probes = AutoTokenizer.from_pretrained(first), {}
    models = [folder / f"tied{seed}" for seed in (0, 1)]
    for seed, model in enumerate(models):
        tiny("SmolLM2 (Llama, tied)", 640, tokenizer.eos_token_id, seed).save_pretrained(model)
        tokenizer.save_pretrained(model)
        probes[model] = probe(model, rows)
    engine = Engine(models[0], CONFIG, max(rows.lengths) + 8, rows.answer)
    found = {"tied": [refusal(engine, m, probes[m]) for m in (models[0], models[1], models[0])]}
    pack, worker._pack = worker._pack, lambda head: None
    found["a tied head that was not packed again"] = refusal(engine, models[1], probes[models[1]])
    near = folder / "nearly tied0"
    shutil.copytree(models[0], near)
    tensors = load_file(near / "model.safetensors")
    name = "model.embed_tokens.weight"
    tensors[name] = tensors[name] * (
        1 + 1e-4 * torch.randn(tensors[name].shape, generator=torch.Generator().manual_seed(0))
    )
    save_file(tensors, near / "model.safetensors", metadata={"format": "pt"})
    worker._pack = pack
    engine.loaded = None
    found["tied again"] = refusal(engine, models[0], probes[models[0]])
    worker._pack = lambda head: None
    found["a tied head that was packed of nearly the same weights"] = refusal(engine, near, probe(near, rows))
    worker._pack = pack
    engine.close()
    return found


def main():
    first, second, out = (Path(a) for a in sys.argv[1:])
    os.environ |= engine_environment(CONFIG)
    rows = drawn_rows(first)
    probes = {m: probe(m, rows) for m in (first, second)}
    prompts = [p.tolist() for p in rows.prompts]
    assert np.sort(rows.lengths)[-4] > 128
    engine = Engine(first, CONFIG, max(rows.lengths) + 8, rows.answer)
    vllm_engine.ROWS_S = 0.0
    found = {"scores": [], "sound": [], "rows": []}
    for model in (first, second, first):
        found["sound"].append(refusal(engine, model, probes[model]))
        found["scores"].append(engine.score(prompts, on_rows=lambda *rows: found["rows"].append(rows)))
    found["another model's probe"] = refusal(engine, first, probes[second])

    reset, engine.llm.reset_prefix_cache = engine.llm.reset_prefix_cache, lambda: True
    found["keys and values of the old weights"] = refusal(engine, second, probes[second])
    engine.llm.reset_prefix_cache = lambda: False
    found["a cache that was not emptied"] = refusal(engine, first, probes[first])
    engine.llm.reset_prefix_cache = reset
    reset()
    turns = (second, first, second)  # the weights of the refused swap are those of the first
    found["right again"] = [refusal(engine, model, probes[model]) for model in turns]
    swap = engine.llm.collective_rpc
    names = sorted(vllm_engine._tensor_names(first))
    engine.llm.collective_rpc = lambda *_, **__: [{"read": names, "missing": []}]
    found["old weights"] = refusal(engine, first, probes[first])
    engine.llm.collective_rpc = swap
    engine.loaded = None
    whole = out.parent / "one layer lost"
    shutil.copytree(first, whole)
    tensors = load_file(first / "model.safetensors")
    kept = {name: t for name, t in tensors.items() if ".layers.1." not in name}
    save_file(kept, whole / "model.safetensors", metadata={"format": "pt"})
    found["one layer was not loaded"] = refusal(engine, whole, probes[first])
    engine.close()
    fresh = Engine(second, CONFIG, max(rows.lengths) + 8, rows.answer)
    found["after another was closed"] = refusal(fresh, second, probes[second])
    fresh.close()
    found |= tied(first, out.parent, rows)
    out.write_text(json.dumps(found))


if __name__ == "__main__":
    main()
