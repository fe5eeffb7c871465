"""How often 95% intervals over papers and trainings hold what is true, over made worlds: python -m bench.coverage.

    python -m bench.coverage [--worlds 1000] [--kinds "a plain shuffle" ...]

Each world draws papers and the log-odds of 19 conditions (or some of them with several seeds) with training noise of the
kind that `wlsweep.analysis.training_noise` estimates, and asks how often the intervals of `today's papers alone` and of
papers and trainings hold the value that all papers and all trainings have.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from scipy.special import ndtr

from wlsweep.analysis.bootstrap import Resamples, percentile
from wlsweep.analysis.evaluation_records import TheoryRow
from wlsweep.analysis.intervals import Total, over_papers_and_trainings
from wlsweep.analysis.responses import responses
from wlsweep.analysis.training_noise import training_noise
from wlsweep.analysis.trainings import Trainings
from wlsweep.estimate import Estimate
from wlsweep.spec.condition import Condition
from wlsweep.spec.config import load_sweep

D, BLUR = 1.4, 0.25
THE_19 = load_sweep(Path(__file__).parents[1] / "search_spaces" / "demo.toml").conditions


@dataclass(frozen=True)
class Noise:
    """SDs of mean log-odds."""

    common: float
    shared: float
    own: float
    seeds: int = 1
    gamma: float = 1.0
    """Share of the expected shifts that shows."""
    baselines: int = 0
    """Further seeds of the baseline alone."""


WORLDS = {
    "no training noise": Noise(0.0, 0.0, 0.0),
    "a plain shuffle": Noise(0.0, 0.1, 0.03),
    "stratified order": Noise(0.08, 0.04, 0.02),
    "large": Noise(0.3, 0.3, 0.1),
    "stratified order, 4 baselines": Noise(0.08, 0.04, 0.02, baselines=3),
    "large, 4 baselines": Noise(0.3, 0.3, 0.1, baselines=3),
    "3 seeds, a plain shuffle": Noise(0.0, 0.1, 0.03, seeds=3),
    "3 seeds, stratified order": Noise(0.08, 0.04, 0.02, seeds=3),
    "3 seeds, large": Noise(0.3, 0.3, 0.1, seeds=3),
}


def shift_of(c: Condition) -> float:
    """Expected shift, from the definition."""
    return c.signed_log_gamma - float(np.log(c.k - 1))


def true_rates(shift: float, noise: Noise) -> dict[str, float]:
    """Predicted accept rate and accuracy over all papers and trainings; papers are balanced."""
    spread = np.sqrt(D * D + BLUR * BLUR + noise.common**2 + noise.shared**2 + noise.own**2)
    accepts, rejects = ndtr((D * D / 2 + shift) / spread), ndtr((-D * D / 2 + shift) / spread)
    return {"predicted_accept_rate": (accepts + rejects) / 2, "accuracy": (accepts + 1 - rejects) / 2}


def covered(noise: Noise, worlds: int, papers: int = 1000, draws: int = 400) -> dict[str, dict[str, float]]:
    """By number, the share of worlds whose interval holds the truth: of papers alone, and of papers and trainings."""
    counts = Resamples(papers, draws, 0).counts.astype(np.float32) / papers
    base = THE_19[0]
    conditions = [replace(c, seed=s) for s in range(noise.seeds) for c in THE_19]
    conditions += [replace(base, seed=noise.seeds + s) for s in range(noise.baselines)]
    shifts = {c.name: noise.gamma * shift_of(c) for c in conditions}
    truth = {c.name: true_rates(shifts[c.name], noise) for c in conditions}
    hits: dict[str, dict[str, list[bool]]] = defaultdict(lambda: defaultdict(list))
    for world in range(worlds):
        rng = np.random.default_rng([world, 31])
        accept = rng.random(papers) < 0.5
        log_odds = draw_log_odds(conditions, shifts, noise, accept, rng)
        means = {name: float(z.mean()) for name, z in log_odds.items()}
        found = training_noise(conditions, shifts, means)
        assert found is not None
        moves = {name: responses(accept, z) for name, z in log_odds.items()}
        for metric in ("predicted_accept_rate", "accuracy"):
            value, drawn = {}, {}
            for name, z in log_odds.items():
                right = (z > 0) if metric == "predicted_accept_rate" else ((z > 0) == accept)
                value[name], drawn[name] = float(right.mean()), counts @ right.astype(np.float32)
            for c in THE_19[1:]:
                kind = "of one mix" if c.k == base.k else "of two mixes"
                weights, point, at = {}, 0.0, np.zeros(draws)
                for s in range(noise.seeds):
                    this, other = replace(c, seed=s).name, replace(base, seed=s).name
                    weights |= {this: 1 / noise.seeds, other: -1 / noise.seeds}
                    point += (value[this] - value[other]) / noise.seeds
                    at = at + (drawn[this] - drawn[other]) / noise.seeds
                true = truth[c.name][metric] - truth[base.name][metric]
                total = over_papers_and_trainings(at, found.contrast(weights, {n: moves[n][metric] for n in weights}))
                _note(hits[f"difference of {metric} {kind}"], true, point, percentile(at), total)
            name = base.name
            own = over_papers_and_trainings(drawn[name], found.contrast({name: 1.0}, {name: moves[name][metric]}))
            _note(hits[f"{metric} of the baseline"], truth[name][metric], value[name], percentile(drawn[name]), own)
        if noise.seeds == 1:
            moved = {c: Estimate(means[c.name] - means[base.name]) for c in THE_19[1:]}
            rows = [TheoryRow(c.name, base.name, shift_of(c), True, "", m, None, None) for c, m in moved.items()]
            papers_of = {name: {"log_odds": counts @ z.astype(np.float32)} for name, z in log_odds.items()}
            at_slope = Trainings(found, moves).slope(rows, papers_of).slope
            assert at_slope.low is not None and at_slope.high is not None
            hits["slope of observed on expected shift"]["both"].append(at_slope.low <= noise.gamma <= at_slope.high)
    return {number: {k: float(np.mean(v)) for k, v in kinds.items()} for number, kinds in hits.items()}


def draw_log_odds(
    conditions: list[Condition],
    shifts: dict[str, float],
    noise: Noise,
    accept: np.ndarray,
    rng: np.random.Generator,
) -> dict[str, np.ndarray]:
    """Log-odds of every condition on the same papers."""
    truth = rng.normal(np.where(accept, D * D / 2, -D * D / 2), D)
    seeds = range(noise.seeds + noise.baselines)
    common = {s: rng.normal(0, noise.common) for s in seeds}
    shared = {(k, s): rng.normal(0, noise.shared) for k in (2, 3, 4, 8) for s in seeds}
    return {
        c.name: truth
        + shifts[c.name]
        + common[c.seed]
        + shared[c.k, c.seed]
        + rng.normal(0, noise.own)
        + rng.normal(0, BLUR, len(accept))
        for c in conditions
    }


def _note(
    hits: dict[str, list[bool]], true: float, value: float, papers: tuple[float, float] | None, total: Total | None
) -> None:
    assert papers is not None and total is not None
    both = total.interval(value)
    hits["papers"].append(papers[0] <= true <= papers[1])
    hits["both"].append(both[0] <= true <= both[1])
    hits["rejected"].append(total.p_value(value - true) < 0.05)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--worlds", type=int, default=1000)
    parser.add_argument("--kinds", nargs="+", choices=list(WORLDS), default=list(WORLDS))
    a = parser.parse_args()
    print("| world | number | papers alone | papers and trainings | true difference rejected at 5 % |")
    print("|---|---|---|---|---|")
    for name in a.kinds:
        for number, share in covered(WORLDS[name], a.worlds).items():
            cells = [f"{share[k]:.1%}" if k in share else "-" for k in ("papers", "both", "rejected")]
            print(f"| {name} | {number} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
