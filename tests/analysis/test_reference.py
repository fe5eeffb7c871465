"""TF-IDF and logistic regression on the rows of a run."""

import json

import numpy as np
import pyarrow.parquet as pq
import pytest

from bench import papers, qwen_like
from wlsweep.analysis.loaded_run import load_predictions
from wlsweep.analysis.reference import fit_and_predict, write_reference
from wlsweep.data.prepare import prepare_data
from wlsweep.errors import WlsweepError
from wlsweep.run.layout import RunDir
from wlsweep.spec.config import load_sweep


def paper(i, rng):
    """Accepts say `elegant`, rejects `incremental`; all else is noise."""
    accept = i % 3 != 0
    words = rng.choice(["model", "data", "layer", "graph", "proof", "noise"], 12).tolist()
    text = " ".join([*words[:6], "elegant" if accept else "incremental", *words[6:], f"number{i}"])
    turns = [("human", f"Judge this.\n\n{text}"), ("assistant", f"\\boxed{{{'Accept' if accept else 'Reject'}}}")]
    return {
        "conversations": [{"from": who, "value": value} for who, value in turns],
        "_metadata": {"submission_id": f"p{i}"},
    }


@pytest.fixture
def run(tmp_path):
    rng = np.random.default_rng(0)
    for name, numbers in (("train", range(60)), ("test", range(60, 90))):
        (tmp_path / f"{name}.json").write_text(json.dumps([paper(i, rng) for i in numbers]))
    qwen_like.build(papers.paragraphs(100, seed=5)).save_pretrained(tmp_path / "model")
    sweep = load_sweep("search_spaces/abstracts.toml", data=str(tmp_path))
    made = RunDir(tmp_path / "run")
    prepare_data(sweep, made, tmp_path / "model")
    return made


def test_the_reference_learns_from_words_and_fits_into_the_comparison(run):
    found = write_reference(run)
    assert found.auc == 1 and found.rows == 30
    table = pq.read_table(found.file)
    assert table["row_id"].to_pylist() == pq.read_table(run.test_parquet)["row_id"].to_pylist()
    assert write_reference(run).strength == found.strength


def test_rows_that_count_twice_weigh_twice():
    texts = ["good good paper", "bad paper", "good idea", "bad idea"] * 3
    accept = np.array([True, False, True, False] * 3)
    even, _ = fit_and_predict(texts, accept, np.ones(12), ["unseen words"])
    heavy, _ = fit_and_predict(texts, accept, np.where(accept, 4.0, 1.0), ["unseen words"])
    assert even[0] == pytest.approx(0.5, abs=0.05) and heavy[0] > even[0] + 0.1


def test_a_run_without_its_data_stage_is_refused(tmp_path):
    with pytest.raises(WlsweepError, match="run the data stage first"):
        write_reference(RunDir(tmp_path))


def test_its_file_is_read_as_an_external_baseline(run, tmp_path):
    from tests.made_run import make_run

    made = make_run(tmp_path / "made", n=40)
    ids = pq.read_table(made.test_parquet)["row_id"].to_pylist()
    file = write_reference(run).file
    table = pq.read_table(file).slice(0, 0)
    p = np.linspace(0.1, 0.9, len(ids))
    pq.write_table(table.from_pydict({"row_id": ids, "p_accept": p}, schema=table.schema), file)
    assert load_predictions(made, externals=[("tfidf", file)]).externals["tfidf"].log_odds.shape == (len(ids),)
