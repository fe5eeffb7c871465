"""Names, order and selection of conditions."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wlsweep.errors import WlsweepError
from wlsweep.spec.condition import Condition, expand, parse_name, problems_of, select
from wlsweep.spec.config import load_sweep

INDEX_TABLE = {
    0: (2, "baseline", 1.0),
    1: (2, "accept", 2.0),
    2: (2, "accept", 4.0),
    3: (2, "accept", 8.0),
    4: (2, "reject", 2.0),
    5: (2, "reject", 4.0),
    6: (2, "reject", 8.0),
    7: (3, "accept", 2.0),
    8: (3, "accept", 4.0),
    9: (3, "reject", 2.0),
    10: (3, "reject", 4.0),
    11: (4, "accept", 2.0),
    12: (4, "accept", 4.0),
    13: (4, "reject", 2.0),
    14: (4, "reject", 4.0),
    15: (8, "accept", 2.0),
    16: (8, "accept", 4.0),
    17: (8, "reject", 2.0),
    18: (8, "reject", 4.0),
}


@pytest.mark.parametrize("name", ["iclr19", "demo", "abstracts"])
def test_the_19_conditions_have_the_published_order(name):
    found = load_sweep(f"search_spaces/{name}.toml").conditions
    assert {c.index: (c.k, c.variant, c.gamma) for c in found} == INDEX_TABLE


def test_names_of_the_19_follow_the_published_pattern():
    import re

    pattern = r"^(baseline|accept|reject)_gamma(\d+\.\d+)_prop1_(\d+)$"
    for c in load_sweep("search_spaces/iclr19.toml").conditions:
        m = re.match(pattern, c.name)
        assert m and (m[1], float(m[2]), int(m[3])) == (c.variant, c.gamma, c.k)


@st.composite
def conditions_drawn(draw):
    variant = draw(st.sampled_from(["baseline", "accept", "reject"]))
    loss = draw(st.sampled_from(["binary", "binary", "sequence", "decision_token"]))
    shape = draw(st.sampled_from(["none", "focal", "smoothing"])) if loss == "binary" else "none"
    gammas = st.integers(1, 999).filter(lambda n: n != 10).map(lambda n: n / 10)
    return Condition(
        variant=variant,
        gamma=1.0 if variant == "baseline" else draw(gammas),
        k=draw(st.integers(2, 99)),
        loss=loss,
        focal=draw(st.integers(1, 50)) / 10 if shape == "focal" else 0.0,
        smoothing=draw(st.integers(1, 49)) / 100 if shape == "smoothing" else 0.0,
        balance=draw(st.sampled_from(["none", "inverse", "effective"])),
        two_stage=draw(st.booleans()),
        lora=draw(st.sampled_from([0, 1, 8, 16, 128])),
        seed=draw(st.integers(0, 10_000)),
    )


conditions = conditions_drawn()


@given(conditions)
def test_a_name_is_read_back_as_the_condition_that_it_names(c):
    assert not problems_of(c)
    assert parse_name(c.name) == c


@given(conditions, conditions)
def test_different_conditions_have_different_names(a, b):
    assert (a == b) == (a.name == b.name)


@pytest.mark.parametrize(
    "name",
    [
        "",
        "accept_gamma2_prop1_2",
        "accept_gamma2.00_prop1_2",
        "accept_gamma1.0_prop1_2",
        "baseline_gamma2.0_prop1_2",
        "accept_gamma2.0_prop1_2_seed0",
        "accept_gamma2.0_prop1_02",
        "accept_gamma2.0_prop1_2\n",
        "../accept_gamma2.0_prop1_2",
    ],
)
def test_what_is_not_exactly_a_name_is_refused(name):
    with pytest.raises(WlsweepError, match="no condition name"):
        parse_name(name)


def test_weights_multiply_the_class_of_the_variant_only():
    assert Condition("accept", 4.0, 3).weights == (4.0, 1.0)
    assert Condition("reject", 4.0, 3).weights == (1.0, 4.0)
    assert Condition("baseline", 1.0, 3).weights == (1.0, 1.0)


@pytest.mark.parametrize(
    ("selection", "expected"),
    [
        (None, list(range(19))),
        ("0", [0]),
        ("0-6,9", [0, 1, 2, 3, 4, 5, 6, 9]),
        ("7-10", [7, 8, 9, 10]),
        ("accept_*", [1, 2, 3, 7, 8, 11, 12, 15, 16]),
        ("*_prop1_8, 0", [0, 15, 16, 17, 18]),
        ("accept_gamma2.0_prop1_3", [7]),
    ],
)
def test_selections_pick_by_index_and_name(selection, expected):
    all_19 = load_sweep("search_spaces/demo.toml").conditions
    assert [c.index for c in select(all_19, selection)] == expected


@pytest.mark.parametrize("selection", ["19", "0-19", "6-2", "acept_*", "", ",", "-1"])
def test_a_selection_of_nothing_is_an_error_that_names_it(selection):
    with pytest.raises(WlsweepError, match="selects nothing"):
        select(load_sweep("search_spaces/demo.toml").conditions, selection)


def test_every_impossible_condition_is_reported_at_once():
    with pytest.raises(WlsweepError) as e:
        expand(
            [
                {"proportion": [2], "variant": ["baseline"], "gamma": [2.0]},
                {"proportion": [2], "variant": ["accept"], "gamma": [2.0, 2.0, 1.25]},
            ]
        )
    assert "the baseline is gamma 1.0" in str(e.value)
    assert "occurs twice" in str(e.value)
    assert "one decimal" in str(e.value)
