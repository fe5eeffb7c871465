"""The 19 conditions as users of LLaMA-Factory run them today, against `wlsweep run`, in one run: make bench-peer

    python -m bench.peer                                  # made-up abstracts; needs .venv-peer (make bench-peer makes it)
    python -m bench.peer --data iclr.json                 # your own ShareGPT rows, 1,250 or more (abstracts)
    python -m bench.peer --precision fp32                 # both sides in float32 instead of the recipe's bf16
    python -m bench.peer --real full --only 0-2 --limit 160        # SmolLM2-135M (make smollm2); --real lora: its adapters
    python -m bench.peer --only 0-2 --conditions 1 --limit 64      # a trial
    python -m bench.peer --prepare --precision fp32       # only base model, rows and token tables, for bench.steps

The peer trains each condition with `llamafactory-cli train` (0.9.5, two processes, DDP over gloo: its DeepSpeed path does
not start on a CPU; micro-batch 1 with gradient checkpointing, the published recipe and its default), then predicts with a
fresh vLLM with default start-up, then computes metrics with a script. Each is a command of its own, as users have it. On
the real model it is one process with all threads, since two would exchange 270 MB a step. Some conditions are timed, half
of them before and half of them after ours, and their median is scaled to all.

Ours is the whole command, from nothing: data, training, prediction with label scores, evaluation, report with PNGs.
Both start from the same base model, rows, precision, updates, batch size and prompts. The precision is bf16, with float32
master weights, as the experiment and the peer's published recipe have it.
The peer knows no gamma, so its conditions are unweighted runs on our exported mixes: the same cost, another science.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import sys
from pathlib import Path

from bench.papers import papers, write_array
from bench.results import BENCH, WLSWEEP, empty_folder, publish, timed
from bench.smollm2 import FOLDER
from wlsweep.data.export import NAME, dataset_name
from wlsweep.run.layout import RunDir, read_json, write_json
from wlsweep.spec.condition import Condition, select
from wlsweep.spec.config import load_sweep
from wlsweep.spec.train_section import TinyBase

WORK = BENCH / "peer"
SHIPPED, SPACE = Path("bench/peer.toml"), WORK / "peer.toml"
BASE = TinyBase(vocab=2048, width=192, layers=3, heads=6, learn="format")
"""1.8M parameters."""
ROWS, ACCEPTS, CHARACTERS = 1_275, 535, 1_100
"""Of the made-up source; with the instruction and chat format a row is about 320 tokens."""
REAL_CHARACTERS = 600
"""For SmolLM2, whose tokenizer does not know the made-up words: a row is about 475 tokens, and at most 620."""
GOALS = {"": 6.0, "full": 2.0, "lora": 4.0}
"""Of the small model, and of both kinds of fine-tuning of the real one."""
RANK = 16
PEER = Path(".venv-peer/bin")
PEER_ENVIRONMENT = {
    "PATH": f"{PEER.resolve()}:/usr/bin:/bin",  # it starts the torchrun that it finds
    "FORCE_TORCHRUN": "1",
    "HF_HUB_OFFLINE": "1",
    "CUDA_VISIBLE_DEVICES": "",
}


def prepare(work: Path, data: Path | None, limit: list[str], precision: str, real: str = "") -> Path:
    """Make the search space, the base model, the rows and the exported mixes; nothing of it is timed."""
    from wlsweep.train.tiny_base import ensure_tiny_base

    space = empty_folder(work) / SPACE.name
    text = SHIPPED.read_text().replace(str(WORK), str(work))
    if precision == "fp32":
        text = text.replace('dtype = "bf16"', 'dtype = "fp32"').replace('dtype = "bfloat16"', 'dtype = "float32"')
    if real:
        # Two workers with eight rows of this model each need more than 20 GiB in float32.
        text = text.replace("lr = 1.0e-3", "lr = 3.0e-5").replace("micro_batch = 8", "micro_batch = 4")
    if real == "lora":
        text = text.replace("[predict]", f"[train.lora]\nrank = {RANK}\n\n[predict]")
        text = text.replace("gamma = ", 'finetuning = ["lora"]\ngamma = ')
    space.write_text(text)
    rows = data or work / "rows.json"
    if data is None:
        write_array(rows, papers(ROWS, ACCEPTS, REAL_CHARACTERS if real else CHARACTERS))
    base = FOLDER if real else ensure_tiny_base(BASE, rows, work / "cache", print)
    shutil.copytree(base, work / "base")
    if real and precision == "fp32":
        in_float32(work / "base")
    prepared = work / "prepared" / "run"
    stage = [*WLSWEEP, "run", str(space), "--data", str(rows), "--out", str(prepared), "--stage", "data", *limit]
    timed(stage, work / "prepared.log")
    timed([*WLSWEEP, "export", str(prepared), "--sharegpt", str(work / "mixes")], work / "export.log")
    return rows


def in_float32(folder: Path) -> None:
    """Keep a model in float32: without bf16, the peer trains in the dtype that the model's configuration names."""
    import torch
    from transformers import AutoModelForCausalLM

    AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).save_pretrained(folder)


def peer_condition(condition: Condition, real: str) -> dict[str, float]:
    """Train, predict and measure one condition the peer's way; seconds of each command, and its updates."""
    sweep, folder = load_sweep(SPACE), WORK / "theirs" / condition.name
    train, processes = sweep.train, 1 if real else 2
    model, config = folder / "model", folder / "train.yaml"  # JSON is YAML; its reader of .json files fails
    settings = {
        "model_name_or_path": str(WORK / "base"),
        "stage": "sft",
        "do_train": True,
        "finetuning_type": "full",
        "template": "chatml" if real else "qwen",
        "dataset_dir": str(WORK / "mixes"),
        "dataset": dataset_name(condition.k),
        "cutoff_len": 1024,
        "overwrite_cache": True,
        "output_dir": str(model),
        "logging_steps": train.log_every,
        "save_strategy": "no",  # the final model is written all the same
        "report_to": "none",
        "per_device_train_batch_size": 1,
        "gradient_accumulation_steps": train.global_batch // processes,
        "learning_rate": train.lr,
        "num_train_epochs": train.epochs,
        "lr_scheduler_type": "cosine",
        "warmup_ratio": train.warmup_ratio,
        "use_cpu": True,
        "ddp_backend": "gloo",
        "optim": "adamw_torch",
        "bf16": train.dtype == "bf16",
    }
    if real == "lora":
        settings |= {"finetuning_type": "lora", "lora_rank": RANK, "lora_alpha": 2 * RANK, "lora_target": "all"}
        settings["learning_rate"] = 10 * train.lr
    write_json(config, settings)
    environment = {**PEER_ENVIRONMENT, "NPROC_PER_NODE": str(processes)}
    script = [sys.executable, "-m", "bench.peer_script"]
    test, predictions = WORK / "mixes" / f"{NAME}_test" / "data.json", folder / "predictions.jsonl"
    training = timed([str(PEER / "llamafactory-cli"), "train", str(config)], folder / "train.log", environment)
    served = [str(WORK / "base"), str(model)] if real == "lora" else [str(model)]
    predict = [*script, "predict", str(test), str(predictions), sweep.predict.dtype, *served]
    predicting = timed(predict, folder / "predict.log")
    measuring = timed([*script, "metrics", str(predictions), str(folder / "metrics.json")], folder / "metrics.log")
    return {
        "train": training,
        "train_loop": float(read_json(model / "train_results.json")["train_runtime"]),
        "predict": predicting,
        "metrics": measuring,
        "all": training + predicting + measuring,
        "updates": read_json(model / "trainer_state.json")["global_step"],
        "predicted_rows": read_json(folder / "metrics.json")["rows"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="ShareGPT rows")
    parser.add_argument("--conditions", type=int, default=3, help="how many the peer is timed on (default 3)")
    parser.add_argument("--only", help="conditions of ours (default: all 19); the peer is scaled to as many")
    parser.add_argument("--limit", type=int, help="rows of every set, for a trial (default 1,000)")
    parser.add_argument("--precision", choices=("bf16", "fp32"), default="bf16", help="of both sides (default bf16)")
    parser.add_argument("--real", choices=("full", "lora"), default="", help="SmolLM2-135M, fine-tuned so")
    parser.add_argument("--prepare", action="store_true", help="make what both sides start from, and train nothing")
    arguments = parser.parse_args()
    limit = ["--limit", str(arguments.limit)] if arguments.limit else []
    if arguments.prepare:
        prepare(BENCH / "peer_model", arguments.data, limit, arguments.precision)
        return
    if not (PEER / "llamafactory-cli").exists():
        raise SystemExit("the peer is not installed: make bench-peer")
    real = arguments.real
    if real and not FOLDER.is_dir():
        raise SystemExit(f"{FOLDER} is missing: make smollm2")
    rows = prepare(WORK, arguments.data, limit, arguments.precision, real)
    chosen = select(load_sweep(SPACE).conditions, arguments.only)
    tried = [chosen[i * len(chosen) // arguments.conditions] for i in range(arguments.conditions)]
    run = RunDir(WORK / "ours" / "run")
    only = ["--only", arguments.only] if arguments.only else []
    theirs = {c.name: peer_condition(c, real) for c in tried[: len(tried) // 2]}
    ours = timed(
        [*WLSWEEP, "run", str(SPACE), "--data", str(rows), "--out", str(run.root), *limit, *only], WORK / "ours.log"
    )
    theirs |= {c.name: peer_condition(c, real) for c in tried[len(tried) // 2 :]}
    record = read_json(run.trained(tried[0].name))
    test_rows = read_json(WORK / "theirs" / tried[0].name / "metrics.json")["rows"]
    if unlike := {n: t["updates"] for n, t in theirs.items() if t["updates"] != record["steps"]}:
        raise SystemExit(f"the peer made {unlike} updates, ours {record['steps']}: no fair comparison")
    median = {k: statistics.median(t[k] for t in theirs.values()) for k in next(iter(theirs.values()))}
    n, stages, groups = len(chosen), read_json(run.logs / "seconds.json"), load_sweep(SPACE).train.groups or 1
    tokens = record["tokens"] / record["samples"]
    table = [  # ours predicts while the last conditions train
        ("training and prediction", median["train"] + median["predict"], stages["train"] + stages["predict"]),
        ("  of which the loop of steps", median["train_loop"], record["seconds"]["steps"] * n / groups),
        ("metrics, report", median["metrics"], stages["report"]),
    ]
    cells = [(k, f"{a:.1f}", f"{a * n:.0f}", f"{b:.0f}", f"{a * n / b:.1f}") for k, a, b in table]
    ratio = median["all"] * n / ours
    cells.append(
        (f"all {n} conditions", f"{median['all']:.1f}", f"{median['all'] * n:.0f}", f"{ours:.0f}", f"{ratio:.1f}")
    )
    what = f" of SmolLM2-135M ({real})" if real else ""
    publish(
        f"peer_{real}" if real else "peer",
        f"{n} conditions{what} in {arguments.precision}: {record['samples']} rows of {tokens:.0f} tokens, {record['steps']} "
        f"updates, {test_rows} prompts; peer: median of {len(theirs)} unweighted conditions, scaled; goal {GOALS[real]:g}",
        ("", "peer, s each", f"peer, s x {n}", "wlsweep, s", "ratio"),
        cells,
        {
            "conditions": n,
            "precision": arguments.precision,
            "theirs": theirs,
            "ours": {**stages, "command": ours},
            "ratio": ratio,
            "goal": GOALS[real],
        },
    )


if __name__ == "__main__":
    main()
