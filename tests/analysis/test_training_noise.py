"""Training noise: variances against closed forms and REML, coverage over made worlds."""

from dataclasses import replace

import numpy as np
import pytest

from bench.coverage import WORLDS, covered
from tests.made_run import THE_19, shift_of
from wlsweep.analysis.intervals import over_papers_and_trainings
from wlsweep.analysis.responses import GRID, Response
from wlsweep.analysis.training_noise import UNSEEN, training_noise
from wlsweep.spec.condition import parse_name

CONDITIONS = [parse_name(name) for name in THE_19]
SHIFTS = {c.name: shift_of(c) for c in CONDITIONS}


def trainings(seeds, common, shared, own, rng, conditions=CONDITIONS):
    """(conditions, mean log-odds by name) of a sweep whose theory is right."""
    all_of_them = [replace(c, seed=s) for s in range(seeds) for c in conditions]
    a = rng.normal(0, common, seeds)
    b = {(k, s): rng.normal(0, shared) for k in (2, 3, 4, 8) for s in range(seeds)}
    return all_of_them, {c.name: shift_of(c) + a[c.seed] + b[c.k, c.seed] + rng.normal(0, own) for c in all_of_them}


def test_with_seeds_the_variances_are_right_on_average():
    rng = np.random.default_rng(0)
    found = [training_noise(*_with_shifts(*trainings(4, 0.2, 0.15, 0.1, rng))) for _ in range(600)]
    assert all(f.source == "seeds" for f in found)
    assert np.mean([f.own_sd**2 for f in found]) == pytest.approx(0.01, rel=0.05)
    assert np.mean([f.shared_sd**2 for f in found]) == pytest.approx(0.0225, rel=0.1)
    assert np.mean([f.common_sd**2 for f in found]) == pytest.approx(0.04, rel=0.15), (
        "none is below 0, so a little above"
    )


def _with_shifts(conditions, means):
    return conditions, {c.name: shift_of(c) for c in conditions}, means


def test_with_one_seed_the_variances_come_from_the_misfit_of_theory_and_are_right_on_average():
    rng = np.random.default_rng(1)
    found = [training_noise(*_with_shifts(*trainings(1, 0.3, 0.2, 0.05, rng))) for _ in range(300)]
    assert all(f.source == "misfit" and f.common_sd is None for f in found)
    assert np.mean([f.own_sd**2 for f in found]) == pytest.approx(0.0025, rel=0.1)
    assert np.mean([f.shared_sd**2 for f in found]) == pytest.approx(0.04, rel=0.1)


def test_the_variances_of_one_mix_with_seeds_are_those_of_reml():
    from statsmodels.regression.mixed_linear_model import MixedLM

    rng = np.random.default_rng(2)
    conditions, means = trainings(6, 0.3, 0.0, 0.1, rng, CONDITIONS[:7])
    found = training_noise(*_with_shifts(conditions, means))
    y = np.array([means[c.name] for c in conditions])
    cells = np.array(
        [[float(c.variant == d.variant and c.gamma == d.gamma) for d in CONDITIONS[:7]] for c in conditions]
    )
    fit = MixedLM(y, cells, groups=[c.seed for c in conditions]).fit(reml=True)
    assert found.own_sd**2 == pytest.approx(fit.scale, rel=1e-3)
    assert found.shared_sd**2 == pytest.approx(float(np.ravel(fit.cov_re)[0]), rel=1e-3)


def test_the_noise_of_a_difference_within_a_mix_is_that_of_two_trainings_alone():
    rng = np.random.default_rng(3)
    found = training_noise(*_with_shifts(*trainings(3, 0.3, 0.3, 0.1, rng)))
    same = found.contrast({THE_19[1]: 1.0, THE_19[0]: -1.0})
    assert same.variance == pytest.approx(2 * found.own_sd**2, rel=1e-9)
    assert same.errors.var() == pytest.approx(2 * found.own_sd**2, rel=0.1)
    across = found.contrast({"accept_gamma2.0_prop1_4": 1.0, THE_19[0]: -1.0})
    assert across.variance == pytest.approx(2 * found.own_sd**2 + 2 * found.shared_sd**2, rel=1e-6)
    alone = found.contrast({THE_19[0]: 1.0})
    assert alone.variance == pytest.approx(found.sd**2, rel=1e-6)


def test_what_one_seed_does_to_all_mixes_is_taken_from_what_it_does_to_one():
    found = training_noise(*_with_shifts(*trainings(1, 0.0, 0.2, 0.05, np.random.default_rng(4))))
    alone = found.contrast({THE_19[0]: 1.0})
    seen = found.own_sd**2 + found.shared_sd**2
    assert alone.variance == pytest.approx(seen + (UNSEEN * found.shared_sd) ** 2, rel=1e-6)
    assert alone.errors.var() == pytest.approx(alone.variance, rel=0.1)
    draws = found.offset_draws(20_000)
    everywhere = np.corrcoef(draws["accept_gamma2.0_prop1_4"], draws["reject_gamma2.0_prop1_8"])[0, 1]
    assert everywhere == pytest.approx(UNSEEN**2 / (1 + UNSEEN**2), abs=0.1), "what all mixes share"
    difference = found.contrast({THE_19[1]: 1.0, THE_19[0]: -1.0})
    assert difference.variance == pytest.approx(2 * found.own_sd**2, rel=1e-6), "it cancels in a mean difference"


def test_the_noise_of_a_number_that_bends_is_that_of_the_number_and_not_of_its_slope():
    """An accuracy at its best threshold: no slope, and every offset lowers it."""
    found = training_noise(*_with_shifts(*trainings(3, 0.5, 0.3, 0.1, np.random.default_rng(5))))
    bent = Response(-(GRID**2) / 10)
    contrast = found.contrast({THE_19[0]: 1.0}, {THE_19[0]: bent})
    offsets = found.offsets[THE_19[0]]
    inside = np.abs(offsets) < 3
    assert contrast.variance == pytest.approx(0.0, abs=1e-20) and contrast.errors.mean() == pytest.approx(
        0.0, abs=1e-12
    )
    assert np.ptp((contrast.errors + offsets**2 / 10)[inside]) < 2e-3
    assert (contrast.variances > 0).mean() > 0.99, "the same number has a slope where the training is off"


def test_seeds_average_their_noise_away():
    rng = np.random.default_rng(4)
    conditions, means = trainings(4, 0.2, 0.0, 0.1, rng, CONDITIONS[:7])
    found = training_noise(*_with_shifts(conditions, means))
    one = found.contrast({THE_19[0]: 1.0}).variance
    four = found.contrast({replace(CONDITIONS[0], seed=s).name: 0.25 for s in range(4)}).variance
    assert four == pytest.approx(one / 4, rel=1e-9)


@pytest.mark.parametrize(
    "names", [THE_19[:7], THE_19[:1], [THE_19[0], "accept_gamma2.0_prop1_3", "accept_gamma2.0_prop1_4"]]
)
def test_where_nothing_tells_of_other_trainings_there_is_no_noise_to_count(names):
    conditions = [parse_name(n) for n in names]
    assert training_noise(conditions, SHIFTS, {n: SHIFTS[n] for n in names}) is None


def test_several_baselines_alone_tell_how_much_a_training_varies():
    rng = np.random.default_rng(5)
    spread = []
    for _ in range(200):
        seeds = [replace(CONDITIONS[0], seed=s) for s in range(4)]
        found = training_noise(seeds, {}, {c.name: rng.normal(0, 0.3) for c in seeds})
        assert found.source == "seeds" and found.shared_sd is None and found.common_sd is None
        spread.append(found.sd**2)
    assert np.mean(spread) == pytest.approx(0.09, rel=0.1)


def test_several_baselines_beside_single_conditions_show_what_a_seed_does_to_all_mixes():
    rng, found = np.random.default_rng(9), []
    for _ in range(300):
        conditions, means = trainings(5, 0.2, 0.1, 0.03, rng)
        some = [c for c in conditions if c.seed == 0 or c.variant == "baseline"]
        found.append(training_noise(some, {c.name: shift_of(c) for c in some}, {c.name: means[c.name] for c in some}))
    assert all(f.source == "both" for f in found)
    assert np.mean([f.own_sd**2 for f in found]) == pytest.approx(0.0009, rel=0.1)
    assert np.mean([f.shared_sd**2 for f in found]) == pytest.approx(0.01, rel=0.15)
    assert np.mean([f.common_sd**2 for f in found]) == pytest.approx(0.04, rel=0.15)
    across = found[0].contrast({"accept_gamma2.0_prop1_4": 1.0, THE_19[0]: -1.0})
    assert across.variance == pytest.approx(2 * found[0].own_sd ** 2 + 2 * found[0].shared_sd ** 2, rel=1e-6)


def test_without_training_noise_the_interval_is_that_of_papers():
    conditions, means = CONDITIONS, dict(SHIFTS)
    found = training_noise(conditions, SHIFTS, means)
    draws = np.random.default_rng(6).normal(0.1, 0.02, 4000)
    total = over_papers_and_trainings(draws, found.contrast({THE_19[0]: -0.2, THE_19[8]: 0.2}))
    low, high = total.interval(0.1)
    assert (low, high) == pytest.approx((0.1 - 1.96 * 0.02, 0.1 + 1.96 * 0.02), abs=0.002)
    assert total.p_value(0.1) < 0.001 and total.p_value(0.0) == 1.0


def test_a_metric_without_values_has_no_interval():
    found = training_noise(CONDITIONS, SHIFTS, dict(SHIFTS))
    assert over_papers_and_trainings(np.full(100, np.nan), found.contrast({THE_19[0]: 1.0})) is None


def test_offsets_are_shared_by_the_conditions_of_a_mix():
    rng = np.random.default_rng(8)
    found = training_noise(*_with_shifts(*trainings(1, 0.0, 0.3, 0.02, rng)))
    draws = found.offset_draws(4000)
    same = np.corrcoef(draws["accept_gamma2.0_prop1_4"], draws["reject_gamma2.0_prop1_4"])[0, 1]
    other = np.corrcoef(draws["accept_gamma2.0_prop1_4"], draws["reject_gamma2.0_prop1_8"])[0, 1]
    assert same > 0.95 and other < 0.9


@pytest.mark.parametrize("world", ["large", "3 seeds, stratified order"])
def test_intervals_hold_the_truth_as_often_as_they_say_where_those_of_papers_alone_do_not(world):
    found = covered(WORLDS[world], 60, papers=1000, draws=200)
    for metric in ("predicted_accept_rate", "accuracy"):
        for mixes in ("one mix", "two mixes"):
            at = found[f"difference of {metric} of {mixes}"]
            assert 0.92 <= at["both"] <= 0.985, "200 worlds: docs/method.md"
            assert at["rejected"] <= 0.08
    assert found["difference of predicted_accept_rate of two mixes"]["papers"] < 0.93


def test_adapters_that_move_half_as_far_are_no_training_noise():
    rng, found = np.random.default_rng(3), []
    for _ in range(150):
        conditions, means = trainings(1, 0.0, 0.1, 0.03, rng)
        adapters = [replace(c, lora=16) for c in conditions]
        off = {k: rng.normal(0, 0.1) for k in (2, 3, 4, 8)}
        means |= {c.name: 0.4 + 0.5 * shift_of(c) + off[c.k] + rng.normal(0, 0.03) for c in adapters}
        found.append(training_noise(*_with_shifts([*conditions, *adapters], means)))
    assert np.mean([f.own_sd**2 for f in found]) == pytest.approx(0.03**2, rel=0.1)
    assert np.mean([f.shared_sd**2 for f in found]) == pytest.approx(0.1**2, rel=0.15)


def test_a_single_adapter_changes_nothing_of_the_noise_of_full_fine_tunings():
    conditions, means = trainings(1, 0.0, 0.1, 0.03, np.random.default_rng(4))
    alone = training_noise(*_with_shifts(conditions, means))
    adapter = replace(conditions[0], lora=16)
    both = training_noise(*_with_shifts([*conditions, adapter], means | {adapter.name: 3.0}))
    assert (both.own_sd, both.shared_sd) == (alone.own_sd, alone.shared_sd)
