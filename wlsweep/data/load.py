"""Reads what the data stage made: the token rows of a mix to train on, of validation, and of the test set to predict."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from wlsweep.data.token_table import TokenTable, open_table
from wlsweep.data.tokenise import AnswerTokens
from wlsweep.errors import DamagedError, WlsweepError
from wlsweep.run.columns import MANIFEST, VALIDATION
from wlsweep.run.data_record import DataRecord
from wlsweep.run.layout import RunDir
from wlsweep.run.predictions import read_parquet, read_truth


@dataclass(frozen=True)
class TokenRows:
    """Tokenised rows of a mix (repetitions expanded, sorted by id), of validation (sorted by id) or of the test set (in the
    order of its file)."""

    row_ids: list[str]
    row_hashes: list[str]
    years: list[int | None]
    labels: list[str]
    accept: NDArray[np.bool_]
    """[n] whether the label is the positive one."""
    truncated: NDArray[np.bool_]
    lengths: NDArray[np.int32]
    """[n] tokens of the prompts, without the answers."""
    answer: AnswerTokens
    _places: list[tuple[TokenTable, int]]

    def __len__(self) -> int:
        return len(self.row_ids)

    def prompt(self, i: int) -> NDArray[np.int32]:
        """int32 [lengths[i]]: system, instruction, paper, assistant header; a read-only view of the mapped table."""
        table, row = self._places[i]
        return table.prompt(row)


def load_mix(run: RunDir, k: int) -> TokenRows:
    """The training rows of proportion 1/k, repetitions expanded, sorted by row id.

    Raises:
        WlsweepError: if the data stage is not finished, or its files do not belong together.
    """
    record = finished_data(run)
    if f"1/{k}" not in record.mixes:
        raise WlsweepError(f"{run.data} holds no mix 1/{k}; run the data stage again with a search space that has it")
    ids = [row_id for row_id, times in read_manifest(run, k).items() for _ in range(times)]
    wanted = record.mixes[f"1/{k}"]
    rows = _token_rows(run, [record.tokens[part] for part in ("train", "pool") if part in record.tokens], ids)
    if (found := (int(rows.accept.sum()), int((~rows.accept).sum()))) != (wanted.accepts, wanted.rejects):
        raise _damaged(
            run,
            f"{run.manifest(k)} has {found[0]} positive and {found[1]} negative rows, {run.data_json} says "
            f"{wanted.accepts} and {wanted.rejects}",
        )
    return rows


def read_manifest(run: RunDir, k: int) -> dict[str, int]:
    """How often each row of proportion 1/k is trained on per epoch, by row id, sorted.

    Raises:
        WlsweepError: if the manifest is missing, damaged or unreadable.
    """
    path = run.manifest(k)
    table = _read(run, path, MANIFEST, "manifest")
    uses = dict(zip(table["row_id"].to_pylist(), table["multiplicity"].to_pylist(), strict=True))
    if len(uses) < len(table) or None in uses or not all(n and n > 0 for n in uses.values()):
        raise _damaged(run, f"{path} is damaged: ids twice, or uses below 1")
    return uses


def load_validation(run: RunDir) -> TokenRows | None:
    """The papers of validation, sorted by row id, the same for every condition; None where there is no validation.

    Raises:
        WlsweepError: if the data stage is not finished, or its files do not belong together.
    """
    record = finished_data(run)
    if record.validation is None:
        return None
    path, papers = run.validation_parquet, record.validation
    ids = _read(run, path, VALIDATION, "list of papers")["row_id"].to_pylist()
    rows = _token_rows(run, [record.tokens["validation"]], ids)
    if len(set(ids)) < len(ids) or (int(rows.accept.sum()), len(ids)) != (papers.accepts, papers.rows):
        raise _damaged(run, f"{path} does not hold the {papers.rows} papers, each once, that {run.data_json} names")
    return rows


def load_test(run: RunDir) -> TokenRows:
    """The test rows, in the order of `data/test.parquet`.

    Raises:
        WlsweepError: if the data stage is not finished.
    """
    record = finished_data(run)
    return _token_rows(run, [record.tokens["test"]], read_truth(run.test_parquet, record.task).row_id.to_pylist())


def finished_data(run: RunDir) -> DataRecord:
    """The record of the data stage.

    Raises:
        WlsweepError: if it is not finished, or its record is damaged or unreadable.
    """
    record = DataRecord.find(run.data_json)
    if record is None:
        raise WlsweepError(f"{run.root} has no data yet; run: wlsweep run SWEEP.toml --stage data --out {run.root}")
    return record


def _read(run: RunDir, path: Path, schema: pa.Schema, what: str) -> pa.Table:
    try:
        return read_parquet(path, schema.names).cast(schema)
    except FileNotFoundError:
        raise _damaged(run, f"{path} is missing") from None
    except DamagedError as e:
        raise _damaged(run, str(e)) from None
    except (pa.ArrowException, ValueError) as e:
        raise _damaged(run, f"{path} is no {what} ({e})") from None


def _damaged(run: RunDir, problem: str) -> DamagedError:
    return DamagedError(
        f"{problem}; delete {run.data_json} and run the sweep again: the data stage is made again, what is trained is kept"
    )


def _token_rows(run: RunDir, folders: Sequence[str], ids: Sequence[str]) -> TokenRows:
    tables = [open_table(run.cache / folder) for folder in folders]
    at = {row_id: (table, row) for table in tables for row, row_id in enumerate(table.row_ids)}
    missing = [row_id for row_id in ids if row_id not in at]
    if missing:
        raise _damaged(run, f"{len(missing)} rows of {run.data} are in no token table ({missing[0]!r}, ...)")
    places = [at[row_id] for row_id in ids]
    accept = np.array([table.accept[row] for table, row in places], dtype=bool)
    return TokenRows(
        row_ids=list(ids),
        row_hashes=[table.row_hashes[row] for table, row in places],
        years=[table.years[row] for table, row in places],
        labels=[tables[0].labels[0 if a else 1] for a in accept],
        accept=accept,
        truncated=np.array([table.truncated[row] for table, row in places], dtype=bool),
        lengths=np.array([table.lengths[row] for table, row in places], dtype=np.int32),
        answer=tables[0].answer,
        _places=places,
    )
