"""wlsweep: one LLM fine-tuned under many loss weights and class mixes, and what that did to its decisions."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from wlsweep.analysis.results import Results

__version__ = "0.2.0"


def load_run(folder: str | Path) -> Results:
    """The results of a run directory as pandas tables: metrics, predictions, comparisons, tests, verdicts, training.

    >>> load_run("runs/demo").metrics["accuracy"]    # doctest: +SKIP
    """
    from wlsweep.analysis import results

    return results.load_run(folder)
