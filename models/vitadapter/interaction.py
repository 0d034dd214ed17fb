"""One interaction stage of the Modal Adapter: inject, run frozen blocks, extract.

After ViT-Adapter (Chen et al. 2023); what is particular to ModalTune is said where it happens.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.vitadapter.attention import CrossAttention, SelfAttention


def init_linear(module: nn.Module) -> None:
    """Truncated normal (0.02) weights and zero biases for linear layers; use with ``apply``."""
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


class DropPath(nn.Module):
    """Leaves a residual branch out of some copies of a batch, the others are scaled up (Huang et al. 2016).

    Draws the numbers of ``timm.layers.DropPath``; importing timm takes two seconds.
    """

    def __init__(self, drop_prob: float) -> None:
        super().__init__()
        self.drop_prob = drop_prob

    def forward(self, x: Tensor) -> Tensor:
        """``[T, M, E] -> [T, M, E]``."""
        if not self.training or self.drop_prob == 0:
            return x
        keep = 1 - self.drop_prob
        kept = x.new_empty(len(x), *[1] * (x.dim() - 1)).bernoulli_(keep)
        return x * (kept.div_(keep) if keep > 0 else kept)


class CompressedFFN(nn.Module):
    """``LayerNorm -> Linear(E, E * ratio) -> ReLU -> Linear(E * ratio, E)``."""

    def __init__(self, dim: int, ratio: float) -> None:
        super().__init__()
        self.linear1 = nn.Linear(dim, int(dim * ratio))
        self.linear2 = nn.Linear(int(dim * ratio), dim)
        self.norm = nn.LayerNorm(dim)

    def forward(self, x: Tensor) -> Tensor:
        """``[T, M, E] -> [T, M, E]``, without residual."""
        return self.linear2(F.relu(self.linear1(self.norm(x))))


class Injector(nn.Module):
    """Patch tokens read from the modality tokens, through a gate that starts closed."""

    def __init__(self, dim: int, num_heads: int, ratio: float, init_value: float) -> None:
        super().__init__()
        self.attn = CrossAttention(dim, num_heads, ratio)
        self.gamma = nn.Parameter(torch.full((dim,), float(init_value)))

    def forward(self, patches: Tensor, c: Tensor, pos: Tensor) -> Tensor:
        """``patches [T, L, E]``, ``c [T, M, E]``, ``pos [M, E]`` -> ``[T, L, E]``."""
        # ``attn`` contains its own residual, so this is patches + gamma * (patches + attention). The
        # published numbers were made with it.
        return patches + self.gamma * self.attn(patches, c, key_pos=pos)


class Extractor(nn.Module):
    """Modality tokens read from the patch tokens."""

    def __init__(
        self, dim: int, num_heads: int, ratio: float, drop_path: float, with_ffn: bool = True
    ) -> None:
        super().__init__()
        self.attn = CrossAttention(dim, num_heads, ratio)
        self.ffn = CompressedFFN(dim, ratio) if with_ffn else None
        self.drop_path = DropPath(drop_path) if drop_path else nn.Identity()

    def forward(self, c: Tensor, patches: Tensor, pos: Tensor) -> Tensor:
        """``c [T, M, E]``, ``patches [T, L, E]``, ``pos [M, E]`` -> ``[T, M, E]``."""
        c = c + self.attn(c, patches, query_pos=pos)  # double residual, as in the injector
        return c if self.ffn is None else c + self.drop_path(self.ffn(c))


class InteractionStage(nn.Module):
    """Inject -> frozen blocks -> extract (-> extra extractors in the last stage).

    CLS is neither injected into nor read.
    """

    casts_weights_together = True  # models.weight_copies

    def __init__(
        self,
        dim: int,
        num_heads: int,
        ratio: float,
        init_value: float,
        drop_path: float,
        num_extra_extractors: int = 0,
        with_ffn: bool = True,
    ) -> None:
        super().__init__()
        self.injector = Injector(dim, num_heads, ratio, init_value)
        self.extractor = Extractor(dim, num_heads, ratio, drop_path, with_ffn)
        if num_extra_extractors:
            self.extra_extractors = nn.ModuleList(
                Extractor(dim, num_heads, ratio, drop_path, with_ffn) for _ in range(num_extra_extractors)
            )
        self.reset_parameters()

    @property
    def extractors(self) -> list[Extractor]:
        """The extractor and the extra ones, in the order they run."""
        return [self.extractor, *getattr(self, "extra_extractors", ())]

    def reset_parameters(self) -> None:
        """Linear layers truncated normal, then the attention layers Xavier."""
        self.apply(init_linear)
        for module in self.modules():
            if isinstance(module, CrossAttention):
                module.reset_parameters()

    def forward(
        self,
        cls: Tensor,
        patches: Tensor,
        c: Tensor,
        pos: Tensor,
        run_blocks: Callable[[Tensor], Tensor],
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Runs the stage.

        Args:
            cls: ``[T, 1, E]``.
            patches: ``[T, L, E]``.
            c: modality tokens ``[T, M, E]``.
            pos: positions of the modality tokens ``[M, E]``.
            run_blocks: the frozen blocks of the stage, ``[T, 1 + L, E] -> [T, 1 + L, E]``.

        Returns:
            The new ``cls``, ``patches`` and ``c``.
        """
        patches = self.injector(patches, c, pos)
        tokens = run_blocks(torch.cat([cls, patches], dim=1))
        cls, patches = tokens[:, :1], tokens[:, 1:]
        for extractor in self.extractors:
            c = extractor(c, patches, pos)
        return cls, patches, c


def build_prompt_selfattention(dim: int, num_heads: int, ratio: float, num_stages: int) -> nn.ModuleDict:
    """Self-attention over the modality tokens before every stage but the first, keyed by stage."""
    layers = nn.ModuleDict()
    for stage in range(1, num_stages):
        layer = SelfAttention(dim, num_heads, ratio)
        layer.reset_parameters()
        layers[str(stage)] = layer
    return layers
