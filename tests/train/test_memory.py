"""What a training process gives back between conditions."""

import ctypes
from pathlib import Path

import pytest
import torch

from wlsweep.train import zero3

STATUS = Path("/proc/self/status")
needs_glibc = pytest.mark.skipif(
    not STATUS.is_file() or not hasattr(ctypes.CDLL(None), "malloc_trim"), reason="Linux with glibc"
)


def resident_mib():
    (line,) = [x for x in STATUS.read_text().splitlines() if x.startswith("VmRSS")]
    return int(line.split()[1]) / 1024


@needs_glibc
def test_memory_between_pieces_that_are_in_use_goes_back_to_the_system():
    # 400 MiB in pieces too small for mappings of their own; what stays in use holds the rest of the heap in place.
    pieces = [torch.ones(16_000) for _ in range(6_600)]
    kept = pieces[::50]
    full = resident_mib()
    del pieces
    held = resident_mib()
    zero3.return_freed_memory()
    assert held > full - 100, "glibc returned it by itself; the call is needless"
    assert resident_mib() < full - 300 and all(float(p.sum()) == 16_000 for p in kept)


@needs_glibc
def test_an_engine_that_is_released_returns_what_it_freed(monkeypatch):
    class Engine:
        def destroy(self):
            pass

    called = []
    monkeypatch.setattr(zero3, "return_freed_memory", lambda: called.append(True))
    zero3.release(Engine())
    assert called == [True]
