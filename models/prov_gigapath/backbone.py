"""The Prov-GigaPath slide encoder as a backbone of the Modal Adapter."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from data_utils.cases.case import Case
from models.configuration import construct
from models.pretrained import read_checkpoint
from models.prov_gigapath import dilated_attention
from models.prov_gigapath.longnet import DilatedSelfAttention, LongNetViT
from models.slide_backbone import SlideBackbone

logger = logging.getLogger(__name__)


class GigaPathBackbone(SlideBackbone):
    """Runs :class:`LongNetViT` block by block. The image token is CLS, without a final norm.

    A model of the same family names its own file in the three attributes.

    Args:
        config: arguments of :class:`LongNetViT`.
    """

    official_name = "the Prov-GigaPath slide encoder"
    source = (
        "https://huggingface.co/prov-gigapath/prov-gigapath (slide_encoder.pth; gated; python -m utils.weights "
        "fetch gigapath)"
    )
    constant = "GIGAPATH_SLIDE_ENCODER"

    def __init__(self, **config: Any) -> None:
        super().__init__()
        self.vit = construct(LongNetViT, config, "slide_encoder")
        self.embed_dim = self.vit.embed_dim
        self.feature_dim = self.vit.patch_embed.proj.in_features
        self.grid_extent = self.vit.tile_size * self.vit.grid_size

    def kernels(self, device: torch.device, dtype: torch.dtype) -> dict[str, str]:
        """See :class:`SlideBackbone`."""
        return dilated_attention.kernels(device, dtype, self.embed_dim // self.blocks[0].self_attn.num_heads)

    @property
    def blocks(self) -> Sequence[nn.Module]:
        return self.vit.encoder.layers

    @property
    def feed_forwards(self) -> Sequence[nn.Module]:
        return [layer.ffn for layer in self.blocks]

    def embed(self, case: Case, num_tasks: int) -> tuple[Tensor, Tensor, None]:
        """See :class:`SlideBackbone`; raises ValueError where the features have another width."""
        if case.features.shape[-1] != self.feature_dim:
            raise ValueError(
                f"case {case.case_id}: patch features are {case.features.shape[-1]} wide, the slide encoder "
                f"takes {self.feature_dim}. Were they extracted with another tile encoder?"
            )
        self._warn_outside_grid(case)
        patches = self.vit.patch_embed(case.features) + self.vit.positions(case.coords)
        patches = patches.expand(num_tasks, -1, -1)  # [T, L, E]
        cls = self.vit.cls_token.expand(num_tasks, -1, -1)  # position 0 is zero
        if self.training:  # every task copy draws its own mask
            patches, cls = self.vit.input_dropout(patches), self.vit.input_dropout(cls)
        return cls, patches, None

    def _warn_outside_grid(self, case: Case) -> None:
        cells = self.vit.grid_cells(case.coords)
        outside = int(((cells < 0) | (cells >= self.vit.grid_size)).any(dim=1).sum())
        if outside:
            size = f"{self.vit.grid_size} x {self.vit.grid_size}"
            logger.warning(
                "case %s: %d of %d patches lie outside the %s position grid and get positions of its border",
                case.case_id,
                outside,
                len(cells),
                size,
            )

    def run(self, block: nn.Module, tokens: Tensor, context: None) -> Tensor:
        return block(tokens)

    def pool(self, cls: Tensor, patches: Tensor, context: None) -> Tensor:
        return cls

    def represent(self, cls: Tensor, patches: Tensor, context: None) -> Tensor:
        """CLS behind the outer norm, which the adapter leaves out."""
        return self.vit.norm(cls)

    @contextmanager
    def whole_gradient(self) -> Iterator[None]:
        layers = [layer for layer in self.vit.modules() if isinstance(layer, DilatedSelfAttention)]
        for layer in layers:
            layer.whole_gradient = True
        try:
            yield
        finally:
            for layer in layers:
                layer.whole_gradient = False

    def read_pretrained(self, path: str | Path) -> dict[str, Tensor]:
        state = read_checkpoint(path, self.official_name, self.source, self.constant)
        # Newer releases of the file carry the fixed position table, which is computed here.
        return {name: value for name, value in state.items() if name != "pos_embed"}
