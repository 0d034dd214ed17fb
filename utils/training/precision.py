"""Mixed precision: which type, and whether gradients must be scaled."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch


class Precision:
    """Autocast and gradient scaling of a run.

    bfloat16 where the device supports it, else float16 with a gradient scaler; nothing where mixed
    precision is off.
    """

    def __init__(self, device: torch.device, use_amp: bool) -> None:
        half = device.type == "cuda" and not torch.cuda.is_bf16_supported(including_emulation=False)
        self.dtype = (torch.float16 if half else torch.bfloat16) if use_amp else torch.float32
        self._device = device.type
        self.scaler = torch.amp.GradScaler(device.type, enabled=self.dtype == torch.float16)

    def autocast(self) -> AbstractContextManager:
        """The context to run the model in."""
        if self.dtype == torch.float32:
            return nullcontext()
        return torch.autocast(self._device, dtype=self.dtype)

    def __str__(self) -> str:
        return str(self.dtype).removeprefix("torch.")
