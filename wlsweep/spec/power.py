"""How small a difference a design can find: from the test papers, the seeds, and how much trainings differ.

A difference of two conditions, each trained with S seeds and judged on the same n papers, has the standard error

    SE^2 = (FLIPS / S + difference) / n  +  2 (moves * training_sd)^2 / S

where FLIPS is the share of papers that two trainings of one condition decide differently (it averages out over seeds), the
difference itself is the least share of papers that must change sides, `training_sd` is the SD of the mean log-odds of one
training, and `moves` is what a metric does when they all rise by 1. A difference is found in 80% of sweeps (two-sided test
at 5%) where it is (1.96 + 0.84) SE (Cohen, Statistical Power Analysis, 1988, ch. 2). Comparisons within one mix are less
noisy than that: they share the order of their papers.

    >>> round(smallest_difference(2024, 1, 0.1, ACCEPT_RATE), 3)
    0.104
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from statistics import NormalDist
from typing import NamedTuple

from wlsweep.spec.condition import Condition
from wlsweep.spec.config import Sweep
from wlsweep.spec.task import ICLR, Words

POWER = 0.8
WANTED = 0.02
"""Difference that `plan` says the number of seeds for."""
FLIPS = 0.15
"""Assumed share of papers that two trainings of one condition decide differently."""
ACCEPT_RATE = 0.25
"""Most that an accept rate moves for 1 unit of log-odds: the slope of the logistic curve at one half."""
ACCURACY = 0.15
"""The same of accuracy, for a model of about 66% that is one factor of two in weights off its best threshold."""
ASSUMED = (0.1, 0.8)
"""SDs of trainings that differ in their seed alone: about that of the demo, and of plain fine-tunings of 7B at the rate of
`iclr19`, whose predicted accept rates went from .05 to .83."""
_Z = NormalDist().inv_cdf(0.975) + NormalDist().inv_cdf(POWER)
_MOST_SEEDS = 10_000


class Power(NamedTuple):
    """What a design can tell if trainings differ by `training_sd`."""

    training_sd: float
    """In mean log-odds."""
    assumed: bool
    """False where `budget.training_sd` gives it."""
    test_rows: int
    seeds: int
    accept_rate: float
    """Smallest difference of predicted accept rates that is found in 80% of sweeps."""
    accuracy: float
    """The same of accuracies."""
    seeds_for_two_points: int | None
    """Seeds of each condition with which 2 points of accept rate are found; None where the papers are too few."""

    def sentence(self, words: Words = ICLR.words) -> str:
        """For the terminal."""
        need = (
            f"2 points of {words.rate} need {self.seeds_for_two_points:,} seed{'s' * (self.seeds_for_two_points != 1)}"
            if self.seeds_for_two_points
            else f"2 points of {words.rate} are not found with any number of seeds: there are too few test {words.items}"
        )
        origin = "if trainings differ" if self.assumed else "as trainings differ (budget.training_sd)"
        return (
            f"{origin} by an SD of {self.training_sd:g} log-odds: from {100 * self.accept_rate:.1f} points of "
            f"{words.rate} and {100 * self.accuracy:.1f} of accuracy on; {need}"
        )


def smallest_difference(rows: int, seeds: int, training_sd: float, moves: float) -> float:
    """Difference of a share between two conditions that is found in 80% of sweeps, at most 1.

    Args:
        rows: test papers.
        seeds: of each of the two conditions.
        training_sd: SD of the mean log-odds of one training.
        moves: by how much the share rises for 1 unit of log-odds.
    """
    fixed = FLIPS / seeds / rows + 2 * (moves * training_sd) ** 2 / seeds
    # d^2 = z^2 (d / n + fixed)
    b = _Z**2 / rows
    return min(1.0, (b + math.sqrt(b * b + 4 * _Z**2 * fixed)) / 2)


def seeds_needed(rows: int, training_sd: float, moves: float, wanted: float = WANTED) -> int | None:
    """Fewest seeds of each condition that find `wanted`; None where no number of them does."""
    seeds = 1
    while smallest_difference(rows, seeds, training_sd, moves) > wanted:
        seeds += 1
        if seeds > _MOST_SEEDS:
            return None
    return seeds


def power_of(sweep: Sweep, chosen: Sequence[Condition], rows: int) -> list[Power]:
    """What a sweep can tell, for its `budget.training_sd` or, without one, for a quiet and a loud kind of training.

    Args:
        sweep: the search space.
        chosen: its conditions that will run.
        rows: test papers.
    """
    seeds = fewest_seeds(chosen)
    given = sweep.budget.training_sd
    return [
        Power(
            sd,
            given is None,
            rows,
            seeds,
            smallest_difference(rows, seeds, sd, ACCEPT_RATE),
            smallest_difference(rows, seeds, sd, ACCURACY),
            seeds_needed(rows, sd, ACCEPT_RATE),
        )
        for sd in (ASSUMED if given is None else (given,))
    ]


def fewest_seeds(chosen: Sequence[Condition]) -> int:
    """Seeds of the condition that has the fewest."""
    return min(Counter(replace(c, seed=0).name for c in chosen).values(), default=1)


def seed_warning(sweep: Sweep, chosen: Sequence[Condition]) -> str | None:
    """What to say of a sweep of a real model with one seed; None where some condition has more, or nothing is compared."""
    if sweep.model.tiny is not None or len(chosen) < 2 or len({c.seed for c in chosen}) > 1:
        return None
    return (
        "each condition has one seed: how much another seed would change cannot be measured, and at 7B plain fine-tunings "
        "on ICLR papers that differed in their seed alone predicted accept rates from .05 to .83. Measure it first with "
        "noise.toml (the baseline with 4 seeds); then add a [[grid]] block of the baseline with seed = [1, 2, "
        "3], so that the page's "
        "intervals count it, or give all conditions several seeds"
    )
