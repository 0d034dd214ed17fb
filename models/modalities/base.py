"""What a modality is: where its data are, how they are read, and how they become tokens."""

from __future__ import annotations

from abc import ABC, abstractmethod
from argparse import Action
from argparse import _ArgumentGroup as ArgumentGroup
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, ClassVar

from torch import Tensor, nn

from data_utils.cases.case import Case
from data_utils.tables.tensor_table import ModalityTable


@dataclass(frozen=True)
class Entries:
    """What the numbers of an input are, in the order of its flattened tensor.

    Attributes:
        names: of every number.
        groups: what every number belongs to, such as its pathway; empty where the modality has no groups.
    """

    names: tuple[str, ...]
    groups: tuple[str, ...] = ()


class ModalityEncoder(nn.Module, ABC):
    """Turns the data of one modality of a case into ``num_tokens`` tokens of the slide encoder's width.

    Tokens should leave it at unit scale, by a LayerNorm at its end, or the other modalities outshout it; only the
    published gene encoder does not.

    Attributes:
        num_tokens: how many tokens it has.
        width: how many numbers :meth:`vector` gives; None where a linear model reads none of the modality.
    """

    num_tokens: int
    width: int | None = None

    def vector(self, data: Tensor) -> Tensor:
        """What a linear model reads of the data of a case, ``[width]``."""
        return data.flatten()

    @abstractmethod
    def forward(self, data: Tensor, num_tasks: int, case_id: str) -> Tensor:
        """``[T, n, E]`` from what the case has; in training mode every task copy has its own dropout masks.

        Raises:
            ValueError: the data have another shape than in training; the message names the case.
        """


class Modality(ABC):
    """Declares a modality; the training, the doctor and every other part loop over the declarations.

    Attributes:
        name: key of :attr:`data_utils.cases.case.Case.inputs`.
        word: stands for it in a ``--mil_name``, such as ``gene`` in ``longnetvit_gene_adapter``.
        noun: what a patient without it lacks, for messages.
        flag: names its file on the command line, without the dashes.
        help: of that flag.
        remedy: how to get such a file.
        config_section: key of the model config with the arguments of its encoder; None: an entry of
            ``modalities`` there.
        may_be_absent: whether a learned token can stand for it (``--missing_modalities learned``).
        after_task: whether its tokens follow the task token in ModalTune; those of the others come before.
        per_cohort: whether every cohort is fitted anew when trained weights are evaluated on it, instead of
            with what the training found.
        stand_in: a structure with which the doctor builds a model when the file cannot be read.
        published_prefix: of its parameters in checkpoints of the published code, where these have any.
    """

    name: ClassVar[str]
    word: ClassVar[str]
    noun: ClassVar[str]
    flag: ClassVar[str]
    help: ClassVar[str]
    remedy: ClassVar[str]
    config_section: ClassVar[str | None] = None
    may_be_absent: ClassVar[bool] = True
    after_task: ClassVar[bool] = False
    per_cohort: ClassVar[bool] = False
    published_prefix: ClassVar[str | None] = None
    stand_in: ClassVar[Any] = None

    @abstractmethod
    def locate(self, onco: str) -> Path:
        """The file of a cohort, where the flag is not given."""

    def add_flags(self, group: ArgumentGroup) -> list[Action]:
        """Adds flags beyond that of the file, and returns them; their values reach :meth:`read` as ``options``."""
        return []

    @abstractmethod
    def read(self, path: Path, options: Mapping[str, Any], structure: Any = None) -> ModalityTable:
        """Reads and checks the file.

        Args:
            path: the file.
            options: values of the flags of :meth:`add_flags`, by name.
            structure: of a trained model that the data are for (see :attr:`ModalityTable.structure`).

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: it holds something else; the message names the file and the case.
        """

    @abstractmethod
    def build(self, embed_dim: int, structure: Any, **config: Any) -> ModalityEncoder:
        """The encoder for data of the structure given.

        Args:
            embed_dim: width of the tokens.
            structure: see :attr:`ModalityTable.structure`.
            config: the section of this modality in the model config.

        Raises:
            TypeError: a key of ``config`` is unknown.
            ValueError: the data cannot be encoded with this config.
        """

    def check_stored(self, structure: Any, fitted: Any) -> None:  # noqa: B027 most have nothing to check
        """Whether what a weights file says of the modality can be used; None where it says nothing.

        Raises:
            ValueError, TypeError, LookupError, AttributeError, RuntimeError: it cannot.
        """

    # ------------------------------------------------------------------------ explanations
    def entries(self, structure: Any, shape: tuple[int, ...]) -> Entries:
        """Names of the numbers of an input of that shape; they are counted from 1 unless a modality knows better."""
        return Entries(tuple(f"{self.name} {number}" for number in range(1, prod(shape) + 1)))

    @contextmanager
    def apart(self, model: nn.Module, data: Tensor, structure: Any) -> Iterator[tuple[Tensor, Entries]]:
        """Gives every group a copy of its own of the numbers that it shares with others.

        Within the block ``model`` takes the tensor that is yielded, or any of its shape, in place of ``data``; so an
        explanation can tell through which group a number acts.

        Args:
            model: any model that reads this modality.
            data: the input of a case.
            structure: see :attr:`ModalityTable.structure`.
        """
        yield data, self.entries(structure, tuple(data.shape))

    # ------------------------------------------------------------------------ published checkpoints
    def from_published(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Parameters of the encoder from those of the published one; both without prefix."""
        return dict(state)

    def to_published(self, state: Mapping[str, Tensor], structure: Any) -> dict[str, Tensor]:
        """The inverse of :meth:`from_published`."""
        return dict(state)

    def published_layout(self, state: Mapping[str, Tensor]) -> Any:
        """What published parameters say of the structure they were trained with and :meth:`from_published` loses.

        In plain values; None where there is nothing.
        """
        return None

    def misfit(self, layout: Any, structure: Any) -> tuple[str, str] | None:
        """Where parameters of a published layout meet data of another structure: what is wrong, and the remedy."""
        return None

    def input_of(self, case: Case) -> Tensor:
        """What the case has of this modality.

        Raises:
            ValueError: it has nothing; the message names the case.
        """
        data = case.inputs.get(self.name)
        if data is None:
            raise ValueError(f"case {case.case_id} has no {self.noun}, which this model needs")
        return data
