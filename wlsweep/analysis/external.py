"""Predictions that no condition of the sweep made: read from a file, held against the test set by the same checks."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from wlsweep.errors import DamagedError
from wlsweep.run.columns import PREDICTION
from wlsweep.run.predictions import DoNotFit, Scores, Truth, scores_of


def read_external(path: Path, truth: Truth) -> tuple[Scores | None, list[str]]:
    """Predictions in the truth's order, or every way in which they do not fit."""
    if not path.is_file():
        return None, [f"{path}: no such file"]
    known = set(PREDICTION.names) - {"text", "model_fingerprint"}
    if path.suffix == ".parquet":
        try:
            table = pq.read_table(path)
        except (OSError, pa.ArrowException) as e:
            return None, [f"{path}: no whole Parquet file ({str(e).splitlines()[0][:120]})"]
    else:
        rows: list[dict[str, Any]] = []
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
            try:
                row = json.loads(line) if line.strip() else None
            except ValueError as e:
                return None, [f"{path}: line {number} is no JSON ({e}); expected one object a line"]
            if row is not None and not isinstance(row, dict):
                return None, [f"{path}: line {number} is no JSON object"]
            if row is not None:
                rows.append({k: v for k, v in row.items() if k in known})
        every = list(dict.fromkeys(key for row in rows for key in row))
        try:
            table = pa.table({key: [row.get(key) for row in rows] for key in every})
        except (pa.ArrowException, TypeError) as e:
            return None, [f"{path}: a column holds values of several kinds ({str(e).splitlines()[0][:120]})"]
    names = table.column_names
    if "row_id" not in names or not ("p_accept" in names or {"logprob_accept", "logprob_reject"} <= set(names)):
        return None, [
            f"{path}: needs row_id and either p_accept or logprob_accept and logprob_reject; it has {', '.join(names)}"
        ]
    try:
        return scores_of(table.select([n for n in names if n in known]), truth, str(path)), []
    except DoNotFit as e:
        return None, e.problems
    except (DamagedError, pa.ArrowException, TypeError, ValueError) as e:
        kinds = ", ".join(f"{f.name} {f.type}" for f in table.schema)
        return None, [
            f"{path}: columns are of other kinds than predictions have ({kinds}): {str(e).splitlines()[0][:120]}"
        ]
