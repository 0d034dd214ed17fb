"""Several processes train one model: who takes which cases, and what they tell each other.

Gradients are added up explicitly instead of by ``DistributedDataParallel``: cases differ in size by a
factor of a thousand, a process may have no case in the last round of an epoch or skip one, parts of a
model may be unused, and stages are computed again in the backward pass. A sum over the trainable
parameters once per step needs no hooks for any of this, and the frozen encoder is never touched.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import nn

logger = logging.getLogger(__name__)

T = TypeVar("T")

# What torchrun sets for every process; scripts/submit_modaltune_ddp.sh sets the same under srun.
_VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
# The others wait while the first process fits probes and draws figures.
_TIMEOUT = timedelta(hours=2)


@dataclass(frozen=True)
class Group:
    """The processes of a run; one process alone by default.

    Every method but :meth:`share` is collective: all processes call it, in the same order.

    Attributes:
        rank: number of this process, 0 for the one that writes files.
        size: number of processes.
        local_rank: number of this process on its machine, which chooses its GPU.
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0

    @property
    def is_main(self) -> bool:
        """Whether this process writes the files."""
        return self.rank == 0

    def share(self, items: Sequence[T]) -> Sequence[T]:
        """The items of this process: every ``size``-th, so that all advance through the order together."""
        return items[self.rank :: self.size]

    def rounds(self, number: int) -> int:
        """Rounds in which all processes together take ``number`` items, one each per round."""
        return -(-number // self.size)

    def sum(self, *values: float) -> list[float]:
        """Sums over the processes."""
        if self.size == 1:
            return [float(value) for value in values]
        tensor = torch.tensor(values, dtype=torch.float64)
        dist.all_reduce(tensor)
        return tensor.tolist()

    def gather(self, value: T) -> list[T]:
        """The value of every process, in the order of ranks."""
        if self.size == 1:
            return [value]
        values: list[Any] = [None] * self.size
        dist.all_gather_object(values, value)
        return values

    def interleave(self, items: list[T]) -> list[T]:
        """Puts the shares of all processes together in the order they were taken from."""
        shares = self.gather(items)
        return [share[k] for k in range(max(map(len, shares))) for share in shares if k < len(share)]

    def on_main(self, function: Callable[[], T]) -> T:
        """Result of a function that only the first process calls.

        Raises:
            RuntimeError: in the other processes, where the first one failed; there, its own error.
        """
        if self.size == 1:
            return function()
        outcome: list[Any] = [None, None]
        error: Exception | None = None
        if self.is_main:
            try:
                outcome[0] = function()
            except Exception as problem:
                error, outcome[1] = problem, f"{type(problem).__name__}: {problem}"
        dist.broadcast_object_list(outcome, src=0)
        if error is not None:
            raise error
        if outcome[1] is not None:
            raise RuntimeError(f"the first process stopped: {outcome[1]}")
        return outcome[0]

    def equalise(self, module: nn.Module) -> None:
        """Gives all processes the trainable parameters and the buffers of the first."""
        if self.size == 1:
            return
        tensors = [p.data for p in module.parameters() if p.requires_grad]
        for tensor in [*tensors, *module.buffers()]:
            dist.broadcast(tensor, src=0)

    def sum_gradients(self, parameters: Sequence[nn.Parameter]) -> bool:
        """Adds up the gradients over the processes; returns whether there was any.

        A parameter without a gradient in every process keeps none, so that the optimiser leaves it alone
        as it would in one process.
        """
        if self.size == 1:
            return any(p.grad is not None for p in parameters)
        counts = self.sum(*(p.grad is not None for p in parameters))
        used = [p for p, count in zip(parameters, counts, strict=True) if count]
        if not used:
            return False
        flat = torch.cat([(torch.zeros_like(p) if p.grad is None else p.grad).flatten() for p in used])
        dist.all_reduce(flat)
        for parameter, part in zip(used, flat.split([p.numel() for p in used]), strict=True):
            parameter.grad = part.view_as(parameter)
        return True


@contextmanager
def process_group() -> Iterator[Group]:
    """Joins the processes that ``torchrun`` or ``submit_modaltune_ddp.sh`` started; else one alone.

    Raises:
        ValueError: some of the variables that describe the processes are missing.
    """
    if "RANK" not in os.environ or os.environ.get("WORLD_SIZE") == "1":
        yield Group()
        return
    if missing := [name for name in _VARIABLES if name not in os.environ]:
        raise ValueError(
            f"RANK is set but {', '.join(missing)} is not: start with torchrun or "
            "scripts/submit_modaltune_ddp.sh, or unset RANK"
        )
    # Objects and counters go through gloo, gradients on GPUs through nccl.
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    rank, size, local = (int(os.environ[name]) for name in _VARIABLES[:3])
    dist.init_process_group(backend, timeout=_TIMEOUT)
    if rank:
        logging.getLogger().setLevel(logging.WARNING)
    logger.info("%d processes (%s)", size, backend)
    yield Group(rank, size, local)
    # After an error the others may wait in a collective; the end of this process tells them.
    dist.destroy_process_group()
