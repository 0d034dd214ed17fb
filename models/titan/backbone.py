"""TITAN's vision encoder as a backbone of the Modal Adapter."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from data_utils.cases.case import Case
from models.configuration import construct
from models.pretrained import read_checkpoint
from models.slide_backbone import SlideBackbone
from models.titan.grid import check_patch_size, check_slide_grid, scatter_to_grid, token_of_patch
from models.titan.vision_encoder import TitanVisionEncoder


class TitanBackbone(SlideBackbone):
    """Runs :class:`TitanVisionEncoder` block by block.

    The image token is what the contrastive pooler reads from all tokens, CLS among them, after the
    final norm; it is not projected. The context of a case are its grid cells ``[1 + N, 2]``, of which
    the first stands for CLS.

    Args:
        config: arguments of :class:`TitanVisionEncoder`.
    """

    official_name = "the TITAN slide encoder"
    check_slide: Callable[[Tensor, int | None, str], None] = staticmethod(check_slide_grid)

    def __init__(self, **config: Any) -> None:
        super().__init__()
        self.vit = construct(TitanVisionEncoder, config, "slide_encoder")
        self.embed_dim = self.vit.embed_dim
        self.feature_dim = self.vit.in_dim

    @property
    def blocks(self) -> Sequence[nn.Module]:
        return self.vit.blocks.modules_list

    @property
    def feed_forwards(self) -> Sequence[nn.Module]:
        return [block.mlp for block in self.blocks]

    def embed(self, case: Case, num_tasks: int) -> tuple[Tensor, Tensor, Tensor]:
        """See :class:`SlideBackbone`; tokens are the occupied grid cells, x by x.

        Raises:
            ValueError: the features have another width or are all zero, or the patch size is missing
                or collapses the grid; the message names the case.
        """
        where = f"case {case.case_id}"
        if case.features.shape[-1] != self.feature_dim:
            raise ValueError(
                f"{where}: patch features are {case.features.shape[-1]} wide, the slide encoder takes "
                f"{self.feature_dim}. Were they extracted with another patch encoder?"
            )
        check_patch_size(case.coords, case.patch_size_lv0, where)
        features, cells = scatter_to_grid(case.features, case.coords, case.patch_size_lv0)
        if not len(features):
            raise ValueError(f"{where}: all patch features are zero, which TITAN takes for background")
        patches = self.vit.patch_embed(features).expand(num_tasks, -1, -1)  # [T, N, E]
        cls = self.vit.cls_token.expand(num_tasks, -1, -1)
        return cls, patches, F.pad(cells, (0, 0, 1, 0))

    def run(self, block: nn.Module, tokens: Tensor, context: Tensor) -> Tensor:
        return block(tokens, context, self.vit.slopes)

    def pool(self, cls: Tensor, patches: Tensor, context: Tensor) -> Tensor:
        tokens = self.vit.norm(torch.cat([cls, patches], dim=1))
        return self.vit.attn_pool_contrastive(tokens)

    def token_of_patch(self, case: Case) -> Tensor:
        return token_of_patch(case.features, case.coords, case.patch_size_lv0)

    def read_pretrained(self, path: str | Path) -> dict[str, Tensor]:
        return read_checkpoint(
            path,
            prefix="vision_encoder.",
            what=self.official_name,
            source="https://huggingface.co/MahmoodLab/TITAN (model.safetensors; gated; python -m utils.weights "
            "fetch titan)",
            constant="TITAN_SLIDE_ENCODER",
        )
