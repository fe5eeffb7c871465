"""A search space: one TOML file read into frozen models, unknown keys refused, all errors at once.

    >>> load_sweep("search_spaces/demo.toml").conditions[0].name
    'baseline_gamma1.0_prop1_2'

Every field states its unit and its reason; the resolved configuration is written to `sweep.json` of the run.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from types import GenericAlias
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    PlainSerializer,
    Strict,
    ValidationError,
    WithJsonSchema,
    create_model,
    model_validator,
)

from wlsweep.errors import WlsweepError
from wlsweep.shipped import SEARCH_SPACES, find_file
from wlsweep.spec.axes import GRID_ORDER, Axis
from wlsweep.spec.condition import Condition, expand
from wlsweep.spec.data_section import Data
from wlsweep.spec.layers import Setting, parse_setting, read_layers, with_settings
from wlsweep.spec.section import Count, Section, wrong_fields
from wlsweep.spec.task import Task
from wlsweep.spec.train_section import Lora, Loss, Model, Train

Tracker = Literal["wandb", "mlflow", "tensorboard"]


def _values_of(axis: Axis) -> GenericAlias:
    """The type of an axis' list of values, with how TOML writes a value."""
    one = axis.type
    if axis.record:
        written = PlainSerializer(axis.record.write, return_type=str, when_used="json")
        one = Annotated[one, BeforeValidator(axis.record.read), written, WithJsonSchema({"type": "string"})]
    return GenericAlias(list, (one,))


def _values_field(axis: Axis) -> Any:
    if axis.required:
        return Field(min_length=1, description=axis.meaning)
    written: dict[str, Any] = {"default": [axis.written(axis.default)]}
    return Field([axis.default], min_length=1, description=axis.meaning, json_schema_extra=written)


# Its fields are the axes of `wlsweep.spec.axes`, each a list of values.
if TYPE_CHECKING:
    GridBlock = Section
else:
    GridBlock = create_model(
        "GridBlock",
        __base__=Section,
        __doc__="One product of axes; the search space is the union of its blocks in file order.",
        **{a.key: (_values_of(a), _values_field(a)) for a in GRID_ORDER},
    )


class Predict(Section):
    """Prediction of the test set with vLLM."""

    engines: int | None = Field(None, ge=1, le=1_000_000)
    """vLLM engines at the same time; without it as many as the cluster's resources hold (one without GPUs)."""
    gpus_per_engine: int = Field(1, ge=0, le=1_000_000)
    """GPUs of one engine (tensor parallel); 0 runs vLLM on the CPU."""
    cpus_per_engine: Count = 2
    """CPU cores of one engine."""
    dtype: Literal["bfloat16", "float32"] = "bfloat16"
    """Arithmetic of the engine."""
    answer_tokens: int = Field(16, ge=1, le=1_000_000)
    """Longest answer that is generated."""
    memory_share: float = Field(0.9, ge=0.01, le=1)
    """Share of a GPU's memory that the engine takes."""
    swap_tolerance: float | None = Field(None, gt=0, le=1e3)
    """Largest root mean square difference (natural log units) between the engine's label log-probabilities and those that
    the trained model itself gave on the same rows; beyond it a fresh engine is tried, and the condition fails if that is no
    cure. Without it what the engine's first model showed of rounding decides (`wlsweep.predict.swap_check`)."""


GpuKind = Literal["h200-141", "h100-80", "a100-80", "a100-40", "l40s-48", "a40-48", "a10-24"]


class Budget(Section):
    """What `wlsweep plan` reckons with; decides nothing else."""

    gpu: GpuKind = "h100-80"
    """The kind of GPU, and with it memory (GiB), dense bf16 peak, model FLOP utilisation and price. The last two are
    assumptions, not measured; give your own below."""
    gpu_memory_gib: float | None = Field(None, ge=0.1, le=1e6)
    """Memory of one GPU, where it differs from its kind's."""
    peak_tflops: float | None = Field(None, ge=0.001, le=1e9)
    """Dense bf16 peak of one GPU, where it differs."""
    mfu: float | None = Field(None, ge=1e-4, le=1)
    """Model FLOP utilisation: the share of the peak that goes into the arithmetic that the loss needs. That of a kind of GPU
    is of every layer recomputed, and rises where `train.gradient_checkpointing` recomputes fewer; your own is taken as it
    is."""
    price_per_gpu_hour: float | None = Field(None, ge=0, le=1e6)
    """In dollars."""
    training_sd: float | None = Field(None, ge=0, le=100)
    """SD of the mean log-odds between trainings that differ in their seed alone, as `noise.toml` measures it; `plan` says
    what differences can be found with it. Without it, what a quiet and a loud kind of training would allow."""


class Sweep(Section):
    """One search space, resolved."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,40}$")
    """Names the run directory `runs/NAME`."""
    keep_models: Literal["all", "best", "none"] = "all"
    """Which models outlive their predictions; `best` is the lowest unweighted training loss, since the test set
    chooses no model."""
    stall_minutes: float = Field(30.0, gt=0, le=1e6)
    """Minutes in which no step, no predicted row and no wait for another launch happened, after which a launch ends itself
    with exit code 75; longer where the sweep's own pace is slower (20 times the longest silence so far)."""
    task: Task = Task()
    data: Data
    model: Model
    loss: Loss = Loss()
    train: Train
    predict: Predict = Predict()
    budget: Budget = Budget()
    grid: list[GridBlock] = Field(min_length=1)
    """Products of axes; conditions are their union, in this order."""
    track: Annotated[tuple[Tracker, ...], Strict(False), AfterValidator(lambda names: tuple(dict.fromkeys(names)))] = ()
    """Trackers that get a run for each condition while it trains, and the report; each needs its extra, such as
    `pip install 'wlsweep[mlflow]'`, and takes its own settings (`MLFLOW_TRACKING_URI`, `WANDB_MODE`). One that fails is
    named at the end and fails no sweep."""
    settings: Annotated[tuple[str, ...], Strict(False)] = ()
    """What `--set` changed, for the record; no key of a file."""

    @cached_property
    def conditions(self) -> tuple[Condition, ...]:
        """The registry: every stage and every page takes names and order from here."""
        return expand(block.model_dump() for block in self.grid)

    @model_validator(mode="before")
    @classmethod
    def _with_ranks(cls, raw: Any) -> Any:
        """`finetuning = ["lora"]` with the rank of `[train.lora]` written out."""
        train = raw.get("train") if isinstance(raw, dict) else None
        lora = train.get("lora") if isinstance(train, dict) else None
        if not isinstance(lora, dict) or not isinstance(raw.get("grid"), list):
            return raw
        named = f"lora{lora.get('rank', Lora.model_fields['rank'].default)}"

        def written(block: Any) -> Any:
            values = block.get("finetuning") if isinstance(block, dict) else None
            if not isinstance(values, list):
                return block
            return {**block, "finetuning": [named if v == "lora" else v for v in values]}

        return {**raw, "grid": [written(block) for block in raw["grid"]]}

    @model_validator(mode="after")
    def _adapters(self) -> Self:
        if self.train.lora is None and (lora := next((c.name for c in self.conditions if c.lora), None)):
            raise ValueError(f"{lora} needs [train.lora]: an empty section takes the defaults")
        if self.train.lora is not None and not any(c.lora for c in self.conditions):
            raise ValueError(
                '[train.lora] belongs to no condition: add finetuning = ["lora"] to a [[grid]] block, or take the section '
                "away (lora = false under [train] removes an inherited one)"
            )
        return self

    @model_validator(mode="after")
    def _tables(self) -> Self:
        wanted = {c.proportion_text for c in self.conditions}
        if self.data.table is not None and (missing := sorted(wanted - set(self.data.table))):
            raise ValueError(f"[data.table] lacks {', '.join(missing)}")
        return self

    def fingerprint(self) -> str:
        """Hash of what decides results; layout (workers, micro-batch, resources, logging) and the grid are left out.

        So the same run directory can be continued on another machine, and a sweep can be widened.
        """
        layout = {"workers", "micro_batch", "gpu", "cpus_per_worker", "log_every", "checkpoint_every", "max_retries"}
        layout |= {"offload_optimizer", "compile_elementwise", "flash_attention"}
        kept = self.model_dump(
            exclude={
                "name": True,
                "grid": True,
                "settings": True,
                "track": True,
                "data": {"source", "test", "pool", "columns"},  # the rows' own hashes are compared by the data stage
                "keep_models": True,
                "stall_minutes": True,
                "budget": True,
                "train": layout | {"groups", "validate_every"},
                # Predictions carry their model's fingerprint; how they were made may be fixed without another training.
                "predict": True,
            }
        )
        if self.task.identity is None:  # words change no result, and the default keeps the fingerprint of before
            del kept["task"]
        else:
            kept["task"] = list(self.task.identity)
        if self.data.system == "keep":
            del kept["data"]["system"]  # the fingerprint of sweeps from before there was a choice
        if not self.data.validation_share:
            del kept["data"]["validation_share"]  # likewise
        # Which layers are recomputed changes no result; only whether any is has always been part of it.
        kept["train"]["gradient_checkpointing"] = bool(self.train.gradient_checkpointing)
        if self.train.lora is None:  # so that sweeps without adapters keep the fingerprints of before
            del kept["train"]["lora"]
        else:
            del kept["train"]["lora"]["rank"]  # part of the conditions' names
        return hashlib.sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest()[:16]


def load_sweep(
    path: str | Path, data: str | None = None, model: str | None = None, settings: Sequence[str] = ()
) -> Sweep:
    """Read a search space with everything that it extends; see `wlsweep.spec.layers`.

    Args:
        path: a TOML file, or the name of a shipped one. Relative paths of data in it start at the working directory.
        data: replaces `data.source` (and drops synthetic papers).
        model: replaces `model.path` (and drops a tiny base).
        settings: `KEY=VALUE`, such as `train.lr=2e-5`, over everything else; kept in `Sweep.settings`.

    Raises:
        WlsweepError: naming the file and every wrong field at once.
    """
    path = find_file(SEARCH_SPACES, path)
    raw = read_layers(path)
    if ("settings" in raw and path.suffix != ".json") or any(text.startswith("settings") for text in settings):
        raise WlsweepError(f"{path}: settings: unknown key (it is where --set is recorded)")
    given = [Setting(keys, value) for keys, value in ((("data", "source"), data), (("model", "path"), model)) if value]
    try:
        raw = with_settings(raw, [*given, *(parse_setting(text, Sweep) for text in settings)])
        if settings:
            raw["settings"] = [*raw.get("settings", ()), *settings]
        return Sweep.model_validate(raw)
    except ValidationError as e:
        raise WlsweepError(f"{path} is no valid search space:\n{wrong_fields(e, 'search space')}") from None
    except WlsweepError as e:
        raise WlsweepError(f"{path}: {e}") from None
