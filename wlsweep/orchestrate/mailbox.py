"""What passes between a Tune trial and its worker group: a mailbox in the trial's own process.

Workers reach it over one TCP connection each, which tells both sides at once when the other is gone: a worker without its
trial ends itself and gives its CPUs and GPUs back. There is no actor in between that could die alone.

This module imports neither torch nor Ray.
"""

from __future__ import annotations

import contextlib
import os
import queue
import secrets
import socket
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from multiprocessing.connection import Client, Connection, Listener, answer_challenge, deliver_challenge
from typing import Any, Literal, NamedTuple

State = Literal["done", "failed", "stopped", "elsewhere", "lost"]
"""How a condition ended; `lost`: its processes died and it is not to blame."""
ORPHANED = 70
"""Exit code of a worker whose trial is gone."""
_KEEPALIVE = {"TCP_KEEPIDLE": 20, "TCP_KEEPINTVL": 10, "TCP_KEEPCNT": 4, "TCP_USER_TIMEOUT": 60_000}
"""A peer whose machine vanished without a word is noticed after a minute, also where a message to it is on its way."""


class Outcome(NamedTuple):
    """How an assigned condition ended."""

    state: State
    cause: str | None = None
    attempts: int = 1
    shared: bool = False
    """Whether every other condition would fail alike."""


class Attempt(NamedTuple):
    """Which attempt at which condition a worker speaks of: what comes late must not count for the next one."""

    condition: str
    number: int


@dataclass(frozen=True)
class Assignment:
    """A condition for a group: everything a worker needs to know, as plain data."""

    sweep: Any
    condition: Any
    root: str
    base: str
    owner: str
    attempt: int = 0

    @property
    def key(self) -> Attempt:
        """Names this attempt in messages."""
        return Attempt(self.condition.name, self.attempt)


class MailboxAddress(NamedTuple):
    """Where a mailbox listens, and the secret that opens it."""

    host: str
    port: int
    key: bytes


class GroupMailbox:
    """Where a trial leaves a condition and its group's rank 0 picks it up. All methods may be called from any thread."""

    def __init__(self, max_retries: int, node_lives: Callable[[str], bool] = lambda node: True) -> None:
        """`max_retries` of a condition whose workers died; not counted where a node of theirs left (`node_lives`)."""
        self.max_retries, self._node_lives = max_retries, node_lives
        self.assignment: Assignment | None = None
        self.attempts = 0
        self.excused = 0
        """Attempts that ended because a node left."""
        self.cause: str | None = None
        self.lines: list[dict[str, Any]] = []
        self.outcome: Outcome | None = None
        self.closed = False
        self.stopping = False
        """Whether the launch was asked to stop: who works on the condition saves a checkpoint and returns."""
        self._taker: object = None
        self._held: object = None
        """The taker that has the condition in hand; None while no living rank 0 has it."""
        self._members: dict[object, str] = {}
        """Nodes of the connected workers."""
        self._left: set[str] = set()
        """Nodes of the workers whose connection ended since the last attempt began."""
        self._changed = threading.Condition()

    def assign(self, assignment: Assignment) -> None:
        """Leave the next condition."""
        with self._changed:
            self.assignment, self.attempts, self.excused, self.stopping = assignment, 0, 0, False
            self.cause, self.lines, self.outcome, self._held = None, [], None, None
            self._changed.notify_all()

    def join(self, member: object, node: str) -> None:
        """A worker on this node is there."""
        with self._changed:
            self._members[member] = node

    def left(self, member: object) -> None:
        """A worker's connection ended; if it had the condition in hand, nobody has it now."""
        with self._changed:
            if node := self._members.pop(member, None):
                self._left.add(node)
            if self._held is member:
                self._held = None

    def take(self, taker: object) -> Assignment | None:
        """Wait for a condition that is not finished; called by rank 0 whenever it is free or was started again.

        Nothing is left to take once the mailbox is closed, nor for a taker that was replaced by a later one (its process
        is dead, its call still waits).
        """
        with self._changed:
            self._taker = taker
            self._changed.notify_all()
            while True:
                self._changed.wait_for(
                    lambda: (
                        self.closed
                        or self._taker is not taker
                        or (self.assignment is not None and self.outcome is None)
                    )
                )
                if self.closed or self._taker is not taker or self.assignment is None:
                    return None
                gone = {node for node in {*self._members.values(), *self._left} if not self._node_lives(node)}
                self._left.clear()
                self._members = {m: node for m, node in self._members.items() if node not in gone}
                if self.attempts and gone:
                    self.excused += 1
                if self.attempts - self.excused <= self.max_retries:
                    self.attempts += 1
                    self._held = taker
                    return replace(self.assignment, attempt=self.attempts)
                cause = self.cause or "a worker process died without a word (killed, or out of memory)"
                self.outcome = Outcome("failed", cause, self.attempts)
                self._changed.notify_all()

    def withdraw(self) -> None:
        """Ask to stop; take the condition back if no worker has it in hand: the group waits for room, at first or after a
        loss."""
        self.stopping = True
        with self._changed:
            if self.outcome is None and self._held is None:
                self.outcome = Outcome("stopped", None, self.attempts)
                self._changed.notify_all()

    def close(self) -> None:
        """End the group: its workers return, and their resources are free."""
        with self._changed:
            self.closed = True
            self._changed.notify_all()

    def note(self, about: Attempt | None, cause: str) -> None:
        """Remember why the group is about to end. Here and below, None is a worker that knows of no condition yet."""
        with self._changed:
            if self._is_current(about):
                self.cause = self.cause or cause

    def log(self, about: Attempt | None, line: dict[str, Any]) -> None:
        """A line of the metric log."""
        with self._changed:
            if self._is_current(about):
                self.lines.append(line)
                self._changed.notify_all()

    def finish(self, about: Attempt | None, state: State, cause: str | None = None, shared: bool = False) -> None:
        """The condition's end; the first one counts."""
        with self._changed:
            if self._is_current(about) and self.outcome is None:
                self.outcome = Outcome(state, cause, self.attempts, shared)
                self._changed.notify_all()

    def _is_current(self, about: Attempt | None) -> bool:
        if about is None:
            return True
        return self.assignment is not None and about == (self.assignment.condition.name, self.attempts)

    def follow(self, seen: int, patience_s: float) -> tuple[list[dict[str, Any]], Outcome | None]:
        """New lines since `seen`, and the outcome once there is one; returns empty-handed after a while."""
        with self._changed:
            self._changed.wait_for(lambda: len(self.lines) > seen or self.outcome is not None, patience_s)
            return self.lines[seen:], self.outcome


class MailboxServer:
    """Opens a mailbox to the workers of its group, on one port of this machine."""

    def __init__(self, mailbox: GroupMailbox, host: str) -> None:
        self.mailbox = mailbox
        self._listener = Listener((host, 0), backlog=64)
        port = self._listener.address[1]
        self.address = MailboxAddress(host, int(port), secrets.token_bytes(32))
        self._connections: set[Connection] = set()
        self._guard = threading.Lock()  # a connection is closed by the thread that serves it, and nobody else
        self._closed = False
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        """Stop listening and end all connections."""
        self._closed = True
        with contextlib.suppress(OSError):
            socket.create_connection((self.address.host, self.address.port), timeout=5).close()  # wakes `_accept`
        with self._guard:
            for connection in self._connections:
                with contextlib.suppress(OSError), socket.socket(fileno=os.dup(connection.fileno())) as s:
                    s.shutdown(socket.SHUT_RDWR)

    def _accept(self) -> None:
        with self._listener:
            while not self._closed:
                try:
                    connection = self._listener.accept()
                except OSError:
                    continue  # who knocked is gone already
                threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: Connection) -> None:
        taker, box = object(), self.mailbox
        with self._guard:
            self._connections.add(connection)
        try:
            _keep_alive(connection)
            deliver_challenge(connection, self.address.key)
            answer_challenge(connection, self.address.key)
            while True:
                kind, *arguments = connection.recv()
                match kind:
                    case "take":
                        connection.send(box.take(taker))
                    case "stopping":
                        connection.send(box.stopping)
                    case "finish":
                        box.finish(*arguments)
                        connection.send(None)
                    case "join":
                        box.join(taker, *arguments)
                    case "log" | "note":
                        getattr(box, kind)(*arguments)
        except Exception:  # noqa: BLE001 - the worker is gone, or a stranger knocked; Ray Train notices a worker's death
            return
        finally:
            box.left(taker)
            with self._guard:
                self._connections.discard(connection)
                connection.close()


class GroupMember:
    """A worker's side of the mailbox. When the trial's process goes away, `orphaned` is called, which ends the worker."""

    def __init__(self, address: MailboxAddress, node: str, orphaned: Callable[[], None] | None = None) -> None:
        self._connection = Client((address.host, address.port))
        _keep_alive(self._connection)
        answer_challenge(self._connection, address.key)
        deliver_challenge(self._connection, address.key)
        self._orphaned, self._leaving = orphaned or _end_worker, False
        self.current: Attempt | None = None
        """What this worker works on, sent with all that it says; ranks that do not take set it themselves."""
        self._answers: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._sending = threading.Lock()
        threading.Thread(target=self._read, daemon=True).start()
        self._send("join", node)

    def take(self) -> Assignment | None:
        """Wait for a condition; None once the group is to end."""
        self._send("take")
        found: Assignment | None = self._answers.get()
        self.current = found.key if found else self.current
        return found

    def finish(self, state: State, cause: str | None = None, shared: bool = False) -> None:
        """The condition's end; returns when the trial has heard it."""
        self._send("finish", self.current, state, cause, shared)
        self._answers.get()

    def asked_to_stop(self) -> bool:
        """Whether the launch was asked to stop; a question to the trial's process."""
        self._send("stopping")
        return bool(self._answers.get())

    def log(self, line: dict[str, Any]) -> None:
        """A line of the metric log."""
        self._send("log", self.current, line)

    def note(self, cause: str) -> None:
        """Why this worker is about to end."""
        self._send("note", self.current, cause)

    def leave(self) -> None:
        """This worker returns in good order."""
        self._leaving = True

    def _send(self, *message: Any) -> None:
        with self._sending, contextlib.suppress(OSError):  # the reader notices that the trial is gone
            self._connection.send(message)

    def _read(self) -> None:
        try:
            while True:
                self._answers.put(self._connection.recv())
        except (EOFError, OSError):
            if not self._leaving:
                self._orphaned()


def _end_worker() -> None:
    print("the trial process of this worker group is gone: this worker ends", file=sys.stderr, flush=True)
    os._exit(ORPHANED)


def _keep_alive(connection: Connection) -> None:
    with socket.socket(fileno=os.dup(connection.fileno())) as s:
        s.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for name, value in _KEEPALIVE.items():
            if hasattr(socket, name):  # not every system has all of them
                s.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
