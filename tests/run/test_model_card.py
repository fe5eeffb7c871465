"""The card of a kept model: the Hub reads it, its code gives the model's probabilities, and nothing depends on it."""

import re
import shutil

import pytest
import torch
from huggingface_hub import ModelCard
from transformers import AutoModelForCausalLM, AutoTokenizer

from tests.made_run import THE_19, make_run
from tests.train.made_rows import make_base
from wlsweep.analysis.evaluate import evaluate
from wlsweep.data.tokenise import find_answer_tokens, load_tokenizer
from wlsweep.report.page import write_cards, write_report
from wlsweep.run.adapter import weights_fingerprint
from wlsweep.run.layout import read_json, write_json
from wlsweep.run.model_card import CARD, card, write_card
from wlsweep.run.status import RunStatus
from wlsweep.spec.condition import parse_name

A, B = THE_19[0], THE_19[1]


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return make_base(tmp_path_factory.mktemp("models") / "base")


@pytest.fixture
def run(tmp_path, base):
    """A finished run that kept the model of A and dropped that of B; the base is a folder with a card of its own."""
    made = make_run(tmp_path / "run", [A, B], n=40)
    shutil.copytree(base, made.model(A))
    start = tmp_path / "SmolBase"
    shutil.copytree(base, start)
    (start / CARD).write_text("---\nlanguage: en\nlicense: apache-2.0\n---\n# SmolBase\nlicense: mit\n")
    write_json(made.trained(A), read_json(made.trained(A)) | {"base": str(start)})
    sweep = read_json(made.sweep_json)
    sweep["sweep"]["model"] = {"path": str(start)}
    write_json(made.sweep_json, sweep)
    answer = find_answer_tokens(load_tokenizer(str(base)))
    found = {"prefix": list(answer.prefix), "accept": answer.accept, "reject": answer.reject, "suffix": [5]}
    write_json(made.data_json, read_json(made.data_json) | {"answer": found})
    return made


def test_the_hub_reads_the_card_and_it_says_what_was_trained(run):
    assert write_card(run, A)
    found = ModelCard.load(run.model(A) / CARD)
    assert found.data.base_model == "SmolBase" and found.data.license == "apache-2.0"
    assert "wlsweep" in found.data.tags and found.data.library_name == "transformers"
    assert found.data.eval_results is None and "Not evaluated yet" in found.text
    assert "1,000 accepts, 1,000 rejects" in found.text and "papers.json: 2,000 papers" in found.text
    assert str(run.root) not in found.content and str(run.root.parent) not in found.content


def test_a_report_writes_the_evaluation_into_the_cards_of_kept_models_alone(run):
    evaluation = evaluate(run, draws=100)
    write_report(run, evaluation)
    found = ModelCard.load(run.model(A) / CARD)
    accuracy = evaluation.conditions[0]["accuracy"]
    said = {r.metric_type: (r.metric_value, r.metric_name) for r in found.data.eval_results}
    assert said["accuracy"][0] == accuracy.value
    assert f"{100 * accuracy.low:.1f} to {100 * accuracy.high:.1f} %" in said["accuracy"][1]
    assert {"roc_auc", "predicted_accept_rate", "f1", "actual_accept_rate"} <= set(said)
    assert found.data.eval_results[0].dataset_name == "papers.json, 40 papers"
    assert f"| accuracy | {100 * accuracy.value:.1f}% |" in found.text
    assert not run.model(B).exists(), "a card brings no dropped model back"
    before = (run.model(A) / CARD).read_bytes()
    write_cards(run, evaluation)
    assert (run.model(A) / CARD).read_bytes() == before


def test_neither_fingerprint_nor_status_depends_on_the_card_and_the_model_loads_with_it(run, base):
    before = weights_fingerprint(run.model(A)), RunStatus(run).as_json()["conditions"]
    write_card(run, A)
    assert (weights_fingerprint(run.model(A)), RunStatus(run).as_json()["conditions"]) == before
    with_card = AutoModelForCausalLM.from_pretrained(run.model(A)).state_dict()
    assert all(torch.equal(with_card[k], v) for k, v in AutoModelForCausalLM.from_pretrained(base).state_dict().items())
    assert not list(run.model(A).glob(".*"))


def test_the_code_of_the_card_gives_the_probability_that_a_prediction_is_made_of(run, base, monkeypatch):
    write_card(run, A)
    code = re.search(r"With transformers:\n\n```python\n(.*?)\n```", (run.model(A) / CARD).read_text(), re.S)[1]
    monkeypatch.chdir(run.model(A))
    names = {}
    exec(code, names)
    answer = read_json(run.data_json)["answer"]
    tokenizer, lm = AutoTokenizer.from_pretrained(base), AutoModelForCausalLM.from_pretrained(base)
    turns = [{"role": "user", "content": "A paper on cats."}]
    text = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
    ids = tokenizer(text, add_special_tokens=False).input_ids + answer["prefix"]
    with torch.no_grad():
        logp = lm(torch.tensor([ids])).logits[0, -1].log_softmax(-1)
    expected = torch.sigmoid(logp[answer["accept"]] - logp[answer["reject"]]).item()
    assert names["p_positive"]("A paper on cats.") == pytest.approx(expected, abs=1e-6)


def test_a_base_that_says_no_license_leaves_it_unknown_and_a_made_base_is_no_name_on_the_hub(run):
    record = read_json(run.trained(A))
    write_json(run.trained(A), record | {"base": "someone/unheard-of"})
    sweep = read_json(run.sweep_json)
    found = ModelCard(card(run, A))
    assert found.data.license == "unknown" and found.data.base_model == "someone/unheard-of"
    sweep["sweep"]["model"] = {"tiny": {"layers": 2, "width": 64}}
    write_json(run.sweep_json, sweep)
    assert "made for this sweep" in card(run, A) and ModelCard(card(run, A)).data.base_model is None


def test_a_card_that_cannot_be_written_is_left_out(run):
    (run.model(A) / CARD).mkdir()
    assert not write_card(run, A) and not list(run.model(A).glob(".*"))
    assert not write_card(run, B) and not run.model(B).exists()
    run.sweep_json.unlink()
    assert not write_card(run, A)


def test_an_adapter_is_loaded_with_peft_on_its_base(run):
    name = f"{A}_lora20"
    shutil.copytree(run.condition(A), run.condition(name))
    for file in run.model(name).iterdir():
        file.unlink()
    (run.model(name) / "adapter_config.json").write_text("{}")
    (run.model(name) / "adapter_model.safetensors").write_bytes(b"x")
    record = read_json(run.trained(A))
    write_json(run.trained(name), record | {"condition": parse_name(name).as_dict()})
    assert write_card(run, name)
    found = ModelCard.load(run.model(name) / CARD)
    assert found.data.library_name == "peft" and "A low-rank adapter (rank 20) of `SmolBase`" in found.text
    assert 'base = "SmolBase"' in found.text and "PeftModel.from_pretrained" in found.text
    assert "max_lora_rank=32" in found.text


def test_the_card_of_another_task_speaks_its_words(run):
    sweep = read_json(run.sweep_json)
    sweep["sweep"]["task"] = {"positive": "Spam", "negative": "Ham", "item": "message"}
    write_json(run.sweep_json, sweep)
    said = card(run, A)
    assert "It tells spam messages from ham messages" in said and "Probability of Spam" in said
    assert "2,000 messages, 1,000 of them spam messages" in said and "paper" not in said.replace("papers.json", "")
