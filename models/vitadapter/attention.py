"""Compressed pre-norm attention layers of the Modal Adapter.

The query is projected to a quarter of the width, attention works there, and the result is projected
back. Keys and values are read from the full width. Both layers return their input plus the
attention, so the residual is part of the layer.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
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


def multihead(layer: nn.MultiheadAttention, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """What ``layer`` computes, on batch-first tensors that stay contiguous.

    The module would feed transposed views to its projections, of which PyTorch's CPU kernels make copies.

    Args:
        layer: attention without dropout whose keys and values have another width than its queries.
        query: ``[T, M, C]``.
        key: ``[T, N, E]``.
        value: ``[T, N, E]``; projected together with ``key`` where it is the same tensor.

    Returns:
        ``[T, M, C]``.
    """
    bias_q, bias_kv = layer.in_proj_bias.split([layer.embed_dim, 2 * layer.embed_dim])
    q = F.linear(query, layer.q_proj_weight, bias_q)
    weights = (layer.k_proj_weight, layer.v_proj_weight)
    if key is value:
        k, v = F.linear(key, torch.cat(weights), bias_kv).chunk(2, dim=-1)
    else:
        inputs = zip((key, value), weights, bias_kv.chunk(2), strict=True)
        k, v = (F.linear(x, weight, bias) for x, weight, bias in inputs)
    q, k, v = (x.unflatten(-1, (layer.num_heads, -1)).transpose(1, 2) for x in (q, k, v))
    out = F.scaled_dot_product_attention(q, k, v)  # [T, H, M, D]
    return layer.out_proj(out.transpose(1, 2).flatten(2))


def multihead_weights(layer: nn.MultiheadAttention, query: Tensor, key: Tensor) -> Tensor:
    """The attention weights inside :func:`multihead` ``[T, H, M, N]``, which its fused kernel never writes down.

    One head after the other, so that besides the result no more than a head is in memory.
    """
    bias_q, bias_k, _ = layer.in_proj_bias.chunk(3)
    q, k = F.linear(query, layer.q_proj_weight, bias_q), F.linear(key, layer.k_proj_weight, bias_k)
    weights = q.new_empty(len(q), layer.num_heads, q.shape[1], k.shape[1])
    for head, (own_q, own_k) in enumerate(
        zip(q.chunk(layer.num_heads, dim=-1), k.chunk(layer.num_heads, dim=-1), strict=True)
    ):
        scores = own_q @ own_k.transpose(1, 2) * own_q.shape[-1] ** -0.5
        weights[:, head] = scores.softmax(dim=-1)
    return weights


class CrossAttention(nn.Module):
    """``x + attention(norm(x) + query_pos, norm_kq(memory) + key_pos, norm_kq(memory) + key_pos)``."""

    def __init__(self, dim: int, num_heads: int, ratio: float) -> None:
        super().__init__()
        width = compressed_width(dim, ratio, num_heads)
        self.q_proj = nn.Linear(dim, width)
        self.output_proj = nn.Linear(width, dim)
        self.multihead_attn = nn.MultiheadAttention(width, num_heads, kdim=dim, vdim=dim)
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
        query, key = self._query_and_key(x, memory, query_pos, key_pos)
        out = multihead(self.multihead_attn, query, key, key)
        return x + self.output_proj(out)

    def weights(
        self,
        x: Tensor,
        memory: Tensor,
        query_pos: Tensor | None = None,
        key_pos: Tensor | None = None,
    ) -> Tensor:
        """Attention weights ``[T, H, M, N]`` of the same arguments as ``forward``; every row adds up to 1."""
        query, key = self._query_and_key(x, memory, query_pos, key_pos)
        return multihead_weights(self.multihead_attn, query, key)

    def _query_and_key(
        self, x: Tensor, memory: Tensor, query_pos: Tensor | None, key_pos: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        query, key = self.norm(x), self.norm_kq(memory)
        if query_pos is not None:
            query = query + query_pos
        if key_pos is not None:
            key = key + key_pos  # the published layer adds the position to keys and values alike
        return self.q_proj(query), key


class SelfAttention(nn.Module):
    """``x + attention(norm(x) + pos, norm(x) + pos, norm(x))``."""

    casts_weights_together = True  # models.weight_copies

    def __init__(self, dim: int, num_heads: int, ratio: float) -> None:
        super().__init__()
        width = compressed_width(dim, ratio, num_heads)
        self.q_proj = nn.Linear(dim, width)
        self.output_proj = nn.Linear(width, dim)
        self.self_attn = nn.MultiheadAttention(width, num_heads, kdim=dim, vdim=dim)
        self.norm = nn.LayerNorm(dim)

    def reset_parameters(self) -> None:
        """Xavier-uniform matrices; the projections keep PyTorch's biases, as in the published runs."""
        _init_attention(self.q_proj, self.output_proj, self.self_attn)

    def forward(self, x: Tensor, pos: Tensor) -> Tensor:
        """``x [T, M, E]``, ``pos [M, E]`` -> ``[T, M, E]``."""
        value = self.norm(x)
        key = value + pos
        out = multihead(self.self_attn, self.q_proj(key), key, value)
        return x + self.output_proj(out)

    def weights(self, x: Tensor, pos: Tensor) -> Tensor:
        """Attention weights ``[T, H, M, M]`` of the same arguments as ``forward``; every row adds up to 1."""
        key = self.norm(x) + pos
        return multihead_weights(self.self_attn, self.q_proj(key), key)
