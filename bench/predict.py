"""Rows/s of prediction against a bare vLLM on the same prompts, alternating in one process: python -m bench.predict RUN

Bare: `LLM.generate` on the prompts in their own order, greedy, as many tokens, no logprobs, nothing checked or parsed.
Ours: swapping in a checkpoint, checking it against its probe, longest first, logprobs of both labels, parsing.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from pathlib import Path

from wlsweep.data.load import load_mix, load_test
from wlsweep.predict.vllm_engine import Engine, Probe, engine_environment
from wlsweep.run.layout import RunDir, existing_run, read_json
from wlsweep.run.records import TrainedRecord
from wlsweep.spec.condition import Condition
from wlsweep.spec.config import Sweep


def probes_of(run: RunDir, conditions: list[Condition]) -> dict[str, list[Probe]]:
    """By condition, the rows that its training left to prove its model with."""
    found = {}
    for c in conditions:
        mix, record = load_mix(run, c.k), TrainedRecord.read(run.trained(c.name))
        found[c.name] = [Probe(mix.prompt(p.row).tolist(), p.logprob_accept, p.logprob_reject) for p in record.probe]
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    run = existing_run(arguments.run)
    sweep = Sweep.model_validate(read_json(run.sweep_json)["sweep"])
    os.environ |= engine_environment(sweep.predict)
    from vllm import SamplingParams

    test = load_test(run)
    prompts = [test.prompt(i).tolist() for i in range(len(test))]
    chosen = [c for c in sweep.conditions if run.trained(c.name).exists()][:2]
    if len(chosen) < 2:
        raise SystemExit(f"{run.root} needs two trained conditions")
    probes = probes_of(run, chosen)
    engine = Engine(run.model(chosen[0].name), sweep.predict, sweep.data.cutoff, test.answer)
    plain = SamplingParams(
        max_tokens=sweep.predict.answer_tokens, temperature=0, seed=0, stop_token_ids=[test.answer.end]
    )
    engine.score(prompts[:64])
    seconds: dict[str, list[float]] = {"bare vLLM": [], "wlsweep": [], "its swap": []}
    for turn in range(arguments.rounds):
        engine.llm.reset_prefix_cache()
        began = time.perf_counter()
        engine.llm.generate([{"prompt_token_ids": p} for p in prompts], plain, use_tqdm=False)
        seconds["bare vLLM"].append(time.perf_counter() - began)
        name = chosen[(turn + 1) % 2].name
        began = time.perf_counter()
        engine.use(run.model(name), probes[name])
        seconds["its swap"].append(time.perf_counter() - began)
        engine.score(prompts)
        seconds["wlsweep"].append(time.perf_counter() - began)
    medians = {k: statistics.median(v) for k, v in seconds.items()}
    print(f"{'':10} {'seconds':>8} {'rows/s':>8} {'of bare':>8}")
    for name, s in medians.items():
        if name == "its swap":  # part of ours, once a condition
            print(f"{name:10} {s:8.2f}")
            continue
        print(f"{name:10} {s:8.2f} {len(prompts) / s:8.0f} {medians['bare vLLM'] / s:8.2f}")
    print(json.dumps({"bench": "predict", "rows": len(prompts), "seconds": seconds}))


if __name__ == "__main__":
    main()
