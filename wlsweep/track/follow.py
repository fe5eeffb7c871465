"""Reads a run directory again and again, and sends to each tracker what it does not have yet.

    Follower(run, ["mlflow"]).send()

A tracker's own run goes `running` -> `trained` | `failed` -> `evaluated`. After `failed` or an interruption a condition may
run again; its lines up to the last step that was sent are not sent twice.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
import traceback
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from wlsweep.errors import WlsweepError
from wlsweep.run.layout import RunDir, read_json, write_json
from wlsweep.run.metric_log import VALIDATION
from wlsweep.spec.config import Tracker
from wlsweep.track.clients import CLIENTS, Client, End, Line, numbers

WAIT_S = (5.0, 15.0, 60.0)
"""Pauses after a tracker's first, second and any later failure in a row."""
NOT_LOGGED = ("step", "of")


@dataclass
class Sent:
    """What a tracker has of one condition, or of the report (under the sweep's name)."""

    id: str | None = None
    step: int = 0
    """Last optimizer step that was sent."""
    state: str = "running"
    digest: str = ""
    """Of the final metrics, or of the report, that were sent last."""


class Follower:
    """What the trackers of one run have, and how they get the rest."""

    def __init__(self, run: RunDir, trackers: Sequence[Tracker]) -> None:
        self.run = run
        record = read_json(run.sweep_json)
        self.sweep: str = record["sweep"]["name"]
        self.conditions: dict[str, dict[str, Any]] = {c["name"]: c for c in record["conditions"]}
        self.shared = {
            "sweep": record["sweep"],
            "fingerprint": record["fingerprint"],
            "command": record.get("command"),
            "versions": record.get("provenance", {}).get("versions"),
            "run_directory": str(run.root.resolve()),
        }
        self.trackers = [_Tracker(self, tracker) for tracker in trackers]

    def send(self, last: bool = False) -> dict[str, str]:
        """Send to each tracker what it does not have yet; with `last`, also close what is open and try at once.

        Returns:
            By tracker, why it did not get everything; empty where all did.
        """
        return {t.name: why for t in self.trackers if (why := t.try_to_send(last))}

    @property
    def looked_at(self) -> int:
        """Conditions whose files the next sending has to look at, once for each tracker."""
        return sum(t.looked_at for t in self.trackers)


class _Tracker:
    """One tracker: its client, what it has, and its failures."""

    def __init__(self, follower: Follower, name: Tracker) -> None:
        self.follower, self.name, self.run = follower, name, follower.run
        self._client: Client | None = None
        self._file = self.run.tracking / f"{name}.json"
        self.sent = {k: Sent(**v) for k, v in read_json(self._file).items()} if self._file.is_file() else {}
        self._open: dict[str, str] = {}
        self._failures, self._again_at, self._why = 0, 0.0, ""
        self._read: dict[str, tuple[int, int, int]] = {}
        self.looked_at = 0
        """Conditions whose files the next sending has to look at, as far as is known."""

    def try_to_send(self, last: bool) -> str:
        """Send; why not everything was sent, or an empty text."""
        if time.monotonic() < self._again_at and not last:
            return self._why
        try:
            self._send(last)
        except (Exception, SystemExit) as e:  # noqa: BLE001 - whatever a tracker raises must not end the others
            traceback.print_exc()
            self._client, self._open = None, {}  # a client that failed may be in any state
            self._again_at = time.monotonic() + WAIT_S[min(self._failures, len(WAIT_S) - 1)]
            self._failures += 1
            lines = str(e).strip().splitlines() or [""]
            self._why = f"{type(e).__name__}: {lines[0]}"[:300]
        else:
            self._failures, self._why = 0, ""
        return self._why

    def _send(self, last: bool) -> None:
        final = {e["name"]: e for e in _entries(self.run) if e.get("state") == "done"}
        begun, self.looked_at = _begun(self.run), 0
        for name in self.follower.conditions:
            if last or (name in begun and not self._has_all(name, final.get(name))):
                self._condition(name, final.get(name))
                self.looked_at += not self._has_all(name, final.get(name))
            if last and name in self._open:
                self._end(name, "stopped", self.sent[name].state)
        self._report()

    def _has_all(self, name: str, final: Mapping[str, Any] | None) -> bool:
        """Whether a condition is trained and was sent so, and no new evaluation came: what else may come of it, such as
        another training, is sent at the launch's end."""
        sent = self.sent.get(name, Sent())
        return sent.state in ("trained", "evaluated") and (final is None or _digest(final) == sent.digest)

    def _condition(self, name: str, final: Mapping[str, Any] | None) -> None:
        sent = self.sent.get(name, Sent())
        if lines := self._new_lines(name, sent.step):
            sent = self._opened(name)
            self._client_now().log(self._open[name], lines)
            sent.step, sent.state = lines[-1][0], "running"
            self._keep()
        ended: tuple[End, str] | None = None
        if sent.state == "running" and self.run.failed(name).is_file():
            record = read_json(self.run.failed(name))
            self._conclude(name, {}, {"cause": f"{record['stage']}: {record['cause']}"})
            ended = "failed", "failed"
        elif sent.state in ("running", "failed") and self.run.trained(name).is_file():
            self._conclude(name, numbers(read_json(self.run.trained(name)), "training"), {})
            ended = "finished", "trained"
        if final is not None and (digest := _digest(final)) != sent.digest:
            self._conclude(name, numbers(final, "eval"), {})
            self.sent[name].digest = digest
            ended = "finished", "evaluated"
        if ended:
            self._end(name, *ended)

    def _report(self) -> None:
        files = [f for f in (self.run.report, self.run.plots, self.run.metrics_json) if f.exists()]
        if self.run.report not in files:
            return
        digest = hashlib.sha256(self.run.report.read_bytes()).hexdigest()[:16]
        if self.sent.get(self.follower.sweep, Sent()).digest == digest:
            return
        self._opened(self.follower.sweep)
        self._client_now().attach(self._open[self.follower.sweep], files)
        self.sent[self.follower.sweep].digest = digest
        self._end(self.follower.sweep, "finished", "reported")

    def _conclude(self, name: str, values: Mapping[str, float], notes: Mapping[str, str]) -> None:
        sent = self._opened(name)
        self._client_now().conclude(self._open[name], sent.step, values, notes)

    def _end(self, name: str, how: End, state: str) -> None:
        self._client_now().end(self._open.pop(name), how)
        self.sent[name].state = state
        self._keep()

    def _opened(self, name: str) -> Sent:
        """What was sent of a condition whose run is open now."""
        sent = self.sent.setdefault(name, Sent())
        if name not in self._open:
            config = self.follower.shared | {"condition": self.follower.conditions.get(name)}
            sent.id = self._open[name] = self._client_now().begin(name, config, sent.id)
            self._keep()
        return sent

    def _client_now(self) -> Client:
        if self._client is None:
            self._client = CLIENTS[self.name](self.run, self.follower.sweep)
        return self._client

    def _keep(self) -> None:
        write_json(self._file, {name: asdict(sent) for name, sent in self.sent.items()})

    def _new_lines(self, name: str, after: int) -> list[Line]:
        """Whole lines of a metric log beyond a step; a file that did not change since it was sent is not read again."""
        log = self.run.metric_log(name)
        try:
            stat = log.stat()
        except OSError:
            return []
        seen = (stat.st_mtime_ns, stat.st_size, after)
        if self._read.get(name) == seen:
            return []
        found: list[Line] = [
            (step, _as_logged(line)) for line in _whole_lines(log) if (step := int(line["step"])) > after
        ]
        if not found:
            self._read[name] = seen
        return found


def _as_logged(line: Mapping[str, Any]) -> dict[str, float]:
    """A line of a metric log as trackers name it: `train/loss`, `validation/loss`."""
    here = {k: v for k, v in line.items() if k not in NOT_LOGGED and not k.startswith(VALIDATION)}
    judged = {k.removeprefix(VALIDATION): v for k, v in line.items() if k.startswith(VALIDATION)}
    return numbers(here, "train") | numbers(judged, "validation")


def _whole_lines(log: Path) -> Iterator[dict[str, Any]]:
    for text in log.read_text(encoding="utf-8").split("\n")[:-1]:
        try:
            line = json.loads(text)
        except ValueError:
            continue  # cut short by a fault; the resumed training writes it again
        if isinstance(line, dict) and "step" in line:
            yield line


def _entries(run: RunDir) -> list[dict[str, Any]]:
    try:
        found = read_json(run.metrics_json)
    except WlsweepError:
        return []  # not there yet, or being replaced
    return list(found) if isinstance(found, list) else []


def _begun(run: RunDir) -> set[str]:
    """Conditions that have a folder: one question for all of them."""
    try:
        return {e.name for e in os.scandir(run.condition("x").parent)}
    except OSError:
        return set()


def _digest(entry: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(entry, sort_keys=True).encode()).hexdigest()[:16]
