"""What a launch and its processes on all nodes tell each other: words in the Ray cluster's own key-value store.

Its control process keeps them, and every process of the cluster is connected to it. A file of the run directory would be
looked at by every group again and again, all of them on one shared file system.
"""

from __future__ import annotations

import threading
import time

_SPACE = b"wlsweep"
_TRIES = 60
"""How often a word is told again, once a second, while the control process does not answer."""


def tell(word: str, value: str = "") -> None:
    """Tell all processes of the cluster a word; never waits, never raises: without a control process the launch ends."""

    def put() -> None:
        from ray.experimental.internal_kv import _internal_kv_put

        for _ in range(_TRIES):
            try:
                _internal_kv_put(word.encode(), value.encode(), namespace=_SPACE)
                return
            except Exception:  # noqa: BLE001 - whatever it is, the cluster did not answer
                time.sleep(1)

    threading.Thread(target=put, daemon=True).start()


def told(word: str) -> bool:
    """Whether a word was told; False where the control process does not answer."""
    from ray.experimental.internal_kv import _internal_kv_exists

    try:
        return bool(_internal_kv_exists(word.encode(), namespace=_SPACE))
    except Exception:  # noqa: BLE001 - who is told nothing goes on; without a control process Ray ends it
        return False


def tell_rows(root: str, name: str, done: int, of: int) -> None:
    """For an engine: tell how many of how many rows of a condition are predicted.

    `root` is the run directory, absolute: other sweeps may share the cluster.
    """
    tell(f"{_rows_of(root)}{name}", f"{done} {of}")


def told_rows(root: str) -> dict[str, tuple[int, int]]:
    """What engines told last of each condition; empty where the control process does not answer."""
    from ray.experimental.internal_kv import _internal_kv_get, _internal_kv_list

    prefix, found = _rows_of(root), {}
    try:
        for word in _internal_kv_list(prefix.encode(), namespace=_SPACE):
            if value := _internal_kv_get(word, namespace=_SPACE):
                done, of = value.decode().split()
                found[word.decode().removeprefix(prefix)] = int(done), int(of)
    except Exception:  # noqa: BLE001 - the cluster did not answer; the launch notices that elsewhere
        return {}
    return found


def _rows_of(root: str) -> str:
    return f"rows predicted in {root}: "
