import numpy as np
import pytest
import statsmodels.api as sm

from tests.made_run import THE_19
from wlsweep.analysis.bootstrap import Resamples
from wlsweep.analysis.effects import design, effects, separable
from wlsweep.estimate import PLAIN
from wlsweep.spec.condition import parse_name

CONDITIONS = [parse_name(n) for n in THE_19]


def decisions(beta, n, seed, conditions=CONDITIONS):
    """Each condition accepts a paper where a threshold of the paper lies below the condition's log-odds."""
    paper = np.random.default_rng(seed).logistic(size=n)
    return paper[:, None] < design(conditions) @ np.array(beta)


def fitted(decided, conditions=CONDITIONS, draws=400):
    n = len(decided)
    sums = Resamples(n, draws).sums(decided.astype(np.float32)).astype(float)
    return effects(conditions, decided.sum(axis=0), n, sums)


def test_known_coefficients_are_found_within_their_intervals():
    beta = [0.1, 0.9, 0.8, 0.2, 0.15, 0.1]
    inside = np.zeros(6)
    for seed in range(60):
        found = fitted(decisions(beta, 400, seed))
        inside += [t.estimate.low <= b <= t.estimate.high for t, b in zip(found.terms, beta, strict=True)]
    assert (inside >= 51).all(), inside


def test_intervals_agree_with_the_sandwich_clustered_by_paper():
    decided = decisions([0.1, 0.9, 0.8, 0, 0.1, 0], 500, 3)
    found = fitted(decided, draws=4000)
    x = np.tile(design(CONDITIONS), (len(decided), 1))
    papers = np.repeat(np.arange(len(decided)), len(CONDITIONS))
    fit = sm.GLM(decided.astype(float).ravel(), x, family=sm.families.Binomial()).fit(
        cov_type="cluster", cov_kwds={"groups": papers}
    )
    for term, value, error in zip(found.terms, fit.params, fit.bse, strict=True):
        assert term.estimate.value == pytest.approx(value, abs=1e-6)
        assert (term.estimate.high - term.estimate.low) / (2 * 1.96) == pytest.approx(error, rel=0.08)


def test_explained_shares_add_up_to_the_whole_in_a_balanced_design():
    names = [f"{v}_gamma{g}_prop1_{k}" for v in ("accept", "reject") for g in ("2.0", "4.0") for k in (2, 4)]
    conditions = [parse_name(n) for n in names]
    found = fitted(decisions([0.0, 0.9, 0.5, 0, 0.0, 0], 3000, 0, conditions), conditions).explained
    assert sum(share for term, share in found.items() if term != "all") == pytest.approx(found["all"], abs=0.1)
    assert found["gamma x proportion"] < 0.01 < found["logit proportion"] < found["ln gamma"]


def test_a_real_interaction_is_not_called_separable():
    assert separable(fitted(decisions([0.0, 0.8, 0.8, 0, 0.0, 0], 2000, 1)), 0)[0].verdict == "pass"
    assert separable(fitted(decisions([0.0, 0.8, 0.8, 0, 0.9, 0], 2000, 1)), 0)[0].verdict == "fail"


def test_a_mix_without_effect_is_not_called_separable():
    assert separable(fitted(decisions([0.0, 0.9, 0.0, 0, 0.0, 0], 2000, 2)), 0)[0].verdict != "pass"


def test_conditions_that_vary_only_gamma_cannot_be_fitted_and_say_so():
    only = CONDITIONS[:7]
    found = fitted(decisions([0, 1, 1, 0, 0, 0], 100, 0, only), only)
    assert "do not vary" in found.note
    assert separable(found, 12)[0].verdict == "not testable"


def test_seeds_that_matter_are_reported_and_seeds_that_do_not_are_near_zero():
    two = CONDITIONS + [parse_name(f"{n}_seed1") for n in THE_19]
    same = np.hstack([decisions([0, 0.9, 0.8, 0, 0, 0], 2000, 4)] * 2)
    moved = same.copy()
    moved[:, 19:] = decisions([0.6, 0.9, 0.8, 0, 0, 0], 2000, 4)
    assert fitted(same, two).seeds.count == 2
    assert fitted(same, two).seeds.explained == pytest.approx(0, abs=1e-9)
    assert fitted(moved, two).seeds.explained > 0.005


def test_rates_of_all_or_nothing_fit_coefficients_of_any_size_and_are_not_judged():
    decided = np.zeros((300, len(CONDITIONS)), dtype=bool)
    decided[:, [i for i, c in enumerate(CONDITIONS) if c.variant == "accept" and c.k == 2]] = True
    decided[:70, 0] = True
    found = fitted(decided)
    assert "18 of 19 conditions predict one class for every row" in found.note
    assert separable(found, 0)[0].verdict == "not testable"


def test_conditions_between_all_and_nothing_must_tell_the_effects_apart_by_themselves():
    conditions = CONDITIONS
    accepted = np.array([300 if c.k == 2 and c.variant != "reject" else 0 for c in conditions])
    accepted += np.arange(len(accepted)) * (accepted > 0)
    draws = np.tile(accepted, (50, 1)).astype(float)
    found = effects(conditions, accepted, 600, draws)
    assert (accepted > 0).sum() == 4 and "do not vary enough" in found.note


def test_a_model_with_as_many_coefficients_as_conditions_is_not_judged():
    four = [CONDITIONS[i] for i in (0, 1, 7, 8)]
    found = fitted(decisions([0.0, 0.9, 0.8, 0, 0.0, 0], 2000, 5, four), four)
    assert "4 conditions for 4 coefficients leave 0 residual degrees of freedom" in found.note
    assert separable(found, 15)[0].verdict == "not testable"


def test_a_fit_to_some_of_the_conditions_is_not_testable_and_says_what_it_shows_so_far():
    some = [*CONDITIONS[:7], CONDITIONS[7], CONDITIONS[10]]
    s2, s2v = separable(fitted(decisions([0.0, 0.9, 0.8, 0, 0.0, 0], 2000, 5, some), some), 10)
    assert s2.verdict == s2v.verdict == "not testable"
    assert "Each unit of ln gamma" in s2.sentence and "10 conditions are not done" in s2.sentence


def test_a_proportion_that_acts_in_one_variant_only_is_not_called_alike():
    assert separable(fitted(decisions([0.0, 0.8, 0.8, 0, 0.0, 0.0], 2000, 1)), 0)[1].verdict == "pass"
    assert separable(fitted(decisions([0.0, 0.4, 0.8, 0, 0.0, 1.6], 2000, 1)), 0)[1].verdict == "fail"


@pytest.mark.parametrize(
    ("beta", "doubtful"),
    [
        ([0.0, 0.6, 0.6, 0, 0.5, 0.0], "S2"),
        ([0.0, 0.6, 0.6, 0, 0.6, 0.0], "S2"),
        ([0.0, 0.4, 0.8, 0, 0.0, 1.2], "S2v"),
        ([0.0, 0.8, 0.8, 0, 0.0, 0.0], ""),
    ],
)
def test_the_share_of_draws_in_which_a_criterion_passes_is_that_of_models_fitted_again(beta, doubtful):
    decided = decisions(beta, 300, 4)
    found = fitted(decided, draws=4000)
    half = {t.name: t.estimate.high - t.estimate.value for t in found.terms}
    rng, passes = np.random.default_rng(0), []
    for _ in range(150):
        again = fitted(decided[rng.integers(0, 300, 300)], draws=20)
        at = {t.name: t.estimate.value for t in again.terms}
        small = [again.explained[f"{x} x proportion"] <= 0.05 * again.explained["all"] for x in ("gamma", "variant")]
        main = [at[t] > half[t] for t in ("ln gamma", "logit proportion")]
        passes.append([all(main) and small[0], small[1]])
    assert np.mean(passes, axis=0) == pytest.approx([found.would_pass["S2"], found.would_pass["S2v"]], abs=0.12)
    assert [key for key, share in found.would_pass.items() if 0.02 < share < 0.98] == ([doubtful] if doubtful else [])
    for said, share in zip(separable(found, 0, noise="papers"), found.would_pass.values(), strict=True):
        if said.verdict != "not testable":
            assert said.support == (share if said.verdict == "pass" else 1 - share)
            assert f"same in {said.support:.1%} of draws of papers." in said.sentence


@pytest.mark.parametrize("noise", [0.0, 0.15, 0.4])
def test_intervals_hold_the_noise_of_single_trainings_that_no_draw_of_papers_shows(noise):
    """Each condition's log-odds are off by a draw of its own: the coefficients are those of the world without it."""
    beta, n, inside, runs = np.array([0.1, 0.9, 0.8, 0.0, 0.1, 0.0]), 1500, np.zeros(6), 150
    for seed in range(runs):
        rng = np.random.default_rng([seed, 1])
        paper = rng.logistic(size=n)
        decided = paper[:, None] < design(CONDITIONS) @ beta + rng.normal(0, noise, len(CONDITIONS))
        found = fitted(decided, draws=200)
        inside += [t.estimate.low <= b <= t.estimate.high for t, b in zip(found.terms, beta, strict=True)]
    assert (inside / runs >= 0.90).all() and (inside / runs <= 0.995).all(), inside / runs


def test_no_warning_of_the_library_reaches_the_terminal(recwarn):
    accepted = np.array([1 + i % 2 for i in range(19)])
    effects(CONDITIONS, accepted, 2, np.tile(accepted, (20, 1)).astype(float))
    accepted = np.array([(599 if c.variant == "accept" else 1) + i % 2 for i, c in enumerate(CONDITIONS)])
    effects(CONDITIONS, accepted, 600, accepted + np.random.default_rng(0).normal(0, 1, (20, 19)))
    assert [str(w.message) for w in recwarn] == []


def test_an_effect_above_0_whose_interval_holds_0_is_neither_a_pass_nor_a_fail():
    few = fitted(decisions([0.0, 0.9, 0.02, 0, 0.0, 0], 100, 1))
    mix = next(t.estimate for t in few.terms if t.name == "logit proportion")
    assert mix.low < 0 < mix.value
    said = separable(few, 0)[0]
    assert said.verdict == "not testable" and "not shown" in said.sentence
    assert said.sentence.endswith(f"logit proportion {PLAIN.full(mix)}.") and "ln gamma" in said.sentence


def test_an_effect_below_0_fails_and_the_sentence_gives_the_reason():
    said = separable(fitted(decisions([0.0, 0.9, -0.5, 0, 0.0, 0], 2000, 2)), 0)[0]
    assert said.verdict == "fail" and "must be above 0" in said.sentence
