import numpy as np
import pytest

import wlsweep
from tests.made_run import THE_19, add_validation, make_run
from wlsweep.analysis.evaluate import evaluate


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    made = make_run(tmp_path_factory.mktemp("results"), THE_19[:4], n=120, leave_out=THE_19[3:4], steps=5)
    evaluate(made, draws=200)
    return made


def test_metrics_have_a_row_for_each_condition_also_those_that_are_not_done(run):
    metrics = wlsweep.load_run(run.root).metrics
    assert list(metrics.index) == THE_19[:4] and list(metrics["state"]) == ["done"] * 3 + ["missing"]
    first = metrics.loc[THE_19[0]]
    assert first["accuracy_low"] < first["accuracy"] < first["accuracy_high"]


def test_predictions_give_the_metrics_back(run):
    results = wlsweep.load_run(run.root)
    said = results.predictions
    assert len(said) == 3 * 120 and set(said["condition"]) == set(THE_19[:3])
    rates = (said["logprob_accept"] > said["logprob_reject"]).groupby(said["condition"]).mean()
    for name in THE_19[:3]:
        assert rates[name] == pytest.approx(results.metrics.loc[name, "predicted_accept_rate"], abs=1e-12)


def test_comparisons_tests_verdicts_and_training_are_those_of_the_evaluation(run):
    results = wlsweep.load_run(str(run.root))
    metrics, comparisons = results.metrics, results.comparisons.set_index("name")
    for name in THE_19[1:3]:
        change = metrics.loc[name, "accuracy"] - metrics.loc[THE_19[0], "accuracy"]
        assert comparisons.loc[name, "accuracy"] == pytest.approx(change, abs=1e-12)
    moved = results.evaluation.analysis.comparisons[0].moved_threshold
    at = comparisons.loc[results.evaluation.analysis.comparisons[0].name]
    assert at["minus_moved_accuracy"] == pytest.approx(moved.accuracy - moved.moved_accuracy, abs=1e-12)
    assert at["minus_moved_accuracy_low"] == moved.difference.low and "moved_accuracy" not in comparisons
    assert list(results.tests["against"].unique()) == ["baseline", "moved threshold"]
    assert np.all(results.tests["p_holm"] >= results.tests["p"])
    verdicts = results.verdicts.set_index("key")
    assert verdicts.loc["H1", "plan"] == "criterion 1" and verdicts.loc["S4", "verdict"] in ("pass", "fail")
    assert results.training.groupby("condition").size().to_dict() == dict.fromkeys(THE_19[:3], 5)


def test_a_folder_without_a_run_is_refused(tmp_path):
    with pytest.raises(wlsweep.errors.WlsweepError, match="holds no run"):
        wlsweep.load_run(tmp_path)


def test_validation_has_a_row_for_each_validation_and_none_without(run, tmp_path):
    assert len(wlsweep.load_run(run.root).validation) == 0
    made = make_run(tmp_path / "validated", THE_19[:2], n=40)
    written = add_validation(made, THE_19[:2])
    results = wlsweep.load_run(made.root)
    assert list(results.validation.columns) == "condition step epoch loss bce auc accuracy accept_rate".split()
    for name, lines in written.items():
        at = results.validation[results.validation["condition"] == name]
        assert at["step"].tolist() == [line["step"] for line in lines] == [60, 120, 180, 240]
        assert at["auc"].tolist() == [line["validation_auc"] for line in lines]
    assert results.training["validation_bce"].notna().sum() == 8
