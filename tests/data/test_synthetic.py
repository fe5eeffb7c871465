"""The synthetic world is what it says: its stored log-odds are the posterior's, and its bytes never change."""

import numpy as np
import pytest

from wlsweep.data.rows import parse_row, read_rows
from wlsweep.data.synthetic import cue_model, draw_papers, ensure_synthetic
from wlsweep.data.tokenise import chat_messages
from wlsweep.spec.data_section import SyntheticPapers
from wlsweep.spec.train_section import TinyBase
from wlsweep.train.tiny_base_model import train_tokenizer


@pytest.fixture(scope="module")
def papers():
    return [parse_row(p) for p in draw_papers(6000, 48, [1, 2])]


def test_the_stored_log_odds_are_those_of_the_words(papers):
    cues = cue_model()
    ratio = dict(zip(cues.words, np.log(cues.p_accept / cues.p_reject), strict=True))
    for row in papers[:200]:
        words = row.paper.replace("#", "").replace("Abstract:", "").split()
        assert sum(ratio.get(w, 0.0) for w in words) == pytest.approx(row.true_log_odds, abs=1e-9)


def test_labels_occur_as_often_as_the_stored_posterior_says(papers):
    p = 1 / (1 + np.exp(-np.array([r.true_log_odds for r in papers])))
    y = np.array([r.label == "Accept" for r in papers])
    for low in np.arange(0, 1, 0.1):
        here = (p >= low) & (p < low + 0.1)
        error = np.sqrt((p[here] * (1 - p[here])).sum()) / here.sum()
        assert abs(y[here].mean() - p[here].mean()) < 4 * error


def test_bayes_accuracy_is_about_78_percent(papers):
    p = 1 / (1 + np.exp(-np.array([r.true_log_odds for r in papers])))
    assert np.maximum(p, 1 - p).mean() == pytest.approx(0.78, abs=0.015)


def test_every_word_is_the_same_single_token_wherever_it_stands_in_a_short_frame(papers):
    tokenizer, places = train_tokenizer(TinyBase(), papers), {}
    for row in papers[:500]:
        ids = tokenizer.apply_chat_template(
            chat_messages(row), add_generation_prompt=True, tokenize=True, return_dict=False
        )
        assert len(ids) == 48 + 30
        tokens = tokenizer.convert_ids_to_tokens(ids)
        tokens = tokens[tokens.index("#") + 1 :]
        title, abstract = row.paper.removeprefix("# ").split("\n\nAbstract: ")
        at = tokens.index(":") + 1
        found = [*tokens[:4], *tokens[at : at + 44]]
        for word, token in zip([*title.split(), *abstract.split()], found, strict=True):
            places.setdefault(word, set()).add(token)
    assert len(places) == 110 and all(tokens == {"\u0120" + word} for word, tokens in places.items())


def test_files_are_deterministic_and_disjoint(tmp_path):
    config = SyntheticPapers(base_rows=60, train_rows=40, test_rows=21)
    one, two = ensure_synthetic(config, tmp_path / "a"), ensure_synthetic(config, tmp_path / "b")
    assert [f.read_bytes() for f in one] == [f.read_bytes() for f in two]
    rows = [list(read_rows(f)) for f in one]
    assert [len(r) for r in rows] == [60, 40, 21]
    assert [sum(x.label == "Accept" for x in r) for r in rows] == [30, 20, 11]
    texts = [x.paper for r in rows for x in r]
    assert len(set(texts)) == len(texts)
