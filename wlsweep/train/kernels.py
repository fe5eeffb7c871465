"""Kernels that a search space asks for beyond those that PyTorch takes by itself: set up, or refused for all conditions."""

from __future__ import annotations

import shutil

from wlsweep.errors import SharedFailure
from wlsweep.spec.train_section import Train


def has_compiler() -> bool:
    """Whether PyTorch's compiler finds one of its own for C++ here."""
    return any(map(shutil.which, ("g++", "clang++", "c++")))


def set_up_kernels(train: Train) -> None:
    """Take the FlashAttention that `train.flash_attention` names, and see that what compiles can compile.

    Raises:
        SharedFailure: if a package or a compiler is missing where this worker runs.
    """
    if train.flash_attention != "FA2":
        from torch.nn.attention import activate_flash_attention_impl

        try:
            activate_flash_attention_impl(train.flash_attention)
        except (ImportError, RuntimeError, ValueError) as e:
            raise SharedFailure(
                f'train.flash_attention = "{train.flash_attention}": PyTorch finds no such kernels here ({e}); install the '
                "package that brings them into the environment of the workers, or leave the setting out"
            ) from e
    if train.compile_elementwise and not has_compiler():
        raise SharedFailure(
            "train.compile_elementwise needs a C++ compiler where workers run, and there is none in PATH: install g++, or "
            "leave the setting out"
        )
