"""Full fine-tuning and adapters in one sweep: compared, judged and drawn within a kind."""

from unittest.mock import PropertyMock, patch

import numpy as np
import pytest
from rich.console import Console

from tests.made_run import DEMO, THE_19, make_run, shift_of, write_predictions
from wlsweep.analysis.evaluate import evaluate
from wlsweep.analysis.forecast import forecast_run
from wlsweep.analysis.hypotheses import hypotheses
from wlsweep.errors import WlsweepError
from wlsweep.orchestrate.until_decided import run_until_decided
from wlsweep.report.figures.heatmap import heatmap
from wlsweep.report.page import page, report_input_of
from wlsweep.report.theory import forecast_section
from wlsweep.run.layout import RunDir
from wlsweep.spec.condition import parse_name
from wlsweep.spec.config import load_sweep

LORA = [f"{name}_lora16" for name in THE_19]
BASELINE = THE_19[0]


def claims(names):
    conditions = [parse_name(n) for n in names]
    return {
        h.key: [c.text for c in h.claims] for h in hypotheses(conditions, {c.name: shift_of(c) for c in conditions})
    }


def test_a_sweep_of_adapters_alone_is_judged_by_the_same_claims_under_the_same_keys():
    full, lora = claims(THE_19), claims(LORA)
    assert lora.keys() == full.keys()
    for key, texts in lora.items():
        assert [text.replace("_lora16", "") for text in texts] == full[key]


def test_no_claim_compares_one_kind_with_the_other():
    both = claims([*THE_19, *LORA])
    alone = claims(THE_19)
    assert both.keys() == {*alone, *(f"{key} lora16" for key in alone)}
    for key, texts in both.items():
        assert not any("_lora16" in text for text in texts) or key.endswith(" lora16")
    assert {k: v for k, v in both.items() if not k.endswith("lora16")} == alone


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """Adapters that move half as far as full fine-tunings, which theory describes."""
    run = make_run(tmp_path_factory.mktemp("kinds") / "run", [*THE_19, *LORA], n=600)
    moved = make_run(tmp_path_factory.mktemp("half") / "run", LORA, n=600, shrink=0.2)
    import pyarrow.parquet as pq

    for name in LORA:
        table = pq.read_table(moved.prediction(name) / "part-0.parquet")
        log_odds = (table["logprob_accept"].to_numpy() - table["logprob_reject"].to_numpy()).astype(np.float64)
        write_predictions(run, name, log_odds)
    return evaluate(run, draws=200)


def test_each_condition_is_compared_with_the_baseline_of_its_kind(found):
    partner = {c.name: c.baseline for c in found.analysis.comparisons}
    assert {partner[n] for n in THE_19[1:]} == {BASELINE}
    assert {partner[n] for n in LORA[1:]} == {f"{BASELINE}_lora16"}
    assert not {BASELINE, f"{BASELINE}_lora16"} & partner.keys()


def test_each_kind_has_its_own_verdicts_with_its_name(found):
    verdicts = {v.key: v for v in found.analysis.verdicts}
    assert {"H1", "H1 lora16", "S2", "S2 lora16"} <= verdicts.keys()
    assert verdicts["H1"].title.endswith("(full)") and verdicts["H1 lora16"].title.endswith("(lora16)")
    assert (verdicts["S3"].verdict, verdicts["S3 lora16"].verdict) == ("pass", "fail")  # they do not cover 30 to 70 %
    assert verdicts["S2"].numbers != verdicts["S2 lora16"].numbers


def test_the_slopes_of_two_kinds_are_compared_on_the_conditions_that_both_have(found):
    (k,) = found.analysis.kinds
    assert k.finetuning == "lora16" and k.slope.n == k.first.n == 18
    assert k.first == found.analysis.slope
    assert k.slope.slope.value == pytest.approx(0.2, abs=0.03)
    assert k.difference.value == pytest.approx(k.slope.slope.value - k.first.slope.value)
    assert k.difference.high < -0.7


def test_the_page_says_whether_weights_act_alike_in_both_kinds(found, tmp_path):
    run = make_run(tmp_path / "run", [*THE_19, *LORA], n=600)
    alike = evaluate(run, draws=200)
    expected = ((found, "less far than full (difference -0.8"), (alike, "not shown to differ from full (difference"))
    for evaluation, said in expected:
        paragraphs = " ".join(forecast_section(report_input_of(run, evaluation)).paragraphs)
        assert "Do weights and mixes act alike in full and in lora16? On the 18 conditions that both have" in paragraphs
        assert said in paragraphs
    assert evaluate(make_run(tmp_path / "one", n=100), draws=50).analysis.kinds == ()


def test_a_heatmap_has_a_row_for_each_proportion_of_each_kind(found):
    figure = heatmap(found.conditions, "accuracy", "Accuracy", "")
    assert len(figure.data[0]["z"]) == 8
    assert figure.wide["yaxis"]["ticktext"][:5] == ["1/2", "1/3", "1/4", "1/8", "1/2 lora16"]
    filled = [sum(v is not None for v in row) for row in figure.data[0]["z"]]
    assert filled == [7, 4, 4, 4] * 2


def test_a_forecast_names_the_conditions_of_other_kinds_that_it_leaves_out(tmp_path):
    run = make_run(tmp_path, [*THE_19[:3], *LORA[:3]], n=200)
    found = forecast_run(run, draws=100)
    assert found.left_out == tuple(LORA[:3]) and found.as_dict()["left_out"] == LORA[:3]
    assert all(name in found.text() for name in LORA[:3])


def test_until_decided_refuses_a_sweep_of_several_kinds(tmp_path):
    sweep = load_sweep(DEMO)
    both = tuple(parse_name(n) for n in (THE_19[0], LORA[0]))
    with (
        patch.object(type(sweep), "conditions", new_callable=PropertyMock, return_value=both),
        pytest.raises(WlsweepError, match=r"the sweep has 2 \(full, lora16\)"),
    ):
        run_until_decided(sweep, RunDir(tmp_path), "wlsweep run", Console())
    assert not any(tmp_path.iterdir())


def test_the_slope_is_that_of_the_first_kind_and_the_others_do_not_bend_it(found):
    slope = found.analysis.slope
    assert slope.n == 18 and slope.slope.value == pytest.approx(1.0, abs=0.03)
    assert slope.slope.low < 1 < slope.slope.high and slope.slope.high - slope.slope.low < 0.1
    assert found.analysis.trainings.own_sd < 0.05


def test_the_page_names_the_kind_that_its_slope_is_of(found):
    html, figures = page(report_input_of(RunDir(found.files[0].parents[1]), found))
    assert "over 18 full conditions; 1 is theory" in html
    names = [t.get("name", "") for f in figures for t in f.data]
    assert any(name.startswith("fit (full): slope") for name in names)
