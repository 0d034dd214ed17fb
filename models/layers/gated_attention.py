"""Gated attention pooling (Ilse et al., ICML 2018) with the dropout that its users in pathology add."""

from __future__ import annotations

from torch import Tensor, nn


class GatedAttention(nn.Module):
    """Pools tokens ``[L, D]`` into one vector, weighted by ``softmax(c(tanh(a x) * sigmoid(b x)))``.

    Args:
        dim: ``D``.
        hidden_dim: width of the two branches.
        dropout: behind the non-linearity of both branches.
    """

    def __init__(self, dim: int, hidden_dim: int, dropout: float = 0.25) -> None:
        super().__init__()
        self.attention_a = nn.Sequential(nn.Linear(dim, hidden_dim), nn.Tanh(), nn.Dropout(dropout))
        self.attention_b = nn.Sequential(nn.Linear(dim, hidden_dim), nn.Sigmoid(), nn.Dropout(dropout))
        self.attention_c = nn.Linear(hidden_dim, 1)

    def weights(self, x: Tensor) -> Tensor:
        """What every token contributes ``[L]``; sums to 1."""
        return self.attention_c(self.attention_a(x) * self.attention_b(x)).squeeze(-1).softmax(dim=0)

    def forward(self, x: Tensor) -> Tensor:
        """``[L, D] -> [D]``."""
        return self.weights(x) @ x
