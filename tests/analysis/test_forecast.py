import json

import numpy as np
import pytest

from tests.made_run import THE_19, make_run, write_predictions
from wlsweep.analysis.evaluate import evaluate
from wlsweep.analysis.forecast import forecast_run
from wlsweep.analysis.next_conditions import undecided
from wlsweep.errors import WlsweepError

DRAWS = 1000


def test_the_baseline_alone_forecasts_what_the_others_then_do(tmp_path):
    early = forecast_run(make_run(tmp_path / "early", n=800, leave_out=THE_19[1:]), draws=DRAWS)
    later = {e["name"]: e for e in evaluate(make_run(tmp_path / "later", n=800), draws=DRAWS).entries}
    assert [row.name for row in early.rows] == THE_19[1:]
    inside = 0
    for row in early.rows:
        for metric in ("predicted_accept_rate", "accuracy", "recall", "f1"):
            at, seen = row.metrics[metric], later[row.name][metric]
            inside += at["low"] <= seen <= at["high"]
            assert abs(at["value"] - seen) < 0.06
    assert inside >= 0.95 * 4 * 18


def test_a_finished_sweep_shows_measured_beside_forecast(tmp_path):
    run = make_run(tmp_path, THE_19[:4], n=200)
    made = forecast_run(run, draws=DRAWS)
    entries = {e["name"]: e for e in evaluate(run, draws=DRAWS).entries}
    for row in made.rows:
        assert row.measured["accuracy"] == pytest.approx(entries[row.name]["accuracy"], abs=1e-12)
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


def test_a_sure_forecast_leaves_only_the_check_of_the_theory(tmp_path):
    made = forecast_run(make_run(tmp_path, n=4000, leave_out=THE_19[1:], seed=1), draws=DRAWS)
    assert {p.key for p in made.prospects if p.settled == "pass"} >= {"H1", "H2", "S3", "S5"}
    decision = undecided(made)
    assert decision.wanted[0][0] == "accept_gamma2.0_prop1_3" and "theory" in decision.wanted[0][1]
    assert {n for n, _ in decision.skipped} | set(decision.names) == set(THE_19[1:])
    assert len(decision.skipped) >= 10
    assert all(reason for _, reason in decision.skipped)


def test_a_baseline_whose_calibration_cannot_be_told_settles_nothing(tmp_path):
    run = make_run(tmp_path, THE_19[:7], n=80, leave_out=THE_19[1:7])
    write_predictions(run, THE_19[0], np.full(80, 0.4))  # the same for every paper
    made = forecast_run(run, draws=DRAWS)
    assert made.calibration is None and "settles nothing" in made.text()
    assert not any(p.settled for p in made.prospects)
    assert set(undecided(made).names) == set(THE_19[1:7])


def test_a_vague_baseline_leaves_more_to_run_than_a_sure_one(tmp_path):
    vague = forecast_run(make_run(tmp_path / "a", n=60, leave_out=THE_19[1:], offset=1.0), draws=DRAWS)
    sure = forecast_run(make_run(tmp_path / "b", n=4000, leave_out=THE_19[1:]), draws=DRAWS)
    assert len(undecided(vague).wanted) > len(undecided(sure).wanted)


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
    made = forecast_run(make_run(tmp_path, n=60, leave_out=THE_19[1:], offset=1.0), draws=DRAWS)
    from wlsweep.analysis.doubts import doubts

    bits, _ = doubts(made.hypotheses, made.draws, made.size)
    wanted = [n for n in undecided(made).names if n != "accept_gamma2.0_prop1_3"]
    worth = [bits[n] for n in wanted]
    assert worth == sorted(worth, reverse=True) and np.isfinite(worth).all()
