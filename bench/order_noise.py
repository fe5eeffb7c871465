"""How much of a condition's distance to the baseline is the order of its training rows, in plain torch.

    wlsweep run search_spaces/demo.toml --stage data
    python -m bench.order_noise runs/demo [--orders plain strata keys product] [--seeds 6] [--batch 32] [--out FILE.json]

Trains a few conditions of a prepared run again and again on the same rows in other orders (another seed of a condition is
another order and nothing else) and prints the standard deviation, over seeds, of the predicted accept rate and of the
mean log-odds: of each condition, and of its difference to the baseline of the same seed and to the mean of all baselines.
Model, loss, schedule and clipping are the product's, in one process without partitions.

Orders: `plain`, a shuffle for each seed, another one for each mix since the mixes list other rows; `strata`, each class
shuffled and spread evenly over the epoch; `keys`, a shuffle in which a paper stands at the same fraction of the epoch in
every mix that has it; `product`, both, which is what trainings use.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import numpy as np
import torch
from transformers import AutoModelForCausalLM, get_cosine_schedule_with_warmup

from wlsweep.data.load import TokenRows, load_mix, load_test
from wlsweep.run.layout import existing_run, read_json
from wlsweep.spec.condition import Condition, parse_name
from wlsweep.spec.config import Sweep
from wlsweep.train.batches import IntArray, epoch_order, order_keys, steps_per_epoch, stratified_order
from wlsweep.train.loss import sample_weights
from wlsweep.train.model import AnswerModel, MicroBatch, collate, run_forward

CONDITIONS = (
    "baseline_gamma1.0_prop1_2",
    "accept_gamma2.0_prop1_2",
    "accept_gamma2.0_prop1_3",
    "accept_gamma2.0_prop1_4",
    "reject_gamma4.0_prop1_8",
)
ORDERS = ("plain", "strata", "keys", "product")


def order_of(kind: str, rows: TokenRows, seed: int, epoch: int) -> IntArray:
    """Row numbers of one epoch."""
    n = len(rows.accept)
    keys = order_keys(rows.row_ids)
    if kind == "plain":
        return epoch_order(n, seed, epoch)
    if kind == "keys":
        return stratified_order(keys, np.zeros(n, dtype=bool), seed, epoch)
    if kind == "strata":  # every mix another shuffle: its size takes the place of the papers
        own = np.random.default_rng([seed, epoch, int(rows.accept.sum())]).permutation(n).astype(np.uint64)
        return stratified_order(own, rows.accept, seed, epoch)
    return stratified_order(keys, rows.accept, seed, epoch)


def batch_of(rows: TokenRows, chosen: IntArray, weights: tuple[float, float]) -> MicroBatch:
    """One micro-batch, longest rows first, as the product sorts them."""
    chosen = chosen[np.argsort(-rows.lengths[chosen], kind="stable")]
    return collate(
        [rows.prompt(i) for i in chosen.tolist()],
        [rows.answer.ids(bool(rows.accept[i])) for i in chosen.tolist()],
        rows.accept[chosen].tolist(),
        weights,
        [True] * len(chosen),
        len(chosen),
        torch.device("cpu"),
    )


def train(sweep: Sweep, base: str, c: Condition, rows: TokenRows, kind: str, batch: int, lr: float) -> AnswerModel:
    """A condition trained in plain torch."""
    settings, n = sweep.train, len(rows.accept)
    lm = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32, attn_implementation=sweep.model.attention)
    model = AnswerModel(lm, c, len(rows.answer.prefix), rows.answer.accept, rows.answer.reject).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr, weight_decay=settings.weight_decay, fused=True)
    per_epoch = steps_per_epoch(n, batch)
    total = settings.epochs * per_epoch
    schedule = get_cosine_schedule_with_warmup(optimizer, round(settings.warmup_ratio * total), total)
    accepts = int(rows.accept.sum())
    weights = sample_weights(c, accepts, n - accepts, sweep.loss.effective_beta)
    for epoch in range(settings.epochs):
        order = order_of(kind, rows, c.seed, epoch)
        for step in range(per_epoch):
            made = batch_of(rows, order[step * batch : (step + 1) * batch], weights)
            torch.autograd.backward(run_forward(model, made, sweep.loss.format_weight).loss)
            torch.nn.utils.clip_grad_norm_(model.parameters(), settings.max_grad_norm)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
    return model.eval()


def scores(model: AnswerModel, test: TokenRows) -> np.ndarray:
    """Log-odds of every test row, float64 [n]."""
    found = []
    with torch.no_grad():
        for part in np.array_split(np.arange(len(test)), max(1, len(test) // 64)):
            rows = part[np.argsort(-test.lengths[part], kind="stable")]
            out = run_forward(model, batch_of(test, part, (1.0, 1.0)), 0.0).scores.log_odds
            found.append((rows, out.double().numpy()))
    z = np.empty(len(test))
    for rows, values in found:
        z[rows] = values
    return z


def main() -> None:
    """Train, then print a table an order."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--orders", nargs="+", choices=ORDERS, default=list(ORDERS))
    parser.add_argument("--seeds", type=int, default=6)
    parser.add_argument("--batch", type=int, default=0, help="rows a step; without it the run's own")
    parser.add_argument("--lr", type=float, default=0.0, help="without it the run's own")
    parser.add_argument("--conditions", nargs="+", default=list(CONDITIONS))
    parser.add_argument("--out", type=Path)
    a = parser.parse_args()
    run = existing_run(a.run)
    record = read_json(run.sweep_json)
    sweep = Sweep.model_validate(record["sweep"])
    batch, lr = a.batch or sweep.train.global_batch, a.lr or sweep.train.lr
    test = load_test(run)
    mixes = {c.k: load_mix(run, c.k) for c in map(parse_name, a.conditions)}
    for kind in a.orders:
        began = time.perf_counter()
        made = {}
        for seed in range(a.seeds):
            for name in a.conditions:
                c = Condition(**{**parse_name(name).__dict__, "seed": seed})
                z = scores(train(sweep, record["base"], c, mixes[c.k], kind, batch, lr), test)
                made[name, seed] = (float((z > 0).mean()), float(z.mean()))
        show(kind, batch, lr, a.conditions, a.seeds, made, time.perf_counter() - began)
        if a.out:
            with a.out.open("a") as out:
                for (name, seed), (rate, mean) in made.items():
                    line = {"order": kind, "batch": batch, "lr": lr, "condition": name, "seed": seed}
                    out.write(json.dumps(line | {"rate": rate, "mean_log_odds": mean}) + "\n")


def show(
    kind: str,
    batch: int,
    lr: float,
    names: list[str],
    seeds: int,
    made: dict[tuple[str, int], tuple[float, float]],
    seconds: float,
) -> None:
    """SDs over seeds: of rates in points, of mean log-odds in natural log units."""
    print(f"order {kind}, {batch} rows a step, lr {lr:g}, {seeds} seeds, {seconds:.0f} s")
    columns = f"{'rate %':>7} {'SD':>5} {'SD of the difference to the baseline':>38} {'to all':>7}"
    print(f"  {'condition':32} {columns}   log-odds SD, difference")
    base = np.array([made[names[0], s] for s in range(seeds)])
    for name in names:
        own = np.array([made[name, s] for s in range(seeds)])
        apart = own - base
        rest = own.std(axis=0, ddof=1)
        both = np.hypot(rest, base.std(axis=0, ddof=1) / seeds**0.5)
        d = apart.std(axis=0, ddof=1)
        print(
            f"  {name:32} {100 * own[:, 0].mean():7.1f} {100 * rest[0]:5.1f} {100 * d[0]:38.1f} {100 * both[0]:7.1f}"
            f"   {rest[1]:.3f} {d[1]:.3f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
