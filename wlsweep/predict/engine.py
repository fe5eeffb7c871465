"""One vLLM engine that serves checkpoint after checkpoint by swapping weights. The only module that touches vLLM.

A swap takes milliseconds on a tiny model and seconds on a large one, a fresh engine half a minute. But a swap can go wrong
without a word, so every checkpoint is checked: the trained model left its own label log-probabilities on a few rows, and
the engine must give the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from wlsweep.config import Predict
from wlsweep.data.tokenise import AnswerTokens
from wlsweep.errors import WlsweepError

_CPU_KV_CACHE = 256 << 20
"""Bytes of key-value cache of a CPU engine."""


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


class Engine:
    """A loaded engine; `use` a checkpoint, then `score` prompts."""

    def __init__(self, checkpoint: Path, config: Predict, longest: int, answer: AnswerTokens) -> None:
        from vllm import LLM, SamplingParams

        self.config, self.answer, self.longest = config, answer, longest
        on_cpu = config.gpus_per_engine == 0
        sizes: dict[str, Any] = (
            {"kv_cache_memory_bytes": _CPU_KV_CACHE, "enforce_eager": True, "max_num_seqs": 64}
            if on_cpu
            else {"gpu_memory_utilization": config.memory_share, "tensor_parallel_size": config.gpus_per_engine}
        )
        self.llm = LLM(
            str(checkpoint),
            dtype=config.dtype,
            max_model_len=longest + max(config.answer_tokens, len(answer.ids("Accept"))),
            seed=0,
            enable_prefix_caching=True,
            hf_overrides={"head_dtype": "float32"},  # as in training: logits of a bfloat16 head lie on a coarse grid
            **sizes,
        )
        self.loaded = checkpoint
        labels = [answer.accept, answer.reject]
        self._generate = SamplingParams(
            max_tokens=config.answer_tokens,
            temperature=0,
            seed=0,
            logprob_token_ids=labels,
            stop_token_ids=[answer.suffix[-1]],
        )
        self._decide = SamplingParams(max_tokens=1, temperature=0, seed=0, logprob_token_ids=labels)

    def use(self, checkpoint: Path, probe: Sequence[Probe]) -> None:
        """Serve this checkpoint and prove it.

        Args:
            checkpoint: folder of a model of the same architecture.
            probe: what the trained model itself said of a few rows.

        Raises:
            SwapFailed: if the engine's scores are not the model's own.
        """
        if checkpoint != self.loaded:
            self.llm.collective_rpc("reload_weights", kwargs={"weights_path": str(checkpoint)})
            # Keys and values of the old weights would be reused otherwise, silently.
            self.llm.reset_prefix_cache()
            self.loaded = checkpoint
        tolerance = self.config.swap_tolerance or (0.01 if self.config.dtype == "float32" else 0.25)
        scored = self.score([row.prompt_ids for row in probe])
        worst = max(
            max(abs(s.logprob_accept - row.logprob_accept), abs(s.logprob_reject - row.logprob_reject))
            for s, row in zip(scored, probe, strict=True)
        )
        if not worst <= tolerance:
            raise SwapFailed(
                f"{checkpoint}: the engine's label log-probabilities differ by {worst:.4f} from those of the trained "
                f"model (tolerance {tolerance}); nothing was predicted with them"
            )

    def score(self, prompts: Sequence[Sequence[int]]) -> list[Scored]:
        """Answer prompts greedily and score both labels; one prefill a prompt unless an answer leaves the format.

        Args:
            prompts: token ids up to the answer.
        """
        at, prefix = len(self.answer.prefix), list(self.answer.prefix)
        # Longest first: the last batches are then short, and no long row runs alone at the end.
        order = sorted(range(len(prompts)), key=lambda i: -len(prompts[i]))
        outputs = self.llm.generate(
            [{"prompt_token_ids": list(prompts[i])} for i in order], self._generate, use_tqdm=False
        )
        found: dict[int, Scored] = {}
        texts: dict[int, str] = {}
        for i, output in zip(order, outputs, strict=True):
            best = output.outputs[0]
            texts[i] = best.text
            if len(best.token_ids) > at and list(best.token_ids[:at]) == prefix:
                found[i] = self._scored(best.text, best.logprobs[at])
        astray = [i for i in order if i not in found]
        if astray:
            forced = [{"prompt_token_ids": [*prompts[i], *prefix]} for i in astray]
            for i, output in zip(astray, self.llm.generate(forced, self._decide, use_tqdm=False), strict=True):
                found[i] = self._scored(texts[i], output.outputs[0].logprobs[0])
        return [found[i] for i in range(len(prompts))]

    def _scored(self, text: str, logprobs: Any) -> Scored:
        return Scored(text, float(logprobs[self.answer.accept].logprob), float(logprobs[self.answer.reject].logprob))


class SwapFailed(WlsweepError):
    """The engine does not serve the weights that it was given."""
