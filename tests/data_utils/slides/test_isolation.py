"""Calls in processes of their own: answers, errors, logs, and processes that end."""

import logging
import os
import signal

import pytest

from data_utils.slides.isolation import Isolated
from data_utils.slides.opening import SlideError


def act(what):
    logging.getLogger("slides").warning("about to %s", what)
    if what == "raise":
        raise SlideError("torn")
    if what == "abort":
        os.abort()
    if what == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    if what == "exit":
        os._exit(3)
    if what == "hang":
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
        while True:
            pass
    if what == "fill":
        return len(bytearray(1 << 46))  # 64 TiB
    return what, os.getpid()


def test_answers_come_from_another_process_each(caplog):
    with Isolated(act) as call:
        (one, first), (two, second) = call("work"), call("rest")
    assert (one, two) == ("work", "rest") and len({first, second, os.getpid()}) == 3
    assert caplog.messages == ["about to work", "about to rest"]


@pytest.mark.parametrize(
    ("what", "error", "message"),
    [
        ("raise", SlideError, "^torn$"),
        ("abort", SlideError, "damaged.*SIGABRT"),
        ("killed", SlideError, "memory too small.*SIGKILL"),
        ("exit", SlideError, "status 3"),
        ("fill", MemoryError, None),
        ("hang", SlideError, "more than 0.0166667 minutes.*convert it"),
    ],
)
def test_what_goes_wrong_is_raised_and_the_next_call_works(what, error, message):
    with Isolated(act, limit=1 if what == "hang" else 60) as call:
        with pytest.raises(error, match=message):
            call(what)
        assert call("work")[0] == "work"


def test_the_helper_ends_with_the_block():
    with Isolated(act) as call:
        helper = call._helper
        assert helper.is_alive()
    assert helper.exitcode == 0


def test_a_function_that_closes_over_its_surroundings():
    names = ["a"]
    with Isolated(lambda number: names * number) as call:
        assert call(2) == ["a", "a"]
