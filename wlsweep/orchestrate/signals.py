"""The request to stop: a file, so that every process of a launch on every node sees it, and the signals that make it."""

from __future__ import annotations

import signal
import uuid
from collections.abc import Callable
from pathlib import Path


class StopRequest:
    """Whether this launch was asked to stop."""

    def __init__(self, folder: Path, say: Callable[[str], None]) -> None:
        self.file = folder / f".stop-{uuid.uuid4().hex[:8]}"
        self._say = say

    def asked(self) -> bool:
        """Whether the launch was asked to stop."""
        return self.file.exists()

    def ask(self) -> None:
        """Ask all processes of the launch to stop: those that train save a checkpoint first."""
        self.file.touch()

    def clear(self) -> None:
        """Remove the file."""
        self.file.unlink(missing_ok=True)

    def take_signals(self) -> None:
        """SIGINT, SIGTERM and SIGUSR1 ask to stop; the second one ends the process at once. Main thread only."""
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
            signal.signal(number, self._on_signal)

    def _on_signal(self, number: int, frame: object) -> None:
        if self.asked():
            raise KeyboardInterrupt
        self.ask()
        self._say(
            f"{signal.Signals(number).name}: running conditions save a checkpoint, then the sweep stops "
            "(again to end at once)"
        )
