"""Nystrom attention (Xiong et al., AAAI 2021) as TransMIL uses it, without a large matrix in memory."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class NystromAttention(nn.Module):
    """Self-attention through ``m`` landmarks, plus a convolution of the values along the tokens.

    Softmax attention is approximated by ``A1 pinv(A2) (A3 v)``: tokens attend to landmarks, landmarks to each
    other, landmarks to tokens. Multiplied from the right, the first and the last factor are ordinary
    attention, which fused kernels compute without their matrices ``[T, m]``.

    Zero tokens in front make the length a multiple of ``m``; a landmark is the mean of consecutive tokens.
    The zero tokens take part as the tokens of a padded sequence do: nothing is masked. The output is that of
    the true tokens (an early version of the original returned it shifted by the padding).

    Args:
        dim: width of the tokens.
        heads: attention heads.
        landmarks: ``m``.
        iterations: steps towards the pseudo-inverse.
        kernel: width of the convolution, odd.
        dropout: on the output.
    """

    def __init__(
        self,
        dim: int,
        heads: int = 8,
        landmarks: int = 256,
        iterations: int = 6,
        kernel: int = 33,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        if dim % heads:
            raise ValueError(f"{dim} is no multiple of {heads} heads")
        self.heads, self.landmarks, self.iterations = heads, landmarks, iterations
        self.scale = (dim // heads) ** -0.5
        self.to_qkv = nn.Linear(dim, 3 * dim, bias=False)
        self.res_conv = nn.Conv2d(
            heads, heads, (kernel, 1), padding=(kernel // 2, 0), groups=heads, bias=False
        )
        self.to_out = nn.Sequential(nn.Linear(dim, dim), nn.Dropout(dropout))

    def forward(self, x: Tensor) -> Tensor:
        """``[T, D] -> [T, D]``; float32 or better even under autocast, which the iteration does not bear."""
        with torch.autocast(x.device.type, enabled=False):
            return self._attend(x.to(self.to_qkv.weight.dtype))

    def _attend(self, x: Tensor) -> Tensor:
        count = len(x)
        per_landmark = -(-count // self.landmarks)
        x = F.pad(x, (0, 0, self.landmarks * per_landmark - count, 0))
        q, k, v = (
            self.to_qkv(x).unflatten(-1, (3, self.heads, -1)).permute(1, 2, 0, 3).unsqueeze(1)
        )  # [1, h, T, d]
        q = q * self.scale
        q_landmarks, k_landmarks = (
            t.unflatten(2, (self.landmarks, per_landmark)).mean(dim=3) for t in (q, k)
        )
        inverse = pseudo_inverse((q_landmarks @ k_landmarks.mT).softmax(dim=-1), self.iterations)
        gathered = F.scaled_dot_product_attention(q_landmarks, k, v, scale=1.0)  # A3 v
        spread = F.scaled_dot_product_attention(q, k_landmarks, inverse @ gathered, scale=1.0)
        out = (spread + self.res_conv(v)).squeeze(0).transpose(0, 1).flatten(1)
        return self.to_out(out)[-count:]


def pseudo_inverse(matrix: Tensor, iterations: int) -> Tensor:
    """Iterative pseudo-inverse of non-negative matrices ``[..., m, m]``.

    The starting point is scaled by the largest row and column sum over all matrices at once, as in the
    original: the heads of an attention are not independent of each other.
    """
    identity = torch.eye(matrix.shape[-1], dtype=matrix.dtype, device=matrix.device)
    z = matrix.mT / (matrix.abs().sum(dim=-1).amax() * matrix.abs().sum(dim=-2).amax())
    for _ in range(iterations):
        product = matrix @ z
        inner = 7 * identity - product
        inner = 15 * identity - product @ inner
        z = 0.25 * z @ (13 * identity - product @ inner)
    return z
