"""Training noise in what the page compares."""

from dataclasses import replace
from functools import partial

import numpy as np
import pytest

from tests.made_run import THE_19, make_run, shift_of, write_predictions
from wlsweep.analysis.evaluate import evaluate
from wlsweep.analysis.evaluation_records import TheoryRow
from wlsweep.analysis.responses import linear
from wlsweep.analysis.seeds import mean_difference
from wlsweep.analysis.training_noise import training_noise
from wlsweep.analysis.trainings import Trainings
from wlsweep.estimate import Estimate
from wlsweep.spec.condition import parse_name

CONDITIONS = [parse_name(name) for name in THE_19]
SHIFTS = {c.name: shift_of(c) for c in CONDITIONS}
DRAWS = 500


def rows_of(conditions, means):
    return [
        TheoryRow(c.name, THE_19[0], shift_of(c), True, "", Estimate(means[c.name] - means[THE_19[0]]), None, None)
        for c in conditions
        if c.name != THE_19[0]
    ]


def no_papers(names):
    return {name: {"log_odds": np.zeros(50)} for name in names}


def test_without_known_noise_the_slope_has_the_interval_of_least_squares():
    import statsmodels.api as sm

    line, rng = CONDITIONS[:7], np.random.default_rng(0)
    means = {c.name: 0.1 + 0.85 * shift_of(c) + rng.normal(0, 0.05) for c in line}
    found = Trainings(None, {}).slope(rows_of(line, means), no_papers(means))
    x = np.array([shift_of(c) for c in line[1:]])
    fit = sm.OLS([means[c.name] - means[THE_19[0]] for c in line[1:]], sm.add_constant(x)).fit()
    assert [found.slope.low, found.slope.high] == pytest.approx(list(fit.conf_int()[1]), rel=1e-9)
    assert found.slope.value == pytest.approx(fit.params[1], rel=1e-9)


def test_two_conditions_have_no_slope():
    means = {c.name: 0.0 for c in CONDITIONS[:3]}
    assert Trainings(None, {}).slope(rows_of(CONDITIONS[:3], means), no_papers(means)).slope.value is None


def test_the_interval_of_the_slope_allows_for_what_the_conditions_of_a_mix_share():
    rng, covered = np.random.default_rng(1), []
    for _ in range(200):
        common = {k: rng.normal(0, 0.1) for k in (2, 3, 4, 8)}
        means = {c.name: shift_of(c) + common[c.k] + rng.normal(0, 0.02) for c in CONDITIONS}
        trainings = Trainings(training_noise(CONDITIONS, SHIFTS, means), {})
        at = trainings.slope(rows_of(CONDITIONS, means), no_papers(means)).slope
        covered.append(at.low <= 1 <= at.high)
    assert 0.92 <= np.mean(covered) <= 0.98


def test_the_interval_of_the_difference_of_two_slopes_holds_the_truth_as_often_as_it_says():
    rng, covered = np.random.default_rng(2), []
    adapters = [replace(c, lora=16) for c in CONDITIONS]
    both = [*CONDITIONS, *adapters]
    for _ in range(150):
        common = {(k, rank): rng.normal(0, 0.1) for k in (2, 3, 4, 8) for rank in (0, 16)}
        slope = {0: 1.0, 16: 0.7}
        means = {c.name: slope[c.lora] * shift_of(c) + common[c.k, c.lora] + rng.normal(0, 0.02) for c in both}
        trainings = Trainings(training_noise(both, {c.name: shift_of(c) for c in both}, means), {})
        rows = []
        for kind in (adapters, CONDITIONS):
            base = means[kind[0].name]
            moved = [(c.name, shift_of(c), Estimate(means[c.name] - base)) for c in kind[1:]]
            rows.append([TheoryRow(n, kind[0].name, x, True, "", y, None, None) for n, x, y in moved])
        at = trainings.slope_difference(*rows, no_papers(means))
        covered.append(at.low <= -0.3 <= at.high)
    assert 0.91 <= np.mean(covered) <= 0.99


def test_without_known_noise_the_difference_of_two_slopes_has_welchs_interval():
    rng, covered, line = np.random.default_rng(3), [], CONDITIONS[:7]
    for _ in range(400):
        sides = []
        for sd in (0.02, 0.2):
            means = {c.name: shift_of(c) + rng.normal(0, sd) for c in line}
            sides.append(rows_of(line, means))
        at = Trainings(None, {}).slope_difference(*sides, {})
        covered.append(at.low <= 0 <= at.high)
    assert 0.92 <= np.mean(covered) <= 0.98
    same = Trainings(None, {}).slope_difference(sides[0], sides[0], {})
    assert same.value == 0 and same.low < 0 < same.high
    assert Trainings(None, {}).slope_difference(sides[0][:2], sides[1], {}).value is None


@pytest.fixture(scope="module")
def noisy(tmp_path_factory):
    """A run whose mixes carry offsets of training noise, and the same without."""
    found = []
    for offsets in ({}, {3: 0.3, 4: -0.25, 8: 0.2}):
        run = make_run(tmp_path_factory.mktemp("run"), n=800)
        rng = np.random.default_rng(5)
        truth = rng.normal(np.where(np.arange(800) % 2 == 0, 0.98, -0.98), 1.4)
        for c in CONDITIONS:
            write_predictions(run, c.name, truth + shift_of(c) + offsets.get(c.k, 0.0) + rng.normal(0, 0.2, 800))
        found.append(evaluate(run, draws=DRAWS).analysis)
    return found


def width(e: Estimate) -> float:
    return e.high - e.low


def test_intervals_between_mixes_are_wider_where_mixes_miss_theory_and_those_within_a_mix_less(noisy):
    quiet, loud = ({c.name: c for c in analysis.comparisons} for analysis in noisy)
    across, within = "accept_gamma2.0_prop1_4", "accept_gamma2.0_prop1_2"
    rate = "predicted_accept_rate"
    assert width(loud[across].difference[rate]) > 2.5 * width(quiet[across].difference[rate])
    assert width(loud[within].difference[rate]) < 2 * width(quiet[within].difference[rate])
    assert width(loud[across].difference["auc"]) == pytest.approx(width(quiet[across].difference["auc"]), rel=0.3)
    assert all(0 < t.p <= t.p_holm <= 1 for t in noisy[1].against_baseline)


def test_the_page_is_told_what_was_counted(noisy):
    quiet, loud = (analysis.trainings for analysis in noisy)
    assert loud.source == quiet.source == "misfit" and loud.shared_sd > 0.1 > quiet.shared_sd
    assert "papers and trainings" in loud.sentence and "how far conditions miss theory" in loud.sentence


def test_verdicts_rest_on_papers_and_trainings(noisy):
    quiet, loud = ({v.key: v for v in analysis.verdicts} for analysis in noisy)
    assert loud["H2"].support is None or loud["H2"].support < quiet["H2"].support
    assert "draws of papers and trainings" in loud["H1"].sentence
    mix = [width({t.name: t.estimate for t in analysis.effects.terms}["logit proportion"]) for analysis in noisy]
    assert mix[1] > 1.5 * mix[0]


def test_seeds_that_contradict_each_other_leave_no_firm_pass(tmp_path):
    names = [replace(c, seed=s).name for s in range(3) for c in CONDITIONS[:7]]
    run = make_run(tmp_path, names, n=400)
    rng = np.random.default_rng(6)
    truth = rng.normal(np.where(np.arange(400) % 2 == 0, 0.98, -0.98), 1.4)
    for c in CONDITIONS[:7]:
        off = rng.normal(0, 2.0, 3)
        for s in range(3):  # their mean is what theory says
            moved = truth + shift_of(c) + off[s] - off.mean() + rng.normal(0, 0.2, 400)
            write_predictions(run, replace(c, seed=s).name, moved)
    analysis = evaluate(run, draws=DRAWS).analysis
    assert analysis.trainings.source == "seeds" and analysis.trainings.sd > 0.8
    h1 = next(v for v in analysis.verdicts if v.key == "H1")
    assert h1.verdict != "pass" or h1.support < 0.9


def test_one_mix_with_one_seed_says_that_trainings_are_not_counted(tmp_path):
    analysis = evaluate(make_run(tmp_path, THE_19[:7], n=200), draws=DRAWS).analysis
    assert analysis.trainings.source is None and "these trainings" in analysis.trainings.sentence
    exact = [c.mcnemar.p for c in analysis.comparisons]
    assert [t.p for t in analysis.against_baseline] == exact
    assert not any("trainings" in v.sentence for v in analysis.verdicts)


def test_a_baseline_that_several_seeds_share_counts_with_its_own_noise():
    """Three and eight seeds of one condition against the only training of the baseline, under no difference."""
    for seeds in (3, 8):
        names = [THE_19[0], *(replace(CONDITIONS[1], seed=s).name for s in range(seeds))]
        conditions, found = [parse_name(n) for n in names], []
        pairs = [(n, names[0]) for n in names[1:]]
        for world in range(200):
            rng = np.random.default_rng([seeds, world])
            means = {n: rng.normal(0, 0.2) for n in names}
            trainings = Trainings(training_noise(conditions, {}, means), {n: {"accuracy": linear(0.15)} for n in names})
            papers = rng.normal(0, 0.001, (200, seeds))
            values = np.array([0.15 * (means[n] - means[base]) for n, base in pairs])
            found.append(mean_difference(values, papers, pairs, partial(trainings.total_over_seeds, metric="accuracy")))
        assert np.mean([m.p < 0.05 for m in found]) < 0.09
        assert np.mean([m.mean.low <= 0 <= m.mean.high for m in found]) > 0.91


def test_seeds_against_one_baseline_that_is_off_are_no_evidence_on_the_page(tmp_path):
    names = [THE_19[0], *(replace(CONDITIONS[1], seed=s).name for s in range(4))]
    run = make_run(tmp_path, names, n=4000)
    truth = np.random.default_rng(5).normal(np.where(np.arange(4000) % 2 == 0, 0.98, -0.98), 1.4)
    for name, offset in zip(names, (0.2, -0.1, -0.03, 0.03, 0.1), strict=True):
        write_predictions(run, name, truth + 1.5 + offset)  # so far off that accuracy falls as log-odds rise
    found = evaluate(run, draws=DRAWS).analysis
    (test,) = found.against_baseline
    assert test.seeds == 4 and test.p > 0.05 and test.difference.low < 0 < test.difference.high
    rate = found.seeds[0].difference["predicted_accept_rate"].mean
    assert rate.low < 0 < rate.high
    (moved,) = found.against_moved_threshold  # no offset moves it, so the noise of the shared baseline is not known
    assert (moved.p, moved.difference.low) == (None, None) and moved.difference.value is not None


def test_with_seeds_the_interval_of_a_difference_of_auc_holds_what_all_trainings_have():
    """AUC itself varies by an SD of 0.02 a training, half of it shared by a mix and seed; 0 is the true difference."""
    conditions = [replace(c, seed=s) for c in CONDITIONS for s in range(3)]
    names = [c.name for c in conditions]
    held = []
    for world in range(100):
        rng = np.random.default_rng([7, world])
        mixes = {(c.k, c.seed): rng.normal(0, 0.014) for c in conditions}
        values = {c.name: 0.7 + mixes[c.k, c.seed] + rng.normal(0, 0.014) for c in conditions}
        noise = training_noise(conditions, {}, values)
        trainings = Trainings(None, {n: {} for n in names}, {"auc": noise})
        papers = rng.normal(0, 0.002, 200)
        other = replace(CONDITIONS[-1], seed=1).name
        at = trainings.difference(other, names[1], "auc", values[other] - values[names[1]], papers)
        held.append(at.low <= 0 <= at.high)
    assert 0.9 <= np.mean(held) <= 0.99


def test_auc_of_trainings_of_unequal_quality_is_not_told_apart_by_papers_alone(tmp_path):
    """Each seed blurs its models by an amount of its own: a difference of AUC between seeds is no effect."""
    plain, accept = CONDITIONS[:2]
    names = [replace(c, seed=s).name for c in (plain, accept) for s in range(3)]
    run = make_run(tmp_path, names, n=1000)
    rng = np.random.default_rng(8)
    truth = rng.normal(np.where(np.arange(1000) % 2 == 0, 0.98, -0.98), 1.4)
    for c, blurs in ((plain, (0.2, 1.5, 3.0)), (accept, (3.0, 0.2, 1.5))):
        for s, blur in enumerate(blurs):
            write_predictions(run, replace(c, seed=s).name, truth + shift_of(c) + rng.normal(0, blur, 1000))
    found = evaluate(run, draws=DRAWS).analysis
    differences = [c.difference["auc"] for c in found.comparisons]
    assert len(differences) == 3 and max(abs(d.value) for d in differences) > 0.1
    assert all(d.low < 0 < d.high for d in differences)
    assert "count papers and how far seeds differ in them" in found.trainings.of_ranks
