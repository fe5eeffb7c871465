"""Run by a test: one real engine under swaps, right and broken; what it said is saved for the test to compare.

python -m tests.predict.swaps MODEL OTHER_MODEL OUT
"""

import json
import os
import sys
from pathlib import Path

import numpy as np
import torch
from transformers import AutoModelForCausalLM

from tests.train.made_rows import drawn_rows
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


def main():
    first, second, out = (Path(a) for a in sys.argv[1:])
    os.environ |= engine_environment(CONFIG)
    rows = drawn_rows(first)
    probes = {m: probe(m, rows) for m in (first, second)}
    prompts = [p.tolist() for p in rows.prompts]
    assert np.sort(rows.lengths)[-4] > 128
    engine = Engine(first, CONFIG, max(rows.lengths) + 8, rows.answer)
    found = {"scores": [], "sound": []}
    for model in (first, second, first):
        found["sound"].append(refusal(engine, model, probes[model]))
        found["scores"].append(engine.score(prompts))
    found["another model's probe"] = refusal(engine, first, probes[second])

    reset, engine.llm.reset_prefix_cache = engine.llm.reset_prefix_cache, lambda: None
    found["keys and values of the old weights"] = refusal(engine, second, probes[second])
    engine.llm.reset_prefix_cache = reset
    reset()
    found["mended"] = refusal(engine, second, probes[second])
    engine.llm.collective_rpc = lambda *_, **__: None
    found["old weights"] = refusal(engine, first, probes[first])
    engine.close()
    fresh = Engine(second, CONFIG, max(rows.lengths) + 8, rows.answer)
    found["after another was closed"] = refusal(fresh, second, probes[second])
    out.write_text(json.dumps(found))


if __name__ == "__main__":
    main()
