import json

import pyarrow.parquet as pq
import pytest

from tests.made_run import THE_19, make_run
from wlsweep.data.export_predictions import export_jsonl
from wlsweep.errors import WlsweepError


def test_every_test_paper_is_one_line_in_order_whatever_the_order_of_predictions(tmp_path):
    run = make_run(tmp_path, THE_19[:2], n=30)
    path = run.prediction(THE_19[0]) / "part-0.parquet"
    table = pq.read_table(path, partitioning=None)
    pq.write_table(table.take(list(range(29, -1, -1))), path)
    written = export_jsonl(run)
    assert written == [run.exported(n) for n in THE_19[:2]]
    truth = pq.read_table(run.test_parquet).to_pylist()
    texts = dict(zip(table["row_id"].to_pylist(), table["text"].to_pylist(), strict=True))
    lines = [json.loads(line) for line in written[0].read_text().splitlines()]
    assert lines == [
        {"prompt": t["prompt"], "predict": texts[t["row_id"]], "label": f"\\boxed{{{t['label']}}}"} for t in truth
    ]


def test_nothing_predicted_is_an_error(tmp_path):
    with pytest.raises(WlsweepError, match="nothing to export"):
        export_jsonl(make_run(tmp_path, THE_19[:1], n=5, leave_out=THE_19[:1]))
