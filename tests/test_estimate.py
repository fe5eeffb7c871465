import pytest

from wlsweep.estimate import CHANGE, PERCENT, POINTS, SHIFT, Estimate, percent


@pytest.mark.parametrize(
    ("form", "number", "text"),
    [
        (PERCENT, 0.4831, "48.3%"),
        (PERCENT, None, "-"),
        (PERCENT, -0.0001, "0.0%"),
        (POINTS, 0.0004, "0.0"),
        (POINTS, -0.0004, "0.0"),
        (POINTS, 0.012, "+1.2"),
        (SHIFT, -0.004, "0.00"),
        (CHANGE, -0.02, "-0.020"),
    ],
)
def test_a_number_is_written_with_its_unit_and_zero_without_a_sign(form, number, text):
    assert form.value(number) == text


def test_an_interval_is_written_where_there_is_one():
    assert PERCENT.full(Estimate(0.5, 0.4, 0.625)) == "50.0% (40.0 to 62.5)"
    assert percent(Estimate(0.5, 0.4, 0.625)) == "50.0 (40.0-62.5)"
    assert PERCENT.full(Estimate(0.5, None, 0.6)) == "50.0%"
    assert PERCENT.full(Estimate(None)) == "-"
