"""A reference without a language model: TF-IDF and logistic regression on the same rows, as an external baseline.

    python -m wlsweep.analysis.reference runs/smollm2       # writes runs/smollm2/external/tfidf.parquet
    wlsweep report runs/smollm2 --external tfidf=runs/smollm2/external/tfidf.parquet

It learns from the rows that the baseline of proportion 1/2 is trained on, each as often as there, reads whole papers (no
cutoff), and predicts the test rows. Strength of regularisation is chosen by cross-validation over the training rows; the
test set chooses nothing. A model that does not beat this has learnt no more than which words occur.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from wlsweep.data.rows import read_rows
from wlsweep.data.sources import recorded_sets
from wlsweep.errors import WlsweepError
from wlsweep.run.data_record import DataRecord
from wlsweep.run.layout import RunDir, atomic_file, existing_run

FOLDS = 5
STRENGTHS = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0)
"""Inverse strengths of the L2 penalty that cross-validation chooses from."""


class Reference(NamedTuple):
    """What was predicted, and how well."""

    file: Path
    rows: int
    strength: float
    auc: float
    balanced_accuracy: float


def write_reference(run: RunDir, k: int = 2) -> Reference:
    """Train on the mix 1/k of a run whose data stage is done, predict its test rows, write `external/tfidf.parquet`.

    Raises:
        WlsweepError: if the data stage is not done, or the rows' files are not what they were.
    """
    from sklearn.metrics import balanced_accuracy_score, roc_auc_score

    if not run.data_json.is_file() or not run.manifest(k).is_file():
        raise WlsweepError(f"{run.root} holds no mix 1/{k}: run the data stage first (wlsweep run SWEEP --stage data)")
    manifest = pq.read_table(run.manifest(k))
    uses = dict(zip(manifest["row_id"].to_pylist(), manifest["multiplicity"].to_pylist(), strict=True))
    truth = pq.read_table(run.test_parquet, columns=["row_id", "label"])
    test_ids = truth["row_id"].to_pylist()
    data = DataRecord.read(run.data_json)
    papers = _papers(data, {*uses, *test_ids})
    train_ids = [row_id for row_id in uses if row_id in papers]
    if missing := [i for i in (*uses, *test_ids) if i not in papers]:
        raise WlsweepError(f"{len(missing)} rows of {run.root} are in its files no more, such as {missing[0]!r}")
    p, strength = fit_and_predict(
        [papers[i][0] for i in train_ids],
        np.array([papers[i][1] for i in train_ids]),
        np.array([uses[i] for i in train_ids], dtype=float),
        [papers[i][0] for i in test_ids],
    )
    accept = np.array(truth["label"].to_pylist()) == data.task.positive
    file = run.root / "external" / "tfidf.parquet"
    file.parent.mkdir(parents=True, exist_ok=True)
    with atomic_file(file) as temporary:
        pq.write_table(pa.table({"row_id": test_ids, "p_accept": p}), temporary)
    balanced = float(balanced_accuracy_score(accept, p > 0.5))
    return Reference(file, len(test_ids), strength, float(roc_auc_score(accept, p)), balanced)


def _papers(data: DataRecord, wanted: set[str]) -> dict[str, tuple[str, bool]]:
    """(text, whether it has the positive label) of rows by id, from the files that the data stage read."""
    found = {}
    for source in recorded_sets(data):
        for row in read_rows(source, data.task):
            if row.row_id in wanted:
                found[row.row_id] = (row.paper, row.label == data.task.positive)
    return found


def fit_and_predict(
    texts: list[str], accept: NDArray[np.bool_], weights: NDArray[np.float64], test: list[str]
) -> tuple[NDArray[np.float64], float]:
    """P(accept) of test texts [m] from training texts [n] with labels and weights [n], and the chosen strength."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import log_loss
    from sklearn.model_selection import StratifiedKFold

    def learnt(rows: NDArray[np.int64], others: list[str], strengths: Sequence[float]) -> list[NDArray[np.float64]]:
        words = TfidfVectorizer(ngram_range=(1, 2), min_df=2, sublinear_tf=True, strip_accents="unicode")
        features, asked = words.fit_transform([texts[i] for i in rows]), words.transform(others)
        models = (
            LogisticRegression(C=c, solver="liblinear").fit(features, accept[rows], weights[rows]) for c in strengths
        )
        return [model.predict_proba(asked)[:, 1] for model in models]

    folds = min(FOLDS, int(accept.sum()), int((~accept).sum()))
    if folds < 2:
        raise WlsweepError("the reference needs two training rows of each class at least")
    losses = np.zeros(len(STRENGTHS))
    for kept, out in StratifiedKFold(folds, shuffle=True, random_state=0).split(np.zeros(len(accept)), accept):
        for i, p in enumerate(learnt(kept, [texts[j] for j in out], STRENGTHS)):
            losses[i] += log_loss(accept[out], p, sample_weight=weights[out], labels=[0, 1])
    best = STRENGTHS[int(losses.argmin())]
    return learnt(np.arange(len(texts)), test, [best])[0], best


def main() -> None:
    """Write the reference of a run and say how good it is."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="run directory with a finished data stage")
    run = existing_run(parser.parse_args().run)
    found = write_reference(run)
    print(
        f"tfidf:   {found.file} ({found.rows} test rows: AUC {found.auc:.3f}, balanced accuracy "
        f"{found.balanced_accuracy:.1%}; C = {found.strength:g} by cross-validation)\n"
        f"next:    wlsweep report {run.root} --external tfidf={found.file}"
    )


if __name__ == "__main__":
    main()
