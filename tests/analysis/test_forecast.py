import json

import numpy as np
import pytest

from tests.made_run import THE_19, make_run, shift_of
from wlsweep.analysis.evaluate import evaluate
from wlsweep.analysis.forecast import forecast_run
from wlsweep.analysis.next_conditions import doubts, undecided
from wlsweep.analysis.theory_check import needed_tests
from wlsweep.errors import WlsweepError
from wlsweep.spec.condition import parse_name

DRAWS = 1000


def test_the_baseline_alone_forecasts_what_the_others_then_do(tmp_path):
    early = forecast_run(make_run(tmp_path / "early", n=800, leave_out=THE_19[1:]), draws=DRAWS)
    later = {r.name: r for r in evaluate(make_run(tmp_path / "later", n=800), draws=DRAWS).conditions}
    assert [row.name for row in early.rows] == THE_19[1:]
    inside = 0
    for row in early.rows:
        for metric in ("predicted_accept_rate", "accuracy", "recall", "f1"):
            at, seen = row.metrics[metric], later[row.name][metric].value
            inside += at.low <= seen <= at.high
            assert abs(at.value - seen) < 0.06
    assert inside >= 0.95 * 4 * 18


def test_a_finished_sweep_shows_what_was_measured(tmp_path):
    run = make_run(tmp_path, THE_19[:4], n=200)
    made = forecast_run(run, draws=DRAWS)
    results = {r.name: r for r in evaluate(run, draws=DRAWS).conditions}
    for row in made.rows:
        assert row.measured["accuracy"] == pytest.approx(results[row.name]["accuracy"].value, abs=1e-12)
    assert json.loads(json.dumps(made.as_dict(), allow_nan=False))["baseline"] == THE_19[0]
    assert all(name in made.text() for name in THE_19[:4])


def test_without_a_finished_baseline_the_error_says_what_to_run(tmp_path):
    with pytest.raises(WlsweepError, match="--only 0"):
        forecast_run(make_run(tmp_path / "a", THE_19[:3], n=20, leave_out=[THE_19[0]]))
    with pytest.raises(WlsweepError, match="declares no baseline"):
        forecast_run(make_run(tmp_path / "b", THE_19[1:3], n=20))


def test_losses_without_theory_are_listed_without_a_forecast(tmp_path):
    focal = "accept_gamma2.0_prop1_2_focal2.0"
    made = forecast_run(make_run(tmp_path, [THE_19[0], focal], n=60, leave_out=[focal]), draws=DRAWS)
    (row,) = made.rows
    assert row.metrics is None and "focal" in row.note and "no forecast" in made.text()
    assert undecided(made).names == [focal]


def ends(names=THE_19):
    conditions = [parse_name(name) for name in names]
    return needed_tests(conditions, {c.name: shift_of(c) for c in conditions})


def test_the_baseline_alone_decides_nothing_and_asks_for_the_tests_of_the_theory(tmp_path):
    made = forecast_run(make_run(tmp_path, n=4000, leave_out=THE_19[1:], seed=1), draws=DRAWS)
    assert not made.theory.usable and "not tested" in made.text()
    assert all(p.open for p in made.prospects)
    decision = undecided(made)
    assert decision.names[:8] == ends() and set(decision.names) == set(THE_19[1:])
    assert "tests the theory" in decision.wanted[0][1]


def test_a_tested_theory_forecasts_verdicts_and_calls_them_forecasts(tmp_path):
    left = [n for n in THE_19[1:] if n not in ends()]
    run = make_run(tmp_path / "early", n=1500, leave_out=left)
    made = forecast_run(run, draws=DRAWS)
    assert made.theory.usable
    said = {p.key: p for p in made.prospects}
    assert said["H1"].decided is None and said["H1"].forecast == "would pass"
    assert "H1  The predicted accept rate follows gamma: forecast: would pass" in made.text()
    assert said["S3"].decided == "pass", "rates on either side are measured"
    later = {r.name: r for r in evaluate(make_run(tmp_path / "later", n=1500), draws=DRAWS).conditions}
    inside = [
        row.metrics[m].low <= later[row.name][m].value <= row.metrics[m].high
        for row in made.rows
        if row.metrics
        for m in ("predicted_accept_rate", "accuracy")
    ]
    assert {row.name for row in made.rows if row.metrics} == set(left)
    assert sum(inside) >= 0.9 * len(inside)
    decision = undecided(made)
    assert {n for n, _ in decision.skipped} | set(decision.names) == set(left)
    assert len(decision.skipped) >= 8 and all(reason for _, reason in decision.skipped)


def test_a_refuted_theory_is_not_used_at_all(tmp_path):
    left = [n for n in THE_19[1:] if n not in ends()]
    made = forecast_run(make_run(tmp_path, n=600, leave_out=left, shrink=0.4), draws=DRAWS)
    assert made.theory.refuted and "refuted" in made.text()
    assert not any(row.metrics for row in made.rows) and not any(p.forecast for p in made.prospects)
    assert set(undecided(made).names) == set(left)


def test_running_what_is_wanted_ends_with_nothing_wanted(tmp_path):
    done = [THE_19[0]]
    for step in range(19):
        left = [n for n in THE_19 if n not in done]
        made = forecast_run(make_run(tmp_path / str(step), n=150, leave_out=left, offset=0.3), draws=300)
        decision = undecided(made)
        if not decision.wanted:
            break
        assert decision.names[0] not in done
        done.append(decision.names[0])
    assert not decision.wanted


def test_the_most_doubtful_condition_comes_first(tmp_path):
    left = [n for n in THE_19[1:] if n not in ends()]
    made = forecast_run(make_run(tmp_path, n=60, leave_out=left, offset=0.6, blur=0.6), draws=DRAWS)
    bits, _ = doubts(made)
    worth = [bits[n] for n in undecided(made).names]
    assert len(worth) > 1 and worth == sorted(worth, reverse=True) and np.isfinite(worth).all()


def test_a_condition_with_a_seed_that_is_not_done_decides_nothing_yet(tmp_path):
    names = [THE_19[0], "accept_gamma2.0_prop1_2", "accept_gamma2.0_prop1_2_seed1"]
    early = forecast_run(make_run(tmp_path, names, n=200, leave_out=names[2:]), draws=DRAWS)
    assert names[1] not in early.measured["predicted_accept_rate"]
    assert early.prospects[0].decided is None
