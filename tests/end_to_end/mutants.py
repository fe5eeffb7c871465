"""Run by a test: train and score a prepared run's conditions with the product's own code, and with it broken.

python -m tests.end_to_end.mutants RUN BASELINE NAME...

leaves the sound training in RUN and each mutant, which shares its baseline, in a run beside it named after what is broken.
"""

import shutil
import sys
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pandas as pd
import torch
import torch.distributed as dist
from transformers import AutoModelForCausalLM

from wlsweep.data.load import load_mix, load_test
from wlsweep.run.layout import RunDir, read_json
from wlsweep.spec.condition import parse_name
from wlsweep.spec.config import Sweep
from wlsweep.train import batcher, loop
from wlsweep.train import model as model_module
from wlsweep.train.job import Hooks, Job
from wlsweep.train.loss import global_loss
from wlsweep.train.zero3 import join_group


def changed_weights(change):
    """`collate` with other weights than it is given."""

    def collate(prompts, answers, accept, weights, *rest):
        return model_module.collate(prompts, answers, accept, change(weights), *rest)

    return collate


def of_the_micro_batch(parts, weights, present, samples, format_weight):
    """`global_loss` divided by the weights of its micro-batch."""
    share = present.sum() / (weights * present).sum()
    return share * global_loss(parts, weights, present, samples, format_weight)


MUTATIONS = {
    "gamma ignored": (batcher, "collate", changed_weights(lambda _: (1.0, 1.0))),
    "gamma on the other class": (batcher, "collate", changed_weights(lambda weights: weights[::-1])),
    "normalised in the micro-batch": (model_module, "global_loss", of_the_micro_batch),
}


@contextmanager
def broken(module, name, by):
    """One function replaced; the proof at start would refuse all of these, so it is taken out."""
    whole, proof = getattr(module, name), loop.prove_weights
    setattr(module, name, by)
    loop.prove_weights = lambda *_: {}
    try:
        yield
    finally:
        setattr(module, name, whole)
        loop.prove_weights = proof


@torch.no_grad()
def predict(run, name):
    """Label log-probabilities of the test rows by a plain forward pass, in the columns that the oracle reads."""
    lm, test = AutoModelForCausalLM.from_pretrained(run.model(name), dtype=torch.float32).eval(), load_test(run)
    prefix, scores = list(test.answer.prefix), np.zeros((len(test), 2))
    for numbers in np.array_split(np.argsort(test.lengths), max(1, len(test) // 64)):
        rows = [[*test.prompt(i).tolist(), *prefix] for i in numbers]
        ids = torch.zeros(len(rows), max(map(len, rows)), dtype=torch.int64)
        for row, tokens in zip(ids, rows, strict=True):
            row[: len(tokens)] = torch.tensor(tokens)
        hidden = lm.model(input_ids=ids).last_hidden_state[torch.arange(len(rows)), [len(r) - 1 for r in rows]]
        scores[numbers] = torch.log_softmax(lm.lm_head(hidden), -1)[:, [test.answer.accept, test.answer.reject]]
    table = pd.DataFrame({"row_id": test.row_ids, "logprob_accept": scores[:, 0], "logprob_reject": scores[:, 1]})
    run.prediction(name).mkdir(parents=True)
    table.to_parquet(run.prediction(name) / "part-0.parquet")


def train(run, names, place):
    record = read_json(run.sweep_json)
    sweep = Sweep.model_validate(record["sweep"])
    for name in names:
        condition = parse_name(name)
        job = Job(sweep, condition, run, record["base"])
        loop.train_condition(job, load_mix(run, condition.k), place, Hooks())
        predict(run, name)


def main():
    run, baseline, names = RunDir(Path(sys.argv[1])), sys.argv[2], sys.argv[3:]
    torch.set_num_threads(2)
    dist.init_process_group("gloo")
    place = join_group()
    train(run, [baseline], place)
    for how, mutation in MUTATIONS.items():
        mutant = run.root.with_name(how)
        shutil.copytree(run.root, mutant)
        with broken(*mutation):
            train(RunDir(mutant), names, place)
    train(run, names, place)


if __name__ == "__main__":
    main()
