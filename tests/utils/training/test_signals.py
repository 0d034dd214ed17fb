"""Requests to stop: heard inside the block, without effect on what is outside."""

import os
import signal
import threading
import time

import pytest

from tests.forked import finish, start
from utils.training import signals
from utils.training.signals import EXIT_INTERRUPTED, STOP_SIGNALS, Interrupted, StopSignals

pytestmark = pytest.mark.filterwarnings("ignore:.*fork.*")


def send(number):
    os.kill(os.getpid(), number)


@pytest.mark.parametrize("number", STOP_SIGNALS)
def test_a_request_is_noted_and_the_handlers_return(number):
    before = [signal.getsignal(s) for s in STOP_SIGNALS]
    with pytest.raises(Interrupted) as left, StopSignals() as stop:
        assert not stop.requested
        send(number)
        send(number)  # the same request once more
        assert stop.requested
        raise Interrupted
    assert left.value.code == EXIT_INTERRUPTED == 75
    assert before == [signal.getsignal(s) for s in STOP_SIGNALS]


@pytest.mark.parametrize("number", STOP_SIGNALS)
def test_a_second_signal_ends_the_process_at_once(number, monkeypatch):
    monkeypatch.setattr(signals, "_SAME_REQUEST_SECONDS", -1.0)

    def twice():
        with StopSignals():
            send(number)
            send(number)
            time.sleep(60)

    assert finish(start(twice), 30) == -number


@pytest.mark.parametrize("number", STOP_SIGNALS)
def test_a_request_nobody_asked_for_has_its_usual_effect_afterwards(number):
    def late():
        with StopSignals():
            send(number)
        time.sleep(60)

    assert finish(start(late), 30) == -number


def test_other_threads_change_no_handlers():
    seen = []

    def inside():
        with StopSignals() as stop:
            seen.append((stop.requested, [signal.getsignal(s) for s in STOP_SIGNALS]))

    before = [signal.getsignal(s) for s in STOP_SIGNALS]
    thread = threading.Thread(target=inside)
    thread.start()
    thread.join()
    assert seen == [(False, before)]
