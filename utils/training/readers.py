"""Processes that read cases for the trainer (``--workers``)."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from torch.utils.data import DataLoader, Dataset


def case_loader(dataset: Dataset, order: Sequence[int], workers: int, pinned: bool) -> DataLoader:
    """The cases of a dataset one by one, in an order; workers start anew, so that they see the dataset's epoch."""
    return DataLoader(
        dataset,
        batch_size=None,
        sampler=order,
        num_workers=workers,
        pin_memory=pinned,
        worker_init_fn=obey_the_trainer_alone,
    )


@contextmanager
def dead_readers_explained() -> Iterator[None]:
    """Says what to do where such a process was killed.

    Raises:
        RuntimeError: one was.
    """
    try:
        yield
    except RuntimeError as error:
        if "DataLoader worker" not in str(error):
            raise
        raise RuntimeError(
            f"a process that reads features died, usually for want of memory ({error}). Give the job more memory "
            "or lower --workers; started again, the training continues"
        ) from error


def obey_the_trainer_alone(worker: int = 0) -> None:
    """For processes that read cases: end on a SIGTERM of the trainer, stay on that of anybody else.

    Schedulers signal every process of a job, and a reader that dies takes the trainer with it before it
    could save.
    """
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    threading.Thread(target=_end_with_the_trainer, args=(os.getppid(),), daemon=True).start()


def _end_with_the_trainer(trainer: int) -> None:
    # A handler is not told who sent the signal; waiting for it is.
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != trainer:
        pass
    os._exit(os.EX_OK)
