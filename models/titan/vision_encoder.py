"""TITAN's vision encoder: a vision transformer over patch features with 2-D ALiBi positions.

Parameter names equal those below ``vision_encoder.`` in the published ``model.safetensors``.
Source: Ding et al. 2024, "Multimodal whole slide foundation model for pathology".
"""

from __future__ import annotations

from functools import partial

import torch
from timm.layers import Mlp
from torch import Tensor, nn

from models.titan.alibi_attention import alibi_attention, alibi_slopes
from models.tokenwise import tokenwise

LayerNorm = partial(nn.LayerNorm, eps=1e-6)


class SelfAttention(nn.Module):
    """Multi-head self-attention with 2-D ALiBi biases."""

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        if dim % num_heads:
            raise ValueError(f"embed_dim {dim} is not divisible by num_heads {num_heads}")
        self.num_heads = num_heads
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor, cells: Tensor, slopes: Tensor) -> Tensor:
        """``x [T, N, E]``, ``cells [N, 2]``, ``slopes [H]`` -> ``[T, N, E]``."""
        qkv = self.qkv(x).unflatten(-1, (3, self.num_heads, -1))  # [T, N, 3, H, D]
        return self.proj(alibi_attention(qkv, cells, slopes).flatten(2))


class Block(nn.Module):
    """Pre-norm transformer block."""

    def __init__(self, dim: int, num_heads: int, mlp_ratio: float) -> None:
        super().__init__()
        self.norm1 = LayerNorm(dim)
        self.attn = SelfAttention(dim, num_heads)
        self.norm2 = LayerNorm(dim)
        self.mlp = Mlp(dim, int(dim * mlp_ratio))

    def forward(self, x: Tensor, cells: Tensor, slopes: Tensor) -> Tensor:
        """``x [T, N, E]``, ``cells [N, 2]``, ``slopes [H]`` -> ``[T, N, E]``."""
        x = x + self.attn(self.norm1(x), cells, slopes)
        return x + tokenwise(self.mlp, self.norm2(x))


class Blocks(nn.Module):
    """The stack of blocks, under the name the checkpoint gives it."""

    def __init__(self, blocks: list[Block]) -> None:
        super().__init__()
        self.modules_list = nn.ModuleList(blocks)


class AttentionalPooler(nn.Module):
    """Learned queries that attend to all tokens."""

    def __init__(self, dim: int, num_queries: int, num_heads: int) -> None:
        super().__init__()
        if dim % num_heads:
            raise ValueError(f"embed_dim {dim} is not divisible by pooler_heads {num_heads}")
        self.query = nn.Parameter(torch.empty(num_queries, dim))
        self.attn = nn.MultiheadAttention(dim, num_heads)
        self.ln_q = LayerNorm(dim)
        self.ln_k = LayerNorm(dim)
        nn.init.trunc_normal_(self.query, std=0.02)

    def forward(self, x: Tensor) -> Tensor:
        """``[T, N, E] -> [T, Q, E]``."""
        # Sequence first and contiguous: on a transposed view, PyTorch's bfloat16 projection makes a copy
        # of its weights for every token.
        x = self.ln_k(x).transpose(0, 1).contiguous()  # [N, T, E]
        query = self.ln_q(self.query).unsqueeze(1).expand(-1, x.shape[1], -1)
        return self.attn(query, x, x, need_weights=False)[0].transpose(0, 1)


class TitanVisionEncoder(nn.Module):
    """Modules of the slide encoder; the caller runs the blocks.

    ``attn_pool`` and ``proj`` are part of the checkpoint; the adapter path does not use them.

    Args:
        in_dim: width of the patch features.
        embed_dim: width of the encoder.
        depth: number of blocks.
        num_heads: attention heads of the blocks.
        mlp_ratio: hidden width of the feed-forward networks, in multiples of ``embed_dim``.
        pooler_heads: attention heads of the poolers.
        pooler_queries: queries of ``attn_pool``.
    """

    def __init__(
        self,
        in_dim: int = 768,
        embed_dim: int = 768,
        depth: int = 6,
        num_heads: int = 12,
        mlp_ratio: float = 4.0,
        pooler_heads: int = 8,
        pooler_queries: int = 128,
    ) -> None:
        super().__init__()
        self.in_dim, self.embed_dim = in_dim, embed_dim
        self.cls_token = nn.Parameter(torch.zeros(1, 1, embed_dim))
        self.proj = nn.Parameter(torch.empty(embed_dim, embed_dim))
        self.patch_embed = nn.Sequential(nn.Linear(in_dim, embed_dim), nn.GELU())
        self.blocks = Blocks([Block(embed_dim, num_heads, mlp_ratio) for _ in range(depth)])
        self.norm = LayerNorm(embed_dim)
        self.attn_pool = AttentionalPooler(embed_dim, pooler_queries, pooler_heads)
        self.attn_pool_contrastive = AttentionalPooler(embed_dim, 1, pooler_heads)
        self.register_buffer("slopes", alibi_slopes(num_heads), persistent=False)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Random weights, for generated checkpoints and ``--random_backbone``."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)
        nn.init.trunc_normal_(self.cls_token, std=0.02)
        nn.init.normal_(self.proj, std=self.embed_dim**-0.5)
