"""Random files, near enough to ShareGPT rows that some are read and most break in the middle."""

import json

from hypothesis import strategies as st

from tests.data.sharegpt import sharegpt

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
KEYS = st.sampled_from(["conversations", "_metadata", "from", "value", "submission_id", "year", "true_log_odds"])


@st.composite
def mutated(draw):
    """A good row with a random value, kept or replaced, at a random place."""
    row = sharegpt("a", "Accept")
    place = draw(st.sampled_from([row, row["_metadata"], *row["conversations"]]))
    place[draw(st.sampled_from(list(place)) | KEYS)] = draw(JSON | st.lists(JSON, min_size=1, max_size=3))
    return row


def file_contents():
    """Bytes that may be rows: noise, arrays and lines of good rows and of rows with a random value in a random place."""
    good = st.builds(sharegpt, st.text(max_size=3), st.sampled_from(["Accept", "Reject"]), st.text("ab ", max_size=5))
    rows = st.lists(mutated() | good, max_size=9)
    array = rows.map(lambda made: json.dumps(made).encode())
    lines = rows.map(lambda made: "\n".join(map(json.dumps, made)).encode())
    return st.binary(max_size=200) | array | lines
