import math
from collections import Counter
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wlsweep.data.mix import MixCount, Stock, draw, exact_counts, plan_counts, scale_table, shortfalls
from wlsweep.data.split import validation_counts
from wlsweep.errors import WlsweepError
from wlsweep.spec.config import load_sweep

PUBLISHED = {2: (8553, 8548), 3: (5702, 11399), 4: (4276, 12825), 8: (2135, 14966)}
SOURCE = Stock(8553, 8548)
KS = st.sets(st.integers(2, 12), min_size=1, max_size=4)
STOCKS = st.builds(Stock, st.integers(20, 300), st.integers(20, 300))


def test_the_shipped_table_gives_the_published_counts_from_the_published_source():
    table = load_sweep("search_spaces/iclr19.toml").data.table
    counts = plan_counts("table", PUBLISHED, SOURCE, table)
    assert {k: (c.accepts, c.rejects) for k, c in counts.items()} == PUBLISHED
    assert {c.total for c in counts.values()} == {17_101}
    assert [c.short_rejects for c in counts.values()] == [0, 11399 - 8548, 12825 - 8548, 14966 - 8548]


@given(total=st.integers(1, 100_000), k=st.integers(2, 100))
def test_exact_counts_are_within_half_a_row_of_the_fraction(total, k):
    accepts, rejects = exact_counts(total, k)
    assert accepts + rejects == total
    assert abs(Fraction(accepts) - Fraction(total, k)) <= Fraction(1, 2)


@given(stock=STOCKS, ks=KS)
def test_oversample_keeps_the_total_of_the_source(stock, ks):
    for c in plan_counts("oversample", ks, stock).values():
        assert c.total == stock.total
        assert c.short_accepts == max(0, c.accepts - stock.accepts)
        assert c.short_rejects == max(0, c.rejects - stock.rejects)


@given(stock=STOCKS, ks=KS)
def test_common_total_repeats_nothing_and_one_row_more_would_not_fit(stock, ks):
    counts = plan_counts("common_total", ks, stock)
    (total,) = {c.total for c in counts.values()}
    assert all(c.accepts <= stock.accepts and c.rejects <= stock.rejects for c in counts.values())
    larger = [exact_counts(total + 1, k) for k in ks]
    assert total == stock.total or any(a > stock.accepts or r > stock.rejects for a, r in larger)


def test_error_and_pool_say_by_how_much_they_fall_short_and_what_mends_it():
    with pytest.raises(WlsweepError) as error:
        plan_counts("error", [4], Stock(50, 50))
    assert "1/4: 75 rejects wanted, 50 there: short by 25" in str(error.value)
    assert '"oversample"' in str(error.value) and "67 rows in every set" in str(error.value)
    with pytest.raises(WlsweepError, match=r"50 there and 5 in the pool: short by 20"):
        plan_counts("pool", [4], Stock(50, 50, 0, 5))
    assert plan_counts("pool", [4], Stock(50, 50, 0, 25))[4] == MixCount(25, 75, 0, 25)


def test_a_table_for_a_larger_source_is_refused_instead_of_repeating_rows_many_times():
    with pytest.raises(WlsweepError, match=r"14,966 rejects, 1,000 are there: each would be used up to 15 times"):
        plan_counts("table", [8], Stock(1000, 1000), {"1/8": (2135, 14966)})


def test_a_source_without_a_class_is_refused_under_every_policy():
    for policy in ("oversample", "common_total", "pool", "error"):
        with pytest.raises(WlsweepError, match="no rejects"):
            plan_counts(policy, [2], Stock(10, 0))


def test_what_a_policy_does_without_is_said_in_counts():
    counts = plan_counts("oversample", [8], Stock(50, 50))
    assert shortfalls("oversample", counts, Stock(50, 50)) == [
        "1/8: 87 rejects wanted, 50 there; 37 are repetitions (a row is used up to 2 times); "
        "a pool with 37 more rejects would avoid them"
    ]
    assert "every set has 57 rows, 43 fewer" in "".join(
        shortfalls("common_total", plan_counts("common_total", [8], Stock(50, 50)), Stock(50, 50))
    )
    assert shortfalls("error", plan_counts("error", [2], Stock(50, 50)), Stock(50, 50)) == []


@given(limit=st.integers(16, 2000))
def test_a_scaled_table_keeps_its_proportions_and_the_limit(limit):
    scaled = scale_table({f"1/{k}": counts for k, counts in PUBLISHED.items()}, limit)
    for k, (a, r) in PUBLISHED.items():
        assert sum(scaled[f"1/{k}"]) == limit
        assert abs(scaled[f"1/{k}"][0] - limit * a / (a + r)) <= 1


def test_the_published_table_less_a_fifth_takes_each_remaining_paper_once_at_one_half():
    scaled = scale_table({f"1/{k}": counts for k, counts in PUBLISHED.items()}, None, 0.2)
    held_out = validation_counts(8553, 8548, 0.2)
    assert scaled["1/2"] == (8553 - held_out[0], 8548 - held_out[1])
    assert {sum(counts) for counts in scaled.values()} == {sum(scaled["1/2"])}
    plan_counts("table", [2, 3, 4, 8], Stock(*scaled["1/2"]), scaled)  # raises nothing
    assert scale_table({"1/2": (5, 5)}, None, 0.0) == {"1/2": (5, 5)} and scale_table(None, 8, 0.2) is None


@given(
    accepts=st.integers(1, 60), rejects=st.integers(1, 60), a=st.integers(1, 200), r=st.integers(1, 200),
    seed=st.integers(0, 9),
)  # fmt: skip
def test_drawn_rows_have_the_counts_and_classes_and_each_row_is_used_floor_or_ceil_times(accepts, rejects, a, r, seed):
    accept_ids, reject_ids = [f"a{i}" for i in range(accepts)], [f"r{i}" for i in range(rejects)]
    uses = draw(accept_ids, reject_ids, MixCount(a, r, 0, 0), seed)
    assert list(uses) == sorted(uses) and all(uses.values())
    for ids, n in ((accept_ids, a), (reject_ids, r)):
        of_class = [uses.get(i, 0) for i in ids]
        assert sum(of_class) == n
        assert set(of_class) <= {n // len(ids), math.ceil(n / len(ids))}
    assert set(uses) <= {*accept_ids, *reject_ids}


@given(small=st.integers(1, 150), more=st.integers(0, 150), seed=st.integers(0, 99))
def test_a_smaller_count_is_nested_in_a_larger_one(small, more, seed):
    ids, other = [f"a{i}" for i in range(50)], ["r"]
    draws = [draw(ids, other, MixCount(n, 1, 0, 0), seed) for n in (small, small + more)]
    few, many = map(Counter, draws)
    assert few <= many


@given(order=st.permutations([f"a{i}" for i in range(12)]))
def test_the_order_of_the_source_does_not_matter(order):
    wanted = MixCount(5, 3, 0, 0)
    first = draw(sorted(order), ["r0", "r1", "r2", "r3"], wanted, seed=3)
    again = draw(order, ["r3", "r1", "r0", "r2"], wanted, seed=3)
    assert list(first.items()) == list(again.items())


def test_the_draw_is_the_same_on_every_machine_and_another_with_another_seed():
    ids = [f"a{i}" for i in range(10)]
    # Written down once: sha256 of "mix\0SEED\0ID" in ascending order, so Python's own hash seed plays no part.
    assert draw(ids, ["r"], MixCount(3, 1, 0, 0), seed=0) != draw(ids, ["r"], MixCount(3, 1, 0, 0), 1)
    import hashlib

    expected = sorted(ids, key=lambda i: hashlib.sha256(f"mix\x00{0}\x00{i}".encode()).hexdigest())[:3]
    assert list(draw(ids, ["r"], MixCount(3, 1, 0, 0), seed=0)) == sorted([*expected, "r"])


def test_the_pool_is_used_after_the_source_and_nothing_is_repeated():
    drawn = draw(["a"], ["r0", "r1"], MixCount(1, 4, 0, 2), 0, pool_reject_ids=["p0", "p1", "p2"])
    assert list(drawn.values()) == [1] * 5
    assert {"r0", "r1"} < set(drawn) and len({"p0", "p1", "p2"} & set(drawn)) == 2
