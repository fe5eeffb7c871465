"""Another task than ICLR's, spam or ham: from rows to page, LaTeX and terminal in its own words."""

import json
import re

import numpy as np
import pyarrow.parquet as pq
import pytest
from rich.console import Console
from typer.testing import CliRunner

from bench import papers, qwen_like
from tests.made_run import THE_19, make_run, shift_of, write_predictions
from tests.report.test_page import Text
from wlsweep.analysis.compare_runs import compare_runs
from wlsweep.analysis.evaluate import evaluate
from wlsweep.analysis.forecast import forecast_run
from wlsweep.analysis.loaded_run import load_predictions
from wlsweep.analysis.summary_table import summary_table
from wlsweep.cli import app
from wlsweep.data.export import export_jsonl, export_sharegpt
from wlsweep.data.prepare import prepare_data
from wlsweep.report.comparison import comparison_page, comparison_table
from wlsweep.report.page import report_input_of, write_report
from wlsweep.report.paper import export_tables
from wlsweep.run.records import SweepRecord
from wlsweep.spec.condition import parse_name
from wlsweep.spec.config import Sweep
from wlsweep.spec.task import Task

SPAM = Task(positive="Spam", negative="Ham", answer="Answer: LABEL", item="message")
FOREIGN = re.compile(r"accept|reject|paper|iclr|submission|boxed", re.IGNORECASE)
IDENTIFIER = re.compile(r"\b(accept|reject)_\s?(gamma[\w.]+(_\s?\w+)*|\*)")
SHOWN = {"text", "title", "name", "hovertemplate", "ticktext", "customdata"}


def messages(n):
    rng = np.random.default_rng(3)
    for i in range(n):
        label = "Spam" if i % 2 else "Ham"
        words = " ".join(rng.choice(["meeting", "lunch", "pills", "prize", "report", "cheap"], size=12))
        turns = [
            {"from": "human", "value": f"Is this message spam?\n\nMessage {i}: {words}"},
            {"from": "gpt", "value": f"It reads so.\nAnswer: {label}" if i % 3 else f"Answer: {label}"},
        ]
        yield {"conversations": turns, "_metadata": {"submission_id": f"m{i}"}}


def space(source):
    return {
        "name": "spam",
        "task": SPAM.model_dump(),
        "data": {"source": str(source), "cutoff": 200, "resampling": "oversample", "test_share": 0.5},
        "model": {"path": "unused"},
        "train": {"lr": 1e-5},
        "grid": [{"proportion": ["1/2", "1/3", "1/4", "1/8"], "variant": ["accept"], "gamma": [2.0]}],
    }


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The data stage on rows of messages, and made predictions of their test set."""
    folder = tmp_path_factory.mktemp("spam")
    source = folder / "messages.jsonl"
    source.write_text("".join(json.dumps(row) + "\n" for row in messages(400)), encoding="utf-8")
    made = make_run(folder / "run", n=200, task=SPAM, failed=[THE_19[6]])
    qwen_like.build(papers.paragraphs(60, seed=5)).save_pretrained(folder / "model")
    for path in (made.data_json, made.test_parquet):
        path.unlink()
    prepare_data(Sweep.model_validate(space(source)), made, folder / "model")
    spam = np.array(pq.read_table(made.test_parquet)["label"].to_pylist()) == "Spam"
    rng = np.random.default_rng(0)
    true = rng.normal(np.where(spam, 1.0, -1.0), 1.4)
    for name in THE_19:
        if name != THE_19[6]:
            write_predictions(made, name, true + rng.normal(0, 0.2, len(spam)) + shift_of(parse_name(name)))
    write_report(made, evaluate(made, draws=200))
    return made


def foreign(text):
    text = text.replace("<wbr>", "").replace("\\_", "_")
    return [text[max(0, m.start() - 60) : m.end() + 30] for m in FOREIGN.finditer(IDENTIFIER.sub("", text))]


def shown(value, key=""):
    """Every string of a figure that a reader can see."""
    if isinstance(value, dict):
        return [s for k, v in value.items() for s in shown(v, k if k in SHOWN or isinstance(v, dict | list) else "")]
    if isinstance(value, list):
        return [s for v in value for s in shown(v, key)]
    return [value] if isinstance(value, str) and key in SHOWN else []


def test_the_data_stage_reads_the_answers_and_the_evaluation_takes_the_task_s_labels(run):
    assert set(pq.read_table(run.test_parquet)["label"].to_pylist()) == {"Spam", "Ham"}
    loaded = load_predictions(run)
    assert loaded.truth.accept.sum() == 100 and loaded.truth.task.labels == ("Spam", "Ham")
    table = pq.read_table(run.prediction(THE_19[0]) / "part-0.parquet")
    assert set(table["parsed"].to_pylist()) == {"Spam", "Ham"}
    line = json.loads(export_jsonl(run)[0].read_text().splitlines()[0])
    assert line["label"] in ("Answer: Spam", "Answer: Ham") and line["predict"] in ("Answer: Spam", "Answer: Ham")


def test_sharegpt_exports_carry_the_form_of_the_answer_and_no_name_of_iclr(run, tmp_path):
    sweep = Sweep.model_validate(space(run.root.parent / "messages.jsonl"))
    *files, info = export_sharegpt(run, sweep, tmp_path)
    assert {f.parent.name for f in files} == {
        *(f"weighted_loss_train_1_{k}" for k in (2, 3, 4, 8)),
        "weighted_loss_test",
    }
    answers = {row["conversations"][-1]["value"] for f in files for row in json.loads(f.read_text())}
    assert answers == {"Answer: Spam", "Answer: Ham"} and "iclr" not in info.read_text()


def test_no_word_of_iclr_is_seen_on_the_page_or_in_its_figures(run):
    html = run.report.read_text()
    seen = str(Text(re.sub(r"<pre>.*?</pre>|<wbr>", "", html, flags=re.S)))
    assert foreign(seen) == []
    labels = re.findall(r'aria-label="([^"]*)"', html)
    assert foreign(" ".join(labels)) == [] and len(labels) > 10
    figures = json.loads(re.search(r'id="figures">(.*?)</script>', html, re.S)[1])
    texts = [s.replace("<br>", " ") for f in figures.values() for s in shown(f)]
    assert [s for s in texts if foreign(s)] == [] and len(texts) > 100
    assert "Predicted share of spam messages" in texts and "share of messages decided" in texts
    for sentence in (
        "weight gamma on the spam messages or on the ham messages of the loss",
        "In names of conditions, accept_* weights the spam messages and reject_* the ham messages.",
        "200 test messages (100 spam messages, 100 ham messages)",
        "The predicted share of spam messages follows gamma",
        "Spam above ham at equal gamma and proportion",
        "Decisions are the sign of the Spam-Ham margin.",
    ):
        assert sentence in seen, sentence


def test_verdicts_with_bounds_that_were_set_for_iclr_are_left_out(run):
    verdicts = {v.key: v for v in evaluate(run, draws=200).analysis.verdicts}
    assert not {"H3", "S4"} & set(verdicts) and {"H1", "H2", "H3e", "S2", "S3", "C1"} <= set(verdicts)
    assert all(v.plan == "" for v in verdicts.values()) and verdicts["H2"].verdict == "pass"


def test_tables_for_a_paper_and_the_paragraph_on_methods_speak_of_the_task(run):
    files = export_tables(run, evaluate(run, draws=200), latex=True, as_csv=True)
    assert {f.name: foreign(f.read_text()) for f in files if foreign(f.read_text())} == {}
    assert "the labels Spam and Ham" in (run.root / "export" / "paper" / "methods.txt").read_text()
    assert "recall of spam messages" in (run.root / "export" / "paper" / "conditions.tex").read_text()


def test_the_terminal_speaks_of_the_task(run):
    console = Console(width=120, record=True, quiet=True)
    found = compare_runs(run, run, draws=50)
    for table in (summary_table(evaluate(run, draws=50)), comparison_table(found)):
        console.print(table)
    text = console.export_text() + forecast_run(run, draws=100).text()
    assert foreign(text) == [] and "share of spam messages %" in text
    assert foreign(str(Text(comparison_page(found, "one", "two").replace("<wbr>", "")))) == []


def test_words_changed_after_the_training_are_those_of_the_next_page(run, tmp_path):
    record = SweepRecord.read(run.sweep_json)
    words = {**record.sweep["task"], "item": "e-mail", "positives": "junk", "rate": "junk rate"}
    record.model_copy(update={"sweep": {**record.sweep, "task": words}}).write(run.sweep_json)
    try:
        found = report_input_of(run, evaluate(run, draws=50))
        assert found.words[:7] == ("e-mail", "e-mails", "spam", "ham", "junk", "ham e-mails", "junk rate")
    finally:
        record.write(run.sweep_json)


def test_a_plan_speaks_of_the_task(tmp_path):
    source = tmp_path / "messages.jsonl"
    source.write_text("".join(json.dumps(row) + "\n" for row in messages(100)), encoding="utf-8")
    path = tmp_path / "spam.toml"
    path.write_text(
        f'name = "spam"\n[task]\npositive = "Spam"\nnegative = "Ham"\nanswer = "Answer: LABEL"\nitem = "message"\n'
        f'[data]\nsource = "{source}"\n[model]\npath = "unused"\n[train]\nlr = 1e-5\n'
        '[[grid]]\nproportion = ["1/2"]\nvariant = ["accept", "reject"]\ngamma = [2.0]\n',
        encoding="utf-8",
    )
    said = CliRunner().invoke(app, ["plan", str(path)])
    assert said.exit_code == 0, said.output
    assert "spam messages" in said.output and "note: task: 'Spam' is the positive class" in said.output
    lines = [line for line in said.output.splitlines() if not line.startswith(("note: task:", "warning:"))]
    assert foreign("\n".join(lines)) == []
