"""Run by a test: one real engine with adapters, sound and broken; what it said is saved for the test to compare.

python -m tests.predict.adapters BASE OUT ADAPTER...
"""

import json
import os
import shutil
import sys
from pathlib import Path

import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

from tests.predict.swaps import CONFIG
from tests.train.made_rows import drawn_rows
from wlsweep.errors import WlsweepError
from wlsweep.predict.vllm_engine import Probe, engine_environment
from wlsweep.run.adapter import BASE, weights_fingerprint
from wlsweep.run.layout import read_json, write_json


def probe(base, adapter, rows, numbers=range(4)):
    """What the trained model itself says of some rows, by PEFT's forward pass."""
    lm = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32), adapter).eval()
    found = []
    for i in numbers:
        ids = [*rows.prompt(i).tolist(), *rows.answer.prefix]
        with torch.no_grad():
            logprobs = torch.log_softmax(lm(input_ids=torch.tensor([ids])).logits[0, -1], -1)
        found.append(Probe(rows.prompt(i).tolist(), *logprobs[[rows.answer.accept, rows.answer.reject]].tolist()))
    return found


def refusal(engine, *proof):
    try:
        engine.prove(*proof)
    except WlsweepError as e:
        return str(e)
    return None


def labels(scored):
    return [s[1:] for s in scored]


def main():
    base, out, *adapters = (Path(a) for a in sys.argv[1:])
    os.environ |= engine_environment(CONFIG)
    from wlsweep.predict.adapter_engine import AdapterEngine

    rows = drawn_rows(base)
    prompts = [p.tolist() for p in rows.prompts]
    probes = {a: probe(base, a, rows) for a in adapters}
    prints = {a: weights_fingerprint(a) for a in adapters}
    engine = AdapterEngine(str(base), CONFIG, max(rows.lengths) + 8, rows.answer, [4] * len(adapters))
    found = {"sound": [refusal(engine, a, prints[a], probes[a]) for a in adapters]}
    found["mixed"] = list(engine.score_all(adapters, prompts).values())
    found["mixed again, from cached prefixes"] = list(engine.score_all(adapters[::-1], prompts).values())[::-1]
    found["one by one"] = [engine.score_all([a], prompts)[a] for a in adapters]
    base_alone = engine.score(prompts)
    requests = [engine._requests[adapters[0]], None] * len(prompts)
    beside = engine.score([p for p in prompts for _ in range(2)], requests)[1::2]
    found["base beside an adapter"] = [labels(base_alone), labels(beside)]
    found["expected"] = [[p[1:] for p in probe(base, a, rows, range(len(prompts)))] for a in adapters]

    first, second = adapters[:2]
    found["another adapter's scores"] = refusal(engine, first, prints[first], probes[second])
    copy = shutil.copytree(first, out.parent / "copy" / "model")
    (copy / "adapter_model.safetensors").write_bytes((second / "adapter_model.safetensors").read_bytes())
    found["another adapter's file"] = refusal(engine, copy, prints[first], probes[first])
    write_json(copy / BASE, {**read_json(copy / BASE), "fingerprint": "0" * 16})
    found["another base"] = refusal(engine, copy, prints[second], probes[second])
    score = engine._label_logprobs
    engine._label_logprobs = lambda prompts, adapters=None: score(prompts)
    found["no adapter applied"] = refusal(engine, first, prints[first], probes[first])
    engine.close()
    out.write_text(json.dumps(found))


if __name__ == "__main__":
    main()
