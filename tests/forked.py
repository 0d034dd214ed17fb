"""Functions in processes of their own that start at once, because they are forked from this one."""

from __future__ import annotations

import multiprocessing
import os
import socket
from collections.abc import Callable
from typing import Any

FORK = multiprocessing.get_context("fork")


def start(function: Callable[..., Any], *args: Any) -> multiprocessing.Process:
    """Starts a function in a forked process."""
    process = FORK.Process(target=function, args=args)
    process.start()
    return process


def finish(process: multiprocessing.Process, seconds: float = 60.0) -> int:
    """Waits for a process; returns its exit status, negative for the signal that ended it."""
    process.join(seconds)
    if process.exitcode is None:
        process.kill()
        process.join()
        raise TimeoutError(f"a test process did not end within {seconds} seconds")
    return process.exitcode


def start_ranks(size: int, function: Callable[[], Any]) -> list[multiprocessing.Process]:
    """Starts a function ``size`` times, with the variables that torchrun sets."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]

    def as_rank(rank: int) -> None:
        os.environ |= {
            "RANK": str(rank),
            "LOCAL_RANK": str(rank),
            "WORLD_SIZE": str(size),
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(port),
        }
        function()

    return [start(as_rank, rank) for rank in range(size)]


def run_ranks(size: int, function: Callable[[], Any]) -> list[int]:
    """Runs a function in ``size`` processes; returns their exit statuses."""
    return [finish(process) for process in start_ranks(size, function)]
