"""One vLLM engine that serves many low-rank adapters of one base at the same time: their rows mix in every batch.

    base + adapters of all finished conditions -> one queue of (adapter, paper), longest paper first -> scores by adapter

Nothing is swapped, but a wrong adapter would answer like a right one. So each is proved before its rows are predicted: its
file is the one that was trained, on this base, and on a few rows the engine gives what the trained model gave, and not what
the base gives.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from wlsweep.data.tokenise import AnswerTokens
from wlsweep.predict.vllm_engine import Engine, Probe, Scored, SwapFailed
from wlsweep.run.adapter import refuse_other_base, weights_fingerprint
from wlsweep.spec.adapters import RANKS
from wlsweep.spec.config import Predict
from wlsweep.train import patches

MOST_AT_ONCE = 32
"""Adapters that the engine holds ready; rows of further ones wait. A slot of rank 16 takes 80 MB of a 7B model in bf16."""


class AdapterEngine(Engine):
    """A base model with adapters; `prove` each one, then `score_all` with all that passed."""

    def __init__(self, base: str, config: Predict, longest: int, answer: AnswerTokens, ranks: Sequence[int]) -> None:
        """Load the base.

        Args:
            base: folder or name of the base model.
            config: resources and precision.
            longest: tokens of the longest prompt.
            answer: the label tokens.
            ranks: rank of each adapter that will be served.
        """
        patches.apply("adapters", patches.Setup(gpu=config.gpus_per_engine > 0))
        room = {
            "enable_lora": True,
            "max_loras": min(len(ranks), MOST_AT_ONCE),
            "max_lora_rank": next(r for r in RANKS if r >= max(ranks)),
        }
        super().__init__(Path(base), config, longest, answer, **room)
        self.base = base
        self._requests: dict[Path, Any] = {}
        self._numbers = itertools.count(1)

    def prove(self, adapter: Path, fingerprint: str, probe: Sequence[Probe]) -> None:
        """Load an adapter and prove that it is the trained one and that the engine applies it.

        Args:
            adapter: its folder.
            fingerprint: hash of its weights as training recorded it.
            probe: what the trained model itself said of a few rows.

        Raises:
            SwapFailed: if the file is another, or the engine's scores are not the trained model's own.
            WlsweepError: if it is an adapter of another base.
        """
        from vllm.lora.request import LoRARequest

        if (found := weights_fingerprint(adapter)) != fingerprint:
            raise SwapFailed(
                f"{adapter}: its weights are {found}, and training left {fingerprint}; nothing was predicted with them"
            )
        refuse_other_base(adapter, self.base)
        prompts = [row.prompt_ids for row in probe]
        # Each proof has a number of its own: vLLM keeps the weights, keys and values of a number that it knows.
        request = LoRARequest(f"{adapter.parent.name}-{found}", next(self._numbers), str(adapter))
        served = self._label_logprobs(prompts, [request] * len(prompts))
        base = self._label_logprobs(prompts)
        if served == base:
            raise SwapFailed(
                f"{adapter}: with it the engine gives, to the last bit, what the base gives: it was not applied"
            )
        self._check(adapter, served, probe, np.array(base))
        self._requests[adapter] = request

    def score_all(
        self,
        adapters: Sequence[Path],
        prompts: Sequence[Sequence[int]],
        on_rows: Callable[[int, int], None] | None = None,
    ) -> Mapping[Path, list[Scored]]:
        """What each proved adapter says of every prompt, all in one queue.

        Args:
            adapters: folders that passed `prove`.
            prompts: token ids up to the answer.
            on_rows: see `score`.
        """
        n = len(prompts)
        asked = [self._requests[a] for a in adapters for _ in prompts]
        scored = self.score([*prompts] * len(adapters), asked, on_rows)
        return {adapter: scored[i * n : (i + 1) * n] for i, adapter in enumerate(adapters)}
