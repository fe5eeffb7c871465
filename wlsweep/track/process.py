"""The process that follows a run beside its launch, and how a launch starts and ends it.

    with tracking(sweep, run, print):
        ...

A launch tells it to end through its standard input, so it also ends when the launch is killed.
"""

from __future__ import annotations

import json
import select
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import cast

from wlsweep.errors import WlsweepError
from wlsweep.run.layout import RunDir, read_json
from wlsweep.run.lease import hold
from wlsweep.spec.config import Sweep, Tracker
from wlsweep.track.clients import refuse_missing_clients
from wlsweep.track.follow import Follower

LOOK_S = 3.0
"""Seconds between two looks at the run directory, for each condition that is looked at: about one question a second."""
END_S = 90.0
"""Longest that the end of a launch waits for trackers; what they lack can be sent later."""


@contextmanager
def tracking(sweep: Sweep, run: RunDir, say: Callable[[str], None]) -> Iterator[None]:
    """Follow a run for the length of the block, in a process of its own; nothing happens where nothing is tracked.

    Raises:
        WlsweepError: before the block, if a tracker's client is not installed.
    """
    if not sweep.track:
        yield
        return
    refuse_missing_clients(sweep.track)
    log = run.logs / "tracking.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as errors:
        process = subprocess.Popen(
            [sys.executable, "-m", "wlsweep.track.process", str(run.root), sweep.fingerprint(), *sweep.track],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            start_new_session=True,  # Ctrl-C is for the launch
        )
    try:
        yield
    finally:
        try:
            out, _ = process.communicate(b"end\n", timeout=END_S)
            failed: dict[str, str] = (
                json.loads(out) if out else dict.fromkeys(sweep.track, "the tracking process ended")
            )
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
            failed = dict.fromkeys(sweep.track, f"not done after {END_S:g} s")
        for line in reproach(run, failed):
            say(line)


def reproach(run: RunDir, failed: dict[str, str]) -> list[str]:
    """What to tell a user of trackers that did not get everything."""
    return [
        f"tracking: {name} did not get everything ({why}; {run.logs / 'tracking.log'}); send the rest with: "
        f"wlsweep track {run.root} --track {name}"
        for name, why in failed.items()
    ]


def track_now(run: RunDir, trackers: Sequence[Tracker]) -> dict[str, str]:
    """Send what is not sent of a run; by tracker, why it did not get everything.

    Raises:
        WlsweepError: if a client is not installed, or a launch of this run tracks it now.
    """
    refuse_missing_clients(trackers)
    with hold(run.tracking_lease, "wlsweep track") as mine:
        if not mine:
            raise WlsweepError(f"{run.root} is tracked by a launch right now; try again when it has ended")
        return Follower(run, trackers).send(last=True)


def follow(run: RunDir, fingerprint: str, trackers: Sequence[Tracker]) -> dict[str, str]:
    """Send what there is until standard input says that the launch is over, then the rest.

    Several launches of one run take turns: whoever holds the lease sends for all.

    Returns:
        By tracker, why it did not get everything.
    """
    over, failed = False, dict[str, str]()
    while not over:
        with hold(run.tracking_lease, "tracking") as mine:
            follower: Follower | None = None
            while not over:
                pause = LOOK_S * max(1, follower.looked_at if follower else 1)
                over = bool(select.select([sys.stdin], [], [], pause)[0])  # the launch said `end`, or is gone
                if not mine:
                    break
                if (
                    follower is None
                    and run.sweep_json.is_file()
                    and read_json(run.sweep_json).get("fingerprint") == fingerprint  # not another configuration's
                ):
                    follower = Follower(run, trackers)
                if follower is not None:
                    failed = follower.send(last=over)
    return failed


def main(arguments: Sequence[str]) -> int:
    """`RUN FINGERPRINT TRACKER...`; prints what failed as JSON, and everything else to standard error."""
    answer, sys.stdout = sys.stdout, sys.stderr  # clients print as they like
    folder, fingerprint, *trackers = arguments
    failed = follow(RunDir(Path(folder)), fingerprint, cast("list[Tracker]", trackers))
    answer.write(json.dumps(failed))
    answer.flush()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
