"""How often a verdict passes where it is false: python -m bench.false_passes [--worlds 200].

Made worlds with papers and training noise (one seed, a plain shuffle's noise: SDs 0.1 of what a mix shares and 0.03 of a
condition's own) in which some sentences of the experiment are false. A verdict goes by measured values, so where the truth
lies at its bound it passes every second time; what counts is how often it passes *and* is called firm: the same in at least
95% of draws of papers and trainings.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np

from bench.coverage import THE_19, Noise, draw_log_odds, shift_of
from wlsweep.analysis.bootstrap import Resamples, from_counts
from wlsweep.analysis.hypotheses import hypotheses
from wlsweep.analysis.responses import responses
from wlsweep.analysis.training_noise import training_noise
from wlsweep.analysis.trainings import Trainings
from wlsweep.analysis.verdicts import judge
from wlsweep.spec.condition import Condition

FIRM = 0.95
NOISE = Noise(common=0.0, shared=0.1, own=0.03)


def _theory(gamma: float, mix: float) -> Callable[[Condition], float]:
    return lambda c: gamma * c.signed_log_gamma - mix * float(np.log(c.k - 1))


def _off_by_five_points(c: Condition) -> float:
    """Theory, but accept gamma 2 at 1/3, which should match the baseline, is 5 points of rate off."""
    return _theory(1.0, 1.0)(c) + (0.253 if c.name == "accept_gamma2.0_prop1_3" else 0.0)


@dataclass(frozen=True)
class World:
    """True shifts of mean log-odds, and which sentences are false of them."""

    shift: Callable[[Condition], float]
    false: tuple[str, ...]
    informative: float = 1.0
    """Share of the papers whose label follows their text; the others have either label."""
    noise: Noise = field(default=NOISE)


WORLDS = {
    "weights do nothing": World(_theory(0.0, 1.0), ("H1", "H1r", "H1p", "H3", "H3e", "S1", "S5")),
    "weights do the reverse": World(_theory(-1.0, 1.0), ("H1", "H1r", "H1p", "H3", "H3e", "S1", "S5")),
    "mixes do nothing": World(_theory(1.0, 0.0), ("H2", "S1")),
    "mixes do nothing, large noise": World(
        _theory(1.0, 0.0), ("H2", "S1"), noise=Noise(common=0.0, shared=0.3, own=0.1)
    ),
    "rates from 33 to 67%": World(_theory(0.42, 0.0), ("S3",)),
    "no shift expected, 5 points off": World(_off_by_five_points, ("C1",)),
    "labels are hard: accuracy 57%": World(_theory(0.3, 0.3), ("S4",), informative=0.25),
}


def passes(world: World, worlds: int, papers: int = 1000, draws: int = 300) -> dict[str, tuple[float, float]]:
    """By verdict that is false: share of worlds in which it passes, and in which it passes firmly."""
    counts = Resamples(papers, draws, 0).counts.astype(np.float32)
    shifts = {c.name: world.shift(c) for c in THE_19}
    expected = {c.name: shift_of(c) for c in THE_19}
    seen: dict[str, list[tuple[bool, bool]]] = defaultdict(list)
    for number in range(worlds):
        rng = np.random.default_rng([number, 41])
        accept = rng.random(papers) < 0.5
        made = draw_log_odds(list(THE_19), shifts, world.noise, accept, rng)
        if world.informative != 1.0:
            guessed = rng.random(papers) < 1 - world.informative
            accept = np.where(guessed, rng.random(papers) < 0.5, accept)
        trainings = _trainings(made, accept, expected)
        at = {name: _measured(z > 0, accept, counts) for name, z in made.items()}
        noisy = trainings.noisy({name: drawn for name, (_, drawn) in at.items()})
        for h in hypotheses(THE_19, expected):
            if h.key not in world.false:
                continue
            point = {name: value[h.metric] for name, (value, _) in at.items()}
            verdict = judge(h, point, {name: found[h.metric] for name, found in noisy.items()}, trainings.counted)
            passed = verdict.verdict == "pass"
            seen[h.key].append((passed, passed and (verdict.support or 0.0) >= FIRM))
    return {key: (float(np.mean([p for p, _ in v])), float(np.mean([f for _, f in v]))) for key, v in seen.items()}


def _trainings(made: Mapping[str, np.ndarray], accept: np.ndarray, expected: Mapping[str, float]) -> Trainings:
    noise = training_noise(THE_19, expected, {name: float(z.mean()) for name, z in made.items()})
    return Trainings(noise, {name: responses(accept, z) for name, z in made.items()})


def _measured(
    decision: np.ndarray, accept: np.ndarray, counts: np.ndarray
) -> tuple[dict[str, float], dict[str, np.ndarray]]:
    """Metrics on the papers and in every draw of them."""
    tp, fp = (decision & accept).astype(np.float32), (decision & ~accept).astype(np.float32)
    n, one = len(accept), np.ones((1, len(accept)), dtype=np.float32)
    point, drawn = (
        from_counts(
            (w @ tp).astype(np.float64),
            (w @ fp).astype(np.float64),
            (w @ accept.astype(np.float32)).astype(np.float64),
            n,
        )
        for w in (one, counts)
    )
    return {m: float(v[0]) for m, v in point.items()}, drawn


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--worlds", type=int, default=200)
    a = parser.parse_args()
    print("| world | false verdict | passes | passes firmly |")
    print("|---|---|---|---|")
    for name, world in WORLDS.items():
        for key, (passed, firm) in passes(world, a.worlds).items():
            print(f"| {name} | {key} | {passed:.1%} | {firm:.1%} |", flush=True)


if __name__ == "__main__":
    main()
