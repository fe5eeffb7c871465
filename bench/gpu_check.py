"""One command for the first day on a GPU: what is right, what is fast, what is neither; a verdict a line.

    make gpu-check                # on a machine with a GPU, EXTRA=gpu; at most ten minutes, the same command goes on
    make gpu-check ARGS=--cpu     # everything that can run on CPUs, on a toy shape: the script itself is tried (CI does so)

Every part runs in a process of its own with a time limit, and its lines are kept in runs/gpu-check/results.json. The same
command again runs the parts that failed or were not measured (`--again` forgets all). Verdicts: pass, fail, or not
measured with the reason; a line without a goal is a measurement. Figures of a toy shape on a CPU say nothing about GPUs.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import torch

from wlsweep.self_check import (
    Line,
    environment,
    in_a_process,
    judged,
    kernels,
    kill_with_all,
    memory,
    process_environment,
    unmeasured,
)
from wlsweep.self_check import torchrun as one_rank

WORK = Path("runs/gpu-check")
LIMIT_S = 600.0
PATIENCE = {True: 4.0, False: 1.0}
"""Times the limits, on a CPU (which may be a busy one) and on a GPU."""
MFU_GOAL, TRAINER_GOAL, VLLM_GOAL = 0.50, 1.2, 0.9
LEAVING_S = 20.0
"""How long what an engine has started may outlive it; its watcher looks twice a second."""
TOY = "tiny"
"""The run that `train` leaves to the parts after it."""


class NothingTrained(Exception):
    """A part needs a model that another part trains."""


class Part(NamedTuple):
    """One part: what it needs, and its function, which takes whether it runs on a CPU."""

    work: Callable[[bool], list[Line]]
    needs: tuple[str, ...] = ()
    limit_s: float = 250.0


def breakdown(cpu: bool) -> list[Line]:
    """Where a decoder layer's time goes: products, attention, the rest; and the ceiling of MFU that follows."""
    from transformers import Qwen2Config
    from transformers.models.qwen2.modeling_qwen2 import Qwen2DecoderLayer, Qwen2RotaryEmbedding

    from bench.gpu import peak_flops

    device, dtype, tokens = ("cpu", torch.float32, 256) if cpu else ("cuda", torch.bfloat16, 4096)
    sizes = {"hidden_size": 256, "intermediate_size": 704, "num_attention_heads": 4, "num_key_value_heads": 2}
    if not cpu:
        sizes = {"hidden_size": 3584, "intermediate_size": 18944, "num_attention_heads": 28, "num_key_value_heads": 4}
    config = Qwen2Config(num_hidden_layers=1, vocab_size=64, attn_implementation="sdpa", **sizes)
    layer = Qwen2DecoderLayer(config, 0).to(device, dtype)
    x = torch.randn(1, tokens, config.hidden_size, device=device, dtype=dtype, requires_grad=True)
    where = torch.arange(tokens, device=device)[None]
    rotary = Qwen2RotaryEmbedding(config).to(device)(x, where)
    linears = [m for m in layer.modules() if isinstance(m, torch.nn.Linear)]
    inputs = [torch.randn(tokens, m.in_features, device=device, dtype=dtype, requires_grad=True) for m in linears]
    heads, size = config.num_attention_heads, config.hidden_size // config.num_attention_heads
    q = torch.randn(1, heads, tokens, size, device=device, dtype=dtype, requires_grad=True)

    def whole() -> torch.Tensor:
        out = layer(x, position_embeddings=rotary)
        return (out[0] if isinstance(out, tuple) else out).sum()

    def products() -> torch.Tensor:
        return torch.stack([m(i).sum() for m, i in zip(linears, inputs, strict=True)]).sum()

    def attention() -> torch.Tensor:
        return torch.nn.functional.scaled_dot_product_attention(q, q, q, is_causal=True).sum()

    works = {"layer": whole, "products": products, "attention": attention}
    ms = {name: 1000 * _seconds(work) for name, work in works.items()}
    rest = max(0.0, ms["layer"] - ms["products"] - ms["attention"])
    said = f"{ms['layer']:.1f} ms: products {ms['products']:.1f}, attention {ms['attention']:.1f}, the rest {rest:.1f}"
    lines = [judged(f"a 7B layer at {tokens} tokens" if not cpu else "a toy layer", "", said, None)]
    if (peak := peak_flops()) is not None:
        flops = 6 * tokens * sum(m.weight.numel() for m in linears) + 12 * heads * size * tokens * tokens / 2
        # Recomputation under gradient checkpointing is a third forward pass: 4 units of work for 3 that count.
        mfu = flops / (ms["layer"] / 1000 * 4 / 3) / peak
        lines.append(judged("ceiling of MFU with checkpointing", f">= {MFU_GOAL:.0%}", f"{mfu:.0%}", mfu >= MFU_GOAL))
    return lines


def _seconds(work: Callable[[], torch.Tensor], rounds: int = 5) -> float:
    """Median seconds of forward and backward pass."""
    times = []
    for _ in range(rounds + 2):
        began = time.perf_counter()
        torch.autograd.backward(work())
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        times.append(time.perf_counter() - began)
    return sorted(times[2:])[rounds // 2]


def speed(name: str, cpu: bool) -> list[Line]:
    """A shape's training against the HF Trainer, its prediction against bare vLLM."""
    from bench.gpu import SHAPES, TEST_PAPERS, TINY, measure
    from wlsweep.spec.architecture import architecture
    from wlsweep.spec.train_section import Model

    shape = TINY if cpu else architecture(Model(path=SHAPES[name]))
    assert shape is not None
    found = measure(name, shape, cpu, fresh=not cpu)  # on a CPU with the models that `train` has just made
    ours, trainer, rows, peak = (found[k] for k in ("tokens_per_s", "trainer_tokens_per_s", "rows_per_s", "peak"))
    at = f"{name}, {found['layers']} layers"
    lines = []
    if ours is None:
        lines.append(unmeasured(f"training, {at}", f"see {WORK.parent}/bench/gpu/{name}"))
    elif peak:
        mfu = ours * found["flops_per_token"] / peak
        lines.append(judged(f"MFU, {at}", f">= {MFU_GOAL:.0%}", f"{mfu:.1%} ({ours:.0f} tokens/s)", mfu >= MFU_GOAL))
    else:
        lines.append(judged(f"two conditions trained and proved, {at}", "", f"{ours:.0f} tokens/s", None))
    predicted = f"prediction of {TEST_PAPERS:,} papers against bare vLLM"
    for what, mine, other, goal in (
        ("against the HF Trainer", ours, trainer, TRAINER_GOAL),
        (predicted, rows.get("wlsweep"), rows.get("bare vLLM"), VLLM_GOAL),
    ):
        if mine and other:
            ratio = mine / other
            lines.append(judged(f"{what}, {at}", f">= {goal:g}", f"{ratio:.2f}", None if cpu else ratio >= goal))
        else:
            lines.append(unmeasured(f"{what}, {at}", "one of the two did not run"))
    if swap := rows.get("swap_s"):
        lines.append(judged(f"swap of a checkpoint with its proof, {at}", "", f"{swap:.1f} s", None))
    return lines


def train(cpu: bool) -> list[Line]:
    """Two conditions of a toy shape through data stage and ZeRO-3, without Ray; each proves its weights."""
    from bench.gpu import TINY, prepare, torchrun
    from bench.gpu import WORK as SPEED
    from wlsweep.run.layout import read_json

    sweep, run, _ = prepare(SPEED / TOY, TINY, cpu)
    lines = []
    for c in sweep.conditions:
        torchrun("wlsweep.train.torchrun", str(run.root), c.name, log=SPEED / TOY / f"{c.name}.log")
        found = read_json(run.trained(c.name))["proof"]
        ratios = (found["accept"], found["reject"])
        good = all(abs(ratio / weight - 1) < 1e-3 for ratio, weight in zip(ratios, c.weights, strict=True))
        goal = "loss times {:g} and {:g}".format(*c.weights)
        lines.append(judged(f"proof of {c.name}", goal, "{:.4f} and {:.4f}".format(*ratios), good))
    return lines


def _trained_run(*names: str) -> tuple[Any, Any]:
    """The first of these runs that other parts left: layout, and its first trained condition's name."""
    from bench.gpu import WORK as SPEED
    from wlsweep.run.layout import RunDir, read_json

    for name in names:
        run = RunDir(SPEED / name / "run")
        if run.sweep_json.is_file():
            trained = [c["name"] for c in read_json(run.sweep_json)["conditions"] if run.trained(c["name"]).is_file()]
            if trained:
                return run, trained[0]
    raise NothingTrained("no trained model: the part that trains it did not run")


def rounding(cpu: bool) -> list[Line]:
    """Log-odds in bfloat16 with a float32 head, as training and prediction have them, against float32."""
    from transformers import AutoModelForCausalLM

    from wlsweep.data.load import load_test

    run, name = _trained_run("0.5B", TOY)
    test, device = load_test(run), "cpu" if cpu else "cuda"
    found: dict[torch.dtype, list[float]] = {}
    for dtype in (torch.float32, torch.bfloat16):
        lm = AutoModelForCausalLM.from_pretrained(run.model(name), dtype=dtype).to(device).eval()
        weight = lm.lm_head.weight.float()
        found[dtype] = []
        for i in range(min(16 if cpu else 64, len(test))):
            ids = torch.tensor([[*test.prompt(i).tolist(), *test.answer.prefix]], device=device)
            with torch.no_grad():
                hidden = lm.model(input_ids=ids).last_hidden_state[0, -1].float()
            logits = weight[[test.answer.accept, test.answer.reject]] @ hidden
            found[dtype].append(float(logits[0] - logits[1]))
    apart = sorted(abs(a - b) for a, b in zip(*found.values(), strict=True))
    at_95 = apart[int(0.95 * (len(apart) - 1))]
    return [judged("bf16 log-odds against float32, 95 % of rows", "within 0.1", f"{at_95:.3f}", at_95 <= 0.1)]


def resume(cpu: bool) -> list[Line]:
    """Kill a training by SIGKILL after its first checkpoint, time that checkpoint, and go on."""
    import shutil

    from wlsweep.run.causes import one_line
    from wlsweep.run.layout import RunDir, read_json, write_json

    source, name = _trained_run(TOY)
    run = RunDir(source.root.with_name("resumed"))  # beside it, for their common cache of tokens
    shutil.rmtree(run.root, ignore_errors=True)
    shutil.copytree(source.root, run.root, ignore=shutil.ignore_patterns("conditions", "predictions"))
    record = read_json(run.sweep_json)
    record["sweep"]["train"] |= {"checkpoint_every": 1, "log_every": 1}
    write_json(run.sweep_json, record)
    command = one_rank("wlsweep.train.torchrun", str(run.root), name)
    began = time.monotonic()
    quiet = {"start_new_session": True, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    first = subprocess.Popen(command, env=process_environment(cpu), **quiet)
    while first.poll() is None and not list(run.checkpoints(name).glob("step_*/training.json")):
        time.sleep(0.05)
    killed = first.poll() is None
    if killed:
        kill_with_all(first)
    first.wait()
    size = sum(f.stat().st_size for f in run.checkpoints(name).rglob("*") if f.is_file()) / 1e6
    time.sleep(12)  # its lease is free once its process is known to be dead
    done = subprocess.run(command, env=process_environment(cpu), capture_output=True, text=True)
    if done.returncode:
        return [judged("killed and resumed", "finishes", one_line(done.stdout + done.stderr), False)]
    a, b = (read_json(r.trained(name)) for r in (source, run))
    same, apart = a["model"]["fingerprint"] == b["model"]["fingerprint"], abs(a["final"]["loss"] - b["final"]["loss"])
    goal, good = ("the same bits", same) if cpu else ("loss within 0.02", apart < 0.02)
    bits = "the same bits" if same else "other bits"
    said = f"{bits}, loss {apart:.1e} apart, {time.monotonic() - began:.0f} s in all"
    what = "killed and resumed" if killed else "trained again (it ended before the kill)"
    return [judged(what, goal, said, good), judged("bytes of its checkpoint", "", f"{size:.1f} MB", None)]


ENGINE = """
import time
from pathlib import Path
from wlsweep.predict.orphans import end_children_with_this_process
end_children_with_this_process()  # as every engine's actor does first
from vllm import LLM
llm = LLM({model!r}, max_model_len=512, enforce_eager=True, {memory})
print("ready", flush=True)
time.sleep(600)
"""


def orphans(cpu: bool) -> list[Line]:
    """SIGKILL of a process that holds an engine as the product does: does a child outlive it, and hold memory?"""
    import psutil

    from wlsweep.predict.vllm_engine import engine_environment
    from wlsweep.spec.config import Predict

    run, name = _trained_run(TOY)
    memory = "kv_cache_memory_bytes=64 << 20, dtype='float32'" if cpu else "gpu_memory_utilization=0.3"
    environment = {**os.environ, **engine_environment(Predict(gpus_per_engine=int(not cpu), cpus_per_engine=1))}
    environment["VLLM_ENABLE_V1_MULTIPROCESSING"] = "1"  # an EngineCore of its own also where the product has none
    before = _free_memory()
    log = WORK / "engine.log"
    with log.open("w") as said:
        engine = subprocess.Popen(
            [sys.executable, "-c", ENGINE.format(model=str(run.model(name)), memory=memory)],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=said,
            text=True,
        )
    assert engine.stdout is not None
    if not any(line == "ready\n" for line in engine.stdout):
        return [unmeasured("an engine killed by SIGKILL", f"it did not start ({engine.wait()}); see {log}")]
    children = psutil.Process(engine.pid).children(recursive=True)
    engine.kill()
    engine.wait()
    left = psutil.wait_procs(children, timeout=LEAVING_S)[1]
    held = before - _free_memory()
    for child in left:
        child.kill()
    said_of = f"{len(children)} children, {len(left)} alive after {LEAVING_S:g} s"
    lines = [judged("an engine's children after SIGKILL of their parent", "none is left", said_of, not left)]
    if not cpu:
        lines.append(judged("GPU memory that they hold", "< 0.1 GiB", f"{held / 2**30:.2f} GiB", held < 2**30 / 10))
    return lines


def _free_memory() -> int:
    """Bytes that nobody holds on the GPU; 0 without one."""
    return torch.cuda.mem_get_info()[0] if torch.cuda.is_available() else 0


def parts(cpu: bool) -> dict[str, Part]:
    """The parts in order: what is cheap and decides most comes first."""
    speeds = {TOY: 250.0} if cpu else {"0.5B": 150.0, "1.5B": 200.0, "7B": 280.0}
    engines = ("deepspeed",)
    return {
        "environment": Part(environment),
        "kernels": Part(kernels),
        "breakdown": Part(breakdown),
        "memory": Part(memory, engines),
        "train": Part(train, engines),
        "resume": Part(resume, engines),
        **{f"speed {name}": Part(partial(speed, name), engines, limit) for name, limit in speeds.items()},
        "rounding": Part(rounding, engines),
        "orphans": Part(orphans, ("vllm",)),
    }


def run_part(name: str, part: Part, cpu: bool, left_s: float) -> list[Line]:
    """Run a part in a process of its own; whatever happens to it, there is a line."""
    lacking = [n for n in part.needs if find_spec(n) is None]
    if lacking:
        return [unmeasured(name, f"{', '.join(lacking)} is not installed")]
    out, log = WORK / "part.json", WORK / f"{name.replace(' ', '_')}.log"
    command = [sys.executable, "-m", "bench.gpu_check", "--part", name, *(["--cpu"] if cpu else [])]
    return in_a_process(name, command, out, log, min(part.limit_s * PATIENCE[cpu], left_s))


def main() -> int:
    """Run what is not settled yet, print the table; 1 if a line failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cpu", action="store_true", help="toy shapes on a CPU")
    parser.add_argument("--again", action="store_true", help="forget what was measured")
    parser.add_argument("--only", nargs="+", metavar="PART", help="these parts alone")
    parser.add_argument("--part", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    WORK.mkdir(parents=True, exist_ok=True)
    every = parts(arguments.cpu)
    if arguments.part:
        try:
            lines = every[arguments.part].work(arguments.cpu)
        except NothingTrained as e:
            lines = [unmeasured(arguments.part, str(e))]
        (WORK / "part.json").write_text(json.dumps(lines))
        return 0
    if not (arguments.cpu or torch.cuda.is_available()):
        print("not measured: no GPU (make gpu-check ARGS=--cpu runs everything that a CPU can)")
        return 0
    return check_all(every, arguments.cpu, arguments.again, arguments.only)


def check_all(every: dict[str, Part], cpu: bool, again: bool, only: list[str] | None = None) -> int:
    """Run every part that is not settled yet, within the time limit; print and keep the table."""
    file, device = WORK / "results.json", "CPU" if cpu else torch.cuda.get_device_name()
    kept = json.loads(file.read_text()) if file.is_file() and not again else {}
    results: dict[str, list[list[str]]] = kept.get("parts", {}) if kept.get("device") == device else {}
    began = time.monotonic()
    for name, part in every.items():
        left = LIMIT_S * PATIENCE[cpu] - (time.monotonic() - began)
        settled = name in results and all(line[3] in ("pass", "measured") for line in results[name])
        if settled or (only and name not in only):
            continue
        if left < 20:
            print(f"{name}: no time is left; the same command goes on")
            continue
        lines = run_part(name, part, cpu, left)
        print(f"{name}: {time.monotonic() - began:.0f} s", flush=True)
        results[name] = [list(line) for line in lines]
        record = {"device": device, "at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), "parts": results}
        file.write_text(json.dumps(record, indent=1))
    return show(device, results, file)


def show(device: str, results: dict[str, list[list[str]]], file: Path) -> int:
    """The table; 1 if a line failed, or on a CPU was not measured."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title=f"gpu-check on {device}", title_justify="left", box=None, pad_edge=False)
    for column in ("what", "goal", "measured", "verdict"):
        table.add_column(column, overflow="fold")
    lines = [Line(*line) for part in results.values() for line in part]
    for line in lines:
        table.add_row(*line)
    console = Console()
    console.print(table)
    failed = sum(line.verdict == "fail" for line in lines)
    missing = sum(line.verdict == "not measured" for line in lines)
    console.print(f"{failed} of {len(lines)} lines failed, {missing} not measured. JSON: {file}", highlight=False)
    # A CPU is for trying the parts themselves, so one that does not run there has failed.
    return 1 if failed or (missing and device == "CPU") else 0


if __name__ == "__main__":
    sys.exit(main())
