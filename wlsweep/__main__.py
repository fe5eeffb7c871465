"""`wlsweep`, and `python -m wlsweep`: streams and signals first, since importing the rest takes a moment."""

from __future__ import annotations

from wlsweep.interrupts import end_on_signals, open_streams


def main() -> None:
    """Entry point of the command line."""
    open_streams()
    end_on_signals()
    from wlsweep.cli import main as command_line

    command_line()


if __name__ == "__main__":
    main()
