"""Text distillation: outputs learn from label sentences (after PromptKD, Li et al. 2024)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from data_utils.cases.case import Case
from utils import constants
from utils.training.objectives.base import Labelled, Objective

TEXT_DIM = 512
LOSS_SCALE = 10.0


class TextProjector(nn.Sequential):
    """Frozen random map from text embeddings to the output space: ``[..., 512] -> [..., O]``.

    It is never trained, so a checkpoint without it would be worthless: it is saved with every run.
    """

    def __init__(self, output_dim: int, text_dim: int = TEXT_DIM) -> None:
        super().__init__(
            nn.Linear(text_dim, output_dim),
            nn.LayerNorm(output_dim),
            nn.ReLU(),
            nn.Linear(output_dim, output_dim),
        )
        self.requires_grad_(False)


class TextDistillation(Objective):
    """``10 tau^2 KL(softmax(text / tau) || softmax(output / tau))``, summed over tasks and width.

    Args:
        output_dim: ``O``.
        num_tasks: ``T``; task ``i`` learns from the text row that ``constants.TASK_TEXT_ROW`` gives it.
        temperature: ``tau``.
    """

    needs_text = True

    def __init__(self, output_dim: int, num_tasks: int = 3, temperature: float = 1.0) -> None:
        super().__init__()
        rows = list(constants.TASK_TEXT_ROW.values())
        if not 1 <= num_tasks <= len(rows):
            raise ValueError(f"num_tasks is {num_tasks}; texts exist for 1 to {len(rows)} tasks")
        self.temperature = temperature
        self.projector = TextProjector(output_dim)
        self.register_buffer("text_rows", torch.tensor(rows[:num_tasks]), persistent=False)

    def project(self, text: Tensor) -> Tensor:
        """Normalised projections ``[..., O]`` of sentences ``[..., 512]``."""
        return F.normalize(self.projector(text), dim=-1)

    def targets(self, text: Tensor) -> Tensor:
        """What the tasks learn, ``[T, O]``, from the sentences ``[4, 512]`` of a case."""
        return self.project(text[self.text_rows])

    def learns_from(self, patient: Labelled) -> bool:
        """Always: every patient has sentences."""
        return True

    def forward(self, outputs: Tensor, case: Case) -> Tensor:
        """The loss of one case with sentences from its outputs ``[T, O]``."""
        if case.text is None:
            raise ValueError(f"case {case.case_id} has no text embedding to learn from")
        return self.divergence(outputs, case.text)

    def divergence(self, outputs: Tensor, text: Tensor) -> Tensor:
        """How far outputs ``[T, O]`` are from sentences ``[4, 512]``."""
        if len(outputs) != len(self.text_rows):
            raise ValueError(f"{len(outputs)} task outputs for {len(self.text_rows)} texts")
        # Softmax over small differences: always in single precision or better.
        precision = torch.promote_types(outputs.dtype, torch.float32)
        with torch.autocast(outputs.device.type, enabled=False), torch.no_grad():
            teacher = self.targets(text.to(self.projector[0].weight.dtype)).to(precision)
        student = F.normalize(outputs.to(precision), dim=-1)
        divergence = F.kl_div(
            F.log_softmax(student / self.temperature, dim=-1),
            F.log_softmax(teacher / self.temperature, dim=-1),
            reduction="sum",
            log_target=True,
        )
        return LOSS_SCALE * self.temperature**2 * divergence
