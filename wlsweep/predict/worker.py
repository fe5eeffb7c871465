"""What runs inside vLLM's worker processes: reading another checkpoint's weights, and counting what was read.

vLLM mixes this class into its worker (`worker_extension_cls`), so that `collective_rpc("swap_weights", ...)` finds it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, TypedDict

import torch
from torch import Tensor


class Swapped(TypedDict):
    """What one worker read."""

    read: list[str]
    """Tensors of the checkpoint that were handed to the model."""
    missing: list[str]
    """Parameters of the model that none of them was loaded into, and a tied head whose packed copy is of other weights."""


class SwapWorker:
    """Methods of a vLLM worker; not instantiated by itself."""

    model_runner: Any

    def swap_weights(self, path: str) -> Swapped:
        """Read the weights of another checkpoint of the same architecture into the model.

        vLLM itself only logs what it did not load. On a CPU it keeps a packed copy of a tied head, which a reload does not
        make again: in float32, where that copy is used, the head would stay the one of the model before.
        """
        model = self.model_runner.get_model()
        names = {name for name, _ in model.named_parameters()}
        read: list[str] = []
        loaded: set[str] = set()
        load = model.load_weights

        def counted(weights: Iterable[tuple[str, Tensor]]) -> Iterator[tuple[str, Tensor]]:
            for name, tensor in weights:
                read.append(name)
                yield name, tensor

        def load_and_count(weights: Iterable[tuple[str, Tensor]], *args: Any, **more: Any) -> Any:
            found = load(counted(weights), *args, **more)
            loaded.update(found or ())
            return found

        model.load_weights = load_and_count
        try:
            self.reload_weights(weights_path=path)  # type: ignore[attr-defined]
        finally:
            del model.load_weights
        missing = names - loaded
        if (head := _tied_head(model)) is not None:
            missing.discard("lm_head.weight")  # it is the embeddings' weight
            _pack(head)
            if not _is_packed(head):
                missing.add("lm_head.weight (its packed copy)")
        return {"read": sorted(read), "missing": sorted(missing)}


def _tied_head(model: Any) -> Any:
    """The LM head that shares the embeddings' weight; None where there is none of its own or it is not tied."""
    head = getattr(model, "lm_head", None)
    embedding = getattr(getattr(model, "model", None), "embed_tokens", None)
    if head is None or embedding is None or head is embedding:
        return None
    return head if head.weight.data_ptr() == embedding.weight.data_ptr() else None


def _pack(head: Any) -> None:
    """Pack a head's weight again, as vLLM did when it loaded the first model; on a GPU nothing is packed."""
    if hasattr(head, "cpu_linear"):
        head.quant_method.process_weights_after_loading(head)


def _is_packed(head: Any) -> bool:
    """Whether a head multiplies by its own weight: scores of a few rows may hide a copy of weights that are nearly these."""
    if not hasattr(head, "cpu_linear"):
        return True
    weight: Tensor = head.weight
    x = torch.randn(4, weight.shape[1], generator=torch.Generator().manual_seed(0)).to(weight.dtype)
    own = x.float() @ weight.float().t()
    apart = head.cpu_linear(x, weight, None).float() - own
    return bool(apart.square().mean().sqrt() <= 100 * torch.finfo(weight.dtype).eps * own.square().mean().sqrt())
