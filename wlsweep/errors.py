"""The one error that users see: what is wrong, where, and what to do. Anything else that surfaces is a bug."""

from __future__ import annotations

from collections.abc import Sequence


class WlsweepError(Exception):
    """Something that the user can mend. The message names the place, what was found, and the fix."""


class SharedFailure(WlsweepError):
    """A failure that every condition of the sweep would share (model, machine, set-up): the sweep stops at the first."""


def refuse_all(heading: str, problems: Sequence[str], show: int = 20) -> None:
    """Raise one `WlsweepError` that lists every problem (the first `show` in full), or return if there is none."""
    if not problems:
        return
    lines = [f"  - {p}" for p in problems[:show]]
    if len(problems) > show:
        lines.append(f"  ... and {len(problems) - show} more")
    raise WlsweepError("\n".join([heading, *lines]))
