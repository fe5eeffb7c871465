"""Synthetic papers whose P(Accept | text) is known in closed form, so that a whole sweep can be judged against theory.

A paper of n words holds `CUES` cue words, drawn with replacement from one distribution for accepts and another for
rejects, at random places among filler drawn from the same distribution for both. Given the text the places and the
filler say nothing, so with balanced classes

    ln P(Accept | text) / P(Reject | text) = sum over its cue words c of ln P(c | Accept) / P(c | Reject).

The sum is stored with each row as `_metadata.true_log_odds`. At `STRENGTH` the Bayes accuracy is about 78 %.

Frame and layout are as short as a row may be, since every token is paid in every step of every condition: each word is
one token wherever it stands (a space before it), and what is not word is 30 tokens.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from wlsweep.run.layout import atomic_file
from wlsweep.spec.data_section import SyntheticPapers
from wlsweep.spec.task import ICLR, Task

CUES = 10
"""Cue words in a paper."""
STRENGTH = 0.74
"""Largest difference of a cue's log-probability between the classes, before both distributions are normalised."""
VERSION = 2
"""Raised whenever the same parameters would give other rows."""
YEARS = (2020, 2021, 2022, 2023, 2024, 2025)

_FAVOURABLE = (
    "elegant rigorous novel scalable principled thorough convincing robust "
    "general insightful surprising careful efficient provable simple open"
).split()
_UNFAVOURABLE = (
    "incremental limited heuristic unclear narrow preliminary marginal costly "
    "ambiguous fragile complicated similar minor partial informal closed"
).split()
_FILLER = (
    "model network data method training results task learning layer gradient loss image text graph policy reward "
    "agent sample batch token attention encoder decoder feature vector matrix kernel prior latent noise signal label "
    "class metric score rate error bound proof step update weight bias unit block head depth width scale input output "
    "domain language vision speech video memory search tree game robot state action value goal plan rule code math "
    "study paper section table figure baseline setting protocol split"
).split()
_TASK = "Will ICLR accept this paper?"
_SYSTEM = "You review papers."
_TITLE_WORDS = 4


class SyntheticFiles(NamedTuple):
    """JSON Lines files of ShareGPT rows, disjoint."""

    base: Path
    train: Path
    test: Path


class CueModel(NamedTuple):
    """The two cue distributions; arrays of shape [32], float64."""

    words: tuple[str, ...]
    p_accept: npt.NDArray[np.float64]
    p_reject: npt.NDArray[np.float64]

    @property
    def log_ratio(self) -> npt.NDArray[np.float64]:
        """What one occurrence of each cue adds to the log-odds, in natural log units."""
        return np.asarray(np.log(self.p_accept) - np.log(self.p_reject))


def cue_model() -> CueModel:
    """Cues of graded strength: the weakest shifts by about 0.3 of the strongest."""
    grade = np.linspace(0.3, 1.0, len(_FAVOURABLE))
    tilt = STRENGTH * np.concatenate([grade, -grade])
    accept, reject = np.exp(tilt / 2), np.exp(-tilt / 2)
    return CueModel((*_FAVOURABLE, *_UNFAVOURABLE), accept / accept.sum(), reject / reject.sum())


def draw_papers(n: int, words: int, seed: list[int], task: Task = ICLR) -> list[dict[str, Any]]:
    """`n` balanced ShareGPT rows (one more of the positive label if n is odd), deterministic in all arguments."""
    rng = np.random.Generator(np.random.PCG64(seed))
    cues = cue_model()
    accept = rng.permutation(np.arange(n) % 2 == 0)
    rows = []
    for i in range(n):
        text = rng.choice(_FILLER, size=words).astype(object)  # cues may be longer than any filler
        drawn = rng.choice(len(cues.words), size=CUES, p=cues.p_accept if accept[i] else cues.p_reject)
        text[rng.choice(words, size=CUES, replace=False)] = np.array(cues.words, dtype=object)[drawn]
        title, abstract = " ".join(text[:_TITLE_WORDS]), " ".join(text[_TITLE_WORDS:])
        label = task.labels[0 if accept[i] else 1]
        rows.append(
            {
                "conversations": [
                    {"from": "system", "value": _SYSTEM},
                    {"from": "human", "value": f"{_TASK}\n\n# {title}\n\nAbstract: {abstract}"},
                    {"from": "assistant", "value": task.answer_with(label)},
                ],
                "_metadata": {
                    "submission_id": "-".join(map(str, [*seed, i])),
                    "year": int(rng.choice(YEARS)),
                    "true_log_odds": float(cues.log_ratio[drawn].sum()),
                },
            }
        )
    return rows


def ensure_synthetic(config: SyntheticPapers, cache: Path, task: Task = ICLR) -> SyntheticFiles:
    """Write the three files of a world under `cache`, or find them there; the same bytes on every machine."""
    key = hashlib.sha256(
        json.dumps([VERSION, STRENGTH, config.model_dump(), *(task.identity or ())]).encode()
    ).hexdigest()[:12]
    folder = cache.resolve() / "synthetic" / key
    files = SyntheticFiles(folder / "base.jsonl", folder / "train.jsonl", folder / "test.jsonl")
    sizes = (config.base_rows, config.train_rows, config.test_rows)
    for part, (path, n) in enumerate(zip(files, sizes, strict=True)):
        if not path.is_file():
            with atomic_file(path) as temporary, temporary.open("w", encoding="utf-8", newline="\n") as out:
                for row in draw_papers(n, config.words, [config.seed, part], task):
                    out.write(json.dumps(row) + "\n")
    return files
