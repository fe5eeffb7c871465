"""Full-length papers for tests and benchmarks: ShareGPT rows of about 11k tokens, as ICLR papers are.

    python -m bench.papers OUT.json [--rows 17101] [--accepts 8553] [--characters 38000]

Only size and shape matter here, not meaning: prose of made-up words with a Zipf distribution, numbers, formulas,
citations. (Papers whose label can be learnt from the text come from `wlsweep.data.synthetic`.)
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np

SYSTEM = "You are an expert academic reviewer tasked with evaluating research papers."
TASK = (
    "I am giving you a paper. I want to predict its acceptance outcome at ICLR.\n"
    " - Your answer will either be: \\boxed{Accept} or \\boxed{Reject}"
)
_SYLLABLES = re.findall("..", "tramodelingreritalnewogradientopalysibayekepolicysu")
_FORMULAS = (r" $\mathcal{L}(\theta) = \sum_i w_i$", " [12, 34]", " (Eq. 3)", " 0.731", " et al., 2019", r" $\alpha_t$")


def paragraphs(n: int, seed: int) -> list[str]:
    """`n` paragraphs of 60 to 140 words, deterministic."""
    rng = np.random.Generator(np.random.PCG64([seed, 1]))
    words = sorted({"".join(rng.choice(_SYLLABLES, size=rng.integers(1, 4))) for _ in range(12_000)})
    rng.shuffle(words)
    rank = np.arange(1, len(words) + 1)
    p = (1 / (rank + 2.7)) / (1 / (rank + 2.7)).sum()
    found = []
    for _ in range(n):
        drawn = [words[i] for i in rng.choice(len(words), size=rng.integers(60, 140), p=p)]
        for place in rng.choice(len(drawn), size=8, replace=False):
            drawn[place] += _FORMULAS[int(rng.integers(len(_FORMULAS)))]
        drawn[::14] = [w.capitalize() for w in drawn[::14]]
        found.append(" ".join(drawn) + ".")
    return found


def papers(
    rows: int, accepts: int, characters: int = 38_000, seed: int = 0, spread: float = 0.2
) -> Iterator[dict[str, object]]:
    """ShareGPT rows with a title, sections and a log-normal length around `characters`; years 2020-2025.

    The tokenizer of `bench.qwen_like` reads 3.5 characters a token: 38,000 characters are 11k tokens.
    """
    rng = np.random.Generator(np.random.PCG64([seed, 2]))
    stock = paragraphs(3_000, seed)
    mean = np.mean([len(p) for p in stock]) + 2
    accept = rng.permutation(np.arange(rows) < accepts)
    sizes = np.maximum(1, np.round(characters / mean * rng.lognormal(-(spread**2) / 2, spread, size=rows))).astype(int)
    for i in range(rows):
        chosen = [stock[j] for j in rng.integers(len(stock), size=sizes[i])]
        body = "\n\n".join(f"## {n}\n{p}" if n % 8 == 0 else p for n, p in enumerate(chosen))
        yield {
            "conversations": [
                {"from": "system", "value": SYSTEM},
                {"from": "human", "value": f"{TASK}\n\n# Paper {seed}-{i}\n\n{body}\n"},
                {"from": "assistant", "value": "\\boxed{Accept}" if accept[i] else "Outcome: \\boxed{Reject}"},
            ],
            "_metadata": {"submission_id": f"p{seed}-{i:05d}", "year": 2020 + i % 6},
        }


def write_array(path: Path, rows: Iterator[dict[str, object]]) -> None:
    """Write rows as one JSON array, in the memory of one row."""
    with path.open("w", encoding="utf-8") as out:
        for i, row in enumerate(rows):
            out.write(("[\n" if i == 0 else ",\n") + json.dumps(row))
        out.write("\n]\n")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--rows", type=int, default=17_101)
    parser.add_argument("--accepts", type=int, default=8_553)
    parser.add_argument("--characters", type=int, default=38_000)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    write_array(args.out, papers(args.rows, args.accepts, args.characters, args.seed))
