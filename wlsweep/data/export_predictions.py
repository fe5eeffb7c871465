"""`wlsweep export --jsonl`: predictions as LLaMA-Factory writes them, one `{"prompt", "predict", "label"}` a line.

>>> export_jsonl(existing_run("runs/demo"))[0]    # doctest: +SKIP
PosixPath('runs/demo/export/baseline_gamma1.0_prop1_2/predictions.jsonl')
"""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from wlsweep.analysis.predictions import load_predictions
from wlsweep.errors import WlsweepError
from wlsweep.run.layout import RunDir, atomic_file


def export_jsonl(run: RunDir, only: str | None = None) -> list[Path]:
    """Write `export/CONDITION/predictions.jsonl` for every predicted condition, in the order of the test set.

    `label` is the answer that training would have asked for, `\\boxed{Accept}` or `\\boxed{Reject}`; `predict` is the
    generated text as it is.

    Raises:
        WlsweepError: if predictions do not fit the test set, or there are none.
    """
    loaded = load_predictions(run, only)
    if not loaded.done:
        raise WlsweepError(f"{run.root}: no condition is predicted yet, so there is nothing to export")
    truth = pq.read_table(run.test_parquet, columns=["row_id", "prompt", "label"])
    prompts = truth["prompt"].to_pylist()
    labels = [f"\\boxed{{{label}}}" for label in truth["label"].to_pylist()]
    written = []
    for c in loaded.done:
        files = sorted(run.prediction(c.name).glob("*.parquet"))
        table = pa.concat_tables([pq.ParquetFile(f).read(["row_id", "text"]) for f in files])
        order = pc.index_in(truth["row_id"].combine_chunks(), value_set=table["row_id"].combine_chunks())
        texts = table["text"].combine_chunks().take(order).to_pylist()
        with atomic_file(run.exported(c.name)) as temporary, temporary.open("w", encoding="utf-8") as out:
            for prompt, text, label in zip(prompts, texts, labels, strict=True):
                out.write(json.dumps({"prompt": prompt, "predict": text, "label": label}, ensure_ascii=False) + "\n")
        written.append(run.exported(c.name))
    return written
