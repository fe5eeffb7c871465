"""Rows/s of a run's adapters in one queue, one after the other, and as whole models swapped in: python -m bench.lora RUN

RUN is a finished LoRA run, such as runs/demo_lora. Its adapters are merged into whole models for the third way. Each way
includes its proofs: loading an adapter or swapping a model, and checking it. Alternating in one process; medians.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from bench.predict import probes_of
from wlsweep.data.load import load_test
from wlsweep.predict.vllm_engine import Engine, Scored, engine_environment
from wlsweep.run.layout import existing_run
from wlsweep.run.records import SweepRecord, TrainedRecord
from wlsweep.train.merge import export_merged


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--rows", type=int, default=500)
    arguments = parser.parse_args()
    run = existing_run(arguments.run)
    record = SweepRecord.read(run.sweep_json)
    sweep = record.resolved(run.sweep_json)
    os.environ |= engine_environment(sweep.predict)
    from wlsweep.predict.adapter_engine import AdapterEngine

    chosen = [c for c in sweep.conditions if c.lora and run.trained(c.name).exists()]
    test = load_test(run)
    prompts = [test.prompt(i).tolist() for i in range(min(arguments.rows, len(test)))]
    fingerprints = {c.name: TrainedRecord.read(run.trained(c.name)).model.fingerprint for c in chosen}
    probes = probes_of(run, chosen)
    adapters = [run.model(c.name) for c in chosen]
    seconds: dict[str, list[float]] = defaultdict(list)
    scores: dict[str, np.ndarray] = {}
    with tempfile.TemporaryDirectory() as folder:
        models = dict(zip(probes, export_merged(run, None, Path(folder)), strict=True))
        cutoff = sweep.data.cutoff
        engine = AdapterEngine(record.base, sweep.predict, cutoff, test.answer, [c.lora for c in chosen])
        whole = Engine(models[chosen[0].name], sweep.predict, cutoff, test.answer)

        def prove(name: str) -> None:
            engine.prove(run.model(name), fingerprints[name], probes[name])

        def mixed() -> Iterator[list[Scored]]:
            for c in chosen:
                prove(c.name)
            yield from engine.score_all(adapters, prompts).values()

        def one_after_the_other() -> Iterator[list[Scored]]:
            for c, adapter in zip(chosen, adapters, strict=True):
                prove(c.name)
                yield engine.score_all([adapter], prompts)[adapter]

        def swapped() -> Iterator[list[Scored]]:
            for c in chosen:
                whole.use(models[c.name], probes[c.name])
                yield whole.score(prompts)

        ways = {"mixed": mixed, "one after the other": one_after_the_other, "whole models swapped": swapped}
        for _ in range(arguments.rounds):
            for way, scored in ways.items():
                began = time.perf_counter()
                found = list(scored())
                seconds[way].append(time.perf_counter() - began)
                scores[way] = np.array([[s[1:] for s in rows] for rows in found])
    rows = len(chosen) * len(prompts)
    result = {way: {"rows_per_s": round(rows / statistics.median(s), 1)} for way, s in seconds.items()}
    for way, found in scores.items():
        result[way]["largest_difference_to_mixed"] = float(np.abs(found - scores["mixed"]).max())
        print(f"{way:22} {result[way]['rows_per_s']:8.1f} rows/s")
    print(json.dumps({"conditions": len(chosen), "rows_each": len(prompts), **result}))


if __name__ == "__main__":
    main()
