"""What the metric log says of the rows that were trained on, summed over micro-batches and ranks."""

from __future__ import annotations

import time
from typing import Any

import torch
import torch.distributed as dist

from wlsweep.train.model import Forward, MicroBatch


class Meter:
    """Sums over this rank's rows since the last logged step; one collective a logged step."""

    def __init__(self, device: torch.device) -> None:
        self.sums = torch.zeros(8, device=device, dtype=torch.float64)
        self.tokens = 0
        self.started = time.monotonic()

    def state(self) -> dict[str, Any]:
        """What a resumed training must start from."""
        return {"sums": self.sums.tolist(), "tokens": self.tokens, "seconds": time.monotonic() - self.started}

    def go_on(self, state: dict[str, Any]) -> None:
        """Start from the state that this rank saved."""
        self.sums = torch.tensor(state["sums"], device=self.sums.device, dtype=torch.float64)
        self.tokens = state["tokens"]
        self.started = time.monotonic() - state["seconds"]

    def add(self, out: Forward, batch: MicroBatch, tokens: int) -> None:
        """Count a micro-batch in, with what the model said of it and its tokens."""
        here, accept = batch.present, batch.accept
        p = torch.sigmoid(out.scores.log_odds)
        bce = torch.nn.functional.binary_cross_entropy_with_logits(out.scores.log_odds, accept, reduction="none")
        on_accept, on_reject = here * accept, here * (1 - accept)
        self.sums += torch.stack(
            [
                out.loss.detach() * batch.samples,
                (on_accept * bce).sum(),
                (on_reject * bce).sum(),
                (on_accept * p).sum(),
                on_accept.sum(),
                (on_reject * p).sum(),
                on_reject.sum(),
                (here * (p > 0.5)).sum(),
            ]
        ).double()
        self.tokens += tokens

    def pause(self, seconds: float) -> None:
        """Leave out seconds in which nothing was trained."""
        self.started += seconds

    def read(self) -> tuple[dict[str, float | None], float]:
        """Metrics over all ranks since the last call, and its distance in seconds, the same on every rank; collective."""
        here = time.monotonic() - self.started
        own = torch.tensor([float(self.tokens), here], device=self.sums.device, dtype=torch.float64)
        shared = torch.cat([self.sums, own])
        dist.all_reduce(shared)
        loss, bce_accept, bce_reject, p_accept, accepts, p_reject, rejects, said_accept, tokens, seconds = (
            shared.tolist()
        )
        seconds, n = seconds / dist.get_world_size(), accepts + rejects
        self.sums.zero_()
        self.tokens = 0
        self.started = time.monotonic()
        return {
            "loss": loss / n,
            "bce": (bce_accept + bce_reject) / n,
            "bce_by_class": (bce_accept / accepts + bce_reject / rejects) / 2 if accepts and rejects else None,
            "p_accept_on_accept": p_accept / accepts if accepts else None,
            "p_accept_on_reject": p_reject / rejects if rejects else None,
            "predicted_accept_rate": said_accept / n,
            "tokens_per_s": tokens / seconds,
        }, seconds
