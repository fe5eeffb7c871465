import numpy as np
import pytest

from wlsweep.analysis.seeds import cell, cells, over_seeds
from wlsweep.spec.condition import parse_name


def test_seeds_of_one_condition_share_a_cell_and_other_axes_do_not():
    names = ["accept_gamma2.0_prop1_3", "accept_gamma2.0_prop1_3_seed1", "accept_gamma2.0_prop1_3_focal2.0_seed1"]
    found = cells([parse_name(n) for n in names])
    assert found == {names[0]: names[:2], "accept_gamma2.0_prop1_3_focal2.0": names[2:]}
    assert cell(parse_name(names[1])) == names[0]


def test_identical_seeds_leave_only_the_papers_variance():
    draws = np.random.default_rng(0).normal(0.6, 0.02, (20_000, 1))
    found = over_seeds(np.array([0.6, 0.6, 0.6]), np.repeat(draws, 3, axis=1))
    assert found.between_seed_sd == 0
    assert (found.mean.high - found.mean.low) / 2 == pytest.approx(1.96 * 0.02, rel=0.02)


@pytest.mark.parametrize("seed_sd", [0.0, 0.03, 0.2])
def test_intervals_over_seeds_cover_the_true_mean_for_new_seeds_and_new_papers(seed_sd):
    """Three seeds, 200 papers; a paper is accepted by a seed where its difficulty and the seed's offset allow."""
    from scipy.stats import norm

    def rate(offsets, papers, noise):
        return (papers[:, None] + offsets + noise > 0).astype(float)

    truth = 1 - norm.cdf(0, loc=0.3, scale=np.sqrt(1 + 0.3**2 + seed_sd**2))
    covered = 0
    for i in range(300):
        rng = np.random.default_rng(i)
        papers, offsets = rng.normal(0, 1, 200), rng.normal(0.3, seed_sd, 3)
        said = rate(offsets, papers, rng.normal(0, 0.3, (200, 3)))
        picked = rng.integers(0, 200, (400, 200))
        draws = said[picked].mean(axis=1)
        found = over_seeds(said.mean(axis=0), draws)
        covered += found.mean.low <= truth <= found.mean.high
    assert covered / 300 >= 0.93


def test_intervals_over_seeds_end_where_the_metric_does_and_need_draws():
    found = over_seeds(np.array([0.5, 0.6]), np.full((100, 2), 0.55))
    assert found.mean.low == 0 and found.mean.high == 1  # two seeds tell next to nothing
    draws = np.random.default_rng(0).normal(0.5, 0.01, (100, 2))
    draws[0] = np.nan
    assert over_seeds(np.array([0.5, 0.5]), draws).mean.low == pytest.approx(0.5, abs=0.03)
    draws[:20] = np.nan
    assert over_seeds(np.array([0.5, 0.5]), draws).mean.low is None
