import io
import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from rich.console import Console

from tests.made_run import THE_19, add_validation, make_run, shift_of, write_predictions
from wlsweep.analysis.evaluate import current, evaluate, remembered_externals, training_curve
from wlsweep.analysis.loaded_run import load_predictions
from wlsweep.analysis.summary_table import summary_table
from wlsweep.estimate import percent
from wlsweep.spec.condition import parse_name

DRAWS = 400
KEYS = ["H1", "H1r", "H1p", "H1s", "H2", "H3", "H3e", "S1", "S2", "S2v", "S3", "S4", "S5", "C1"]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    run = make_run(tmp_path_factory.mktemp("whole"), n=900)
    return run, evaluate(run, draws=DRAWS)


def test_the_19_give_19_entries_in_the_order_of_the_sweep(whole):
    run, found = whole
    written = json.loads(run.metrics_json.read_text())
    assert [e["name"] for e in written] == THE_19
    assert [e["index"] for e in written] == list(range(19))
    assert all(e["state"] == "done" and e["n"] == 900 for e in written)
    table = pd.read_parquet(run.metrics_parquet)
    assert table["name"].tolist() == THE_19
    assert table["accuracy"].tolist() == [e["accuracy"] for e in written]
    assert found.missing == []


def test_years_partition_the_papers_and_their_rates_average_to_the_whole(whole):
    run, found = whole
    years = pd.read_parquet(run.by_year_parquet)
    for e in found.conditions:
        mine = years[years["name"] == e.name]
        assert mine["n"].sum() == e.metrics.n
        for metric in ("accuracy", "predicted_accept_rate", "brier"):
            assert np.average(mine[metric], weights=mine["n"]) == pytest.approx(e[metric].value, rel=1e-12)


def test_differences_equal_the_difference_of_the_metrics_and_their_intervals_hold_them(whole):
    _, found = whole
    results = {r.name: r for r in found.conditions}
    assert len(found.analysis.comparisons) == 18
    for c in found.analysis.comparisons:
        for metric, d in c.difference.items():
            value = results[c.name][metric].value - results[c.baseline][metric].value
            assert d.value == pytest.approx(value, abs=1e-15)
            assert d.low - 2e-3 <= d.value <= d.high + 2e-3, (c.name, metric)


def test_theory_is_recovered_from_a_world_that_follows_it(whole):
    _, found = whole
    for row in found.analysis.theory:
        assert row.expected_shift == pytest.approx(shift_of(parse_name(row.name)), abs=2e-3)
        assert row.observed_shift.low - 0.02 <= row.expected_shift <= row.observed_shift.high + 0.02
    slope = found.analysis.slope
    assert slope.slope.value == pytest.approx(1.0, abs=0.02) and slope.n == 18
    assert found.analysis.oracle.slope == pytest.approx(1.0, abs=0.03)
    assert found.analysis.oracle.correlation > 0.98
    verdicts = {v.key: v.verdict for v in found.analysis.verdicts}
    assert list(verdicts) == KEYS
    # theory moves rates less from gamma 4 to 8 than from 2 to 4, and precision less than its noise
    assert all(verdicts[key] == "pass" for key in KEYS if key not in ("H1p", "H1s")) and verdicts["H1s"] == "fail"


def test_conditions_that_move_half_as_far_show_it_in_the_slope(tmp_path):
    found = evaluate(make_run(tmp_path, n=600, shrink=0.5), draws=DRAWS).analysis
    slope = found.slope.slope
    assert slope.low < 0.5 < slope.high or slope.value == pytest.approx(0.5, abs=0.02)
    assert slope.high < 0.6
    inside = [t.inside for t in found.theory if abs(t.expected_shift) > 1.5]
    assert not any(inside)


def test_retraining_that_only_shifts_never_beats_a_moved_threshold_and_better_scores_do(tmp_path):
    names = [THE_19[0], *THE_19[1:4]]
    run = make_run(tmp_path, names, n=1200, blur=1.5)  # the baseline is a blurred view of the truth
    true = pq.read_table(run.test_parquet)["true_log_odds"].to_numpy()
    base = load_predictions(run).scores[THE_19[0]].log_odds
    write_predictions(run, names[1], base + 0.7)
    write_predictions(run, names[2], true + 0.7)
    write_predictions(run, names[3], np.random.default_rng(0).normal(size=1200))
    found = evaluate(run, draws=DRAWS).analysis
    at = {c.name: c.moved_threshold for c in found.comparisons}
    same, better, worse = (at[n] for n in names[1:])
    corrected = {t.name: t.p_holm for t in found.against_moved_threshold}
    assert same.papers_decided_differently == 0 and same.test.p == 1.0 and same.difference.value == 0
    assert better.difference.low > 0 and corrected[names[2]] < 0.01
    assert worse.difference.high < 0 and corrected[names[3]] < 0.01


def test_an_unfinished_sweep_is_evaluated_and_says_what_is_missing(tmp_path):
    run = make_run(tmp_path, THE_19[:8], n=200, failed=[THE_19[3]], leave_out=[THE_19[5]])
    found = evaluate(run, draws=DRAWS)
    assert found.missing == [THE_19[3], THE_19[5]]
    states = {r.name: (r.state, r.cause) for r in found.conditions}
    assert states[THE_19[3]] == ("failed", "train: RuntimeError: loss is not finite at step 7")
    assert states[THE_19[5]] == ("missing", "not yet trained")
    assert found.analysis.family == 7
    console = Console(width=140, record=True, file=io.StringIO())
    console.print(summary_table(found))
    text = console.export_text()
    assert all(r.name in text for r in found.conditions)
    assert "loss is not finite at step 7" in " ".join(text.split())


def test_in_80_columns_a_long_name_folds_and_no_number_is_cut(tmp_path):
    long = "accept_gamma4.0_prop1_2_decision_token_seed1"
    found = evaluate(make_run(tmp_path, [THE_19[0], long], n=60, unknown_share=0.0), draws=DRAWS)
    console = Console(width=80, record=True, file=io.StringIO())
    console.print(summary_table(found))
    text = console.export_text()
    assert "…" not in text and all(len(line) <= 80 for line in text.splitlines())
    folded = "".join(line[:44].split(" ")[0] for line in text.splitlines()[-2:])
    assert folded == long and percent(found.conditions[1]["accuracy"]) in text


def test_the_terminal_says_what_the_page_warns_of(tmp_path):
    from wlsweep.analysis.summary_table import answer_warnings

    found = evaluate(make_run(tmp_path, THE_19[:2], n=60, unknown_share=1.0), draws=DRAWS)
    console = Console(width=200, record=True, file=io.StringIO())
    console.print(summary_table(found))
    said = " ".join(console.export_text().split())
    assert "Answers that could not be read occur in the predictions of 2 models" in said and "(60 of 60)" in said
    assert all(" ".join(line.split()) in said for line in answer_warnings(found.conditions))


def test_nothing_predicted_yet_is_no_error(tmp_path):
    found = evaluate(make_run(tmp_path, THE_19[:3], n=20, leave_out=THE_19[:3]), draws=DRAWS)
    assert found.missing == THE_19[:3]
    assert {v.verdict for v in found.analysis.verdicts} == {"not testable"}


def test_a_selection_without_the_baseline_has_metrics_but_no_comparison(tmp_path):
    found = evaluate(make_run(tmp_path, THE_19[:4], n=60), only="accept_*", draws=DRAWS)
    assert [r.name for r in found.conditions] == THE_19[1:4]
    assert found.analysis.comparisons == ()


def test_a_selection_is_judged_alone_and_all_metrics_still_hold_every_condition(tmp_path):
    run = make_run(tmp_path, n=60, leave_out=THE_19[5:6])
    everything = evaluate(run, draws=DRAWS)
    found = evaluate(run, only="0-2,7", draws=DRAWS)
    assert [r.name for r in found.conditions] == [*THE_19[:3], THE_19[7]]
    assert {c.name for c in found.analysis.comparisons} == {*THE_19[1:3], THE_19[7]}
    again = current(run, only="0-2,7")
    assert again == replace(found, files=[])
    written = json.loads(run.metrics_json.read_text())
    assert [e["name"] for e in written] == THE_19
    assert [e.get("accuracy") for e in written] == [r["accuracy"].value for r in everything.conditions]


@pytest.mark.parametrize("said", [50.0, -50.0, 0.0])
def test_models_that_say_one_thing_have_metrics_where_they_exist(tmp_path, said):
    run = make_run(tmp_path, THE_19[:3], n=40)
    write_predictions(run, THE_19[1], np.full(40, said))
    result = evaluate(run, draws=DRAWS).conditions[1]
    assert result["predicted_accept_rate"].value == (1.0 if said > 0 else 0.0)
    assert result["accuracy"].value == 0.5 and result["auc"].value == 0.5
    assert (result["precision"].value is None) == (said <= 0)
    assert result.metrics.ties == (40 if said == 0 else 0)


def test_one_test_paper_is_enough_not_to_break(tmp_path):
    found = evaluate(make_run(tmp_path, THE_19[:3], n=1), draws=DRAWS)
    assert found.conditions[0].metrics.n == 1 and found.conditions[0]["auc"].value is None


def test_several_seeds_are_joined_into_cells(tmp_path):
    names = [*THE_19[:3], *(f"{n}_seed{s}" for n in THE_19[:3] for s in (1, 2))]
    found = evaluate(make_run(tmp_path, names, n=300), draws=DRAWS).analysis
    assert [s.name for s in found.seeds] == THE_19[:3]
    assert all(len(s.members) == 3 for s in found.seeds)
    partners = {c.name: c.baseline for c in found.comparisons}
    assert partners["accept_gamma2.0_prop1_2_seed2"] == "baseline_gamma1.0_prop1_2_seed2"
    baseline, accept, _ = found.seeds
    assert baseline.difference == {}
    apart = accept.difference["predicted_accept_rate"]
    mean = {s.name: s.metrics["predicted_accept_rate"].mean.value for s in found.seeds}
    assert apart.mean.value == pytest.approx(mean[accept.name] - mean[baseline.name], abs=1e-12)
    assert apart.mean.low < apart.mean.value < apart.mean.high and apart.seeds == 3


def test_seeds_count_once_in_the_family_and_are_tested_together(tmp_path):
    three = [*THE_19[:3], *(f"{n}_seed{s}" for n in THE_19[:3] for s in (1, 2))]
    run = make_run(tmp_path, three, n=800)
    external = run.prediction(THE_19[1]) / "part-0.parquet"
    found = evaluate(run, externals=[("copy", external)], draws=DRAWS).analysis
    assert found.family == 3  # accept gamma 2 and 4 at 1/2, the model from outside; 7 trainings are compared
    assert [(t.name, t.seeds) for t in found.against_baseline] == [(THE_19[1], 3), (THE_19[2], 3), ("copy", 1)]
    for t in found.against_baseline[:2]:
        each = [c.difference["accuracy"].value for c in found.comparisons if c.name.startswith(t.name)]
        assert t.difference.value == pytest.approx(np.mean(each), abs=1e-12)
    ladder = sorted(found.against_baseline, key=lambda t: t.p)
    assert [t.p_holm for t in ladder] == pytest.approx(
        [max(min(1, (3 - j) * ladder[j].p) for j in range(i + 1)) for i in range(3)]
    )


def test_seeds_that_contradict_each_other_are_no_evidence(tmp_path):
    names = [n + s for n in THE_19[:2] for s in ("", "_seed1", "_seed2")]
    run = make_run(tmp_path, names, n=800)
    rng = np.random.default_rng(0)
    label = np.where(np.arange(800) % 2 == 0, 1.0, -1.0)
    for seed, right in zip(("", "_seed1", "_seed2"), (0.95, 0.5, 0.6), strict=True):
        write_predictions(run, THE_19[1] + seed, label * np.where(rng.random(800) < right, 1.0, -1.0))
    found = evaluate(run, draws=DRAWS).analysis
    (pooled,) = found.against_baseline
    assert min(c.mcnemar.p for c in found.comparisons) < 1e-6  # one training alone would be called a proof
    assert pooled.p_holm > 0.3 and pooled.difference.low < 0 < pooled.difference.high


def test_an_external_model_is_measured_and_compared_in_the_family(tmp_path):
    run = make_run(tmp_path, THE_19[:4], n=200)
    path = run.prediction(THE_19[1]) / "part-0.parquet"
    found = evaluate(run, externals=[("copy", path)], draws=DRAWS)
    (external,) = found.externals
    assert external["accuracy"] == found.conditions[1]["accuracy"]
    assert found.analysis.comparisons[-1].name == "copy"
    assert found.analysis.family == 4
    write_predictions(run, THE_19[2], np.linspace(-1, 1, 200))
    assert current(run) is None and remembered_externals(run) == [("copy", path)]
    run.predictions.rename(tmp_path / "elsewhere")
    assert remembered_externals(run) == []


def test_an_evaluation_is_current_until_predictions_change(tmp_path):
    run = make_run(tmp_path, THE_19[:2], n=30)
    assert current(run) is None
    found = evaluate(run, externals=[("copy", run.prediction(THE_19[1]) / "part-0.parquet")], draws=DRAWS)
    assert current(run) == replace(found, files=[])
    assert current(run, only="0") is None
    write_predictions(run, THE_19[1], np.linspace(-1, 1, 30))
    assert current(run) is None


def test_the_same_inputs_give_the_same_files(tmp_path):
    run = make_run(tmp_path, THE_19[:4], n=80)
    evaluate(run, draws=DRAWS)
    first = (run.metrics_json.read_bytes(), run.analysis_json.read_bytes())
    evaluate(run, draws=DRAWS)
    assert (run.metrics_json.read_bytes(), run.analysis_json.read_bytes()) == first


def test_a_metric_log_cut_in_its_last_line_is_read_up_to_there(tmp_path):
    run = make_run(tmp_path, THE_19[:1], n=20, steps=500)
    path = run.metric_log(THE_19[0])
    path.write_text(path.read_text()[:-20])
    lines = training_curve(run, THE_19[0])
    assert 100 <= len(lines) <= 200 and lines[0]["step"] == 10


def test_no_verdict_passes_while_declared_seeds_are_missing(tmp_path):
    later = [replace(parse_name(n), seed=s).name for s in (1, 2) for n in THE_19]
    run = make_run(tmp_path, [*THE_19, *later], n=300, leave_out=later)
    verdicts = {v.key: v for v in evaluate(run, draws=DRAWS).analysis.verdicts}
    assert {verdicts[key].verdict for key in ("H1", "H2", "S1", "S3", "S4")} == {"not testable"}
    assert "a seed of it, is not done" in verdicts["H1"].sentence


def test_a_selection_leaves_the_intervals_of_all_conditions_in_the_file(tmp_path):
    run = make_run(tmp_path, THE_19[:6], n=200)
    evaluate(run, draws=DRAWS)
    whole = {e["name"]: e["ece_low"] for e in json.loads(run.metrics_json.read_text())}
    evaluate(run, "0-2", draws=DRAWS)
    assert {e["name"]: e["ece_low"] for e in json.loads(run.metrics_json.read_text())} == pytest.approx(whole)


def test_a_thinned_metric_log_keeps_its_validations_and_their_last(tmp_path):
    run = make_run(tmp_path, THE_19[:1], n=20, steps=300)
    (written,) = add_validation(run, THE_19[:1], every=7).values()
    lines = training_curve(run, THE_19[0], points=50)
    assert [line for line in lines if "validation_bce" in line] == written
    assert len(lines) <= 50 + len(written) and lines[-1]["step"] == 3000
    few = [line for line in training_curve(run, THE_19[0], points=5) if "validation_bce" in line]
    assert len(few) <= 11 and few[-1] == written[-1]
