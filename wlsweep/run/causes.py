"""Causes of failures as people read them: one line that says what happened; everything else belongs in the log.

Engines say more than that: tracebacks with the cause at their end, colour codes, line breaks spelt `\\n`, one line of 1,700
characters. Pure functions on text; imports nothing.
"""

from __future__ import annotations

import re

LONGEST = 300
"""Characters of a cause's one line."""
_COLOUR = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|\\(?:x1b|033|u001b)\[[0-9;]*m")
_ERROR = re.compile(
    r"^(?:[A-Za-z_][\w.]*\.)?[A-Z]\w*(?:Error|Exception|Failed|Died|Exit|Interrupt)\b(?:\([^)]*\))?:? ?(.*)"
)
_WRAPPERS = ("RayTaskError", "UserCodeException", "WorkerGroupError", "TrainingFailedError", "ActorDiedError")
_NCCL = re.compile(
    r"NCCL error|ncclUnhandledCudaError|ncclSystemError|ncclInternalError|ncclRemoteError|ncclInvalidUsage"
)

_NO_MEMORY = ("CUDA out of memory", "CUDA error: out of memory", "DefaultCPUAllocator: can't allocate memory")


def plain(text: str) -> str:
    """Text without colour codes, with line breaks where they were spelt out, and without blank lines at its ends."""
    text = _COLOUR.sub("", text.replace("\r\n", "\n"))
    if "\\n" in text:
        text = text.replace("\\n", "\n").replace('\\"', '"').replace("\\'", "'")
    return "\n".join(line.rstrip() for line in text.splitlines()).strip("\n")


def one_line(text: str) -> str:
    """What happened, in at most `LONGEST` characters: the error of a traceback, or the first line of anything else."""
    lines = [line.strip() for line in plain(text).splitlines() if line.strip()]
    if not lines:
        return "no cause was given"
    found = lines[0]
    if any(line.startswith("Traceback (most recent call last)") for line in lines):
        errors = [line for line in lines if _ERROR.match(line)]
        own = [line for line in errors if not any(w in line.partition(":")[0] for w in _WRAPPERS)]
        found = (own or errors or lines)[-1]
    if advice := advice_for("\n".join(lines)):
        found = f"{found.rstrip('.')[: LONGEST - len(advice) - 2]}; {advice}"
    return found if len(found) <= LONGEST else found[: LONGEST - 4].rstrip() + " ..."


def details(text: str) -> str | None:
    """The whole text, plain, where it says more than its one line; None where it does not."""
    whole = plain(text)
    return whole if whole != one_line(text) else None


def advice_for(text: str) -> str | None:
    """What to do about causes that are known; None for others."""
    if "no kernel image is available" in text or "CUDA driver version is insufficient" in text:
        return "this torch does not fit the GPU or its driver: see docs/cluster.md, CUDA versions"
    if "less than desired GPU memory utilization" in text or "No available memory for the cache blocks" in text:
        return "other processes hold the GPU's memory: lower predict.memory_share, or wait for them"
    if _NCCL.search(text):
        return "NCCL could not connect the GPUs: see docs/cluster.md, NCCL"
    return None


def is_out_of_memory(error: BaseException) -> bool:
    """Whether a GPU's memory, or a CPU worker's, was too small; the same again would fail again."""
    if type(error).__name__ == "OutOfMemoryError" or isinstance(error, MemoryError):
        return True
    return any(words in str(error) for words in _NO_MEMORY)
