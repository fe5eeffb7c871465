"""`wlsweep`, and `python -m wlsweep`: streams and signals first, since importing the rest takes a moment."""

from __future__ import annotations

import sys

from wlsweep.interrupts import end_on_signals, open_streams


def main() -> None:
    """Entry point of the command line."""
    open_streams()
    end_on_signals()
    if sys.argv[1:2] == ["run"] and sys.platform == "linux":
        from wlsweep.supervise import supervised

        supervised(_command_line)
    _command_line()


def _command_line() -> None:
    from wlsweep.command_line import main as command_line

    command_line()


if __name__ == "__main__":
    main()
