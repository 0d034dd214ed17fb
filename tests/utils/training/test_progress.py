"""States of the random generators."""

import random

import numpy as np
import torch

from utils.training import checkpoint
from utils.training.progress import random_state, set_random_state

CPU = torch.device("cpu")


def draw():
    return random.random(), random.gauss(0, 1), np.random.normal(), torch.rand(3).tolist()  # noqa: NPY002


def test_generators_go_on_where_they_were(tmp_path):
    draw()  # an odd number of normal draws keeps one in store
    checkpoint.save(tmp_path / "state.pt", random_state(CPU))
    expected = [draw() for _ in range(3)]
    draw()
    set_random_state(checkpoint.load(tmp_path / "state.pt"), CPU)
    assert [draw() for _ in range(3)] == expected
