import numpy as np
import pytest

from tests.made_run import THE_19, shift_of
from wlsweep.analysis.hypotheses import hypotheses
from wlsweep.analysis.verdicts import judge, verdicts
from wlsweep.spec.condition import parse_name

CONDITIONS = [parse_name(n) for n in THE_19]
SHIFTS = {n: shift_of(c) for n, c in zip(THE_19, CONDITIONS, strict=True)}
RATES = {n: float(1 / (1 + np.exp(-s))) for n, s in SHIFTS.items()}  # what theory asks for
ACCURACY = {n: 0.5 + 0.25 * np.exp(-(s**2) / 3) for n, s in SHIFTS.items()}
BY_METRIC = {
    "predicted_accept_rate": RATES,
    "accuracy": ACCURACY,
    "recall": RATES,
    "precision": {n: 1 - v / 2 for n, v in RATES.items()},
}


def all_of(conditions=CONDITIONS, shifts=SHIFTS):
    return {h.key: h for h in hypotheses(conditions, shifts)}


def verdict(key, values, **more):
    h = all_of(**more)[key]
    return judge(h, values, {n: np.array([v]) for n, v in values.items()}).verdict


def changed(**rates):
    return RATES | {name.replace("__", "."): value for name, value in rates.items()}


def without(*names):
    return {n: v for n, v in RATES.items() if n not in names}


def test_a_sweep_that_follows_theory_passes_every_hypothesis_but_the_one_about_steps():
    for key, h in all_of().items():
        # the log-odds move as far from 4 to 8 as from 2 to 4, so the rates move less
        assert judge(h, BY_METRIC[h.metric], {}).verdict == ("fail" if key == "H1s" else "pass"), key


def test_the_step_to_gamma_8_can_be_the_larger_one():
    steep = changed(accept_gamma8__0_prop1_2=0.99, reject_gamma8__0_prop1_2=0.01)
    assert verdict("H1s", steep | {"accept_gamma4.0_prop1_2": 0.7, "reject_gamma4.0_prop1_2": 0.3}) == "pass"
    assert verdict("H1s", without("accept_gamma8.0_prop1_2", "reject_gamma8.0_prop1_2")) == "not testable"


def test_recall_and_precision_are_asked_in_opposite_orders():
    assert judge(all_of()["H1r"], BY_METRIC["precision"], {}).verdict == "fail"
    assert judge(all_of()["H1p"], BY_METRIC["recall"], {}).verdict == "fail"


def test_each_criterion_of_the_plan_has_a_verdict_under_its_own_number():
    plan = {h.plan: h.key for h in all_of().values() if h.plan}
    assert plan == {"criterion 1": "H1", "criterion 3": "S3", "criterion 4": "S4", "criterion 5": "H3e"}


@pytest.mark.parametrize(
    ("key", "missing", "rates"),
    [
        ("H1", "accept_gamma4.0_prop1_2", {"accept_gamma8.0_prop1_2": 0.55, "accept_gamma2.0_prop1_2": 0.606}),
        ("H2", "accept_gamma2.0_prop1_3", {"accept_gamma2.0_prop1_2": 0.3, "accept_gamma2.0_prop1_4": 0.4}),
        ("H2", "reject_gamma4.0_prop1_4", {"reject_gamma4.0_prop1_3": 0.05, "reject_gamma4.0_prop1_8": 0.06}),
    ],
)
def test_a_missing_condition_hides_no_violation_between_its_neighbours(key, missing, rates):
    values = {n: v for n, v in (RATES | rates).items() if n != missing}
    assert verdict(key, values) == "fail" == verdict("S1", values)


def test_the_19_declare_as_many_comparisons_as_the_plan_asks_for():
    claims = {key: len(h.claims) for key, h in all_of().items()}
    # H1: all pairs of 4 on either side at 1/2 and one for each of 6 others; H2: all pairs of 4 mixes, 4 (variant, gamma)
    # H3: 6 below the maximum, 5 more above the minimum, 2 + 2 bounds at 1/8; S5: 3 + 2 + 2 + 2 pairs
    expected = {"H1": 18, "H1r": 18, "H1p": 18, "H1s": 2, "H2": 24, "H3": 15, "H3e": 11, "S1": 42}
    assert claims == expected | {"S3": 38, "S4": 19, "S5": 9, "C1": 1}


@pytest.mark.parametrize(
    ("key", "name", "value"),
    [
        ("H1", "accept_gamma4__0_prop1_2", 0.55),
        ("H1", "reject_gamma2__0_prop1_8", 0.01),
        ("H1", "baseline_gamma1__0_prop1_2", 0.99),
        ("H2", "accept_gamma2__0_prop1_8", 0.6),
        ("H3", "accept_gamma4__0_prop1_2", 0.95),
        ("H3", "reject_gamma4__0_prop1_2", 0.05),
        ("H3", "accept_gamma4__0_prop1_8", 0.51),
        ("H3", "reject_gamma2__0_prop1_8", 0.21),
        ("S1", "accept_gamma2__0_prop1_8", 0.6),
        ("S5", "accept_gamma2__0_prop1_8", 0.01),
        ("C1", "accept_gamma2__0_prop1_3", 0.56),
    ],
)
def test_one_rate_out_of_place_fails_the_hypothesis_about_it(key, name, value):
    assert verdict(key, changed(**{name: value})) == "fail"


def test_a_tie_is_no_rise():
    assert verdict("H1", changed(accept_gamma4__0_prop1_2=RATES["accept_gamma2.0_prop1_2"])) == "fail"


def test_what_is_missing_makes_not_testable_only_while_it_could_change_the_answer():
    gone = without("reject_gamma2.0_prop1_8")
    assert verdict("H1", gone) == "not testable"
    assert verdict("H1", gone | {"accept_gamma4.0_prop1_2": 0.5}) == "fail"
    assert verdict("S3", gone) == "pass"


def test_rates_cover_30_to_70_from_both_ends_inclusive():
    flat = dict.fromkeys(THE_19, 0.5)
    ends = {THE_19[0]: 0.3, THE_19[1]: 0.7}
    assert verdict("S3", flat) == "fail"
    assert verdict("S3", flat | ends) == "pass"
    assert verdict("S3", dict.fromkeys(THE_19[:5], 0.5)) == "not testable"


@pytest.mark.parametrize(("above", "done", "expected"), [(10, 19, "pass"), (9, 19, "fail"), (9, 10, "not testable")])
def test_most_means_more_than_half_of_the_declared_conditions(above, done, expected):
    values = {n: 0.61 if i < above else 0.6 for i, n in enumerate(THE_19[:done])}
    assert verdict("S4", values) == expected


def test_a_sweep_without_the_conditions_cannot_test():
    few = CONDITIONS[:3]
    assert verdict("H2", RATES, conditions=few) == "not testable"
    assert verdict("H3", RATES, conditions=few) == "not testable"
    said = judge(all_of(conditions=few)["H2"], RATES, {})
    assert said.sentence == "The sweep declares no conditions that this is about."


def test_support_is_the_share_of_draws_with_the_same_verdict():
    draws = {n: np.full(10, v) for n, v in RATES.items()}
    draws["accept_gamma4.0_prop1_2"] = np.where(np.arange(10) < 3, 0.5, RATES["accept_gamma4.0_prop1_2"])
    judged = judge(all_of()["H1"], RATES, draws, "papers and trainings")
    assert (judged.verdict, judged.support) == ("pass", pytest.approx(0.7))
    assert "the same in 70.0% of draws of papers and trainings" in judged.sentence


@pytest.mark.parametrize(
    ("measured", "sd", "expected"),
    [(0.02, 0.005, "pass"), (0.02, 0.03, "not testable"), (0.0, 0.04, "not testable"), (0.07, 0.03, "fail")],
)
def test_the_same_rate_must_be_shown_by_two_one_sided_tests(measured, sd, expected):
    still, base = all_of()["C1"].claims[0].needs
    noise = np.random.default_rng(0).normal(0, sd, 4000)
    draws = {still: 0.5 + measured + noise, base: np.full(4000, 0.5)}
    judged = judge(all_of()["C1"], {still: 0.5 + measured, base: 0.5}, draws)
    assert judged.verdict == expected
    assert "within 5 points" in judged.title and "90% interval" in judged.numbers[0]


def test_a_large_difference_is_seldom_called_the_same():
    still, base = all_of()["C1"].claims[0].needs
    rng, passed = np.random.default_rng(1), 0
    for _ in range(400):  # the true difference is the bound itself, each training is off by an SD of 2 points
        seen = 0.5 + 0.05 + rng.normal(0, 0.02)
        draws = {still: seen + rng.normal(0, 0.02, 500), base: np.full(500, 0.5)}
        passed += judge(all_of()["C1"], {still: seen, base: 0.5}, draws).verdict == "pass"
    assert passed / 400 <= 0.08


@pytest.mark.parametrize("key", ["S3", "S4", "H1"])
def test_under_a_pass_no_line_says_that_something_fails(key):
    h = all_of()[key]
    values = BY_METRIC[h.metric] | ({"accept_gamma8.0_prop1_2": 0.5} if key == "S4" else {})
    judged = judge(h, values, {})
    assert judged.verdict == "pass" and judged.numbers
    assert not any("fail" in line.lower() for line in judged.numbers)


def test_verdicts_of_draws_equal_judging_each_draw_alone():
    rng = np.random.default_rng(0)
    noisy = {n: np.clip(v + rng.normal(0, 0.05, 60), 0, 1) for n, v in RATES.items()}
    for key, h in all_of().items():
        each = [{n: v[i] for n, v in noisy.items()} for i in range(60)]
        alone = [{"fail": 0, "pass": 1}[judge(h, values, {}).verdict] for values in each]
        assert verdicts(h, noisy, 60).tolist() == alone, key


def test_gammas_below_one_are_expected_the_other_way_round():
    names = ["baseline_gamma1.0_prop1_2", "accept_gamma0.5_prop1_2", "reject_gamma0.5_prop1_2"]
    conditions = [parse_name(n) for n in names]
    values = dict(zip(names, [0.5, 0.3, 0.7], strict=True))
    assert verdict("H1", values, conditions=conditions) == "pass"
    assert verdict("S5", values, conditions=conditions) == "not testable"


def test_failures_that_the_draw_of_papers_explains_are_told_from_those_that_it_does_not():
    values = changed(accept_gamma4__0_prop1_2=0.55, reject_gamma4__0_prop1_8=0.07)  # asked: above 66.7%, below 6.7%
    rng = np.random.default_rng(0)
    draws = {n: v + rng.normal(0, 0.02, 500) for n, v in values.items()}
    assert (
        "Each taken alone, 1 of the 2 failed by more than the draw of papers explains"
        in judge(all_of()["H1"], values, draws).sentence
    )


def test_nothing_testable_is_not_told_as_none_of_none():
    said = judge(all_of()["H2"], {}, {}).sentence
    assert said.startswith(
        "24 cannot be tested: a condition that they need, or a seed of it, is not done, not selected,"
    )


def test_a_failed_comparison_is_named_with_its_numbers():
    judged = judge(all_of()["H1"], changed(accept_gamma4__0_prop1_2=0.55), {})
    assert "accept_gamma4.0_prop1_2 above accept_gamma2.0_prop1_2 (55.0% against 66.7%)" in judged.sentence


def test_a_tie_where_nothing_is_left_to_rise_is_said_to_be_one():
    saturated = changed(accept_gamma4__0_prop1_2=1.0, accept_gamma8__0_prop1_2=1.0, reject_gamma4__0_prop1_8=0.5)
    said = judge(all_of()["H1"], saturated, {}).sentence
    assert "and 1 more. In 1 of them all are at 0% or all at 100%, where no difference could show." in said
    assert "could show" not in judge(all_of()["H1"], changed(accept_gamma4__0_prop1_2=0.55), {}).sentence


def test_a_tie_is_not_said_to_fail_by_more_than_chance():
    h = all_of()["H1"]
    one, other = h.claims[0].needs
    said = judge(h, {one: 1.0, other: 1.0}, {one: np.ones(50), other: np.ones(50)}).sentence
    assert "Each taken alone, 0 of the 1 failed by more than the draw of papers explains" in said
    said = judge(h, {one: 0.4, other: 0.6}, {one: np.full(50, 0.4), other: np.full(50, 0.6)}).sentence
    assert "1 of the 1 failed by more" in said


def test_a_condition_that_accepts_no_paper_is_not_said_to_be_undone():
    precision = {n: 1 - r for n, r in RATES.items() if n != "reject_gamma8.0_prop1_2"}
    draws = {n: np.full(10, v) for n, v in precision.items()} | {"reject_gamma8.0_prop1_2": np.full(10, np.nan)}
    said = judge(all_of()["H1p"], precision, draws)
    assert said.verdict == "not testable" and "no such number (precision where the positive class" in said.sentence


def test_draws_without_a_number_do_not_lower_the_support():
    precision = {n: 1 - r for n, r in RATES.items()}
    draws = {n: np.full(10, v) for n, v in precision.items()}
    draws["reject_gamma4.0_prop1_8"] = np.where(np.arange(10) < 4, np.nan, precision["reject_gamma4.0_prop1_8"])
    said = judge(all_of()["H1p"], precision, draws)
    assert (said.verdict, said.support) == ("pass", 1.0)
    draws["reject_gamma4.0_prop1_8"] = np.full(10, np.nan)
    assert judge(all_of()["H1p"], precision, draws).support is None
