"""How often the check of a swap is wrong, on a real pretrained model.

    python -m bench.swap_check [--dtype bfloat16] [--checkpoints 200] [--seconds 400]

SmolLM2-135M-Instruct (`make smollm2`) is fine-tuned for a few steps under each of four losses. A checkpoint is the base
model plus random amounts of these four changes, so any number of sound models can be made. Each is scored in PyTorch as a
training worker scores it, then swapped into one vLLM engine and judged as a sweep judges it.

False alarms: sound checkpoints that are refused. Wrong ones: the weights of the checkpoint before (judged from its own
scores), and, in every tenth swap, a fault made in the engine: a tied head that keeps the old packed weights, keys and values
of the old weights, one layer that is not loaded. Results are kept, and a further run with another `--seed` adds to them.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from bench.papers import papers
from bench.results import BENCH, publish
from bench.smollm2 import FOLDER
from wlsweep.data.rows import parse_row
from wlsweep.data.tokenise import find_answer_tokens, load_tokenizer, tokenise_rows
from wlsweep.predict import worker
from wlsweep.predict.swap_check import judge
from wlsweep.predict.vllm_engine import Engine, Probe, SwapFailed, engine_environment
from wlsweep.spec.condition import parse_name
from wlsweep.spec.config import Predict
from wlsweep.train.model import AnswerModel, collate, run_forward

LOSSES = ("accept_gamma8.0_prop1_2", "reject_gamma8.0_prop1_2", "baseline_gamma1.0_prop1_2", "accept_gamma2.0_prop1_4")
STEPS, LR, BATCH = 2, 1e-4, 4
CUTOFF = 190
"""Tokens of a row: more than the 128 of a block of keys and values, which are reused as a whole."""
PROBES = 16
CHANGES = BENCH / "swap_check" / "changes"
FAULT_EVERY = 10
HEAD, CACHE, LAYER = "stale packed head", "stale keys and values", "one layer not loaded"
FAULTS = {"float32": (HEAD, CACHE, LAYER), "bfloat16": (CACHE, LAYER)}
"""A head in bf16 is not packed on a CPU: what skips the packing changes nothing there, and the swap is sound."""


class Made:
    """Checkpoints, and what PyTorch says of them."""

    def __init__(self, dtype: str, seed: int, scratch: Path) -> None:
        self.dtype = torch.bfloat16 if dtype == "bfloat16" else torch.float32
        self.scratch, self.rng = scratch, np.random.Generator(np.random.PCG64([seed, 3]))
        tokenizer = load_tokenizer(FOLDER)
        self.answer = find_answer_tokens(tokenizer)
        rows = [parse_row(r) for r in papers(48, 24, characters=900, seed=5)]
        self.prompts = [np.array(p.ids, dtype=np.int32) for p in tokenise_rows(tokenizer, rows, CUTOFF, self.answer)]
        self.accept = [r.label == "Accept" for r in rows]
        self.lm = AutoModelForCausalLM.from_pretrained(FOLDER, dtype=torch.float32, attn_implementation="sdpa")
        self.base = {n: p.detach().clone() for n, p in self.lm.named_parameters()}
        self.changes = [self._kept(name, i) for i, name in enumerate(LOSSES)]
        self.lm.to(self.dtype)

    def _batch(self, chosen: list[int]) -> Any:
        prompts = [self.prompts[i] for i in chosen]
        accept = [self.accept[i] for i in chosen]
        return collate(prompts, self.answer, accept, (1.0, 1.0), len(chosen), torch.device("cpu"))

    def _model(self, name: str) -> AnswerModel:
        return AnswerModel(self.lm, parse_name(name), self.answer)

    def _kept(self, name: str, number: int) -> dict[str, torch.Tensor]:
        """The same from a file, where an earlier run made it."""
        path = CHANGES / f"{name}.safetensors"
        if not path.is_file():
            path.parent.mkdir(parents=True, exist_ok=True)
            save_file({n: t for n, t in self._tuned(name, number).items() if n != "lm_head.weight"}, path)
        return load_file(path)

    def _tuned(self, name: str, number: int) -> dict[str, torch.Tensor]:
        """What a few steps of a real fine-tuning change."""
        self.lm.load_state_dict(self.base, strict=False)
        model, condition = self._model(name), parse_name(name)
        optimizer = torch.optim.AdamW(model.parameters(), lr=LR, fused=True)
        for step in range(STEPS):
            chosen = [PROBES + (4 * STEPS * number + BATCH * step + i) % 32 for i in range(BATCH)]
            batch = self._batch(chosen)
            weights = torch.where(batch.accept > 0, condition.weights[0], condition.weights[1])
            run_forward(model, batch._replace(weights=weights), 1.0).loss.backward()
            optimizer.step()
            optimizer.zero_grad()
        return {n: p.detach() - self.base[n] for n, p in self.lm.named_parameters()}

    def checkpoints(self, count: int) -> Iterator[tuple[Path, list[Probe]]]:
        """Folders, each with what the model itself says of the probe rows; two folders take turns."""
        heads = self._model(LOSSES[0])
        if self.dtype == torch.bfloat16:
            self.lm.lm_head.forward = lambda x: torch.nn.functional.linear(x.float(), self.lm.lm_head.weight.float())
        for i in range(count):
            amounts = self.rng.uniform(-0.5, 1.5, len(LOSSES))
            with torch.no_grad():
                for n, p in self.lm.named_parameters():
                    total = self.base[n] + sum(
                        float(a) * change[n] for a, change in zip(amounts, self.changes, strict=True)
                    )
                    p.copy_(total)
                labels = []
                for at in range(0, PROBES, 8):
                    labels += run_forward(heads, self._batch(list(range(at, at + 8))), 0.0).label_logprobs.tolist()
            folder = self.scratch / f"checkpoint{i % 2}"
            folder.mkdir(parents=True, exist_ok=True)
            for name in FOLDER.iterdir():
                if name.suffix != ".safetensors":
                    shutil.copy(name, folder)
            state = {n: p.detach().clone() for n, p in self.lm.named_parameters() if n != "lm_head.weight"}
            save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
            yield folder, [Probe(self.prompts[j].tolist(), *labels[j]) for j in range(PROBES)]


def with_fault(engine: Engine, fault: str, folder: Path, probe: list[Probe]) -> bool:
    """Whether a swap with a fault is refused."""
    repack, reset = worker._pack, engine.llm.reset_prefix_cache
    whole = (folder / "model.safetensors").read_bytes()
    try:
        if fault == HEAD:
            worker._pack = lambda head: None
        elif fault == CACHE:
            engine.llm.reset_prefix_cache = lambda: True
        else:
            tensors = load_file(folder / "model.safetensors")
            kept = {n: t for n, t in tensors.items() if ".layers.17." not in n}
            save_file(kept, folder / "model.safetensors", metadata={"format": "pt"})
        engine.use(folder, probe)
    except SwapFailed as e:
        print(f"{fault}: {str(e).split(': ', 1)[1][:150]}", flush=True)
        return True
    finally:
        worker._pack, engine.llm.reset_prefix_cache = repack, reset
        (folder / "model.safetensors").write_bytes(whole)
        reset()
        engine.loaded = None
    return False


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dtype", choices=["bfloat16", "float32"], default="bfloat16")
    parser.add_argument("--checkpoints", type=int, default=200)
    parser.add_argument("--seconds", type=float, default=1e9, help="stop after so many")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    if not FOLDER.is_dir():
        raise SystemExit(f"{FOLDER} is missing: make smollm2")
    began, dtype = None, arguments.dtype
    config = Predict(gpus_per_engine=0, cpus_per_engine=os.cpu_count() or 1, dtype=dtype, answer_tokens=8)
    os.environ |= engine_environment(config)
    scratch = BENCH / "swap_check" / dtype
    log = BENCH / "swap_check" / f"{dtype}.jsonl"
    log.parent.mkdir(parents=True, exist_ok=True)
    made = Made(dtype, arguments.seed, scratch)
    engine: Engine | None = None
    with log.open("a") as out:
        for i, (folder, probe) in enumerate(made.checkpoints(arguments.checkpoints)):
            began = began or time.monotonic()  # once everything is loaded
            if time.monotonic() - began > arguments.seconds:
                break
            if engine is None:
                engine = Engine(folder, config, CUTOFF, made.answer)
                engine.use(folder, probe)
                earlier = (folder, probe)
                print(f"rounding of the first model: {engine.rounding:.4f}", flush=True)
                continue
            line: dict[str, Any] = {"seed": arguments.seed, "checkpoint": i}
            if i % FAULT_EVERY == 0:
                line["fault"] = FAULTS[dtype][i // FAULT_EVERY % len(FAULTS[dtype])]
                line["refused"] = with_fault(engine, line["fault"], folder, probe)
                # The weights of this checkpoint may be in the engine now: a second swap to it would rightly be said to
                # have changed nothing.
                engine.use(*earlier)
            before = np.array(engine._label_logprobs([p.prompt_ids for p in probe]))
            started = time.monotonic()
            try:
                engine.use(folder, probe)
                line["false_alarm"] = None
            except SwapFailed as e:
                line["false_alarm"] = str(e)
                engine.loaded = folder
            line["seconds"], earlier = time.monotonic() - started, (folder, probe)
            own = np.array([p[1:] for p in probe])
            served = np.array(engine._label_logprobs([p.prompt_ids for p in probe]))
            sound = judge(served, own, before, engine.rounding, dtype)
            wrong = judge(before, own, before, engine.rounding, dtype)
            far = float(np.sqrt(np.mean((own - before) ** 2)))
            line |= {"error": sound.error, "limit": sound.limit, "way": sound.way, "far": far}
            line["largest"] = float(np.abs(served - own).max())
            line["old_weights_refused"] = wrong.wrong is not None
            line["old_weights_error"] = wrong.error
            out.write(json.dumps(line) + "\n")
            out.flush()
    shutil.rmtree(scratch, ignore_errors=True)
    report(dtype, [json.loads(line) for line in log.read_text().splitlines()])


def report(dtype: str, lines: list[dict[str, Any]]) -> None:
    """The counts so far."""
    if not lines:
        raise SystemExit("no checkpoint was tried")
    alarms = [line["false_alarm"] for line in lines if line["false_alarm"]]
    passed = [line for line in lines if not line["old_weights_refused"]]
    faults = Counter((line["fault"], line["refused"]) for line in lines if "fault" in line)
    rows = [
        ["sound checkpoints", f"{len(lines)}", f"{len(alarms)} refused"],
        ["weights of the checkpoint before", f"{len(lines)}", f"{len(passed)} passed"],
        *[[f"{f}", f"{faults[f, True] + faults[f, False]}", f"{faults[f, False]} passed"] for f in FAULTS[dtype]],
    ]
    measured = pd.DataFrame(lines)[["error", "limit", "largest", "far", "old_weights_error", "seconds", "way"]]
    record = {
        "dtype": dtype,
        "sound": len(lines),
        "false_alarms": alarms,
        "old_weights_passed": len(passed),
        "faults": {f"{f}, {'refused' if r else 'passed'}": n for (f, r), n in faults.items()},
        **measured.astype(float).quantile([0, 0.5, 1]).to_dict("list"),
    }
    title = f"The check of swaps, SmolLM2-135M, {dtype}"
    publish(f"swap_check_{dtype}", title, ["what", "tried", "wrong"], rows, record)


if __name__ == "__main__":
    main()
