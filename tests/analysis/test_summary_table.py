"""What page and terminal say of conditions that are not done."""

from wlsweep.analysis.evaluation_records import ModelResult
from wlsweep.analysis.summary_table import unfinished


def result(name, state, cause):
    return ModelResult(name, state=state, cause=cause)


def test_a_few_conditions_that_are_not_done_are_named_and_many_of_one_cause_are_counted():
    missing = [result(f"c{i}", "missing", "not yet trained") for i in range(4)]
    failed = result("d", "failed", "loss is not finite")
    assert unfinished([*missing[:3], failed]) == [
        *(f"c{i}: missing (not yet trained)" for i in range(3)),
        "d: failed (loss is not finite)",
    ]
    assert unfinished([*missing, failed]) == [
        "4 conditions: missing (not yet trained)",
        "d: failed (loss is not finite)",
    ]
