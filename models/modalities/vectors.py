"""Precomputed vectors of a patient as tokens: report embeddings, mutations, another foundation model."""

from __future__ import annotations

from torch import Tensor, nn

from models.aggregators.registry import DataSpec
from models.modalities.base import ModalityEncoder
from models.vitadapter.interaction import init_linear

POOLING = ("none", "mean")


class VectorEncoder(ModalityEncoder):
    """``Linear -> ReLU -> Linear -> LayerNorm`` for each of the ``n`` vectors ``[n, d]`` of a patient.

    Without pooling every vector is a token, and since the positions of tokens are learned, all patients
    must have equally many vectors. With ``pool="mean"`` the mean of the encoded vectors is one token,
    which takes any number of them.

    Args:
        embed_dim: width of the tokens.
        shape: ``(n, d)`` of the training cohort; ``n`` is None where it differs between patients.
        pool: ``none`` or ``mean``.

    Raises:
        ValueError: the number of vectors differs between patients and they are not pooled.
    """

    name, word = "vectors", "vectors"

    def __init__(self, embed_dim: int, shape: tuple[int | None, int], pool: str = "none") -> None:
        super().__init__()
        if pool not in POOLING:
            raise ValueError(
                f"model config, modalities, vectors: pool is {pool!r}, should be one of {POOLING}"
            )
        number, width = shape
        if pool == "none" and number is None:
            raise ValueError(
                "patients have different numbers of vectors, and every vector would be a token: set "
                '"modalities": {"vectors": {"pool": "mean"}} in the model config, or give all patients equally '
                "many"
            )
        self.shape, self.pool = (number, width), pool
        self.num_tokens = 1 if pool == "mean" else number
        self.network = nn.Sequential(
            nn.Linear(width, embed_dim // 2),
            nn.ReLU(),
            nn.Linear(embed_dim // 2, embed_dim),
            nn.LayerNorm(embed_dim),
        )
        self.apply(init_linear)

    @classmethod
    def from_spec(cls, embed_dim: int, spec: DataSpec, **config: str) -> VectorEncoder:
        if cls.name not in spec.shapes:
            raise ValueError("the data have no precomputed vectors, which decide the size of their encoder")
        return cls(embed_dim, spec.shapes[cls.name], **config)

    def encode(self, data: Tensor, num_tasks: int, case_id: str) -> Tensor:
        number, width = self.shape
        if data.shape[-1] != width or (self.pool == "none" and len(data) != number):
            raise ValueError(
                f"case {case_id} has vectors {tuple(data.shape)}, the model takes "
                f"[{'any number' if self.pool == 'mean' else number}, {width}]"
            )
        tokens = self.network(data)  # [n, E]
        if self.pool == "mean":
            tokens = tokens.mean(dim=0, keepdim=True)
        return tokens.expand(num_tasks, -1, -1)
