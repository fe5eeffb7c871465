"""Marks in the run directory by which a launch tells its processes something."""

import os
import signal
import socket
import threading

import pytest

from wlsweep.orchestrate import signals
from wlsweep.orchestrate.signals import StopRequest, new_mark, remove_dead_marks


def test_marks_of_killed_launches_on_this_machine_go_and_all_others_stay(tmp_path):
    mine, host = new_mark(tmp_path, "training"), socket.gethostname()
    dead = [tmp_path / f".{kind}-{host}-{2**22 + 1}-0123abcd" for kind in ("training", "all-begun")]
    kept = [
        mine,
        tmp_path / f".training-elsewhere-{2**22 + 1}-0123abcd",
        tmp_path / ".trained",
        tmp_path / "sweep.json",
    ]
    for path in (*dead, *kept):
        path.touch()
    remove_dead_marks(tmp_path)
    assert sorted(tmp_path.iterdir()) == sorted(kept)
    assert str(os.getpid()) in mine.name and not new_mark(tmp_path, "training").exists()


@pytest.fixture
def own_handlers():
    """The signal handlers of before, after the test."""
    kept = {n: signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP)}
    yield
    for number, handler in kept.items():
        signal.signal(number, handler)


def test_a_signal_in_the_middle_of_an_import_or_a_line_is_said_all_the_same(capfd, own_handlers, monkeypatch):
    def say(text):
        raise ImportError("cannot import name 'EMOJI' from partially initialized module")

    stop = StopRequest(say)
    stop.take_signals()
    os.kill(os.getpid(), signal.SIGTERM)
    assert stop.asked() and "SIGTERM: running conditions save a checkpoint" in capfd.readouterr().out
    os.kill(os.getpid(), signal.SIGTERM)  # at once: the same request, which came on two ways
    monkeypatch.setattr(signals, "TOGETHER_S", 0.0)
    with pytest.raises(KeyboardInterrupt):
        os.kill(os.getpid(), signal.SIGTERM)
    stop.clear()
    assert not stop.asked()


def test_a_watching_thread_can_take_the_request_back_before_it_ends_the_process(own_handlers):
    stop, raised = StopRequest(print), []
    stop.take_signals()
    stop.ask()

    def clear():
        try:
            stop.clear()
        except ValueError as e:  # handlers are set in the main thread alone
            raised.append(e)

    thread = threading.Thread(target=clear)
    thread.start()
    thread.join()
    assert not raised and not stop.asked()
