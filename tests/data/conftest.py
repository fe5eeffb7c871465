import json
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
sys.path[:0] = [p for p in (str(ROOT),) if p not in sys.path]  # for bench, which is no installed package

from bench import papers, qwen_like  # noqa: E402
from wlsweep.config import Sweep  # noqa: E402
from wlsweep.paths import RunDir  # noqa: E402

TASK = "Judge this paper.\n - \\boxed{Accept} or \\boxed{Reject}"


def sharegpt(row_id, label, paper="Some paper.", year=2024, system="You review.", instruction=TASK + "\n\n"):
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


@pytest.fixture(scope="session")
def tokenizer():
    return qwen_like.build(papers.paragraphs(100, seed=5))


@pytest.fixture(scope="session")
def model(tokenizer, tmp_path_factory):
    """A folder with the tokenizer, as a model's folder holds it."""
    folder = tmp_path_factory.mktemp("model")
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def run(tmp_path):
    return RunDir(tmp_path / "runs" / "one")


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
