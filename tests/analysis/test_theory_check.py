"""Which measurements test the theory, and what they say of it."""

import numpy as np
import pytest

from tests.made_run import THE_19, shift_of
from wlsweep.analysis.theory_check import judge_theory, needed_tests, predicted_means
from wlsweep.spec.condition import parse_name

CONDITIONS = [parse_name(name) for name in THE_19]
SHIFTS = {c.name: shift_of(c) for c in CONDITIONS}
ENDS = {
    f"{variant}_gamma{gamma}_prop1_{k}"
    for k, gamma in ((2, 8.0), (3, 4.0), (4, 4.0), (8, 4.0))
    for variant in ("accept", "reject")
}


def measured(names, slope=1.0, offsets=None, own=0.0, seed=0):
    rng = np.random.default_rng(seed)
    offsets = offsets or {}
    chosen = [parse_name(n) for n in (THE_19[0], *sorted(names))]
    return {c.name: slope * SHIFTS[c.name] + offsets.get(c.k, 0.0) + rng.normal(0, own) for c in chosen}


def test_the_theory_is_tested_at_both_ends_of_each_mix():
    wanted = needed_tests(CONDITIONS, SHIFTS)
    assert set(wanted) == ENDS
    sizes = [abs(SHIFTS[name]) for name in wanted]
    assert sizes == sorted(sizes, reverse=True)


def test_what_theory_does_not_cover_is_no_test_of_it():
    assert needed_tests(CONDITIONS, {THE_19[0]: 0.0, THE_19[1]: SHIFTS[THE_19[1]]}) == [THE_19[1], THE_19[0]]


@pytest.mark.parametrize("left_out", sorted(ENDS))
def test_one_end_that_is_not_measured_leaves_the_theory_untested(left_out):
    test = judge_theory(CONDITIONS, SHIFTS, measured(ENDS - {left_out}), THE_19[0])
    assert not test.usable and test.missing == (left_out,) and left_out in test.sentence()


def test_a_theory_that_fits_is_used_with_its_measured_slope():
    test = judge_theory(CONDITIONS, SHIFTS, measured(ENDS, slope=0.9, own=0.02), THE_19[0])
    assert test.usable and test.slope_low < 0.9 < test.slope_high and test.spread < 0.1


@pytest.mark.parametrize("slope", [0.5, 0.0, -1.0])
def test_a_slope_far_from_one_refutes_the_theory(slope):
    test = judge_theory(CONDITIONS, SHIFTS, measured(ENDS, slope=slope, own=0.03), THE_19[0])
    assert test.refuted and not test.usable and "no forecast is used" in test.sentence()


@pytest.mark.parametrize("name", sorted(ENDS))
def test_one_condition_far_off_its_line_refutes_the_theory(name):
    means = measured(ENDS, own=0.03)
    means[name] += 2.0
    assert judge_theory(CONDITIONS, SHIFTS, means, THE_19[0]).refuted


def test_mixes_that_move_nothing_refute_the_theory_though_weights_work():
    means = measured(ENDS, offsets={3: np.log(2), 4: np.log(3), 8: np.log(7)})
    assert any("mix" in reason for reason in judge_theory(CONDITIONS, SHIFTS, means, THE_19[0]).refuted)


def test_an_offset_that_a_mix_shares_is_in_the_forecast_of_its_other_conditions():
    test = judge_theory(CONDITIONS, SHIFTS, measured(ENDS, offsets={3: 0.3}), THE_19[0])
    wanted = [parse_name("accept_gamma2.0_prop1_3"), parse_name("accept_gamma2.0_prop1_4")]
    centre, _ = predicted_means(test, wanted, SHIFTS, 10, 0)
    assert centre == pytest.approx([SHIFTS[wanted[0].name] + 0.3, SHIFTS[wanted[1].name]], abs=0.02)


@pytest.mark.parametrize("own", [0.02, 0.08, 0.3])
def test_ninety_five_percent_intervals_of_predicted_means_cover_new_conditions(own):
    left = [c for c in CONDITIONS if c.name not in ENDS and c.name != THE_19[0]]
    inside = []
    for seed in range(300):
        everything = measured(THE_19[1:], offsets={3: 0.2, 8: -0.1}, own=own, seed=seed)
        known = {n: m for n, m in everything.items() if n in ENDS or n == THE_19[0]}
        test = judge_theory(CONDITIONS, SHIFTS, known, THE_19[0])
        _, draws = predicted_means(test, left, SHIFTS, 400, seed)
        low, high = np.quantile(draws, [0.025, 0.975], axis=0)
        actual = np.array([everything[c.name] for c in left])
        inside.append(np.mean((low <= actual) & (actual <= high)))
    assert 0.93 <= np.mean(inside) <= 0.97


def test_another_seed_of_the_baseline_says_nothing_against_the_theory():
    seeds = [parse_name(f"{THE_19[0]}_seed{s}") for s in (1, 2)]
    conditions, shifts = [*CONDITIONS, *seeds], SHIFTS | {c.name: 0.0 for c in seeds}
    means = measured(ENDS, own=0.02) | {seeds[0].name: 1.2, seeds[1].name: -1.0}
    assert judge_theory(conditions, shifts, means, THE_19[0]).usable


def test_a_mix_is_compared_with_the_balanced_conditions_of_its_own_seed():
    names = [THE_19[0], *sorted(ENDS)]
    first = [parse_name(n) for n in names]
    second = [parse_name(f"{n}_seed1") for n in names]
    shifts = {c.name: shift_of(c) for c in (*first, *second)}
    means = {name: shift + 1.0 * name.endswith("_seed1") for name, shift in shifts.items()}
    assert not judge_theory([*first, *second], shifts, means, THE_19[0]).refuted
    off = {n: v + 1.0 * ("prop1_8_seed1" in n) for n, v in means.items()}
    (reason,) = judge_theory([*first, *second], shifts, off, THE_19[0]).refuted
    assert reason.startswith("the conditions at 1/8 (seed1) lie +1.00")
