"""Where a training stands, to the case: enough to go on as if it had never been interrupted."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch


@dataclass
class Progress:
    """Position of a run.

    Attributes:
        epoch: the epoch at hand; all before it are finished, their metrics logged.
        done: rounds of this epoch that are done; with one process, cases.
        loss_sum: of the cases of this process that were trained on in this epoch.
        skipped: what was wrong with every case of this process that was skipped in this epoch.
    """

    epoch: int = 0
    done: int = 0
    loss_sum: float = 0.0
    skipped: list[str] = field(default_factory=list)


def random_state(device: torch.device) -> dict[str, Any]:
    """States of the generators of Python, numpy, torch and the GPU, as plain values and tensors."""
    version, words, gauss = random.getstate()
    kind, keys, position, has_gauss, cached = np.random.get_state()  # noqa: NPY002 libraries draw from it
    state = {
        "python": (version, list(words), gauss),
        "numpy": (kind, torch.from_numpy(keys.astype(np.int64)), position, has_gauss, cached),
        "torch": torch.get_rng_state(),
    }
    if device.type == "cuda":
        state["cuda"] = torch.cuda.get_rng_state(device)
    return state


def set_random_state(state: dict[str, Any], device: torch.device) -> None:
    """Restores :func:`random_state`; that of a GPU only on a GPU."""
    version, words, gauss = state["python"]
    random.setstate((version, tuple(words), gauss))
    kind, keys, *rest = state["numpy"]
    np.random.set_state((kind, keys.numpy().astype(np.uint32), *rest))  # noqa: NPY002
    torch.set_rng_state(state["torch"])
    if device.type == "cuda" and "cuda" in state:
        torch.cuda.set_rng_state(state["cuda"], device)
