"""What the Modal Adapter needs of a modality."""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import Tensor, nn

from data_utils.cases.case import Case
from models.aggregators.registry import DataSpec
from utils import constants


class ModalityEncoder(nn.Module, ABC):
    """Turns one modality of a case into ``num_tokens`` tokens of the slide encoder's width.

    Attributes:
        name: the modality's; also the field of :class:`data_utils.cases.case.Case` that holds its data.
        word: stands for it in a ``--mil_name``, such as ``gene`` in ``longnetvit_gene_adapter``.
        num_tokens: how many tokens it has.
    """

    name: str
    word: str
    num_tokens: int

    @classmethod
    @abstractmethod
    def from_spec(cls, embed_dim: int, spec: DataSpec, **config: object) -> ModalityEncoder:
        """The encoder for the data that ``spec`` describes.

        Args:
            embed_dim: width of the tokens.
            spec: what the model has to know of the data.
            config: the section of this modality in the model config.

        Raises:
            TypeError: a key of ``config`` is unknown.
            ValueError: the data cannot be encoded with this config.
        """

    @abstractmethod
    def encode(self, data: Tensor, num_tasks: int, case_id: str) -> Tensor:
        """``[T, n, E]`` from what the case has; in training mode every task copy has its own dropout masks.

        Raises:
            ValueError: the data have another shape than in training; the message names the case.
        """

    def available(self, case: Case) -> bool:
        """Whether the case has this modality."""
        return getattr(case, self.name) is not None

    def forward(self, case: Case, num_tasks: int) -> Tensor:
        """``[T, n, E]`` of a case.

        Raises:
            ValueError: the case lacks the modality; the message names the case.
        """
        if not self.available(case):
            raise ValueError(
                f"case {case.case_id} has no {constants.MODALITIES[self.name].noun}, which this model needs"
            )
        return self.encode(getattr(case, self.name), num_tasks, case.case_id)
