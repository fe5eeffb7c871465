"""What a condition's `model/` folder holds: a whole model, or a low-rank adapter and the identity of its base.

An adapter is a folder in PEFT's own format (`PeftModel.from_pretrained` and vLLM load it) and `base.json`: an adapter of
another base gives numbers that look like any other, so every reader compares the base's weights with it. No engine.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path

from wlsweep.errors import WlsweepError
from wlsweep.files import open_file
from wlsweep.run.layout import read_json, write_json
from wlsweep.spec.architecture import model_folder

CONFIG = "adapter_config.json"
"""PEFT's own: rank, scale, targets."""
WEIGHTS = "adapter_model.safetensors"
BASE = "base.json"
"""Folder or name of the base, and the hash of its weights."""


def is_adapter(folder: str | Path) -> bool:
    """Whether a folder holds an adapter and no whole model."""
    return (Path(folder) / CONFIG).is_file()


def weights_fingerprint(folder: Path) -> str:
    """Hash of a folder's weight files, whole model or adapter: 16 hexadecimal digits."""
    return _fingerprint(
        tuple((p, p.stat().st_size, p.stat().st_mtime_ns) for p in sorted(folder.glob("*.safetensors")))
    )


@lru_cache(maxsize=64)
def _fingerprint(files: Iterable[tuple[Path, int, int]]) -> str:
    """Kept while the files are the same: a base of 15 GB takes some ten seconds, and each condition asks."""
    digest = hashlib.sha256()
    for path, *_ in files:
        with open_file(path) as f:
            digest.update(hashlib.file_digest(f, "sha256").digest())
    return digest.hexdigest()[:16]


def base_of(start: str) -> str:
    """The base model of what a training starts from: itself, or the base of an adapter.

    Raises:
        WlsweepError: if the adapter does not say.
    """
    if not is_adapter(start):
        return start
    return str(read_json(Path(start) / BASE)["base"])


def write_base(adapter: Path, base: str) -> None:
    """Write the base's identity beside an adapter."""
    write_json(adapter / BASE, {"base": base, "fingerprint": base_fingerprint(base)})


def base_fingerprint(base: str) -> str:
    """Hash of a base model's weights.

    Raises:
        WlsweepError: if they are not on this machine.
    """
    folder = model_folder(base)
    if folder is None or not any(folder.glob("*.safetensors")):
        raise WlsweepError(f"the weights of the base model {base} are not on this machine as safetensors files")
    return weights_fingerprint(folder)


def refuse_other_base(adapter: Path, base: str) -> None:
    """Refuse an adapter that was trained on other weights than those of a base.

    Raises:
        WlsweepError: naming both.
    """
    trained_on, here = read_json(adapter / BASE), base_fingerprint(base)
    if trained_on["fingerprint"] != here:
        raise WlsweepError(
            f"{adapter} is an adapter of {trained_on['base']} (weights {trained_on['fingerprint']}), and the base model "
            f"here is {base} (weights {here}): an adapter works on its own base alone. Give that base, or delete "
            f"{adapter.parent} and train again"
        )
