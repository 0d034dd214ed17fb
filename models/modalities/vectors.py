"""Precomputed vectors of a patient as tokens: report embeddings, mutations, another foundation model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from torch import Tensor, nn

from data_utils.tables.vectors import VectorTable, read_vectors
from models.configuration import construct
from models.modalities.base import Modality, ModalityEncoder
from models.modalities.registry import register_modality
from models.vitadapter.interaction import init_linear
from utils import constants

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

    def __init__(self, embed_dim: int, shape: Sequence[int | None], pool: str = "none") -> None:
        super().__init__()
        if pool not in POOLING:
            raise ValueError(
                f"model config, modalities, vectors: pool is {pool!r}, should be one of {POOLING}"
            )
        number, width = shape
        if width is None:
            raise ValueError("the width of the precomputed vectors is not known")
        if pool == "none" and number is None:
            raise ValueError(
                "patients have different numbers of vectors, and every vector would be a token: set "
                '"modalities": {"vectors": {"pool": "mean"}} in the model config, or give all patients equally '
                "many"
            )
        self.shape, self.pool = (number, width), pool
        self.num_tokens = 1 if pool == "mean" or number is None else number
        self.width = width
        self.network = nn.Sequential(
            nn.Linear(width, embed_dim // 2),
            nn.ReLU(),
            nn.Linear(embed_dim // 2, embed_dim),
            nn.LayerNorm(embed_dim),
        )
        self.apply(init_linear)

    def vector(self, data: Tensor) -> Tensor:
        """The mean of the vectors of a patient."""
        return data.mean(dim=0)

    def forward(self, data: Tensor, num_tasks: int, case_id: str) -> Tensor:
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


@register_modality
class Vectors(Modality):
    """Precomputed vectors ``[n, d]``; their width decides the size of the encoder."""

    name, word, noun = "vectors", "vectors", "precomputed vectors"
    flag = "vectors_location"
    help = "precomputed vectors {case_id: [n, d] or [d]} of the patients"
    stand_in: ClassVar[Any] = [1, 1]
    remedy = "write {case_id: tensor [n, d]} with torch.save, and pass --vectors_location"

    def locate(self, onco: str) -> Path:
        return constants.vector_table(onco)

    def read(self, path: Path, options: Mapping[str, Any], structure: Any = None) -> VectorTable:
        return read_vectors(path)

    def build(self, embed_dim: int, structure: Any, **config: Any) -> VectorEncoder:
        if structure is None:
            raise ValueError("the data have no precomputed vectors, which decide the size of their encoder")
        where = "model config, modalities: vectors"
        return construct(VectorEncoder, config, where, embed_dim=embed_dim, shape=structure)
