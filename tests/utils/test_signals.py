"""Requests to stop: heard inside the block, without effect on what is outside."""

import os
import signal
import subprocess
import threading
import time

import pytest
from torch.utils.data import DataLoader

from tests.forked import finish, start
from utils import signals
from utils.signals import EXIT_INTERRUPTED, STOP_SIGNALS, Interrupted, StopSignals, obey_the_trainer_alone

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


class Numbers:
    """Tells who reads."""

    def __len__(self):
        return 4

    def __getitem__(self, index):
        return index, os.getpid()


def test_readers_survive_what_a_scheduler_sends_and_end_with_the_trainer():
    loader = DataLoader(
        Numbers(), batch_size=None, num_workers=1, prefetch_factor=1, worker_init_fn=obey_the_trainer_alone
    )
    reading = iter(loader)
    _, reader = next(reading)
    for name in ("TERM", "USR1"):
        subprocess.run(["kill", "-s", name, str(reader)], check=True)
    assert [index for index, _ in reading] == [1, 2, 3]
    reading = iter(loader)
    _, reader = next(reading)
    send_to_reader = [w for w in reading._workers if w.pid == reader]
    send_to_reader[0].terminate()  # what torch and multiprocessing do with readers that stay
    send_to_reader[0].join(30)
    assert send_to_reader[0].exitcode == 0
