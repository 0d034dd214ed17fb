"""Encoding beside reading and writing: one thread feeds the encoder, so that it never waits for a file."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
from torch import Tensor

from data_utils.slides.opening import SlideError
from data_utils.slides.tile_reading import TileBatch

# Batches handed to the encoder before the features of the first of them are asked for. While a feature file is
# closed, which waits for the disk, the encoder still has this many to work on.
AHEAD = 2


class EncodingStage:
    """Encodes batches in a thread: meanwhile the next batches are read and features of the last are written.

    Attributes:
        waited: seconds in which the encoder had nothing to do because tiles were still being read.
    """

    def __init__(self, encode: Callable[[Tensor], np.ndarray]) -> None:
        """``encode`` maps pixels ``[n, 3, s, s]`` uint8 to features ``[n, D]``; only one call runs at a time."""
        self.waited = 0.0
        self._encode = encode
        self._free_since = 0.0

    def __call__(self, batches: Iterable[TileBatch]) -> Iterator[tuple[TileBatch, Future[np.ndarray]]]:
        """Every batch with its features to be, in order.

        ``result()`` of the second waits for them and raises what ``encode`` or the reading raised
        (:class:`SlideError`). Who leaves the iteration early should close it: batches not begun are dropped.
        """
        thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="encoder")
        pending: deque[tuple[TileBatch, Future[np.ndarray]]] = deque()
        try:
            asked = time.monotonic()
            for batch in batches:
                if not pending or pending[-1][1].done():
                    self.waited += max(0.0, time.monotonic() - max(asked, self._free_since))
                pending.append((batch, thread.submit(self._timed, batch)))
                if len(pending) > AHEAD:
                    yield pending.popleft()
                asked = time.monotonic()
            yield from pending
        finally:
            thread.shutdown(cancel_futures=True)

    def _timed(self, batch: TileBatch) -> np.ndarray:
        if batch.pixels is None:
            raise SlideError(batch.error)
        try:
            return self._encode(batch.pixels)
        finally:
            self._free_since = time.monotonic()
