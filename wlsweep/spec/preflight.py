"""What can be known of a base model before anything is spent: one check, shared by plan, run and submit.

    problems, warnings = check_model(load_sweep("search_spaces/iclr19.toml"), ask_hub=False)

Path, weights, family, attention, tokenizer, chat template and labels are checked from the files alone, without torch.
"""

from __future__ import annotations

import os
import re
import socket
import threading
from collections.abc import Callable, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from wlsweep.data.rows import Row, read_rows
from wlsweep.data.sources import find_inputs
from wlsweep.errors import WlsweepError, os_error_text, refuse_all
from wlsweep.files import kind_of_special, parse_json, read_file
from wlsweep.spec.adapters import adapter_problems
from wlsweep.spec.architecture import FAMILIES, Architecture, architecture, hub_cache, model_folder, read_config
from wlsweep.spec.config import Sweep

SAMPLE = 64
"""Training rows whose system prompt and instruction are tried with the chat template."""
PROBE_S = 3.0
"""Longest wait for an answer of the hub's server before it counts as unreachable."""
_NAME = re.compile(r"[A-Za-z0-9][\w.-]*(/[\w.-]+)?")


class ModelCheck(NamedTuple):
    """What was found."""

    folder: Path | None
    """The model's files; None where they are not on this machine."""
    problems: list[str]
    """What every condition would fail of."""
    warnings: list[str]
    """What could not be checked here."""


def check_model(sweep: Sweep, rows: Sequence[Row] = (), ask_hub: bool = True) -> ModelCheck:
    """Check the base model of a sweep; a tiny base, which is made here, needs no check.

    Args:
        sweep: the search space.
        rows: some training rows: the chat template is tried with their system prompts and instructions.
        ask_hub: whether the model must be had: a hub is asked where one can be reached. Otherwise (for a plan) a model that
            is not on this machine is a warning.

    Raises:
        WlsweepError: if the model cannot be found.
    """
    if sweep.model.path is None:
        return ModelCheck(None, split_problems(sweep) + adapter_problems(sweep), [])
    folder = find_model(sweep.model.path, ask_hub)
    if folder is None:
        unchecked = f"the base model was not checked: {sweep.model.path} is not on this machine"
        problems = split_problems(sweep) + adapter_problems(sweep)
        return ModelCheck(None, problems, [f"{unchecked}. {how_to_fetch(sweep.model.path)}"])
    config = read_config(folder)
    problems = _architecture_problems(config, sweep, folder) or split_problems(sweep) + adapter_problems(sweep)
    if problems:
        return ModelCheck(folder, problems, [])
    warnings: list[str] = []
    missing = _missing_files(folder)
    (problems if ask_hub else warnings).extend(missing)
    if not any("tokenizer" in line or "not a file" in line for line in missing):
        problems += _chat_problems(folder, sweep, rows)
    return ModelCheck(folder, problems, warnings)


def refuse_model(sweep: Sweep, rows: Sequence[Row] = ()) -> Path | None:
    """The folder of a base model that passes every check; None for a tiny base.

    Raises:
        WlsweepError: with everything that is wrong.
    """
    found = check_model(sweep, rows)
    refuse_all(f"the base model {sweep.model.path or 'tiny'} cannot be used:", found.problems)
    return found.folder


def sample_rows(sweep: Sweep) -> list[Row]:
    """The first training rows, where files hold them; none where there are no files.

    Raises:
        WlsweepError: if a file is missing or its first rows cannot be used.
    """
    if sweep.data.source is None:
        return []
    return list(islice(read_rows(find_inputs(sweep.data, Path()).train, sweep.task), SAMPLE))


def find_model(path: str, ask_hub: bool) -> Path | None:
    """The folder of a model: a folder, a snapshot in the hub's cache, or one that is fetched now (without the weights).

    Raises:
        WlsweepError: if the folder does not exist, or `ask_hub` and no hub can be asked or it has no such model.
    """
    if (found := model_folder(path)) is not None:
        return found
    if Path(path).is_dir():
        raise WlsweepError(f"model.path {path!r}: the folder holds no config.json; give the folder of a model")
    if not _NAME.fullmatch(path) or ("/" in path and Path(path).parent.is_dir()):
        raise WlsweepError(
            f"model.path {path!r}: no such folder (seen from {Path.cwd()}); correct the path, or give --model FOLDER"
        )
    return _from_hub(path) if ask_hub else None


def how_to_fetch(path: str, folder: str | None = None) -> str:
    """How to get a model (into `folder`) onto a machine that cannot reach a hub."""
    folder = folder or path.rpartition("/")[2]
    return (
        f"Where there is internet: hf download {path} --local-dir {folder}; then give that folder: --model {folder}, or "
        "model.path in the search space (HF_HUB_OFFLINE=1 keeps everything from asking the hub)"
    )


def hub_problem() -> str | None:
    """Why no hub can be asked, after at most `PROBE_S`; None where it answers."""
    if os.environ.get("HF_HUB_OFFLINE", "").lower() in ("1", "true", "yes", "on"):
        return "HF_HUB_OFFLINE is set"
    host = os.environ.get("HF_ENDPOINT") or "https://huggingface.co"
    return None if _answers(host) else f"{urlsplit(host).hostname} does not answer"


def _from_hub(path: str) -> Path:
    if why := hub_problem():
        raise WlsweepError(
            f"model.path {path!r} is no folder here and not in the cache {hub_cache()}, and no hub can be asked "
            f"({why}). {how_to_fetch(path)}"
        )
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, RepositoryNotFoundError

    try:
        found = Path(snapshot_download(path, allow_patterns=["*.json", "*.jinja", "*.model", "*.txt"]))
    except GatedRepoError:
        raise WlsweepError(
            f"model.path {path!r}: its owner asks you to accept terms; do so on its page, then log in: hf auth login"
        ) from None
    except (RepositoryNotFoundError, HfHubHTTPError, OSError, ValueError) as e:
        raise WlsweepError(
            f"model.path {path!r}: the hub does not give it: {str(e).strip().splitlines()[-1]}"
        ) from None
    if not (found / "config.json").is_file():
        raise WlsweepError(f"model.path {path!r}: the hub's repository holds no config.json, so it is no model")
    return found


def _answers(url: str) -> bool:
    """Whether a server (or the proxy on the way to it) accepts a connection within `PROBE_S`, name look-up included."""
    proxy = os.environ.get("HTTPS_PROXY") or os.environ.get("https_proxy")
    parts = urlsplit(proxy if proxy else url)
    port = parts.port or (443 if parts.scheme == "https" else 80)
    answered = threading.Event()

    def ask() -> None:
        try:
            with socket.create_connection((parts.hostname or "", port), timeout=PROBE_S):
                answered.set()
        except OSError:
            return

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(PROBE_S)
    return answered.is_set()


def _architecture_problems(config: Mapping[str, Any], sweep: Sweep, folder: Path) -> list[str]:
    kind = str(config.get("model_type"))
    if config.get("vision_config"):
        return [
            f"{folder}: a {kind} model with a vision tower; wlsweep trains text models only: use the family's text model"
        ]
    if kind not in FAMILIES:
        known = ", ".join(FAMILIES)
        return [f"{folder}: model_type {kind!r} is none of the families that wlsweep trains and tests ({known})"]
    attention = sweep.model.attention
    problems = []
    if config.get("attn_logit_softcapping", 50.0 if kind == "gemma2" else None) and attention != "eager":
        problems.append(
            f'model.attention = "{attention}": a {kind} model caps its attention scores (attn_logit_softcapping), which '
            'only "eager" computes; set model.attention = "eager"'
        )
    from wlsweep.spec.architecture import from_config

    shape = from_config(config)
    if attention == "packed" and shape is not None and shape.windowed:
        problems.append(
            f'model.attention = "packed": {shape.windowed} of {shape.layers} layers attend within a sliding window of '
            f'{shape.window} tokens, which packed rows do not know; set model.attention = "sdpa"'
        )
    limit = config.get("max_position_embeddings")
    if isinstance(limit, int) and sweep.data.cutoff > limit:
        problems.append(
            f"data.cutoff = {sweep.data.cutoff}: the model knows {limit} positions (max_position_embeddings); "
            f"lower data.cutoff to {limit}"
        )
    return problems


def split_problems(sweep: Sweep) -> list[str]:
    """Why an engine could not split the base over its GPUs; empty where it can, or where the model's shape is unknown."""
    gpus, shape = sweep.predict.gpus_per_engine, architecture(sweep.model)
    if shape is None or _splits(shape, gpus):
        return []
    fitting = [str(n) for n in range(1, gpus) if _splits(shape, n)]
    return [
        f"predict.gpus_per_engine = {gpus}: an engine gives each of its GPUs the same share of the model, which has "
        f"{shape.heads} attention heads, {shape.kv_heads} of keys and values, and {shape.mlp} units a layer; use "
        f"{' or '.join([', '.join(fitting[:-1]), fitting[-1]] if fitting[1:] else fitting)}"
    ]


def _splits(shape: Architecture, gpus: int) -> bool:
    """Whether vLLM's tensor parallelism divides a model: heads of keys and values are copied where there are too few."""
    if gpus <= 1:
        return True
    return not (shape.heads % gpus or shape.mlp % gpus or (shape.kv_heads % gpus and gpus % shape.kv_heads))


def _missing_files(folder: Path) -> list[str]:
    """Weights and tokenizer that a model folder lacks."""
    if problems := _unusable_files(folder):
        return problems
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        try:
            files = sorted({str(f) for f in parse_json(read_file(index))["weight_map"].values()})
        except (OSError, ValueError, KeyError, AttributeError):
            problems.append(f"{index} cannot be read; fetch the model again")
            files = []
        if lacking := [f for f in files if not (folder / f).is_file()]:
            named = f"{len(lacking)} of {len(files)} weight files ({', '.join(lacking[:3])})"
            problems.append(f"{folder} lacks {named}; fetch the model again")
    elif (
        not any(folder.glob("*.safetensors"))
        and not any(folder.glob("pytorch_model*.bin"))
        and not folder.is_relative_to(hub_cache())
    ):
        problems.append(f"{folder} holds no weights (*.safetensors); fetch the model again")
    if not any((folder / f).is_file() for f in ("tokenizer.json", "tokenizer.model", "vocab.json")):
        problems.append(f"{folder} holds no tokenizer (tokenizer.json, tokenizer_config.json)")
    return problems


def _unusable_files(folder: Path) -> list[str]:
    """What lies in a model folder and is no file: a library that opened a named pipe would wait for ever."""
    problems = []
    for path in sorted(folder.iterdir()):
        try:
            if kind := kind_of_special(path):
                problems.append(f"{path} is {kind}, not a file; fetch the model again")
        except FileNotFoundError:
            continue  # a link to nothing, as pruned caches have them: what is needed is missed below
        except OSError as e:
            problems.append(f"{os_error_text(e, path)}")
    return problems


def _chat_problems(folder: Path, sweep: Sweep, rows: Sequence[Row]) -> list[str]:
    """What tokenizer, chat template and labels lack: tried with the light tokenizer, and before a refusal with the one that
    training loads."""
    from wlsweep.data.tokenise import load_tokenizer

    def light() -> Any:
        # Without torch, which transformers' `AutoTokenizer` imports.
        from transformers.tokenization_utils_tokenizers import PreTrainedTokenizerFast

        return PreTrainedTokenizerFast.from_pretrained(str(folder))

    if (folder / "tokenizer.json").is_file() and not _tried(light, sweep, rows):
        return []
    return _tried(lambda: load_tokenizer(folder), sweep, rows)


def _tried(load: Callable[[], Any], sweep: Sweep, rows: Sequence[Row]) -> list[str]:
    """Why chats cannot be made with a tokenizer."""
    from wlsweep.data.tokenise import find_answer_tokens, place_system, smallest_cutoff

    try:
        tokenizer = load()
        answer = find_answer_tokens(tokenizer, sweep.task)
        needed = smallest_cutoff(tokenizer, [place_system(row, sweep.data.system) for row in rows], answer)
    except WlsweepError as e:
        return [str(e)]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as e:
        return [f"no tokenizer can be loaded: {type(e).__name__}: {(str(e).splitlines() or [''])[0][:200]}"]
    if needed > sweep.data.cutoff:
        return [f"data.cutoff = {sweep.data.cutoff} is too small for these rows; they need at least {needed}"]
    return []
