"""Columns of the Parquet files that stages hand to each other, each defined once.

In names of columns `accept` is the positive class, whatever the task's label text is."""

from __future__ import annotations

import pyarrow as pa

TRUTH = pa.schema(
    [
        pa.field("row_id", pa.string(), nullable=False),
        pa.field("row_hash", pa.string(), nullable=False),  # of the paper's text, not of its label
        pa.field("year", pa.int32()),
        pa.field("label", pa.string(), nullable=False),  # one of the task's label texts
        pa.field("truncated", pa.bool_(), nullable=False),
        pa.field(
            "true_log_odds", pa.float64()
        ),  # ln P(positive)/P(negative) given the text, where the world is synthetic
        pa.field("prompt", pa.string(), nullable=False),  # what the model reads, after truncation
    ]
)
"""`data/test.parquet`: one row per test paper, in the order of the source."""

VALIDATION = pa.schema([TRUTH.field(name) for name in ("row_id", "row_hash", "label")])
"""`data/validation.parquet`: the papers of validation, sorted by id; there where `data.validation_share` is above 0."""

PREDICTION = pa.schema(
    [
        pa.field("row_id", pa.string(), nullable=False),
        pa.field("row_hash", pa.string(), nullable=False),
        pa.field("year", pa.int32()),
        pa.field("label", pa.string(), nullable=False),
        pa.field("text", pa.string(), nullable=False),  # generated greedily
        pa.field("parsed", pa.string()),  # one of the label texts, or null: the text read strictly
        pa.field("logprob_accept", pa.float64(), nullable=False),  # natural log, at the decision position
        pa.field("logprob_reject", pa.float64(), nullable=False),
        pa.field("p_accept", pa.float64(), nullable=False),  # sigmoid of their difference
        pa.field("p_other", pa.float64(), nullable=False),  # probability of neither label
        pa.field("prompt_tokens", pa.int32(), nullable=False),
        pa.field("truncated", pa.bool_(), nullable=False),
        pa.field("model_fingerprint", pa.string(), nullable=False),
    ]
)
"""`predictions/condition=NAME/*.parquet`: every test row exactly once; joined to the truth by `row_id`."""

MANIFEST = pa.schema(
    [
        pa.field("row_id", pa.string(), nullable=False),
        pa.field("multiplicity", pa.int32(), nullable=False),  # how often the row is trained on per epoch
    ]
)
"""`data/manifest_prop1_K.parquet`: the training rows of one proportion."""
