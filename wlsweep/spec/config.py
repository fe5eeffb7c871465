"""A search space: one TOML file read into frozen models, unknown keys refused, all errors at once.

    >>> load_sweep("search_spaces/demo.toml").conditions[0].name
    'baseline_gamma1.0_prop1_2'

Every field states its unit and its reason; the resolved configuration is written to `sweep.json` of the run.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from types import GenericAlias
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
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
from wlsweep.spec.axes import GRID_ORDER, LARGEST_SEED, Axis
from wlsweep.spec.columns import Columns
from wlsweep.spec.condition import Condition, expand
from wlsweep.spec.layers import Setting, parse_setting, read_layers, with_settings
from wlsweep.spec.task import Task

Share = Annotated[float, Field(ge=0, le=1)]
MOST = 1_000_000_000
"""Nothing that is counted here comes near it; beyond it a number is a slip, and fails later in a library's own words."""
Count = Annotated[int, Field(ge=1, le=MOST)]
Seed = Annotated[int, Field(ge=0, le=LARGEST_SEED)]
Tracker = Literal["wandb", "mlflow", "tensorboard"]


class _Model(BaseModel):
    # strict: `true` is no number here, and neither is "12"
    model_config = ConfigDict(
        frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False, strict=True
    )


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


class _GridBlock(_Model):
    """One product of axes; the search space is the union of its blocks in file order."""


# Its fields are the axes of `wlsweep.spec.axes`, each a list of values.
if TYPE_CHECKING:
    GridBlock = _GridBlock
else:
    GridBlock = create_model(
        "GridBlock",
        __base__=_GridBlock,
        __doc__=_GridBlock.__doc__,
        **{a.key: (_values_of(a), _values_field(a)) for a in GRID_ORDER},
    )


class SyntheticPapers(_Model):
    """Papers drawn from a model whose P(accept | text) is known in closed form; see `wlsweep.data.synthetic`."""

    base_rows: int = Field(24_000, ge=2, le=MOST)
    """Balanced rows on which the tiny base model is made; disjoint from the others."""
    train_rows: int = Field(2_000, ge=2, le=MOST)
    """Balanced rows of the source that the proportions are drawn from."""
    test_rows: int = Field(1_000, ge=2, le=MOST)
    """Balanced rows of the test set."""
    words: int = Field(24, ge=12, le=100_000)
    """Words of a paper, ten of them informative."""
    seed: Seed = 0
    """Seed of the whole world."""


def system_notes(system: str) -> list[str]:
    """What became of system turns, in words; nothing where they were kept."""
    done = {"merge": "put before the text of the user's turn", "drop": "left out"}
    return [f'system turns are {done[system]} (data.system = "{system}")'] if system in done else []


class Data(_Model):
    """Where rows come from and how the training sets are drawn."""

    source: str | None = None
    """Rows to train on: a file, the shards of a set (`train-*.parquet`), or a folder that holds `train.*` and `test.*`, such
    shards, or what `datasets.save_to_disk` wrote. Their shape is told by their content: docs/your-data.md."""
    test: str | None = None
    """Rows to test on; without it `test_share` of the source is split off."""
    pool: str | None = None
    """Extra rows for the class that falls short, under `resampling = "pool"`."""
    columns: Columns | None = None
    """Which columns hold what, where rows are no chats."""
    synthetic: SyntheticPapers | None = None
    """A made world instead of files."""
    test_share: Share = 0.2
    """Share of each class that becomes the test set where no test file is given (by a hash of the row id)."""
    validation_share: float = Field(0.0, ge=0, lt=1)
    """Share of each class of the training rows that is held out for validation (by a hash of the row id; no test rows, no
    rows of a pool): the same papers for every condition, in no mix. With it learning rate and epochs can be chosen
    without the test set. Literal counts of `table` shrink by it. 0: no validation."""
    resampling: Literal["table", "oversample", "common_total", "pool", "error"] = "error"
    """What to do where a class is too small for a proportion; see `wlsweep.data.mix`."""
    table: dict[str, Annotated[tuple[Count, Count], Strict(False)]] | None = None
    """Literal (accepts, rejects) by proportion, such as `"1/3" = [5702, 11399]`."""
    seed: Seed = 0
    """Seed of split and subsets."""
    limit: int | None = Field(None, ge=8, le=MOST)
    """Rows of every set in a trial run (`wlsweep run --limit`); without it all."""
    cutoff: int = Field(4096, ge=8, le=10_000_000)
    """Longest row, in tokens; what does not fit is cut from the end of the paper."""
    system: Literal["keep", "merge", "drop"] = "keep"
    """What becomes of the rows' system turns: `keep` gives them to the chat template as such, and a template without a
    system role is refused; `merge` puts their text before the user's; `drop` leaves them out."""

    @property
    def notes(self) -> list[str]:
        """What a reader of results should know of how prompts and mixes are made."""
        scaled = (
            f"the counts of data.table are scaled by {1 - self.validation_share:g}: data.validation_share is held out"
        )
        return system_notes(self.system) + [scaled] * bool(self.table and self.validation_share)

    @model_validator(mode="after")
    def _coherent(self) -> Self:
        if self.synthetic and (self.source or self.test or self.pool or self.columns):
            raise ValueError("synthetic papers and files (source, test, pool, columns) exclude each other")
        if (self.resampling == "table") != (self.table is not None):
            raise ValueError('resampling = "table" and [data.table] belong together')
        for name, (accepts, rejects) in (self.table or {}).items():
            if not (found := re.fullmatch(r"1/([1-9]\d{0,9})", name)) or int(found[1]) < 2:
                raise ValueError(f'[data.table] {name!r}: write a proportion as a share of accepts, such as "1/3"')
            total, wanted = accepts + rejects, (accepts + rejects) / int(found[1])
            if abs(accepts - wanted) > max(1.0, 0.01 * total):
                raise ValueError(
                    f"[data.table] {name!r} = [{accepts}, {rejects}]: {accepts / total:.1%} accepts is not {name}, which is "
                    f"about [{wanted:.0f}, {total - wanted:.0f}]"
                )
        if self.resampling == "pool" and not self.pool:
            raise ValueError('resampling = "pool" needs pool = "FILE"')
        if self.pool and self.resampling != "pool":
            raise ValueError(
                f'pool = {self.pool!r} would not be read under resampling = "{self.resampling}": set resampling = "pool", '
                'or take pool away (pool = "" removes an inherited one)'
            )
        return self


class TinyBase(_Model):
    """A small Qwen2 with its own byte-level BPE, made locally and deterministically; see `wlsweep.train.tiny_base`."""

    vocab: int = Field(1280, ge=300, le=1_000_000)
    """Tokens of the vocabulary."""
    width: int = Field(64, ge=32, le=16_384)
    """Hidden size; the MLP has twice it."""
    layers: int = Field(2, ge=1, le=1_000)
    """Transformer layers."""
    heads: int = Field(2, ge=1, le=512)
    """Attention heads, with half as many (at least one) key-value heads."""
    learn: Literal["decision", "format"] = "decision"
    """What it is first taught: `decision`, the true answers of the base rows; `format`, answers drawn at random, so
    that it speaks the answer's form and knows nothing of the labels."""
    lr: float = Field(3e-3, gt=0, le=10)
    """Peak learning rate of that first training."""
    batch: Count = 32
    """Its rows per step."""
    epochs: Count = 1
    """Its passes over the base rows."""
    seed: Seed = 0
    """Seed of the initial weights."""

    @model_validator(mode="after")
    def _can_be_served(self) -> Self:
        if self.width % (32 * self.heads):
            raise ValueError(
                f"width {self.width} gives {self.heads} heads of {self.width / self.heads:g} each; vLLM on a CPU serves "
                "heads of 32, 64, 96 or 128, so make width a multiple of 32 x heads"
            )
        return self


class Model(_Model):
    """The base model that every condition starts from."""

    path: str | None = None
    """A Hugging Face model: a folder, or a name where a hub can be reached."""
    tiny: TinyBase | None = None
    """A tiny base made on first use, for machines without a GPU or a hub."""
    attention: Literal["sdpa", "eager", "packed"] = "sdpa"
    """Attention of the training workers. Rows carry no mask, so on a GPU `sdpa` runs PyTorch's FlashAttention-2 kernel.
    `packed` lays the rows of a micro-batch one after another and runs that kernel's variable-length form: no token of
    padding, for micro-batches of several rows of different lengths."""

    @model_validator(mode="after")
    def _one(self) -> Self:
        if (self.path is None) == (self.tiny is None):
            raise ValueError("give one of path and [model.tiny]")
        return self


class Loss(_Model):
    """What all conditions share of the loss; the rest is an axis of the grid."""

    format_weight: float = Field(1.0, ge=0, le=1e6)
    """Weight of the token cross-entropy that carries no gamma (`binary` only); 1 makes gamma 1 plain fine-tuning."""
    effective_beta: float = Field(0.999, gt=0, lt=1)
    """Beta of the effective number of samples, for `balance = "effective"`."""


class Lora(_Model):
    """Low-rank adapters, for conditions with `finetuning = ["lora"]`: y = W x + (alpha / rank) B A x, with W frozen."""

    rank: int = Field(16, ge=1, le=100_000)
    """Rank of A and B; part of a condition's name."""
    alpha: int | None = Field(None, ge=1, le=1_000_000)
    """Scale of the adapters' output, times rank; without it twice the rank."""
    dropout: float = Field(0.0, ge=0, lt=1)
    """Share of the adapters' inputs that is dropped in training. Above 0, the batch layout decides what is dropped."""
    targets: Literal["all-linear"] | Annotated[list[str], Field(min_length=1)] = "all-linear"
    """Linear layers that get an adapter: all but the LM head, or names such as `["q_proj", "v_proj"]`."""
    lr: float | None = Field(None, gt=0, le=10)
    """Peak learning rate; without it ten times `train.lr`, since adapters start at zero."""

    def alpha_of(self, rank: int) -> int:
        """The scale of adapters of a rank, times that rank."""
        return 2 * rank if self.alpha is None else self.alpha


class Train(_Model):
    """One fine-tuning. Nothing here but `workers`, `micro_batch` and resources may differ between machines."""

    lr: float = Field(gt=0, le=10)
    """Peak learning rate of AdamW."""
    epochs: Count = 1
    """Passes over the training rows."""
    global_batch: Count = 16
    """Rows per optimizer step over all ranks and accumulation steps; the loss is normalised over it."""
    micro_batch: Count = 1
    """Rows per forward pass of one rank; accumulation follows as global_batch / (workers * micro_batch)."""
    workers: Count = 4
    """Ranks of one condition, one GPU each where `gpu` is set."""
    gpu: bool = True
    """Whether each rank holds a GPU (NCCL) or CPU cores (gloo)."""
    cpus_per_worker: Count = 1
    """CPU cores that Ray reserves for one rank."""
    dtype: Literal["bf16", "fp32"] = "bf16"
    """Arithmetic of forward and backward; master weights and optimizer state are float32."""
    warmup_ratio: Share = 0.1
    """Share of the steps in which the learning rate climbs, before the cosine."""
    weight_decay: float = Field(0.0, ge=0, le=1e3)
    """AdamW's decoupled weight decay."""
    max_grad_norm: float = Field(1.0, gt=0, le=1e12)
    """Gradients are clipped to this global norm."""
    gradient_checkpointing: bool | Annotated[int, Field(ge=2, le=1000)] = True
    """Recompute activations in the backward pass (non-reentrant) instead of keeping them: in every layer (true), in none
    (false), or in every n-th one (a number), which takes less time and more memory."""
    offload_optimizer: bool = False
    """Keep the optimizer's state in host memory and step there (DeepSpeed's CPU offload): 16 bytes a parameter less on the
    GPUs, that much more host memory, and slower steps."""
    log_every: Count = 10
    """Optimizer steps between lines of the metric log."""
    validate_every: Count | None = None
    """Optimizer steps between validations, a multiple of `log_every`; there is always one at the end. Without it as often as
    validation takes at most about a tenth of the training's arithmetic. For `data.validation_share` above 0."""
    checkpoint_every: Count = 200
    """Optimizer steps between resume checkpoints. One that takes more than a second is left out where checkpoints would take
    more than 3 % of the time; by so much more is then lost to a fault."""
    max_retries: int = Field(2, ge=0, le=1_000_000)
    """How often a condition whose workers died is started again before it counts as failed."""
    lora: Lora | None = None
    """How conditions with `finetuning = ["lora"]` are trained."""
    groups: int | None = Field(None, ge=1, le=1_000_000)
    """Conditions trained at the same time; without it as many as the cluster's GPUs hold, and one without GPUs (more groups
    train no faster on the same cores, and each has a dozen processes)."""

    @model_validator(mode="after")
    def _divides(self) -> Self:
        if self.global_batch % (self.workers * self.micro_batch):
            raise ValueError(
                f"global_batch {self.global_batch} is no multiple of workers {self.workers} x micro_batch "
                f"{self.micro_batch}; change one of them"
            )
        if self.checkpoint_every % self.log_every:
            raise ValueError(
                f"checkpoint_every {self.checkpoint_every} is no multiple of log_every {self.log_every}; a resumed "
                "training could not write the same metric log"
            )
        if self.validate_every is not None and self.validate_every % self.log_every:
            raise ValueError(
                f"validate_every {self.validate_every} is no multiple of log_every {self.log_every}; validation is part of "
                "a line of the metric log"
            )
        return self

    def recomputed(self, layers: int) -> int:
        """How many of a model's layers are recomputed: those whose number, counted from 0, is a multiple of n."""
        return -(-layers // int(self.gradient_checkpointing)) if self.gradient_checkpointing else 0

    def peak_lr(self, lora: int) -> float:
        """Peak learning rate of a kind of fine-tuning: full, or adapters of a rank above 0."""
        if not lora:
            return self.lr
        assert self.lora is not None
        return 10 * self.lr if self.lora.lr is None else self.lora.lr

    @property
    def accumulation(self) -> int:
        """Micro-batches per rank and optimizer step."""
        return self.global_batch // (self.workers * self.micro_batch)


class Predict(_Model):
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


class Budget(_Model):
    """What `wlsweep plan` reckons with; decides nothing else."""

    gpu: GpuKind = "h100-80"
    """The kind of GPU, and with it memory (GiB), dense bf16 peak, model FLOP utilisation and price. The last two are
    assumptions, not measured; give your own below."""
    gpu_memory_gib: float | None = Field(None, ge=0.1, le=1e6)
    """Memory of one GPU, where it differs from its kind's."""
    peak_tflops: float | None = Field(None, ge=0.001, le=1e9)
    """Dense bf16 peak of one GPU, where it differs."""
    mfu: float | None = Field(None, ge=1e-4, le=1)
    """Model FLOP utilisation: the share of the peak that goes into the arithmetic that the loss needs."""
    price_per_gpu_hour: float | None = Field(None, ge=0, le=1e6)
    """In dollars."""
    training_sd: float | None = Field(None, ge=0, le=100)
    """SD of the mean log-odds between trainings that differ in their seed alone, as `noise.toml` measures it; `plan` says
    what differences can be found with it. Without it, what a quiet and a loud kind of training would allow."""


class Sweep(_Model):
    """One search space, resolved."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,40}$")
    """Names the run directory `runs/NAME`."""
    keep_models: Literal["all", "best", "none"] = "all"
    """Which models outlive their predictions; `best` is the lowest unweighted training loss, since the test set
    chooses no model."""
    stall_minutes: float = Field(30.0, gt=0, le=1e6)
    """Minutes in which no step, no prediction and no wait for another launch happened, after which a launch ends itself with
    exit code 75; longer where the sweep's own pace is slower (20 times the longest silence so far)."""
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
        layout |= {"offload_optimizer"}
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
        lines = []
        for error in e.errors():
            at = ".".join(str(part) for part in error["loc"]) or "search space"
            message = error["msg"].removeprefix("Value error, ")
            lines.append(f"  - {at}: {'unknown key' if error['type'] == 'extra_forbidden' else message}")
        raise WlsweepError(f"{path} is no valid search space:\n" + "\n".join(lines)) from None
    except WlsweepError as e:
        raise WlsweepError(f"{path}: {e}") from None
