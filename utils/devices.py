"""``--device`` of every entry point."""

from __future__ import annotations

import re

import torch


def pick_device(name: str, local_rank: int | None = None) -> torch.device:
    """The device of ``auto`` (a GPU where there is one), ``cpu``, ``cuda`` or the index of a GPU.

    Of several processes on a machine, each takes the GPU of its ``local_rank`` (or the only one it sees)
    for ``auto`` and ``cuda``.

    Raises:
        ValueError: another name, or a GPU that is not there.
    """
    available = torch.cuda.device_count()
    if name == "auto":
        name = "cuda" if available else "cpu"
    if name == "cuda" and available and local_rank is not None:
        name = f"cuda:{local_rank % available}"
    if name.isdigit():
        name = f"cuda:{name}"
    if not re.fullmatch(r"cpu|cuda(:\d+)?", name):
        raise ValueError(f"--device {name!r} should be auto, cpu, cuda, or the index of a GPU")
    if name == "cpu":
        return torch.device("cpu")
    device = torch.device(name if ":" in name else "cuda:0")
    if device.index >= available:
        raise ValueError(f"--device {name}: this machine has {available} GPUs that PyTorch can use")
    return device
