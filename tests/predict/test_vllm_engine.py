"""A real vLLM engine says what the model itself says, swap after swap, and no broken swap gets by."""

import json
import os
import re
import subprocess
import sys

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from tests.train.made_rows import drawn_rows, make_base

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """A model that speaks the answer's format, and one with other weights that does not; Reject is two tokens."""
    folder = tmp_path_factory.mktemp("models")
    first = make_base(folder / "first", split_labels=True, width=128, heads=4)
    lm = AutoModelForCausalLM.from_pretrained(first, dtype=torch.float32)
    torch.manual_seed(1)
    with torch.no_grad():
        for p in lm.parameters():
            p.add_(0.05 * torch.randn_like(p))
    lm.save_pretrained(folder / "second")
    AutoTokenizer.from_pretrained(first).save_pretrained(folder / "second")
    return first, folder / "second"


@pytest.fixture(scope="module")
def found(models, tmp_path_factory):
    out = tmp_path_factory.mktemp("swaps") / "found.json"
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "tests.predict.swaps", *map(str, models), str(out)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(out.read_text())


@torch.no_grad()
def said(model, rows):
    """Greedy text and both labels' log-probabilities by plain forward passes, one row at a time."""
    lm = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32).eval()
    tokenizer, answer = AutoTokenizer.from_pretrained(model), rows.answer
    for prompt in rows.prompts:
        ids = prompt.tolist()
        for _ in range(answer.length):
            ids.append(int(lm(torch.tensor([ids])).logits[0, -1].argmax()))
            if ids[-1] == answer.end:
                break
        forced = lm(torch.tensor([[*prompt.tolist(), *answer.prefix]])).logits[0, -1]
        labels = torch.log_softmax(forced, -1)[[answer.accept, answer.reject]]
        yield tokenizer.decode(ids[len(prompt) :], skip_special_tokens=True), *labels.tolist()


@pytest.mark.parametrize(("turn", "which"), [(0, 0), (1, 1), (2, 0)])
def test_each_checkpoint_is_served_with_its_own_text_and_exact_label_scores(models, found, turn, which):
    expected = list(said(models[which], drawn_rows(models[which])))
    scored = found["scores"][turn]
    assert found["sound"][turn] is None
    assert [s[0] for s in scored] == [e[0] for e in expected]
    assert [s[1:] for s in scored] == [pytest.approx(e[1:], abs=1e-4) for e in expected]


def test_the_labels_of_these_models_are_of_different_lengths(models):
    answer = drawn_rows(models[0]).answer
    assert len(answer.ids(False)) == len(answer.ids(True)) + 1


def test_both_ways_of_scoring_were_tried(models, found):
    """Answers in the format are scored where they were generated, others after a forced prefix."""
    prefix = "\\boxed{"
    assert all(text.startswith(prefix) for text, *_ in found["scores"][0])
    assert not any(text.startswith(prefix) for text, *_ in found["scores"][1])


def test_an_engine_tells_how_many_rows_it_has_answered(models, found):
    n = len(drawn_rows(models[0]).prompts)
    assert [rows for rows in found["rows"] if rows[0] == n] == [[n, n]] * 3
    assert all(0 < done <= of == n for done, of in found["rows"]) and len(found["rows"]) > 3


FAULTS = {
    "another model's probe": "label log-probabilities differ by",
    "keys and values of the old weights": "of the way from the model before|log-probabilities differ by",
    "a cache that was not emptied": "kept keys and values",
    "old weights": "label log-probabilities differ by|to the last bit",
    "a tied head that was not packed again": r"lm_head.weight \(its packed copy\)",
    "a tied head that was packed of nearly the same weights": r"lm_head.weight \(its packed copy\)",
    "one layer was not loaded": "of its weights were not loaded",
}


@pytest.mark.parametrize("fault", FAULTS)
def test_an_engine_that_does_not_serve_the_model_is_found_out(found, fault):
    assert re.search(FAULTS[fault], found[fault]) and "nothing was predicted" in found[fault]
    assert found["right again"] == [None] * 3 and found["after another was closed"] is None


def test_tied_models_are_swapped_in_float32_on_a_cpu(found):
    assert found["tied"] == [None] * 3 and found["tied again"] is None


def test_a_model_that_is_split_over_four_processes_is_swapped_in_each(models, tmp_path):
    """Of two heads of keys and values, four ranks hold each one twice."""
    ranks = 4
    out = tmp_path / "found.json"
    command = [sys.executable, "-m", "tests.predict.split", *map(str, models), str(out), str(ranks)]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(out.read_text())
    assert (found["executor"], found["ranks"]) == ("mp", ranks)
    assert found["sound"] == [None] * 3 and "log-probabilities differ by" in found["another model's probe"]
    assert len(set(found["read by each rank"])) == 1 and found["read by each rank"][0] > 0
    assert found["missing"] == [[]] * ranks
    for turn, which in enumerate((0, 1, 0)):
        expected = list(said(models[which], drawn_rows(models[which])))
        assert [s[1:] for s in found["scores"][turn]] == [pytest.approx(e[1:], abs=1e-4) for e in expected]
