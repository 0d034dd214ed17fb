"""``--compile``: ``torch.compile`` for the parts of a model that element-wise work slows down.

Parts are whole modules, compiled in place, so that the names of parameters stay. None of them draws random
numbers: masks are drawn outside, and a compiled training sees those of a plain one. None holds one of the
slide encoders' attentions, which choose their kernels themselves. docs/performance.md has the measurements.
"""

from __future__ import annotations

import importlib.util
import logging
from collections.abc import Iterable, Sequence
from functools import cache
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from models.slide_backbone import SlideBackbone

logger = logging.getLogger(__name__)

# Versions of one part that may exist: training or not, precisions, whether the input needs a gradient, one
# patch or several. PyTorch's limit of 8 counts all parts of a class together.
RECOMPILE_LIMIT = 64


class Adapter(Protocol):
    """A model with interaction stages around a slide encoder."""

    @property
    def interactions(self) -> Iterable[Any]:
        """The stages; each has an ``injector`` and ``extractors``."""

    @property
    def backbone(self) -> SlideBackbone:
        """The slide encoder."""


def parts(model: Adapter, device_type: str) -> Sequence[nn.Module]:
    """The modules to compile on ``cpu`` or ``cuda``."""
    injectors = [stage.injector for stage in model.interactions]
    extractors = [extractor.attn for stage in model.interactions for extractor in stage.extractors]
    # On CPUs a fused GELU and LayerNorm is slower than PyTorch's two kernels.
    return [*injectors, *extractors, *(() if device_type == "cpu" else model.backbone.feed_forwards)]


def compile_parts(model: Adapter, device_type: str) -> None:
    """Compiles :func:`parts`, each when it first runs; patches may then be any number.

    Where a part cannot be compiled after all, or needs more than ``RECOMPILE_LIMIT`` versions, its call is an
    error; it never runs uncompiled.

    Raises:
        RuntimeError: this machine cannot compile; the message says why and what to do.
    """
    check_compiler(device_type)
    allow_versions()
    chosen = parts(model, device_type)
    for part in chosen:
        part.compile(dynamic=True, fullgraph=True)
    logger.info("%d parts of the model are compiled when they first run (--compile)", len(chosen))


def allow_versions() -> None:
    """Raises PyTorch's limit on the versions of a compiled function to ``RECOMPILE_LIMIT``."""
    config = torch._dynamo.config
    config.cache_size_limit = max(RECOMPILE_LIMIT, config.cache_size_limit)  # its name in all versions


def obstacle(device_type: str) -> str | None:
    """What keeps ``torch.compile`` from working on a device, as far as that can be told at once."""
    if torch._dynamo.config.disable:
        return "it is switched off (TORCH_COMPILE_DISABLE)"
    if device_type == "cuda" and importlib.util.find_spec("triton") is None:
        return "the package triton is missing"
    return None


@cache
def check_compiler(device_type: str) -> None:
    """Compiles a function of one line.

    Raises:
        RuntimeError: that does not work; the message says why and what to do.
    """
    cause = None
    reason = obstacle(device_type)
    if reason is None:
        try:
            with torch._inductor.config.patch(fx_graph_cache=False):  # else an old result would do
                torch.compile(_one_line, fullgraph=True)(torch.ones(8, device=device_type))
        except (RuntimeError, OSError, ImportError) as error:
            cause, reason = error, f"{type(error).__name__}: {error}".splitlines()[0]
    if reason is not None:
        needed = (
            "a C compiler and triton" if device_type == "cuda" else "a C++ compiler (g++, or what CXX names)"
        )
        raise RuntimeError(
            f"--compile: torch.compile does not work on {device_type} here, {reason}. It needs {needed} and the "
            "headers of Python; install them, or leave --compile out"
        ) from cause


def _one_line(x: Tensor) -> Tensor:
    return torch.sin(x) + 1
