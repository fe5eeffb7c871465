"""Peak memory of a process and all its children: the sum of their proportional set sizes (a shared page counts once).

    with Watch(pid) as watch: ...
    watch.peak_mib, watch.parts       # and what held it then

Samples are two seconds apart, since reading them costs the kernel a walk over every page table: a shorter peak is missed.
"""

from __future__ import annotations

import threading
from collections import Counter
from types import TracebackType

import psutil

EVERY_S = 2.0


def kind(command: list[str]) -> str:
    """What a process is, from its command line."""
    line = " ".join(command)
    for sign, name in (
        ("ray::_RayTrainWorker", "training workers"),
        ("ray::RayTrainWorker", "training workers"),
        ("Predictor", "vLLM engines"),
        ("ray::ImplicitFunc", "trial processes"),
        ("ray::", "other Ray actors and tasks"),
        ("/ray/", "Ray's own processes"),
        ("kaleido", "renderer of PNGs"),
    ):
        if sign in line:
            return name
    return "driver"


def tree_pss(root: int) -> Counter[str]:
    """MiB by kind of process, of `root` and all that descends from it."""
    found: Counter[str] = Counter()
    try:
        processes = [psutil.Process(root), *psutil.Process(root).children(recursive=True)]
    except psutil.NoSuchProcess:
        return found
    for process in processes:
        try:
            found[kind(process.cmdline())] += process.memory_full_info().pss / 2**20
        except psutil.Error:
            continue  # it ended meanwhile
    return found


class Watch:
    """Samples a process tree in a thread for the length of a block."""

    def __init__(self, root: int) -> None:
        self.root, self.peak_mib, self.parts = root, 0.0, Counter[str]()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)

    def _sample(self) -> None:
        while not self._over.wait(EVERY_S):
            parts = tree_pss(self.root)
            if parts.total() > self.peak_mib:
                self.peak_mib, self.parts = parts.total(), parts

    def __enter__(self) -> Watch:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, e: BaseException | None, at: TracebackType | None) -> None:
        self._over.set()
        self._thread.join()
