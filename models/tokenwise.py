"""Networks of single tokens, run on a part of the tokens at a time."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

# What 512 tokens leave between two layers, four times as wide as they are, fits into the caches of CPUs. A tensor
# of all tokens is also one that the C library takes from the system anew each time, page by page.
TOKENS = 512


def tokenwise(network: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """``network(x)`` of tokens ``[..., D]``, which it must map one by one; in parts of ``TOKENS`` on CPUs.

    All at once under autocast, which would cast the weights again for every part and keep these copies.
    """
    whole = x.device.type != "cpu" or torch.is_autocast_enabled("cpu") or torch.compiler.is_compiling()
    if whole or x.shape[:-1].numel() <= TOKENS:
        return network(x)
    parts = [network(part) for part in x.flatten(0, -2).split(TOKENS)]
    return torch.cat(parts).unflatten(0, x.shape[:-1])
