"""One vLLM engine that serves checkpoint after checkpoint by swapping weights. The only module that touches vLLM.

A swap takes milliseconds on a tiny model and seconds on a large one, a fresh engine half a minute. But a swap can go
wrong without a word, so every checkpoint is checked: all of its weights must have been read, and on a few rows the engine
must give the label log-probabilities that the trained model left (`swap_check`).
"""

from __future__ import annotations

import gc
import io
import math
from collections.abc import Callable, Sequence
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from tqdm import tqdm

from wlsweep.data.tokenise import AnswerTokens
from wlsweep.errors import WlsweepError
from wlsweep.predict.swap_check import Scores, judge
from wlsweep.run.nvml import GpuMemory, gpu_memory
from wlsweep.spec.config import Predict
from wlsweep.spec.cost import GIB, OUTSIDE

_CPU_KV_CACHE = 256 << 20
"""Bytes of key-value cache of a CPU engine."""
ROWS_S = 10.0
"""Seconds between two reports of answered rows."""
LEAST_SHARE = 0.1
"""Share of a GPU below which no engine is tried."""


class Scored(NamedTuple):
    """What the engine said about one prompt."""

    text: str
    """Generated greedily."""
    logprob_accept: float
    """log P(token) at the decision position over the whole vocabulary, natural log; not masked, not top-k."""
    logprob_reject: float


class Probe(NamedTuple):
    """What the trained model itself said of a row."""

    prompt_ids: list[int]
    logprob_accept: float
    logprob_reject: float


def engine_environment(config: Predict) -> dict[str, str]:
    """Environment that must be set before vLLM is imported."""
    found = {
        "VLLM_LOGGING_LEVEL": "WARNING",
        "VLLM_NO_USAGE_STATS": "1",
        "DO_NOT_TRACK": "1",
        "TOKENIZERS_PARALLELISM": "false",
    }
    if config.gpus_per_engine == 0:
        found |= {
            "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # in this process: loads in 2 s instead of 30
            "TORCHDYNAMO_DISABLE": "1",  # no compilation of sampler helpers: first answer in 0.2 s instead of 4
            "VLLM_CPU_OMP_THREADS_BIND": "nobind",
            "OMP_NUM_THREADS": str(config.cpus_per_engine),
        }
    return found


def tensor_parallel(ranks: int) -> dict[str, Any]:
    """Arguments of `vllm.LLM` for a model that is split over so many GPUs.

    The ranks are processes of this one (`mp`), so that they end with it. By itself vLLM would make them Ray actors wherever
    the actor that holds the engine has a placement group, and ask Ray for GPUs that the actor has already booked.
    """
    return {"tensor_parallel_size": ranks, "distributed_executor_backend": "mp"} if ranks > 1 else {}


def share_of_free(wanted: float, cards: Sequence[GpuMemory]) -> float:
    """The wanted share, or what is free of the fullest card: vLLM refuses to start with a larger one.

    Args:
        wanted: share of a card's whole memory, `predict.memory_share`.
        cards: those that the engine will use; none where their memory cannot be told, and then the wanted share.

    Raises:
        WlsweepError: if less than `LEAST_SHARE` is left.
    """
    if not cards:
        return wanted
    fullest = min(cards, key=lambda c: (c.free - OUTSIDE) / c.total)
    left = math.floor(1000 * (fullest.free - OUTSIDE) / fullest.total) / 1000
    if left < min(wanted, LEAST_SHARE):
        raise WlsweepError(
            f"other processes hold {(fullest.total - fullest.free) / GIB:.1f} of a GPU's {fullest.total / GIB:.1f} GiB "
            "(nvidia-smi names them); no engine can start beside them. Wait for them, or give prediction other GPUs"
        )
    return min(wanted, left)


class Engine:
    """A loaded engine; `use` a checkpoint, then `score` prompts."""

    def __init__(self, checkpoint: Path, config: Predict, longest: int, answer: AnswerTokens, **options: Any) -> None:
        """`options` are further arguments of `vllm.LLM`.

        Raises:
            WlsweepError: if too little of a GPU's memory is free.
        """
        from vllm import LLM, SamplingParams

        self.config, self.answer, self.longest = config, answer, longest
        sizes: dict[str, Any]
        if config.gpus_per_engine == 0:
            sizes = {"kv_cache_memory_bytes": _CPU_KV_CACHE, "enforce_eager": True, "max_num_seqs": 256}
        else:
            wanted, share = config.memory_share, share_of_free(config.memory_share, gpu_memory())
            if share < wanted:
                print(f"predict.memory_share = {wanted}: {share} of the GPU is free, and is taken", flush=True)
            sizes = {"gpu_memory_utilization": share, **tensor_parallel(config.gpus_per_engine)}
        longest_answer = max(config.answer_tokens, answer.length)
        self.llm = LLM(
            str(checkpoint),
            dtype=config.dtype,
            max_model_len=longest + longest_answer,
            seed=0,
            enable_prefix_caching=True,
            worker_extension_cls="wlsweep.predict.worker.SwapWorker",
            hf_overrides={"head_dtype": "float32"},  # as in training: logits of a bfloat16 head lie on a coarse grid
            **sizes,
            **options,
        )
        self.loaded: Path | None = checkpoint
        self.rounding: float | None = None
        """Root mean square difference of the first model, which was not swapped in."""
        self._text = lru_cache(maxsize=4096)(self._decode)
        # The engine would turn every token and both labels of each of its log-probabilities into text; answers are few
        # and alike, so they are decoded here, each once.
        shared: dict[str, Any] = {
            "temperature": 0,
            "seed": 0,
            "logprob_token_ids": [answer.accept, answer.reject],
            "detokenize": False,
            "flat_logprobs": True,
            "skip_clone": True,
        }
        self._generate = SamplingParams(max_tokens=longest_answer, stop_token_ids=[answer.end], **shared)
        self._decide = SamplingParams(max_tokens=1, **shared)

    def use(self, checkpoint: Path, probe: Sequence[Probe]) -> None:
        """Serve this checkpoint and prove it.

        Args:
            checkpoint: folder of a model of the same architecture.
            probe: what the trained model itself said of a few rows.

        Raises:
            SwapFailed: if not all weights were read, or the engine's scores are not the model's own.
        """
        prompts = [row.prompt_ids for row in probe]
        before = None
        if checkpoint != self.loaded:
            before = np.array(self._label_logprobs(prompts))
            self._swap(checkpoint)
        self._check(checkpoint, self._label_logprobs(prompts), probe, before)

    def _check(
        self,
        checkpoint: Path,
        scored: Sequence[tuple[float, float]],
        probe: Sequence[Probe],
        before: Scores | None = None,
    ) -> None:
        """Refuse scores that are not the trained model's own; `before` are those that the engine gave before a swap."""
        own = np.array([[row.logprob_accept, row.logprob_reject] for row in probe])
        limit = self.config.swap_tolerance
        found = judge(np.array(scored), own, before, self.rounding, self.config.dtype, limit)
        if found.wrong:
            raise SwapFailed(
                f"{checkpoint}: the engine does not serve it: {found.wrong}; nothing was predicted with it"
            )
        if self.rounding is None:
            self.rounding = found.error

    def _swap(self, checkpoint: Path) -> None:
        names = _tensor_names(checkpoint)
        self.loaded = None  # until the swap is whole
        try:
            workers = self.llm.collective_rpc("swap_weights", args=(str(checkpoint),))
        except Exception as e:  # whatever it was, a fresh engine may read them
            raise SwapFailed(f"{checkpoint}: the engine could not read its weights: {type(e).__name__}: {e}") from e
        for worker in workers:
            unread = sorted(names - set(worker["read"])) if worker else sorted(names)
            if unread or worker["missing"]:
                lacking = [*unread, *(worker["missing"] if worker else [])]
                raise SwapFailed(
                    f"{checkpoint}: {len(lacking)} of its weights were not loaded ({', '.join(lacking[:3])}); "
                    "nothing was predicted with it"
                )
        # Keys and values of the old weights would be reused otherwise, silently.
        if not self.llm.reset_prefix_cache():
            raise SwapFailed(
                f"{checkpoint}: the engine kept keys and values of the model before; nothing was predicted"
            )
        self.loaded = checkpoint

    def close(self) -> None:
        """End the engine and its processes, which hold most of a GPU's memory; it cannot be used afterwards."""
        self._text.cache_clear()
        self.llm.llm_engine.engine_core.shutdown()
        del self.llm, self._text
        gc.collect()

    def score(
        self,
        prompts: Sequence[Sequence[int]],
        adapters: Sequence[Any] | None = None,
        on_rows: Callable[[int, int], None] | None = None,
    ) -> list[Scored]:
        """Answer prompts greedily and score both labels; one prefill a prompt unless an answer leaves the format.

        Args:
            prompts: token ids up to the answer.
            adapters: vLLM's `LoRARequest` of each prompt; without them the loaded model answers.
            on_rows: called every `ROWS_S` seconds with how many of how many prompts are answered.
        """
        at, prefix = len(self.answer.prefix), list(self.answer.prefix)
        # Longest first: the last batches are then short, and no long row runs alone at the end.
        order = sorted(range(len(prompts)), key=lambda i: -len(prompts[i]))
        outputs = self._run([prompts[i] for i in order], self._generate, _at(adapters, order), on_rows)
        found: dict[int, Scored] = {}
        astray: dict[int, str] = {}
        for i, best in zip(order, outputs, strict=True):
            text = self._text(tuple(best.token_ids))
            if len(best.token_ids) > at and list(best.token_ids[:at]) == prefix:
                found[i] = Scored(text, *self._labels(best.logprobs[at]))
            else:
                astray[i] = text
        forced = self._label_logprobs([prompts[i] for i in astray], _at(adapters, list(astray)))
        found |= {i: Scored(text, *labels) for (i, text), labels in zip(astray.items(), forced, strict=True)}
        return [found[i] for i in range(len(prompts))]

    def _label_logprobs(
        self, prompts: Sequence[Sequence[int]], adapters: Sequence[Any] | None = None
    ) -> list[tuple[float, float]]:
        """Both labels' log-probabilities after the answer's prefix, whatever the model would have said."""
        outputs = self._run([[*p, *self.answer.prefix] for p in prompts], self._decide, adapters)
        return [self._labels(o.logprobs[0]) for o in outputs]

    def _run(
        self,
        prompts: Sequence[Sequence[int]],
        how: Any,
        adapters: Sequence[Any] | None,
        on_rows: Callable[[int, int], None] | None = None,
    ) -> list[Any]:
        if not prompts:
            return []
        asked = [{"prompt_token_ids": list(p)} for p in prompts]
        more = {} if adapters is None else {"lora_request": list(adapters)}
        counted: Any = partial(_RowCount, on_rows) if on_rows else False
        return [o.outputs[0] for o in self.llm.generate(asked, how, use_tqdm=counted, **more)]

    def _labels(self, logprobs: Any) -> tuple[float, float]:
        return float(logprobs[self.answer.accept].logprob), float(logprobs[self.answer.reject].logprob)

    def _decode(self, token_ids: tuple[int, ...]) -> str:
        return str(self.llm.get_tokenizer().decode(token_ids, skip_special_tokens=True))


class _RowCount(tqdm):  # type: ignore[misc]
    """vLLM's progress bar, without a bar: it tells rows, and only those that are answered, not those that are queued."""

    monitor_interval = 0  # no thread

    def __init__(self, on_rows: Callable[[int, int], None], *args: Any, **options: Any) -> None:
        self.on_rows = None if args else on_rows  # given rows, it counts the queueing
        self.told = 0
        super().__init__(*args, **options, file=io.StringIO(), mininterval=ROWS_S, leave=False)

    def display(self, *_args: Any, **_options: Any) -> None:
        if self.on_rows and self.n > self.told:
            self.told = int(self.n)
            self.on_rows(self.told, int(self.total))


def _at(adapters: Sequence[Any] | None, places: Sequence[int]) -> list[Any] | None:
    return None if adapters is None else [adapters[i] for i in places]


def _tensor_names(checkpoint: Path) -> set[str]:
    """Names of all tensors in a checkpoint's safetensors files, read from their headers."""
    from safetensors import safe_open

    names: set[str] = set()
    for path in checkpoint.glob("*.safetensors"):
        with safe_open(path, "np") as f:
            names |= set(f.keys())
    return names


class SwapFailed(WlsweepError):
    """The engine does not serve the weights that it was given."""
