"""Time and memory of a piece of work, and how fast the machine was at that moment."""

from __future__ import annotations

import resource
import time
from collections.abc import Callable
from statistics import median

import torch

YARDSTICK = (4096, 768, 3072)
Row = dict[str, float | str]


def yardstick(device: str = "cpu") -> float:
    """GFLOP/s of the float32 matrix product 4096 x 768 x 3072."""
    m, k, n = YARDSTICK
    a, b = torch.randn(m, k, device=device), torch.randn(k, n, device=device)
    return 2 * m * k * n / min(seconds(lambda: a @ b, 5, device)) / 1e9


def seconds(
    work: Callable[[], object], repeats: int, device: str = "cpu", warm_up: bool = True
) -> list[float]:
    """Wall-clock seconds of every repeat, after one that does not count unless told otherwise."""
    if warm_up:
        work()
    results = []
    for _ in range(repeats):
        _wait(device)
        start = time.perf_counter()
        work()
        _wait(device)
        results.append(time.perf_counter() - start)
    return results


def _wait(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def row(work: Callable[[], object], repeats: int, device: str = "cpu", warm_up: bool = True) -> Row:
    """Median seconds, peak memory of this process (of the GPU where it ran there) and the yardstick."""
    speed = yardstick(device)
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    result: Row = {"seconds": median(seconds(work, repeats, device, warm_up))}
    peak = torch.cuda.max_memory_allocated() / 2**30 if device == "cuda" else process_peak()
    return {**result, "peak_gib": peak, "gflops": speed}


def process_peak() -> float:
    """Most memory that this process has held, GiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20  # Linux counts in KiB
