"""On one GPU: training speed against the HF Trainer, prediction speed against bare vLLM: python -m bench.gpu

Qwen2.5 shapes of 0.5B, 1.5B and 7B with random weights, rows of 4,096 tokens, bf16, gradient checkpointing, one ZeRO-3 rank
started by torchrun, without Ray. A shape whose states do not fit the GPU (18 bytes a parameter on one rank) loses layers
until it fits, and the table says how many are left: a layer's arithmetic stays that of the shape. The Trainer has the same
rows, model, optimizer and ZeRO-3 settings, and computes logits for every token, as it does for everyone. Tokens/s are the
median of the logged steps after the first. MFU: 6 FLOPs a parameter and token of the data sheet's dense bf16 peak; for both
without embeddings, attention scores, recomputed activations, and what the loss does not need of the last layer. A second
table has the 1.5B shape on rows of very different lengths, eight to a micro-batch: padded, and packed.

    python -m bench.gpu --tiny      # the same path on a CPU with a toy shape: a trial of the script, no figures to quote

Without a GPU it says "not measured: no GPU".
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from bench.papers import papers, paragraphs, write_array
from bench.qwen_like import build
from bench.results import BENCH, WLSWEEP, empty_folder, publish, timed
from wlsweep.run.layout import RunDir, read_json
from wlsweep.self_check import torchrun as one_rank
from wlsweep.spec.architecture import Architecture, architecture
from wlsweep.spec.config import Sweep, load_sweep
from wlsweep.spec.cost import training_flops, training_memory
from wlsweep.spec.train_section import Model

WORK = BENCH / "gpu"
SHAPES = {"0.5B": "Qwen/Qwen2.5-0.5B-Instruct", "1.5B": "Qwen/Qwen2.5-1.5B-Instruct", "7B": "Qwen/Qwen2.5-7B-Instruct"}
TINY = Architecture(vocab=2048, width=64, mlp=128, layers=2, heads=2, kv_heads=1, tied=True)  # as the 1.5B has it
PEAK = {"H100": 989e12, "H200": 989e12, "A100": 312e12, "L40S": 362e12, "B200": 2250e12}
"""Dense bf16 of the data sheets, FLOP/s."""
MEMORY_SHARE = 0.85
TEST_PAPERS = 2024
"""Of a condition's prediction: those of the ICLR experiment."""
SPACE = """
name = "gpu"
[data]
resampling = "oversample"
cutoff = {cutoff}
[model]
path = "{model}"
attention = "{attention}"
[train]
lr = 1.0e-5
global_batch = {batch}
micro_batch = {micro}
workers = 1
gpu = {gpu}
dtype = "{train}"
log_every = {log_every}
[predict]
gpus_per_engine = {gpus}
dtype = "{predict}"
[[grid]]
proportion = ["1/2"]
variant = ["baseline"]
gamma = [1.0]
[[grid]]
proportion = ["1/2"]
variant = ["accept"]
gamma = [2.0]
"""


def write_model(a: Architecture, folder: Path) -> None:
    """Random weights, and a tokenizer that splits like Qwen2.5's (a smaller vocabulary; the embedding has the full one)."""
    from transformers import Qwen2ForCausalLM

    from wlsweep.train.tiny_base_model import qwen2_config

    tokenizer = build(paragraphs(500, seed=1), vocab=min(a.vocab, 16_000))
    config = qwen2_config(
        a,
        max_position_embeddings=32_768,
        rope_parameters={"rope_type": "default", "rope_theta": 1e6},
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    torch.manual_seed(0)
    on_gpu = torch.cuda.is_available()
    with torch.device("cuda" if on_gpu else "cpu"):
        model = Qwen2ForCausalLM(config).to(torch.bfloat16 if on_gpu else torch.float32)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def peak_flops() -> float | None:
    """That of the GPU here, where its data sheet is known."""
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"
    return next((v for k, v in PEAK.items() if k in device), None)


def fitting(a: Architecture, sweep: Sweep) -> Architecture:
    """The shape with as many of its layers as the GPU holds."""
    if not torch.cuda.is_available():
        return a
    room = MEMORY_SHARE * torch.cuda.get_device_properties(0).total_memory
    # the Trainer has the logits of every token, in bf16 and in float32, and their gradients
    room -= sweep.train.micro_batch * sweep.data.cutoff * a.vocab * 12
    while a.layers > 1 and training_memory(a, sweep).total > room:
        a = a._replace(layers=a.layers - 1)
    return a


def torchrun(*arguments: str, log: Path) -> None:
    """One rank, without Ray."""
    timed(one_rank(*arguments), log, {} if torch.cuda.is_available() else {"DS_ACCELERATOR": "cpu"})


def prepare(
    folder: Path, shape: Architecture, tiny: bool, fresh: bool = True, **changed: object
) -> tuple[Sweep, RunDir, Architecture]:
    """A run whose data stage is done, on random weights in that shape; not `fresh`: the one that lies there, if it is it."""
    kinds = {"gpu": "false", "train": "fp32", "predict": "float32", "gpus": 0, "cutoff": 512, "log_every": 1}
    if not tiny:
        kinds = {"gpu": "true", "train": "bf16", "predict": "bfloat16", "gpus": 1, "cutoff": 4096, "log_every": 4}
    kinds |= {"batch": 8, "micro": 1, "attention": "sdpa", "characters": 2_000 if tiny else 38_000, "spread": 0.2}
    kinds |= changed
    space, run, rows = folder / "gpu.toml", RunDir(folder / "run"), folder / "rows.json"
    text = SPACE.format(model=folder / "base", **kinds)
    there = not fresh and run.data_json.is_file() and space.is_file() and space.read_text() == text
    if not there:
        empty_folder(folder)
        space.write_text(text)
    sweep = load_sweep(space)
    a = fitting(shape, sweep)
    if there:
        return sweep, run, a
    write_model(a, folder / "base")
    count = 40 if tiny else 400
    write_array(rows, papers(count, count // 2, characters=kinds["characters"], spread=kinds["spread"]))
    timed([*WLSWEEP, "run", str(space), "--data", str(rows), "--out", str(run.root), "--stage", "data"], folder / "log")
    return sweep, run, a


def tried(work: Callable[[], Any]) -> Any:
    """What a part found, or None with the reason said: the others are measured all the same."""
    try:
        return work()
    except (SystemExit, OSError, ValueError, RuntimeError) as e:
        print(f"not measured: {type(e).__name__}: {e}", file=sys.stderr, flush=True)
        return None


def tokens_per_s(run: RunDir, name: str) -> float:
    """Of the logged steps after the first."""
    lines = run.metric_log(name).read_text().splitlines()[1:]
    return statistics.median(json.loads(line)["tokens_per_s"] for line in lines)


def measure_layouts(name: str, shape: Architecture, tiny: bool) -> dict[str, float]:
    """Tokens/s, padding not counted, of padded and of packed micro-batches of the same rows."""
    found = {}
    for attention in ("sdpa", "packed"):
        folder = WORK / f"{name}-{attention}"
        different = {"characters": 500 if tiny else 5_000, "spread": 0.8, "batch": 16, "micro": 8}
        sweep, run, _ = prepare(folder, shape, tiny, attention=attention, **different)
        condition = sweep.conditions[0].name
        torchrun("wlsweep.train.torchrun", str(run.root), condition, log=folder / "train.log")
        found[attention] = tokens_per_s(run, condition)
    return found


def measure(name: str, shape: Architecture, tiny: bool, fresh: bool = True) -> dict[str, Any]:
    """Train two conditions without Ray, the Trainer on the same rows, then predict with both; None what failed.

    Not `fresh`: conditions that are trained already are not trained again.
    """
    folder = WORK / name
    sweep, run, a = prepare(folder, shape, tiny, fresh)

    def ours() -> float:
        for c in sweep.conditions:
            if not run.trained(c.name).is_file():
                torchrun("wlsweep.train.torchrun", str(run.root), c.name, log=folder / f"{c.name}.log")
        return tokens_per_s(run, sweep.conditions[0].name)

    def trainer() -> float:
        torchrun("bench.hf_trainer", str(run.root), str(folder / "trainer.json"), log=folder / "trainer.log")
        return float(read_json(folder / "trainer.json")["tokens_per_s"])

    def predicted() -> dict[str, float]:
        timed([sys.executable, "-m", "bench.predict", str(run.root)], folder / "predict.log")
        seconds = json.loads((folder / "predict.log").read_text().splitlines()[-1])
        bare, whole, swap = (statistics.median(seconds["seconds"][k]) for k in ("bare vLLM", "wlsweep", "its swap"))
        a_row = (whole - swap) / seconds["rows"]
        # A swap is once a condition, so it counts as it would beside the published experiment's papers, not these few.
        rate = TEST_PAPERS / (swap + a_row * TEST_PAPERS)
        return {"bare vLLM": seconds["rows"] / bare, "wlsweep": rate, "swap_s": swap}

    return {
        "shape": name,
        "layers": f"{a.layers} of {shape.layers}",
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU",
        "peak": peak_flops(),
        "flops_per_token": training_flops(a, 1),
        "tokens_per_s": tried(ours),
        "trainer_tokens_per_s": tried(trainer),
        "rows_per_s": tried(predicted) or {},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tiny", action="store_true", help="a toy shape on a CPU")
    arguments = parser.parse_args()
    if not (arguments.tiny or torch.cuda.is_available()):
        print("not measured: no GPU (python -m bench.gpu --tiny tries the script on a CPU)")
        return
    shapes = {"tiny": TINY} if arguments.tiny else {k: architecture(Model(path=v)) for k, v in SHAPES.items()}
    for name, shape in shapes.items():
        if found := tried(lambda name=name, shape=shape: measure(name, shape, arguments.tiny)):  # type: ignore[misc]
            show(found)
    name = "tiny" if arguments.tiny else "1.5B"
    shape = shapes[name]
    if rates := tried(lambda: measure_layouts(name, shape, arguments.tiny)):
        publish(
            "gpu_layouts",
            f"{name}: rows of very different lengths, eight to a micro-batch",
            ("micro-batch", "tokens/s", "ratio"),
            [(k, f"{v:.0f}", f"{v / rates['sdpa']:.2f}") for k, v in rates.items()],
            {"shape": name, "tokens_per_s": rates},
        )


def show(found: dict[str, Any]) -> None:
    """One shape as a table and JSON."""

    def mfu(rate: float | None) -> str:
        return f"{rate * found['flops_per_token'] / found['peak']:.1%}" if rate and found["peak"] else "-"

    def of(a: float | None, b: float | None) -> str:
        return f"{a / b:.2f}" if a and b else "-"

    ours, trainer, rows = found["tokens_per_s"], found["trainer_tokens_per_s"], found["rows_per_s"]
    mine, bare = rows.get("wlsweep"), rows.get("bare vLLM")
    rates = [
        *("-" if ours is None else f"{ours:.0f}", mfu(ours)),
        *("-" if trainer is None else f"{trainer:.0f}", mfu(trainer), of(ours, trainer)),
        *("-" if x is None else f"{x:.1f}" for x in (mine, bare)),
        of(mine, bare),
    ]
    publish(
        f"gpu_{found['shape']}",
        f"{found['device']}: goals MFU 50 %, 1.2x the Trainer, 0.9 of bare vLLM",
        ("shape", "layers", "tokens/s", "MFU", "Trainer", "MFU", "ratio", "rows/s", "bare vLLM", "ratio"),
        [(found["shape"], found["layers"], *rates)],
        {"results": [found]},
    )


if __name__ == "__main__":
    main()
