"""Run by a test: a real engine whose model is split over processes, swap after swap.

python -m tests.predict.split MODEL OTHER_MODEL OUT PROCESSES
"""

import json
import os
import sys
from pathlib import Path

from tests.predict.swaps import CONFIG, probe, refusal
from tests.train.made_rows import drawn_rows
from wlsweep.predict.vllm_engine import Engine, engine_environment, tensor_parallel


def main():
    first, second, out = (Path(a) for a in sys.argv[1:4])
    os.environ |= engine_environment(CONFIG)
    rows = drawn_rows(first)
    probes = {m: probe(m, rows) for m in (first, second)}
    engine = Engine(first, CONFIG, max(rows.lengths) + 8, rows.answer, **tensor_parallel(int(sys.argv[4])))
    config = engine.llm.llm_engine.vllm_config.parallel_config
    found = {"executor": config.distributed_executor_backend, "ranks": config.world_size, "sound": [], "scores": []}
    for model in (first, second, first):
        found["sound"].append(refusal(engine, model, probes[model]))
        found["scores"].append(engine.score([p.tolist() for p in rows.prompts]))
    found["another model's probe"] = refusal(engine, first, probes[second])
    engine.loaded = None
    workers = engine.llm.collective_rpc("swap_weights", args=(str(second),))
    found["read by each rank"] = [len(w["read"]) for w in workers]
    found["missing"] = [w["missing"] for w in workers]
    engine.close()
    out.write_text(json.dumps(found))


if __name__ == "__main__":
    main()
