"""Live bytes of a ZeRO-3 rank, counted tensor by tensor, against the formula of `wlsweep plan`.

    OMP_NUM_THREADS=1 python -m torch.distributed.run --standalone --nproc-per-node 2 -m wlsweep.train.live_memory OUT.json

A model of random weights is built through the product's engine, as a large one is (partitioned), and takes two steps of two
micro-batches. Every storage that any operation makes is counted while it lives, so the peak is exact where an allocator's
would hold cached blocks. On a GPU the allocator's own peak is written beside it. What is outside of tensors (CUDA context,
NCCL) is not counted here. At the end the engine proves that the loss of a sample is multiplied by its weight.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import tempfile
import weakref
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import torch
import torch.distributed as dist
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from wlsweep.data.load import TokenRows
from wlsweep.data.tokenise import AnswerTokens
from wlsweep.run.layout import RunDir
from wlsweep.spec import adapters
from wlsweep.spec.architecture import Architecture
from wlsweep.spec.condition import Condition
from wlsweep.spec.config import Sweep, load_sweep
from wlsweep.spec.cost import Memory, training_memory
from wlsweep.spec.train_section import Train

TOKENS = AnswerTokens(prefix=(1, 2, 3), accept=10, reject=11, suffix=(4, 5))
ANSWER = TOKENS.ids(True)
SHAPE = Architecture(vocab=16384, width=512, mlp=1408, layers=4, heads=8, kv_heads=2, tied=False)


class MadeRows:
    """One row of each class, in the place of `TokenRows`."""

    row_ids = ("accept", "reject")
    accept = np.array([True, False])
    lengths = np.array([60, 60], dtype=np.int32)
    answer = TOKENS

    def prompt(self, i: int) -> npt.NDArray[np.int32]:
        """int32 [60]."""
        return np.arange(20, 80, dtype=np.int32) + 100 * i


class LiveBytes(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the bytes of storages made while it is entered, and the most that lived at once since `reset`."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.live: dict[int, int] = {}
        self.total = self.peak = 0

    def _forget(self, key: int) -> None:
        self.total -= self.live.pop(key)

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = function(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            if isinstance(tensor, torch.Tensor) and not tensor.is_meta:
                storage = tensor.untyped_storage()
                key = storage._cdata
                if key not in self.live and storage.nbytes():
                    self.live[key] = storage.nbytes()
                    self.total += storage.nbytes()
                    weakref.finalize(storage, self._forget, key)
        self.peak = max(self.peak, self.total)
        return out

    def reset(self) -> int:
        """Begin a new peak; returns the last."""
        found, self.peak = self.peak, self.total
        return found


def sweep_for(
    workers: int, dtype: str, checkpointing: bool | int, micro: int, cutoff: int, gpu: bool, offload: bool = False
) -> Sweep:
    """A sweep with this layout; it has adapters, for a condition that asks for them."""
    demo = load_sweep("demo_lora")
    layout = {"workers": workers, "micro_batch": micro, "global_batch": 2 * micro * workers, "gpu": gpu}
    memory = {"dtype": dtype, "gradient_checkpointing": checkpointing, "offload_optimizer": offload, "lora": {}}
    train = Train.model_validate(demo.train.model_dump() | layout | memory)
    return demo.model_copy(update={"train": train, "data": demo.data.model_copy(update={"cutoff": cutoff})})


def formula(a: Architecture, sweep: Sweep, lora: int) -> Memory:
    """What `plan` says of full fine-tuning (`lora` 0) or of adapters of a rank."""
    if lora:
        return adapters.training_memory(a, sweep, lora, len(ANSWER))
    return training_memory(a, sweep, len(ANSWER))


def measure(a: Architecture, base: Path, sweep: Sweep, lora: int = 0) -> dict[str, Any]:
    """Live bytes of this rank in each phase, and the formula's."""
    from wlsweep.train import zero3
    from wlsweep.train.batcher import Batcher
    from wlsweep.train.job import Job
    from wlsweep.train.model import collate, run_forward
    from wlsweep.train.proof import prove_weights

    place = zero3.join_group()
    zero3.SMALL = 0  # as a large model: partitioned
    train, cutoff = sweep.train, sweep.data.cutoff
    condition = Condition("accept", 4.0, 2, lora=lora)
    with LiveBytes() as counted:
        engine = zero3.build_engine(str(base), condition, train, TOKENS, sweep.model.attention, 4)
        rows = train.micro_batch
        prompt = np.full(cutoff - len(ANSWER), 7, dtype=np.int32)
        peaks: dict[str, list[int]] = {"micro_batch": [], "step": []}
        built = counted.total
        counted.reset()
        for _ in range(2):
            for micro in range(train.accumulation):
                batch = collate([prompt] * rows, TOKENS, [True] * rows, (4.0, 1.0), train.global_batch, place.device)
                out = run_forward(engine, batch, 1.0)
                engine.backward(out.loss * place.world * train.accumulation)
                del out
                if micro == train.accumulation - 1:
                    peaks["micro_batch"].append(counted.reset())
                engine.step()
            peaks["step"].append(counted.reset())
        held = counted.total
    batcher = Batcher(Job(sweep, condition, RunDir(base), str(base)), cast(TokenRows, MadeRows()), place)
    proof = prove_weights(engine, batcher)
    memory = formula(a, sweep, lora)
    return {
        "rank": place.rank,
        "workers": place.world,
        "dtype": train.dtype,
        "lora": lora,
        "checkpointing": train.gradient_checkpointing,
        "parameters": a.parameters,
        "built": built,
        "held": held,
        "peak_micro_batch": max(peaks["micro_batch"]),
        "peak_step": max(peaks["step"]),
        "allocator_peak": torch.cuda.max_memory_allocated() if torch.cuda.is_available() else None,
        "formula": memory._asdict(),
        "formula_total": memory.tensors,
        "proof": [proof["accept"], proof["reject"]],
        "weights": list(batcher.weights),
    }


def main() -> None:
    """Measure one layout on the ranks that torchrun started."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--dtype", choices=("bf16", "fp32"), default="bf16")
    parser.add_argument("--checkpointing", type=int, default=1, help="recompute every n-th layer; 0: none")
    parser.add_argument("--lora", type=int, default=0, help="rank of adapters; without it full fine-tuning")
    parser.add_argument("--vocab", type=int, default=SHAPE.vocab, help="above 97,000 the head is larger than a bucket")
    parser.add_argument("--offload", action="store_true", help="the optimizer's state in host memory")
    parser.add_argument("--micro", type=int, default=2)
    parser.add_argument("--cutoff", type=int, default=256)
    arguments = parser.parse_args()
    shape = SHAPE._replace(vocab=arguments.vocab)
    on_gpu = torch.cuda.is_available()
    if on_gpu:
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    dist.init_process_group("nccl" if on_gpu else "gloo")
    base = Path(tempfile.gettempdir()) / f"wlsweep-live-{os.environ.get('MASTER_PORT', '0')}"
    if dist.get_rank() == 0:
        from transformers import Qwen2ForCausalLM

        from wlsweep.train.tiny_base_model import qwen2_config

        torch.manual_seed(0)
        Qwen2ForCausalLM(qwen2_config(shape)).to(torch.bfloat16).save_pretrained(base)
    dist.barrier()
    sweep = sweep_for(
        dist.get_world_size(),
        arguments.dtype,
        {0: False, 1: True}.get(arguments.checkpointing, arguments.checkpointing),
        arguments.micro,
        arguments.cutoff,
        on_gpu,
        arguments.offload,
    )
    found = measure(shape, base, sweep, arguments.lora)
    every: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(every, found)
    if dist.get_rank() == 0:
        shutil.rmtree(base)
        arguments.out.write_text(json.dumps(every, indent=1))
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
