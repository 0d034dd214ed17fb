"""Calls that may end their process: a damaged slide can abort the library that reads it, or exhaust the memory.

A helper process is forked before slides are touched; it forks itself anew for every call. So a call that aborts
loses only itself, every call begins in the same clean state, and nothing is forked from a process with threads.
"""

from __future__ import annotations

import faulthandler
import logging
import multiprocessing
import os
import pickle
import resource
import signal
from collections.abc import Callable
from logging.handlers import QueueHandler
from multiprocessing.connection import Connection
from types import TracebackType
from typing import Generic, TypeVar

from data_utils.slides.opening import SlideError

Answer = TypeVar("Answer")
# Planning a slide, or looking at it, takes seconds; of a whole-slide image without pyramid some minutes.
LIMIT = 1800
ENDED = (
    "reading it ended the process; the file is damaged or the memory too small (download or copy it again, give the "
    "job more memory)"
)


class Isolated(Generic[Answer]):
    """``function``, called in a process of its own each time; its log is passed on.

    Raises:
        SlideError: on calling, the process ended without an answer, or took longer than allowed; else what the
            function raises.
    """

    def __init__(self, function: Callable[..., Answer], limit: int = LIMIT) -> None:
        """``limit``: seconds that a call may take."""
        fork = multiprocessing.get_context("fork")
        self._connection, theirs = fork.Pipe()
        self._helper = fork.Process(
            target=_serve, args=(function, limit, theirs, self._connection), daemon=True
        )
        self._helper.start()
        theirs.close()

    def __enter__(self) -> Isolated[Answer]:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._connection.close()
        self._helper.join()

    def __call__(self, *args: object) -> Answer:
        self._connection.send(args)
        answer, error, records = self._connection.recv()
        for record in records:
            logging.getLogger(record.name).handle(record)
        if error is not None:
            raise error
        return answer


def _serve(
    function: Callable[..., object], limit: int, connection: Connection, callers_end: Connection
) -> None:
    """Answers calls until the caller closes its end."""
    callers_end.close()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # of the whole group; the caller ends this process
    while True:
        try:
            args = connection.recv()
        except EOFError:
            return
        child = os.fork()
        if child == 0:
            status = 1
            try:
                end_after(limit)
                connection.send_bytes(_answer(function, args))
                status = 0
            finally:
                os._exit(status)
        _, status = os.waitpid(child, 0)
        if status:
            connection.send((None, SlideError(_why_ended(status, limit)), []))


def _answer(function: Callable[..., object], args: tuple[object, ...]) -> bytes:
    faulthandler.disable()  # the caller says in one line how this process ended
    _limit_memory()
    records: list[logging.LogRecord] = []
    logging.root.handlers[:] = [_Collector(records)]
    try:
        answer, error = function(*args), None
    except Exception as raised:  # raised again where the function was called
        answer, error = None, raised
    return pickle.dumps((answer, error, records))


def _limit_memory() -> None:
    """No more than the machine has: what a damaged file declares fails at once instead of filling the memory."""
    page = os.sysconf("SC_PAGE_SIZE")
    total = os.sysconf("SC_PHYS_PAGES") * page
    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    try:
        with open("/proc/self/statm", encoding="ascii") as file:  # noqa: PTH123
            used = int(file.read().split()[0]) * page
    except OSError:
        logging.getLogger(__name__).debug("no /proc: the memory limit goes by the resident size")
    hard = resource.getrlimit(resource.RLIMIT_AS)[1]
    limit = used + total if hard == resource.RLIM_INFINITY else min(used + total, hard)
    resource.setrlimit(resource.RLIMIT_AS, (limit, hard))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


class _Collector(QueueHandler):
    """Keeps records in a list, as they can be sent: message and traceback as text."""

    def enqueue(self, record: logging.LogRecord) -> None:
        self.queue.append(record)


def too_long(seconds: int) -> str:
    """Why a slide is given up that kept its process busy for so long."""
    return (
        f"reading it takes more than {seconds / 60:g} minutes; the file is damaged, has no pyramid, or its disk does "
        "not answer (see whether other programs open it, or convert it to a tiled TIFF with a pyramid)"
    )


def end_after(seconds: int) -> None:
    """This process ends when so many seconds have passed, whatever it is doing; 0: not any more."""
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.alarm(seconds)


def _why_ended(status: int, limit: int) -> str:
    number = os.waitstatus_to_exitcode(status)
    if number == -signal.SIGALRM:
        return too_long(limit)
    return f"{ENDED}: {signal.Signals(-number).name if number < 0 else f'status {number}'}"
