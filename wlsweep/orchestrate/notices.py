"""What a launch tells its processes on all nodes: words in the Ray cluster's own key-value store.

Its control process keeps them, and every process of the cluster is connected to it. A file of the run directory would be
looked at by every group again and again, all of them on one shared file system.
"""

from __future__ import annotations

import threading
import time

_SPACE = b"wlsweep"
_TRIES = 60
"""How often a word is told again, once a second, while the control process does not answer."""


def tell(word: str) -> None:
    """Tell all processes of the cluster a word; never waits, never raises: without a control process the launch ends."""

    def put() -> None:
        from ray.experimental.internal_kv import _internal_kv_put

        for _ in range(_TRIES):
            try:
                _internal_kv_put(word.encode(), b"", namespace=_SPACE)
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
