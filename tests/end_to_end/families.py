"""Run by a test: every family goes through training and export, and then through vLLM.

torchrun --nproc-per-node 1 -m tests.end_to_end.families train FOLDER
python -m tests.end_to_end.families serve FOLDER
"""

import json
import os
import sys
import traceback
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist

from bench import qwen_like
from tests.train.families import FAMILIES, attention_of, tiny
from tests.train.made_rows import STEPS, drawn_rows, papers, train_config
from wlsweep.predict.vllm_engine import Engine, Probe, engine_environment
from wlsweep.spec.config import Predict

CONFIG = Predict(gpus_per_engine=0, cpus_per_engine=1, dtype="float32", answer_tokens=6)


def train(folder):
    from tests.train.layouts import CONDITION, let_go, micro_batches
    from wlsweep.train.model import run_forward
    from wlsweep.train.proof import measure_agreement, refuse_disagreement
    from wlsweep.train.zero3 import build_engine, export_model, join_group

    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    place = join_group()
    words = ["Accept", "Re", "ject", "boxed", "system", "user", "assistant"]
    tokenizer = qwen_like.build((row.paper for row in papers(12)), 600, words)
    for number, family in enumerate(FAMILIES):
        base = folder / f"base{number}"
        tiny(family, 640, tokenizer.eos_token_id).save_pretrained(base)
        tokenizer.save_pretrained(base)
        rows = drawn_rows(base)
        settings = train_config(place.world, 4, False)
        engine = build_engine(base, CONDITION, settings, rows.answer, attention_of(family), STEPS)
        first, second = micro_batches(rows, np.arange(8), place, settings.accumulation)
        refuse_disagreement(measure_agreement(engine, first), str(base), family, "fp32")
        for _ in range(2):
            for batch in (first, second):
                engine.backward(run_forward(engine, batch, 1.0).loss * settings.accumulation)
                engine.step()
        with torch.no_grad():
            labels = run_forward(engine, first, 0.0).label_logprobs.tolist()
        export_model(engine, place, base, folder / f"trained{number}")
        let_go(engine)
        probes = [[first.input_ids[i, : int(n)].tolist(), *labels[i]] for i, n in enumerate(first.prompt_lengths)]
        (folder / f"probe{number}.json").write_text(json.dumps(probes))
    dist.destroy_process_group()


def serve(folder):
    os.environ |= engine_environment(CONFIG)
    answer = drawn_rows(folder / "base0").answer
    found = {}
    for number, family in enumerate(FAMILIES):
        probes = [Probe(*row) for row in json.loads((folder / f"probe{number}.json").read_text())]
        try:
            engine = Engine(folder / f"trained{number}", CONFIG, 600, answer)
            scored = engine._label_logprobs([p.prompt_ids for p in probes])
            found[family] = max(
                abs(a - b) for p, s in zip(probes, scored, strict=True) for a, b in zip(p[1:], s, strict=True)
            )
            engine.close()
        except Exception:  # noqa: BLE001 - the other families are tried all the same
            traceback.print_exc()
            found[family] = traceback.format_exc()[-300:]
    (folder / "found.json").write_text(json.dumps(found))


if __name__ == "__main__":
    {"train": train, "serve": serve}[sys.argv[1]](Path(sys.argv[2]))
