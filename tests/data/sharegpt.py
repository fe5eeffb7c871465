import json
from pathlib import Path

from wlsweep.spec.config import Sweep

ROOT = Path(__file__).parents[2]
TASK = "Judge this paper.\n - \\boxed{Accept} or \\boxed{Reject}"


def sharegpt(row_id, label, paper=None, year=2024, system="You review.", instruction=TASK + "\n\n"):
    paper = f"Some paper {row_id}." if paper is None else paper
    turns = [{"from": "system", "value": system}] if system is not None else []
    turns += [{"from": "human", "value": instruction + paper}, {"from": "gpt", "value": f"\\boxed{{{label}}}"}]
    row = {"conversations": turns}
    if row_id is not None:
        row["_metadata"] = {"submission_id": row_id, "year": year}
    return row


def corpus(accepts, rejects, prefix="r", words=8):
    """Short papers with different texts."""
    labels = ["Accept"] * accepts + ["Reject"] * rejects
    return [
        sharegpt(f"{prefix}{i}", label, f"# {prefix} {i}\n" + f"model number{i} " * words, year=2020 + i % 3)
        for i, label in enumerate(labels)
    ]


def write_lines(path, rows):
    path.write_text("".join(json.dumps(r) + "\n" for r in rows), encoding="utf-8")
    return path


def sweep_of(data, ks=(2, 3, 4, 8)):
    return Sweep.model_validate(
        {
            "name": "one",
            "data": data,
            "model": {"path": "unused"},
            "train": {"lr": 1e-5},
            "grid": [
                {"proportion": [f"1/{k}" for k in ks], "variant": ["accept"], "gamma": [2.0]},
            ],
        }
    )
