"""When a training validates, and what that costs: pure, so that `plan` and training cannot differ.

    >>> validation_steps(Train(lr=1e-5, epochs=2), rows=1600, validation_rows=200)
    (50, 100, 150, 200)

A validation passes its papers forward once, which is a third of the arithmetic of training on them (2 FLOPs a parameter and
token forward, 4 backward; Kaplan et al. 2020). The one at the end is always made, and is what trainings are compared by.
"""

from __future__ import annotations

from math import ceil

from wlsweep.spec.config import Train

FORWARD = 1 / 3
"""Arithmetic of passing a row forward, of that of training on it."""
LONGEST_SHARE = 0.1
"""Share of a training's arithmetic that all validations may take where `train.validate_every` is not given; the one at the
end is made in any case."""


def validation_steps(train: Train, rows: int, validation_rows: int) -> tuple[int, ...]:
    """Optimizer steps, counted from 1, after which a training validates, the last of all included; none without rows.

    Args:
        train: gives the interval, or the lines of the metric log that validation can be part of.
        rows: training rows of an epoch, repetitions counted.
        validation_rows: papers of validation.
    """
    if not validation_rows:
        return ()
    total = train.epochs * ceil(rows / train.global_batch)
    every = train.validate_every
    if every is None:
        most = int(LONGEST_SHARE * rows * train.epochs / (FORWARD * validation_rows) + 1e-9)
        if most < 2:
            return (total,)
        every = train.log_every * ceil(total / most / train.log_every)
    return (*range(every, total, every), total)


def validation_share_of_training(train: Train, rows: int, validation_rows: int) -> float:
    """Arithmetic of all validations of a training, of that of its steps."""
    passes = len(validation_steps(train, rows, validation_rows))
    return FORWARD * passes * validation_rows / (rows * train.epochs)
