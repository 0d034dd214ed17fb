"""``--device`` of every entry point, and what a GPU needs before and after it is used."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable

import torch
from torch import Tensor


def pick_device(name: str, local_rank: int | None = None) -> torch.device:
    """The device of ``auto`` (a GPU where there is one), ``cpu``, ``cuda`` or the index of a GPU.

    Of several processes on a machine, each takes the GPU of its ``local_rank`` (or the only one it sees)
    for ``auto`` and ``cuda``.

    A GPU becomes the current one of this process, and PyTorch's attention keeps off cuDNN there, which would
    build a plan for every sequence length: every case has another.

    Raises:
        ValueError: another name, a GPU that is not there, or one that this PyTorch holds no code for.
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
    check_architecture(
        torch.cuda.get_device_name(device),
        torch.cuda.get_device_capability(device),
        torch.cuda.get_arch_list(),
        name,
    )
    torch.cuda.set_device(device)
    torch.backends.cuda.enable_cudnn_sdp(False)
    return device


def check_architecture(gpu: str, capability: tuple[int, int], built: Iterable[str], name: str) -> None:
    """Refuses a GPU that the installed PyTorch holds no code for.

    Args:
        gpu: what the GPU is called.
        capability: its compute capability.
        built: what PyTorch was built for, such as ``sm_80`` (runs on 8.0 and later 8.x) or ``compute_90`` (is
            translated for 9.0 and everything later).
        name: the ``--device`` that was asked for.

    Raises:
        ValueError: nothing fits; the message says what to install.
    """
    built = list(built)
    for entry in built:
        if found := re.fullmatch(r"(sm|compute)_(\d+)(\d)[a-z]?", entry):
            major, minor = int(found[2]), int(found[3])
            later = (major, minor) <= capability
            if later and (found[1] == "compute" or major == capability[0]):
                return
    raise ValueError(
        f"--device {name}: {gpu} has the compute capability {capability[0]}.{capability[1]}, and PyTorch "
        f"{torch.__version__} holds code for {', '.join(built) or 'no GPU'} only. Install a PyTorch that was built for "
        "it (https://pytorch.org/get-started/previous-versions, for GPUs before Turing one of CUDA 12.6: pip install "
        "torch --index-url https://download.pytorch.org/whl/cu126), or pass --device cpu"
    )


def copied_to_host(tensor: Tensor) -> Callable[[], Tensor]:
    """Begins to copy a tensor to the CPU; the result waits for it and returns the copy.

    Work that is given to a GPU in between runs without a gap.
    """
    if tensor.device.type != "cuda":
        return lambda: tensor
    host = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
    host.copy_(tensor, non_blocking=True)
    done = torch.cuda.Event()
    done.record()

    def wait() -> Tensor:
        done.synchronize()
        return host

    return wait
