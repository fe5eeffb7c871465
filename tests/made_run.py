"""Run directories whose truth is known: log-odds drawn, shifted by theory and blurred, so every number has an oracle.

A paper's true log-odds are L ~ N(+-d^2/2, d^2) given its label, so that L is its own posterior on balanced rows. The
baseline says `scale * (L + offset)` plus a blur; a condition says the same plus `shrink * shift`, with its own blur.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from wlsweep.run.columns import PREDICTION, TRUTH
from wlsweep.run.layout import RunDir, write_json
from wlsweep.run.records import SweepRecord
from wlsweep.spec.condition import Condition, parse_name
from wlsweep.spec.config import load_sweep
from wlsweep.spec.task import ICLR, Task

DEMO = Path(__file__).parents[1] / "search_spaces" / "demo.toml"
THE_19 = [c.name for c in load_sweep(DEMO).conditions]
FINGERPRINT = "0123456789abcdef"


def trained_record(c: Condition, final: dict[str, Any], fingerprint: str = FINGERPRINT) -> dict[str, Any]:
    """What `trained.json` of a condition holds."""
    return {
        "condition": c.as_dict(),
        "sweep_fingerprint": fingerprint,
        "base": "runs/.cache/tiny",
        "steps": 240,
        "samples": 2000,
        "tokens": 120_000,
        "seconds": {"start": 2.5, "steps": 10.0},
        "attempts": 1,
        "proof": {"accept": c.weights[0], "reject": c.weights[1]},
        "final": final,
        "unweighted_loss": 0.5,
        "trained_on": {"host": "here", "device": "cpu", "workers": 2},
        "probe": [{"row": 0, "logprob_accept": -0.5, "logprob_reject": -1.0}],
        "model": {"fingerprint": c.name[:16], "bytes": 4_000_000},
        "finished_at": "2026-01-01T00:00:00Z",
    }


def shift_of(c: Condition) -> float:
    """ln gamma, signed, plus logit(1/k); from the definition, not from the package."""
    sign = {"accept": 1, "reject": -1, "baseline": 0}[c.variant]
    return sign * math.log(c.gamma) + math.log(1 / (c.k - 1))


def write_predictions(
    run: RunDir,
    name: str,
    log_odds: np.ndarray,
    parsed: Sequence[str | None] | None = None,
    task: Task | None = None,
) -> Path:
    """Predictions of one condition for the test set of the run; `task` is read from the run where it is not given."""
    truth, task = pq.read_table(run.test_parquet), task or SweepRecord.read(run.sweep_json).task
    n = len(truth)
    accept = -np.logaddexp(0, -log_odds) - 1e-3
    reject = -np.logaddexp(0, log_odds) - 1e-3
    if parsed is None:
        parsed = np.where(log_odds > 0, *task.labels).tolist()
    table = pa.table(
        {
            "row_id": truth["row_id"],
            "row_hash": truth["row_hash"],
            "year": truth["year"],
            "label": truth["label"],
            "text": [task.answer_with(p) if p else "I cannot say" for p in parsed],
            "parsed": pa.array(parsed, pa.string()),
            "logprob_accept": accept,
            "logprob_reject": reject,
            "p_accept": 1 / (1 + np.exp(-np.clip(log_odds, -700, 700))),
            "p_other": np.full(n, 1 - math.exp(-1e-3)),
            "prompt_tokens": pa.array([60] * n, pa.int32()),
            "truncated": truth["truncated"],
            "model_fingerprint": [name[:16]] * n,
        },
        schema=PREDICTION,
    )
    path = run.prediction(name) / "part-0.parquet"
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path)
    return path


def make_run(
    root: Path,
    names: Iterable[str] = THE_19,
    n: int = 600,
    seed: int = 0,
    d: float = 1.4,
    blur: float = 0.2,
    shrink: float = 1.0,
    scale: float = 1.0,
    offset: float = 0.0,
    unknown_share: float = 0.01,
    leave_out: Sequence[str] = (),
    failed: Sequence[str] = (),
    synthetic: bool = True,
    steps: int = 24,
    task: Task = ICLR,
) -> RunDir:
    """A finished run (but for `leave_out` and `failed`)."""
    run = RunDir(Path(root))
    rng = np.random.default_rng(seed)
    conditions = [parse_name(name) for name in names]
    label = np.arange(n) % 2 == 0
    true = rng.normal(np.where(label, d * d / 2, -d * d / 2), d)
    truth = pa.table(
        {
            "row_id": [f"paper-{i:05d}" for i in range(n)],
            "row_hash": [f"{i * 2654435761 % 2**32:08x}" for i in range(n)],
            "year": pa.array((2020 + np.arange(n) // 2 % 6).tolist(), pa.int32()),
            "label": np.where(label, *task.labels),
            "truncated": rng.random(n) < 0.05,
            "true_log_odds": pa.array(true if synthetic else [None] * n, pa.float64()),
            "prompt": [f"Paper {i}. Accept or reject?" for i in range(n)],
        },
        schema=TRUTH,
    )
    run.data.mkdir(parents=True, exist_ok=True)
    pq.write_table(truth, run.test_parquet)
    total = 2000
    mixes = {}
    for k in sorted({c.k for c in conditions} | {2}):
        accepts = round(total / k)
        rejects = total - accepts
        mixes[f"1/{k}"] = {
            "accepts": accepts,
            "rejects": rejects,
            "distinct_accepts": accepts,
            "distinct_rejects": min(rejects, total // 2),
            "duplicates": max(0, rejects - total // 2),
            "most_uses": 2 if rejects > total // 2 else 1,
            "short_by": {"accepts": 0, "rejects": max(0, rejects - total // 2)},
        }
    by = {"by_class": dict(zip(task.labels, (0.04, 0.06), strict=True)), "by_year": {"2020": 0.05, "2021": 0.05}}
    write_json(
        run.data_json,
        {
            "fingerprint": "data",
            "identity": {"format": 2} | ({"task": list(task.identity)} if task.identity else {}),
            "files": {},
            "split_off": False,
            "seed": 0,
            "limit": None,
            "notes": [],
            "tokens": {"train": "tokens/train", "test": "tokens/test"},
            "answer": {"prefix": [1, 2], "accept": 3, "reject": 4, "suffix": [5]},
            "control_tokens_broken": {"train": 0, "test": 0},
            "tokens_per_row": {part: {"mean": 60.0, "max": 64, "total": 60 * n} for part in ("train", "test")},
            "source": {"path": "papers.json", "sha256": "0" * 64, "rows": total, "accepts": 1000, "rejects": 1000},
            "test": {"path": "papers.json", "sha256": "1" * 64, "rows": n, "accepts": n // 2, "rejects": n // 2},
            "resampling": "oversample",
            "cutoff": 256,
            "mixes": mixes,
            "truncated": {"train": {"share": 0.05, **by}, "test": {"share": 0.05, **by}},
        },
    )
    command = "wlsweep run search_spaces/demo.toml --out runs/made"
    launch = {
        "command": command,
        "started_at": "2026-01-01T00:00:00Z",
        "git": {"sha": "f" * 40, "dirty_diff": None},
        "versions": {"python": "3.11", "torch": "2.13.0"},
        "machine": {"host": "here", "system": "Linux", "cpus": 2, "memory_bytes": 1 << 33},
        "user": "me",
    }
    write_json(
        run.sweep_json,
        {
            "sweep": load_sweep(DEMO).model_dump(mode="json") | {"name": "made", "task": task.model_dump()},
            "conditions": [c.as_dict() | {"index": i} for i, c in enumerate(conditions)],
            "fingerprint": FINGERPRINT,
            "base": "runs/.cache/tiny",
            "command": command,
            "provenance": launch,
            "launches": [launch],
        },
    )
    for c in conditions:
        said = scale * (true + offset) + rng.normal(0, blur, n) + shrink * shift_of(c)
        unknown = rng.random(n) < unknown_share
        run.condition(c.name).mkdir(parents=True, exist_ok=True)
        if c.name in failed:
            write_json(
                run.failed(c.name),
                {
                    "condition": c.name,
                    "stage": "train",
                    "cause": "RuntimeError: loss is not finite at step 7",
                    "attempts": 3,
                    "log": f"logs/{c.name}.log",
                    "failed_at": "2026-01-01T00:00:00+00:00",
                },
            )
        if c.name in failed or c.name in leave_out:
            continue
        lines = [
            {
                "step": 10 * (s + 1),
                "epoch": (s + 1) / steps,
                "loss": 0.5 + math.exp(-s / 5) + float(rng.normal(0, 0.02)),
                "bce": 0.45 + math.exp(-s / 5) / 2,
                "lr": 1e-3 * (1 - s / steps),
                "grad_norm": 1.0 + float(rng.random()),
                "tokens_per_s": 40_000 + float(rng.normal(0, 500)),
                "p_accept_on_accept": 0.6,
                "p_accept_on_reject": 0.4,
                "predicted_accept_rate": 0.5,
            }
            for s in range(steps)
        ]
        run.metric_log(c.name).write_text("".join(json.dumps(line) + "\n" for line in lines))
        write_json(run.trained(c.name), trained_record(c, lines[-1]))
        decided = np.where(said > 0, *task.labels)
        answers = [None if u else str(a) for a, u in zip(decided, unknown, strict=True)]
        write_predictions(run, c.name, said, answers, task)
    return run


def add_validation(run: RunDir, names: Iterable[str], every: int = 6) -> dict[str, list[dict[str, float]]]:
    """Validate trained conditions of a made run at every so many lines of their logs, 40 papers each; what was written, by
    condition."""
    write_json(
        run.data_json,
        json.loads(run.data_json.read_text())
        | {"validation": {"path": "papers.json", "sha256": "0" * 64, "rows": 40, "accepts": 18, "rejects": 22}},
    )
    written = {}
    for shift, name in enumerate(names):
        lines = [json.loads(line) for line in run.metric_log(name).read_text().splitlines()]
        for i, line in enumerate(lines):
            if (i + 1) % every == 0 or i + 1 == len(lines):
                values = {"loss": 1.5, "bce": 0.7 - i / 100, "auc": 0.6 + i / 200, "accuracy": 0.6, "accept_rate": 0.4}
                line |= {f"validation_{key}": value + shift / 1000 for key, value in values.items()}
        run.metric_log(name).write_text("".join(json.dumps(line) + "\n" for line in lines))
        record = json.loads(run.trained(name).read_text())
        write_json(run.trained(name), record | {"final": lines[-1]})
        written[name] = [line for line in lines if "validation_bce" in line]
    return written
