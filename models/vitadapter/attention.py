"""Compressed pre-norm attention layers of the Modal Adapter.

The query is projected to a quarter of the width, attention works there, and the result is projected
back. Keys and values are read from the full width. Both layers return their input plus the
attention, so the residual is part of the layer.
"""

from __future__ import annotations

from torch import Tensor, nn


def compressed_width(dim: int, ratio: float, num_heads: int) -> int:
    """Width at which attention works.

    Raises:
        ValueError: the width is no multiple of the number of heads.
    """
    width = int(dim * ratio)
    if width < 1 or width % num_heads:
        raise ValueError(
            f"width {dim} x cffn_ratio {ratio} = {width} must be a positive multiple of num_heads {num_heads}"
        )
    return width


def _init_attention(*modules: nn.Module) -> None:
    """Xavier for every matrix; biases keep what they have."""
    for module in modules:
        for parameter in module.parameters():
            if parameter.dim() > 1:
                nn.init.xavier_uniform_(parameter)


class CrossAttention(nn.Module):
    """``x + attention(norm(x) + query_pos, norm_kq(memory) + key_pos, norm_kq(memory) + key_pos)``."""

    def __init__(self, dim: int, num_heads: int, ratio: float) -> None:
        super().__init__()
        width = compressed_width(dim, ratio, num_heads)
        self.q_proj = nn.Linear(dim, width)
        self.output_proj = nn.Linear(width, dim)
        self.multihead_attn = nn.MultiheadAttention(width, num_heads, kdim=dim, vdim=dim, batch_first=True)
        self.norm_kq = nn.LayerNorm(dim)
        self.norm = nn.LayerNorm(dim)

    def reset_parameters(self) -> None:
        """Xavier-uniform matrices, zero biases of the projections."""
        _init_attention(self.q_proj, self.output_proj, self.multihead_attn)
        nn.init.zeros_(self.q_proj.bias)
        nn.init.zeros_(self.output_proj.bias)

    def forward(
        self,
        x: Tensor,
        memory: Tensor,
        query_pos: Tensor | None = None,
        key_pos: Tensor | None = None,
    ) -> Tensor:
        """``x [T, M, E]``, ``memory [T, N, E]``, positions ``[M or N, E]`` -> ``[T, M, E]``."""
        query, key = self.norm(x), self.norm_kq(memory)
        if query_pos is not None:
            query = query + query_pos
        if key_pos is not None:
            key = key + key_pos  # the published layer adds the position to keys and values alike
        out = self.multihead_attn(self.q_proj(query), key, key, need_weights=False)[0]
        return x + self.output_proj(out)


class SelfAttention(nn.Module):
    """``x + attention(norm(x) + pos, norm(x) + pos, norm(x))``."""

    def __init__(self, dim: int, num_heads: int, ratio: float) -> None:
        super().__init__()
        width = compressed_width(dim, ratio, num_heads)
        self.q_proj = nn.Linear(dim, width)
        self.output_proj = nn.Linear(width, dim)
        self.self_attn = nn.MultiheadAttention(width, num_heads, kdim=dim, vdim=dim, batch_first=True)
        self.norm = nn.LayerNorm(dim)

    def reset_parameters(self) -> None:
        """Xavier-uniform matrices; the projections keep PyTorch's biases, as in the published runs."""
        _init_attention(self.q_proj, self.output_proj, self.self_attn)

    def forward(self, x: Tensor, pos: Tensor) -> Tensor:
        """``x [T, M, E]``, ``pos [M, E]`` -> ``[T, M, E]``."""
        value = self.norm(x)
        key = value + pos
        out = self.self_attn(self.q_proj(key), key, value, need_weights=False)[0]
        return x + self.output_proj(out)
