"""The slide encoder without an adapter: its frozen vector, all of it trained, or trained beside genes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from data_utils.cases.case import Case
from models.aggregators.registry import DataSpec, register
from models.aggregators.single_vector import LABEL_OBJECTIVES, built, number_of_genes
from models.configuration import construct
from models.encoders import slide_encoders
from models.frozen import freeze
from models.layers.fusion import LateFusion
from models.modalities import modality
from models.slide_backbone import SlideBackbone, build_backbone

LAYER_DECAY = 0.95
# Longer bags are run through the blocks a second time in the backward pass unless a flag says otherwise.
_LONG = 4096


class _Vector(nn.Identity):
    """What late fusion takes for its image network: the vector is there already."""

    def __init__(self, output_dim: int) -> None:
        super().__init__()
        self.output_dim = output_dim


class SlideEncoderModel(nn.Module):
    """The vector of a slide encoder, behind its last block and norm, for heads or probes.

    Args:
        backbone: the slide encoder.
        num_tasks: ``T``; the task tokens are copies of one vector.
        frozen: leaves the encoder as it is, for a linear probe: only heads are trained.
        num_genes: length of the gene vector, for late fusion; None for the image alone.
        layer_decay: each block learns at this factor times the rate of the block above it.
        fusion: arguments of :class:`models.layers.fusion.LateFusion`.
    """

    def __init__(
        self,
        backbone: SlideBackbone,
        num_tasks: int,
        frozen: bool = False,
        num_genes: int | None = None,
        layer_decay: float = LAYER_DECAY,
        fusion: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        if not 0 < layer_decay <= 1:
            raise ValueError(f"layer_decay is {layer_decay}, should be above 0 and at most 1")
        self.backbone = freeze(backbone) if frozen else backbone
        self.num_tasks, self.frozen, self.layer_decay = num_tasks, frozen, layer_decay
        image = _Vector(backbone.embed_dim)
        self.fusion = (
            None
            if num_genes is None
            else construct(LateFusion, fusion or {}, "model config: fusion", image=image, num_genes=num_genes)
        )
        self.output_dim = backbone.embed_dim if self.fusion is None else self.fusion.output_dim
        self.activation_checkpointing = "auto"

    def forward(self, case: Case, tasks: Sequence[int] | None = None) -> Tensor:
        """``[len(tasks), O]``, for all tasks unless told otherwise."""
        with torch.no_grad() if self.frozen else nullcontext():
            vector = self._represent(case)
        if self.fusion is not None:
            vector = self.fusion(vector, modality("genes").input_of(case))
        return vector.expand(self.num_tasks if tasks is None else len(tasks), -1)

    def _represent(self, case: Case) -> Tensor:
        backbone = self.backbone
        cls, patches, context = backbone.embed(case, 1)
        tokens = torch.cat([cls, patches], dim=1)
        again = torch.is_grad_enabled() and (
            self.activation_checkpointing == "on"
            or (self.activation_checkpointing == "auto" and tokens.shape[1] > _LONG)
        )
        for block in backbone.blocks:
            if again:
                tokens = checkpoint(backbone.run, block, tokens, context, use_reentrant=False)
            else:
                tokens = backbone.run(block, tokens, context)
        return backbone.represent(tokens[:, :1], tokens[:, 1:], context)[0, 0]

    def learning_rate_scale(self, name: str) -> float:
        """Factor on the learning rate of a parameter.

        1 for what lies above the blocks and, as published, for the embedding of patches; smaller the deeper
        a block lies, smallest for CLS.
        """
        blocks = list(self.backbone.blocks)
        if name == "backbone.vit.cls_token":
            return self.layer_decay ** (len(blocks) + 1)
        parameter = self.get_parameter(name)
        for index, block in enumerate(blocks):
            if any(parameter is own for own in block.parameters()):
                return self.layer_decay ** (len(blocks) - index)
        return 1.0


def _build(encoder: str, frozen: bool, genes: bool, config: Mapping[str, Any], spec: DataSpec) -> nn.Module:
    """Reads ``slide_encoder``, ``layer_decay`` and ``fusion`` of a model config of ModalTune."""
    own = {name: config[name] for name in ("layer_decay", "fusion") if name in config}
    length = number_of_genes(spec.structures) if genes else None
    return built(
        SlideEncoderModel,
        own,
        f"the slide encoder {encoder}",
        backbone=build_backbone(encoder, config.get("slide_encoder", {})),
        num_tasks=spec.num_tasks,
        frozen=frozen,
        num_genes=length,
    )


for _encoder in slide_encoders().values():
    for _word, _frozen, _genes in (("probe", True, ()), ("tuned", False, ()), ("cat", False, ("genes",))):
        register(f"{_encoder.prefix}_{_word}", _genes, LABEL_OBJECTIVES, _encoder.name)(
            partial(_build, _encoder.name, _frozen, bool(_genes))
        )
