"""When a training validates, and what that costs: pure, so that `plan` and training cannot differ.

    >>> validation_steps(Train(lr=1e-5, epochs=2), rows=1600, validation_rows=200)
    (50, 100, 150, 200)

A validation passes its papers forward once: 2 FLOPs a parameter and token, of 6 for training on them (Kaplan et al. 2020) or
4 where adapters on a frozen base are trained. The one at the end is always made, and is what trainings are compared by.
"""

from __future__ import annotations

from math import ceil

from wlsweep.spec.train_section import Train

LONGEST_SHARE = 0.1
"""Share of a training's arithmetic that all validations may take where `train.validate_every` is not given; the one at the
end is made in any case."""


def forward_share(lora: int) -> float:
    """Arithmetic of passing a row forward, of that of training on it: all parameters, or adapters of a rank above 0."""
    return 1 / 2 if lora else 1 / 3


def validation_steps(train: Train, rows: int, validation_rows: int, lora: int = 0) -> tuple[int, ...]:
    """Optimizer steps, counted from 1, after which a training validates, the last of all included; none without papers.

    Args:
        train: gives the interval, or the lines of the metric log that validation can be part of.
        rows: training rows of an epoch, repetitions counted.
        validation_rows: papers of validation.
        lora: rank of adapters; 0 trains all parameters.
    """
    if not validation_rows:
        return ()
    total = train.epochs * ceil(rows / train.global_batch)
    every = train.validate_every
    if every is None:
        most = int(LONGEST_SHARE * rows * train.epochs / (forward_share(lora) * validation_rows) + 1e-9)
        if most < 2:
            return (total,)
        every = train.log_every * ceil(total / most / train.log_every)
    return (*range(every, total, every), total)


def validation_share_of_training(train: Train, rows: int, validation_rows: int, lora: int = 0) -> float:
    """Arithmetic of all validations of a training, of that of its steps."""
    times = len(validation_steps(train, rows, validation_rows, lora))
    return forward_share(lora) * times * validation_rows / (rows * train.epochs)
