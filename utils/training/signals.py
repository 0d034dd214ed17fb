"""Signals that ask a training to stop: it finishes the case at hand, saves and leaves with exit status 75."""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
from types import FrameType, TracebackType
from typing import Any

logger = logging.getLogger(__name__)

# The convention of sysexits.h for "try again later"; submit scripts requeue on it.
EXIT_INTERRUPTED = os.EX_TEMPFAIL
STOP_SIGNALS = (signal.SIGTERM, signal.SIGUSR1)
# One request often arrives twice: a scheduler signals every process of a job, and its script passes the
# signal on.
_SAME_REQUEST_SECONDS = 2.0


class Interrupted(SystemExit):
    """Ends the process with :data:`EXIT_INTERRUPTED`; everything is saved and the run can go on."""

    def __init__(self) -> None:
        super().__init__(EXIT_INTERRUPTED)


class StopSignals:
    """Within the block, SIGTERM and SIGUSR1 set :attr:`requested` instead of ending the process.

    A second signal after two seconds ends the process as if nothing had been installed. Files are
    written under temporary names, so that this damages none. Outside of the main thread, where Python
    allows no handlers, the block changes nothing.
    """

    def __init__(self) -> None:
        self.requested = False
        self._first, self._number = 0.0, signal.SIGTERM
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> StopSignals:
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._handle) for number in STOP_SIGNALS}
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}
        if self.requested and kind is None:
            # It came when nobody asked any more: it has the effect it has without this block.
            self.requested = False
            os.kill(os.getpid(), self._number)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        # No logging in here: the interrupted code may hold the very lock that logging needs.
        if not self.requested:
            self.requested, self._first, self._number = True, time.monotonic(), number
        elif time.monotonic() - self._first > _SAME_REQUEST_SECONDS:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
