"""What the Modal Adapter needs from a frozen slide encoder (see :mod:`models.encoders` for which there are)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from data_utils.cases.case import Case
from models.encoders import slide_encoder
from models.pretrained import load_strict


class SlideBackbone(nn.Module, ABC):
    """A slide encoder taken apart into the steps between which the adapter works.

    Symbols: ``T`` task copies, ``L`` patches, ``E`` width of the encoder.
    """

    # Its modules, under the parameter names of the official checkpoint, and what messages call them.
    vit: nn.Module
    official_name: str
    embed_dim: int
    feature_dim: int  # width of the patch features it takes
    # Level-0 pixels that the position grid covers along each axis, where the encoder has one.
    grid_extent: int | None = None
    # Where the encoder counts distances in patches: checks the patch size that a slide states,
    # ``(coords [L, 2], patch_size, where) -> None``, and raises a ValueError that begins with ``where``.
    check_slide: Callable[[Tensor, int | None, str], None] | None = None

    @property
    @abstractmethod
    def blocks(self) -> Sequence[nn.Module]:
        """The transformer blocks, in order."""

    @property
    def feed_forwards(self) -> Sequence[nn.Module]:
        """The feed-forward networks of the blocks, if ``--compile`` may compile them: no random numbers."""
        return ()

    @abstractmethod
    def embed(self, case: Case, num_tasks: int) -> tuple[Tensor, Tensor, Any]:
        """Embeds a case once for all tasks.

        Returns:
            CLS tokens ``[T, 1, E]``, patch tokens ``[T, L, E]`` (``L`` may be smaller than in the case
            where the encoder drops background), and a context that ``run`` and ``pool`` receive.
        """

    @abstractmethod
    def run(self, block: nn.Module, tokens: Tensor, context: Any) -> Tensor:
        """Applies one block to ``[T, 1 + L, E]``."""

    @abstractmethod
    def pool(self, cls: Tensor, patches: Tensor, context: Any) -> Tensor:
        """The image token ``[T, 1, E]`` from the tokens after the last block."""

    def represent(self, cls: Tensor, patches: Tensor, context: Any) -> Tensor:
        """The vector ``[T, 1, E]`` of the slide by the encoder's makers; the image token unless told otherwise."""
        return self.pool(cls, patches, context)

    # ------------------------------------------------------------------------ explanations
    @contextmanager
    def whole_gradient(self) -> Iterator[None]:
        """Within the block gradients are those of the function, also where training takes parts of it for constant."""
        yield

    def kernels(self, device: torch.device, dtype: torch.dtype) -> dict[str, str]:
        """What computes the blocks on a device, where there is a choice: which part -> name of its kernel."""
        return {}

    def token_of_patch(self, case: Case) -> Tensor:
        """Which patch token ``[L]`` every patch of a case became; -1 where the encoder drops it."""
        return torch.arange(len(case.features))

    # ------------------------------------------------------------------------ checkpoints
    @abstractmethod
    def read_pretrained(self, path: str | Path) -> dict[str, Tensor]:
        """The tensors of the official checkpoint, under the names of ``vit``'s parameters.

        Raises:
            FileNotFoundError: there is no such file; the message says where to get it.
            ValueError: the file is damaged or another one.
        """

    def load_pretrained(self, path: str | Path) -> None:
        """Loads the official checkpoint.

        Raises:
            FileNotFoundError, ValueError: as :meth:`read_pretrained`, or parameters are missing or have
                another shape.
        """
        load_strict(self.vit, self.read_pretrained(path), self.official_name, path)

    def forward(self, case: Case, num_tasks: int = 1) -> Tensor:
        """The encoder's own image token ``[T, 1, E]``, without any adapter."""
        cls, patches, context = self.embed(case, num_tasks)
        tokens = torch.cat([cls, patches], dim=1)
        for block in self.blocks:
            tokens = self.run(block, tokens, context)
        return self.pool(tokens[:, :1], tokens[:, 1:], context)


def build_backbone(name: str, config: Mapping[str, Any]) -> SlideBackbone:
    """The slide encoder registered as ``name``, with random weights.

    Raises:
        ValueError: no such encoder.
    """
    return slide_encoder(name).load("backbone")(**config)
