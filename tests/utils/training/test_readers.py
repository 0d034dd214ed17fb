"""Processes that read cases, and what ends them."""

import os
import subprocess

import pytest
from torch.utils.data import DataLoader

from utils.training.readers import dead_readers_explained, obey_the_trainer_alone

pytestmark = pytest.mark.filterwarnings("ignore:.*fork.*")


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


def test_a_dead_reader_is_explained_and_other_errors_are_not_touched():
    with (
        pytest.raises(RuntimeError, match=r"worker \(pid 7\) is killed.*lower --workers"),
        dead_readers_explained(),
    ):
        raise RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed.")
    with pytest.raises(RuntimeError, match=r"^something else$"), dead_readers_explained():
        raise RuntimeError("something else")
