"""The Prov-GigaPath slide encoder: a LongNet vision transformer over patch features.

Parameter names equal those of the published ``slide_encoder.pth``.
Source: Xu et al. 2024, "A whole-slide foundation model for digital pathology from real-world data".
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from models.frozen import joined_linear
from models.prov_gigapath.dilated_attention import dilated_attention
from models.prov_gigapath.dropout import Dropout, DropPath
from models.tokenwise import tokenwise

PUBLISHED_SEGMENTS = (1024, 5792, 32768, 185363, 1048576)
PUBLISHED_RATIOS = (1, 2, 4, 8, 16)


class DilatedSelfAttention(nn.Module):
    """Multi-head dilated self-attention with a LayerNorm before the output projection."""

    def __init__(self, dim: int, num_heads: int, segments: Sequence[int], ratios: Sequence[int]) -> None:
        super().__init__()
        if dim % num_heads:
            raise ValueError(f"embed_dim {dim} is not divisible by num_heads {num_heads}")
        self.num_heads, self.segments, self.ratios = num_heads, tuple(segments), tuple(ratios)
        self.whole_gradient = False  # see dilated_attention
        self.k_proj = nn.Linear(dim, dim)
        self.v_proj = nn.Linear(dim, dim)
        self.q_proj = nn.Linear(dim, dim)
        self.out_proj = nn.Linear(dim, dim)
        self.inner_attn_ln = nn.LayerNorm(dim)

    def forward(self, x: Tensor) -> Tensor:
        """``[B, L, E] -> [B, L, E]``."""
        qkv = joined_linear(x, (self.q_proj, self.k_proj, self.v_proj))
        qkv = qkv.unflatten(-1, (3, self.num_heads, -1))  # [B, L, 3, H, D]
        out = dilated_attention(qkv, self.segments, self.ratios, self.whole_gradient).flatten(2)
        return self.out_proj(self.inner_attn_ln(out))


class FeedForward(nn.Module):
    """GELU network with a LayerNorm before its second projection."""

    def __init__(self, dim: int, hidden_dim: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden_dim)
        self.fc2 = nn.Linear(hidden_dim, dim)
        self.ffn_layernorm = nn.LayerNorm(hidden_dim)

    def forward(self, x: Tensor) -> Tensor:
        """``[B, L, E] -> [B, L, E]``."""
        return tokenwise(self._forward, x)

    def _forward(self, x: Tensor) -> Tensor:
        hidden = self.fc1(x)
        if torch.is_grad_enabled():
            # GELU and LayerNorm would each keep a tensor four times as wide as the tokens for the sake of
            # one percent of the time.
            hidden = checkpoint(self._activate, hidden, use_reentrant=False, preserve_rng_state=False)
        else:
            hidden = self._activate(hidden)
        return self.fc2(hidden)

    def _activate(self, hidden: Tensor) -> Tensor:
        return self.ffn_layernorm(F.gelu(hidden))


class LongNetLayer(nn.Module):
    """Pre-norm transformer block."""

    def __init__(
        self,
        dim: int,
        num_heads: int,
        ffn_dim: int,
        segments: Sequence[int],
        ratios: Sequence[int],
        dropout: float,
        drop_path: float,
    ) -> None:
        super().__init__()
        self.self_attn = DilatedSelfAttention(dim, num_heads, segments, ratios)
        self.self_attn_layer_norm = nn.LayerNorm(dim)
        self.ffn = FeedForward(dim, ffn_dim)
        self.final_layer_norm = nn.LayerNorm(dim)
        self.dropout = Dropout(dropout)
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        """``[B, L, E] -> [B, L, E]``."""
        x = self.drop_path(x, lambda kept: self.dropout(self.self_attn(self.self_attn_layer_norm(kept))))
        return self.drop_path(x, lambda kept: self.dropout(self.ffn(self.final_layer_norm(kept))))


class LongNetEncoder(nn.Module):
    """The stack of blocks. ``layer_norm`` is part of the checkpoint; the adapter path does not use it."""

    def __init__(self, layers: Sequence[LongNetLayer], dim: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)
        self.layer_norm = nn.LayerNorm(dim)


class PatchEmbed(nn.Module):
    """Projects patch features to the width of the encoder."""

    def __init__(self, in_dim: int, dim: int) -> None:
        super().__init__()
        self.proj = nn.Linear(in_dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        """``[..., D_in] -> [..., E]``."""
        return self.proj(x)


def axis_position_table(grid_size: int, dim: int) -> Tensor:
    """Sine-cosine code of the positions along one axis, ``[grid_size, dim]``.

    The published encoder keeps a table of all ``grid_size ** 2 + 1`` positions (3 GB); it only ever
    joins two rows of this one.
    """
    half = dim // 2
    omega = 10000.0 ** (-torch.arange(half, dtype=torch.float64) / half)
    angles = torch.arange(grid_size, dtype=torch.float64)[:, None] * omega
    return torch.cat([angles.sin(), angles.cos()], dim=1).float()


class LongNetViT(nn.Module):
    """Modules and positions of the slide encoder; the caller runs the blocks.

    Args:
        in_dim: width of the patch features.
        embed_dim: width of the encoder, a multiple of 4.
        depth: number of blocks.
        num_heads: attention heads.
        ffn_dim: hidden width of the feed-forward networks.
        segment_lengths: segments of the dilated branches, in positions.
        dilated_ratios: ratios of the dilated branches.
        dropout: on the embedded input and on both residual branches of a block.
        drop_path_rate: of the last block; grows linearly from 0 at the first.
        tile_size: level-0 pixels of one cell of the position grid.
        grid_size: cells of the position grid along each axis.
    """

    def __init__(
        self,
        in_dim: int = 1536,
        embed_dim: int = 768,
        depth: int = 12,
        num_heads: int = 16,
        ffn_dim: int = 3072,
        segment_lengths: Sequence[int] = PUBLISHED_SEGMENTS,
        dilated_ratios: Sequence[int] = PUBLISHED_RATIOS,
        dropout: float = 0.25,
        drop_path_rate: float = 0.1,
        tile_size: int = 256,
        grid_size: int = 1000,
    ) -> None:
        super().__init__()
        if embed_dim % 4:
            raise ValueError(f"embed_dim {embed_dim} is no multiple of 4, which 2-D positions need")
        if not segment_lengths or len(segment_lengths) != len(dilated_ratios):
            raise ValueError(
                f"{len(segment_lengths)} segment_lengths but {len(dilated_ratios)} dilated_ratios: as many of "
                "both are needed, at least one"
            )
        if dilated_ratios[0] != 1:
            raise ValueError(f"the first dilated ratio must be 1, not {dilated_ratios[0]}")
        self.embed_dim, self.tile_size, self.grid_size = embed_dim, tile_size, grid_size
        self.patch_embed = PatchEmbed(in_dim, embed_dim)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, embed_dim))
        rates = torch.linspace(0, drop_path_rate, depth, device="cpu").tolist()
        self.encoder = LongNetEncoder(
            [
                LongNetLayer(embed_dim, num_heads, ffn_dim, segment_lengths, dilated_ratios, dropout, rate)
                for rate in rates
            ],
            embed_dim,
        )
        self.norm = nn.LayerNorm(embed_dim, eps=1e-6)  # for vectors without an adapter
        self.input_dropout = Dropout(dropout)
        table = axis_position_table(grid_size, embed_dim // 2)
        self.register_buffer("axis_positions", table, persistent=False)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Random weights, for generated checkpoints and ``--random_backbone``."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)
        nn.init.trunc_normal_(self.cls_token, std=0.02)

    def grid_cells(self, coords: Tensor) -> Tensor:
        """Cells ``[L, 2]`` (x, y) of level-0 coordinates ``[L, 2]``; may lie outside the grid."""
        return torch.div(coords, self.tile_size, rounding_mode="floor").long()

    def positions(self, coords: Tensor) -> Tensor:
        """Position code ``[L, E]`` of level-0 coordinates ``[L, 2]``; outside the grid, of its border.

        The first half encodes y and the second half x. Coordinates may stay on the CPU.
        """
        cells = self.grid_cells(coords).clamp_(0, self.grid_size - 1)
        cells = cells.to(self.axis_positions.device, non_blocking=True)
        return torch.cat([self.axis_positions[cells[:, 1]], self.axis_positions[cells[:, 0]]], dim=1)
