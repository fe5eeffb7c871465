"""Where the tiny base model lies; `base_model` makes it, and with it torch is imported, only where it is missing."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

from wlsweep.data.row_files import RowFiles, as_files, state_of
from wlsweep.run.layout import atomic_folder
from wlsweep.spec.task import ICLR, Task
from wlsweep.spec.train_section import TinyBase

VERSION = 2
"""Raised whenever the same configuration would give another model."""


def ensure_tiny_base(
    config: TinyBase, rows: RowFiles | Path, cache: Path, on_progress: Callable[[str], None], task: Task = ICLR
) -> Path:
    """The folder of the tiny base for these rows; made on first use, found in the cache later.

    Args:
        config: size and first training.
        rows: the tokenizer and the first training see nothing else.
        cache: where base models are kept.
        on_progress: hears one line at a time.
        task: of the rows.
    """
    rows = as_files(rows)
    source = rows.content_key(state_of(rows).sha256)
    key = hashlib.sha256(
        json.dumps([VERSION, source, config.model_dump(), *(task.identity or ())]).encode()
    ).hexdigest()[:12]
    folder = cache / "base" / key
    if not (folder / "config.json").is_file():
        on_progress("making the tiny base model")
        from wlsweep.train.tiny_base_model import make_tiny_base

        with atomic_folder(folder) as temporary:
            make_tiny_base(config, rows, temporary, on_progress, task)
    return folder
