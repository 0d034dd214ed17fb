"""Mixed precision: which type, and whether gradients must be scaled."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from models.weight_copies import cast_together

logger = logging.getLogger(__name__)


class Precision:
    """Autocast and gradient scaling of a run.

    bfloat16 where the device supports it, else float16 with a gradient scaler; nothing where mixed
    precision is off. What is left in float32 may use TensorFloat-32 on a GPU, which is a setting of the process.
    """

    def __init__(self, device: torch.device, use_amp: bool, tf32: bool = False) -> None:
        if device.type == "cuda":
            torch.set_float32_matmul_precision("high" if tf32 else "highest")
            torch.backends.cudnn.allow_tf32 = tf32
        elif tf32:
            logger.warning("--tf32 is for GPUs; %s computes in float32", device.type)
        half = device.type == "cuda" and not torch.cuda.is_bf16_supported(including_emulation=False)
        self.dtype = (torch.float16 if half else torch.bfloat16) if use_amp else torch.float32
        self._device = device.type
        self.scaler = torch.amp.GradScaler(device.type, enabled=self.dtype == torch.float16)

    @contextmanager
    def running(self, model: nn.Module) -> Iterator[None]:
        """The context to run ``model`` in."""
        if self.dtype == torch.float32:
            yield
            return
        with torch.autocast(self._device, dtype=self.dtype), cast_together(model, self.dtype):
            yield

    def __str__(self) -> str:
        return str(self.dtype).removeprefix("torch.")
