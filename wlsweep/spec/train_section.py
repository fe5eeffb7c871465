"""The sections `[model]`, `[loss]` and `[train]` of a search space: what is trained, from what, and how."""

from __future__ import annotations

from math import ceil
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from wlsweep.spec.section import Count, Section, Seed, Share


class TinyBase(Section):
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


class Model(Section):
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


class Loss(Section):
    """What all conditions share of the loss; the rest is an axis of the grid."""

    format_weight: float = Field(1.0, ge=0, le=1e6)
    """Weight of the token cross-entropy that carries no gamma (`binary` only); 1 makes gamma 1 plain fine-tuning."""
    effective_beta: float = Field(0.999, gt=0, lt=1)
    """Beta of the effective number of samples, for `balance = "effective"`."""


class Lora(Section):
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


class Train(Section):
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
    compile_elementwise: bool = False
    """Compile gate and norms of each layer into single kernels (PyTorch's compiler: Triton on GPUs; on CPUs it needs `g++`).
    It rounds in other places; a training that began without it should go on without it."""
    flash_attention: Literal["FA2", "FA3", "FA4"] = "FA2"
    """FlashAttention of GPU workers: the one in PyTorch, or that of an installed package (`flash_attn_3` for Hopper, FA4 for
    Blackwell), for `model.attention` sdpa and packed."""
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
    """Conditions trained at the same time; without it as many as the cluster's GPUs hold, and one without GPUs. On CPUs two
    groups with half of the threads each train more rows a second than one, and take twice the memory (`wlsweep plan` says
    where)."""

    @model_validator(mode="after")
    def _divides(self) -> Self:
        if self.global_batch % (self.workers * self.micro_batch):
            raise ValueError(
                f"global_batch {self.global_batch} is no multiple of workers {self.workers} x micro_batch "
                f"{self.micro_batch}; change one of them"
            )
        if self.flash_attention != "FA2" and not self.gpu:
            raise ValueError(f'flash_attention = "{self.flash_attention}" is of GPUs, and gpu is false; leave it out')
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


LONGEST_SHARE = 0.1
"""Share of a training's arithmetic that all validations may take where `train.validate_every` is not given; the one at the
end is made in any case."""


def forward_share(lora: int) -> float:
    """Arithmetic of passing a row forward, of that of training on it: 2 FLOPs a parameter and token, of 6 (Kaplan et al.
    2020) or of 4 where adapters of a rank above 0 are trained on a frozen base."""
    return 1 / 2 if lora else 1 / 3


def validation_steps(train: Train, rows: int, validation_rows: int, lora: int = 0) -> tuple[int, ...]:
    """Optimizer steps, counted from 1, after which a training validates, the last of all included; none without papers.

    >>> validation_steps(Train(lr=1e-5, epochs=2), rows=1600, validation_rows=200)
    (50, 100, 150, 200)

    Pure, so that `plan` and training cannot differ. The one at the end is what trainings are compared by.

    Args:
        train: gives the interval, or the lines of the metric log that validation can be part of.
        rows: training rows of an epoch, repetitions counted.
        validation_rows: papers of validation.
        lora: rank of adapters; 0 trains all parameters.
    """
    if not validation_rows:
        return ()
    total = train.epochs * ceil(rows / train.global_batch)
    every = train.validate_every
    if every is None:
        most = int(LONGEST_SHARE * rows * train.epochs / (forward_share(lora) * validation_rows) + 1e-9)
        if most < 2:
            return (total,)
        every = train.log_every * ceil(total / most / train.log_every)
    return (*range(every, total, every), total)


def validation_share_of_training(train: Train, rows: int, validation_rows: int, lora: int = 0) -> float:
    """Arithmetic of all validations of a training, of that of its steps."""
    times = len(validation_steps(train, rows, validation_rows, lora))
    return forward_share(lora) * times * validation_rows / (rows * train.epochs)
