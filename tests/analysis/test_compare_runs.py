import numpy as np
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from tests.made_run import THE_19, make_run, write_predictions
from wlsweep.analysis.compare_runs import compare_runs
from wlsweep.analysis.loaded_run import load_predictions
from wlsweep.cli import app
from wlsweep.errors import WlsweepError


@pytest.fixture
def runs(tmp_path):
    first = make_run(tmp_path / "first", THE_19[:4], n=400)
    second = make_run(tmp_path / "second", THE_19[:3], n=400)  # the same papers, since the seed is the same
    scores = load_predictions(first).scores
    write_predictions(second, THE_19[0], scores[THE_19[0]].log_odds)
    write_predictions(second, THE_19[1], scores[THE_19[1]].log_odds + 0.5)
    truth = load_predictions(first).truth.accept
    write_predictions(second, THE_19[2], np.where(truth, 1.0, -1.0))
    return first, second


def test_the_same_predictions_differ_in_nothing_a_shift_in_the_rate_and_a_better_model_in_accuracy(runs):
    found = compare_runs(*runs, draws=500)
    same, shifted, better = found.differences
    assert found.rows == 400 and [d.name for d in found.differences] == THE_19[:3]
    assert (same.accept_rate.value, same.accuracy.value, same.decided_differently, same.p_holm) == (0, 0, 0, 1)
    assert shifted.log_odds.value == pytest.approx(0.5, abs=1e-6) and shifted.accept_rate.low > 0
    assert better.accuracy.low > 0 and better.p_holm < 1e-6 and better.test.only_other == 0
    assert found.only_first == (THE_19[3],) and found.only_second == ()


def test_papers_are_paired_by_id_in_whatever_order_they_stand(runs, tmp_path):
    first, second = runs
    plain = compare_runs(first, second, draws=200)
    table = pq.read_table(second.test_parquet)
    pq.write_table(table.take(np.random.default_rng(0).permutation(len(table))), second.test_parquet)
    mixed = compare_runs(first, second, draws=200)
    assert [d.accuracy.value for d in mixed.differences] == [d.accuracy.value for d in plain.differences]
    assert [d.test for d in mixed.differences] == [d.test for d in plain.differences]


def test_runs_on_other_papers_are_refused(runs, tmp_path):
    other = make_run(tmp_path / "other", THE_19[:2], n=300)
    with pytest.raises(WlsweepError, match="100 rows are only in the first, 0 only in the second"):
        compare_runs(runs[0], other)


def test_runs_without_a_condition_in_common_are_refused(runs, tmp_path):
    other = make_run(tmp_path / "other", THE_19[5:6], n=400)
    with pytest.raises(WlsweepError, match="no condition is predicted in both"):
        compare_runs(runs[0], other)


def test_the_command_prints_a_table_and_writes_a_page(runs, tmp_path):
    page = tmp_path / "comparison.html"
    found = CliRunner().invoke(app, ["compare", *(str(r.root) for r in runs), "--out", str(page)])
    assert found.exit_code == 0, found.output
    assert all(name in found.output for name in THE_19[:3]) and "Holm p" in found.output
    html = page.read_text().replace("<wbr>", "")
    assert 'id="plot-differences"' in html and all(name in html for name in THE_19[:4])
    assert "in 1 of 3 conditions and on fewer in 0" in html


def test_a_selection_does_not_make_the_p_values_smaller(runs):
    whole = {d.name: d.p_holm for d in compare_runs(*runs, draws=100).differences}
    (one,) = compare_runs(*runs, "1", draws=100).differences
    assert one.p_holm == whole[THE_19[1]] > one.test.p
