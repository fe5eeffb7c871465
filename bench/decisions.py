"""How often a sweep that stops early says what the whole sweep would say, over made worlds: python -m bench.decisions.

    python -m bench.decisions [--worlds 200] [--draws 500] [--order chosen random] [--kinds right none ...]

Each world draws papers and the log-odds of all 19 conditions. `wlsweep run --until-decided` is then played: what it would
train next is looked up in the world. Its verdicts, decided and forecast, are compared with those of all 19 conditions.
`random` trains in random order and stops by the same rule.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from bench.coverage import THE_19
from wlsweep.analysis.forecast import RunForecast, forecast_sweep
from wlsweep.analysis.hypotheses import hypotheses
from wlsweep.analysis.next_conditions import undecided
from wlsweep.analysis.theory import Shift
from wlsweep.analysis.verdicts import verdicts


@dataclass(frozen=True)
class Kind:
    """What is true in a world; log-odds in natural log units."""

    gamma: float = 1.0
    """Share of the expected shift of weights that shows."""
    mix: float = 1.0
    """Share of the expected shift of mixes that shows."""
    offsets: float = 0.05
    """SD of what all conditions of one mix share."""
    own: float = 0.04
    """SD of each condition's own deviation."""
    scale: float = 1.0
    """Of the log-odds of papers; a large one is a base model that is sure of every paper."""
    broken: float = 0.0
    """By how much one condition, drawn at random, is off."""


KINDS = {
    "right": Kind(),
    "half": Kind(gamma=0.5, mix=0.5),
    "none": Kind(gamma=0.0, mix=0.0),
    "reversed": Kind(gamma=-1.0, mix=-1.0),
    "weights only": Kind(mix=0.0),
    "mixes only": Kind(gamma=0.0),
    "offsets 0.1": Kind(offsets=0.1),
    "offsets 0.2": Kind(offsets=0.2),
    "offsets 0.3": Kind(offsets=0.3),
    "noisy conditions": Kind(own=0.15),
    "saturated": Kind(scale=6.0),
    "one broken": Kind(broken=2.0),
}


class World(NamedTuple):
    """What training all conditions would give."""

    accept: np.ndarray
    log_odds: dict[str, np.ndarray]
    shifts: dict[str, Shift]


class Played(NamedTuple):
    """One world, swept until decided."""

    trained: int
    decided: int
    """Verdicts that measurements decided."""
    forecast: int
    """Verdicts that were forecast."""
    wrong: list[str]
    """Keys of forecast verdicts that the whole sweep contradicts."""
    wrongly_decided: list[str]
    """The same of decided ones."""


def make_world(kind: Kind, seed: int, papers: int = 1000) -> World:
    """A world with balanced papers of a Bayes accuracy of about 76%."""
    rng = np.random.default_rng([seed, 17])
    accept = np.arange(papers) % 2 == 0
    truth = rng.normal(np.where(accept, 0.98, -0.98), 1.4)
    off = {k: rng.normal(0, kind.offsets) for k in (2, 3, 4, 8)}
    broken = rng.choice([c.name for c in THE_19[1:]])
    sign = rng.choice([-1.0, 1.0])
    found, shifts = {}, {}
    for c in THE_19:
        weight, mix = c.signed_log_gamma, -float(np.log(c.k - 1))
        shifts[c.name] = Shift(weight + mix, True, "")
        moved = kind.gamma * weight + kind.mix * mix + off[c.k] + rng.normal(0, kind.own)
        moved += sign * kind.broken if c.name == broken else 0.0
        found[c.name] = kind.scale * (truth + rng.normal(0, 0.25, papers)) + moved
    return World(accept, found, shifts)


def play(world: World, draws: int, order: Iterable[str] | None = None) -> Played:
    """Train what is wanted, one condition after the other, until nothing is."""
    done = {THE_19[0].name}
    queue = None if order is None else list(order)
    while True:
        known = {n: z for n, z in world.log_odds.items() if n in done}
        made = forecast_sweep(THE_19, world.shifts, known, world.accept, THE_19[0].name, draws)
        wanted = undecided(made).names
        if not wanted:
            return _compared(made, world)
        done.add(wanted[0] if queue is None else queue.pop(0))


def _compared(made: RunForecast, world: World) -> Played:
    full = {n: (z > 0, world.accept) for n, z in world.log_odds.items()}
    values = {
        "predicted_accept_rate": {n: np.array([d.mean()]) for n, (d, _) in full.items()},
        "accuracy": {n: np.array([(d == y).mean()]) for n, (d, y) in full.items()},
    }
    truth = {}
    for h in hypotheses(THE_19, {n: s.value for n, s in world.shifts.items()}):
        if h.further:
            continue
        truth[h.key] = "pass" if verdicts(h, values[h.metric], 1)[0] == 1 else "fail"
    forecast = [p for p in made.prospects if p.forecast]
    decided = [p for p in made.prospects if p.decided]
    return Played(
        len(made.done),
        len(decided),
        len(forecast),
        [p.key for p in forecast if p.forecast != f"would {truth[p.key]}"],
        [p.key for p in decided if p.decided != truth[p.key]],
    )


def random_order(seed: int) -> list[str]:
    """The conditions besides the baseline, shuffled."""
    names = [c.name for c in THE_19[1:]]
    return [names[i] for i in np.random.default_rng([seed, 23]).permutation(len(names))]


def play_many(kind: Kind, worlds: int, draws: int, order: str) -> list[Played]:
    """Worlds of one kind."""
    return [play(make_world(kind, s), draws, random_order(s) if order == "random" else None) for s in range(worlds)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--worlds", type=int, default=200)
    parser.add_argument("--draws", type=int, default=500)
    parser.add_argument("--order", nargs="+", choices=["chosen", "random"], default=["chosen"])
    parser.add_argument("--kinds", nargs="+", choices=list(KINDS), default=list(KINDS))
    a = parser.parse_args()
    print(f"{a.worlds} worlds of each kind, {a.draws} draws")
    print(
        "| world | order | trained of 19, mean | verdicts decided | forecast | forecasts wrong | of all verdicts | wrong |"
    )
    print("|---|---|---|---|---|---|---|---|")
    for order in a.order:
        for name in a.kinds:
            began = time.perf_counter()
            found = play_many(KINDS[name], a.worlds, a.draws, order)
            decided, forecast = sum(p.decided for p in found), sum(p.forecast for p in found)
            wrong = [k for p in found for k in p.wrong]
            bad = sum(len(p.wrongly_decided) for p in found)
            keys = ", ".join(f"{k} {wrong.count(k)}" for k in sorted(set(wrong)))
            print(
                f"| {name} | {order} | {np.mean([p.trained for p in found]):.1f} | {decided / a.worlds:.1f} | "
                f"{forecast / a.worlds:.1f} | {len(wrong) / max(forecast, 1):.1%} | "
                f"{(len(wrong) + bad) / max(decided + forecast, 1):.1%} | {keys or '-'} |"
                f" <!-- {time.perf_counter() - began:.0f} s, {bad} decided wrongly -->",
                flush=True,
            )


if __name__ == "__main__":
    main()
