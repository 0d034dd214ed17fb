"""Clinical features as a token."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from data_utils.tables.ajcc import AJCC_COLUMNS
from data_utils.tables.clinical import AGE, ClinicalCodes, read_clinical_table
from data_utils.tables.tensor_table import ModalityTable
from models.configuration import construct
from models.modalities.base import Entries, Modality, ModalityEncoder
from models.modalities.registry import register_modality
from models.vitadapter.interaction import init_linear
from utils import constants
from utils.findings import Finding, listing, warning


class ClinicalEncoder(ModalityEncoder):
    """Age, stage, T, N and M as one token: ``Linear -> ReLU -> Linear -> LayerNorm``."""

    num_tokens = 1

    def __init__(self, embed_dim: int, in_dim: int = 5) -> None:
        super().__init__()
        self.width = in_dim
        self.network = nn.Sequential(
            nn.Linear(in_dim, embed_dim // 2),
            nn.ReLU(),
            nn.Linear(embed_dim // 2, embed_dim),
            nn.LayerNorm(embed_dim),
        )
        self.apply(init_linear)

    def forward(self, data: Tensor, num_tasks: int, case_id: str) -> Tensor:
        return self.network(data).expand(num_tasks, 1, -1)


class ClinicalInputs(ModalityTable):
    """Raw clinical values, or features of which only the numbers are known; what is fitted are the codes."""

    def __init__(self, path: Path) -> None:
        self.path, self._content = path, read_clinical_table(path)

    @property
    def ids(self) -> Collection[str]:
        return self._content.ids

    def fit(self, only: Collection[str] | None = None) -> dict[str, Any] | None:
        codes = self._content.fit(only)
        return None if codes is None else codes.to_dict()

    def describe(self, fitted: Mapping[str, Any] | None) -> dict[str, Any]:
        return {**super().describe(fitted), "codes": fitted}

    def check(self) -> Iterator[Finding]:
        for column, texts in self._content.strange_texts().items():
            yield warning(
                f"{self.path}: {column} names no AJCC category: {listing(texts)}",
                "correct these texts, or the names of the columns; each has a code of its own",
            )

    def encode(self, fitted: Mapping[str, Any] | None) -> Mapping[str, Tensor]:
        return self._content.encode(None if fitted is None else ClinicalCodes.from_dict(fitted, "the model"))


@register_modality
class Clinical(Modality):
    """Age, stage, T, N and M; a trained model keeps its codes."""

    name, word, noun = "clinical", "clinical", "clinical features"
    flag = "clinical_location"
    help = "raw clinical values (.csv of data_utils.make_clinical), or features {case_id: [5]}"
    remedy = "write it with python -m data_utils.make_clinical"
    published_prefix = "clinical_mlp."

    def locate(self, onco: str) -> Path:
        return constants.clinical_values(onco)

    def read(self, path: Path, options: Mapping[str, Any], structure: Any = None) -> ClinicalInputs:
        return ClinicalInputs(path)

    def build(self, embed_dim: int, structure: Any, **config: Any) -> ClinicalEncoder:
        return construct(ClinicalEncoder, config, "model config, modalities: clinical", embed_dim=embed_dim)

    def check_stored(self, structure: Any, fitted: Any) -> None:
        if fitted is not None:
            ClinicalCodes.from_dict(fitted, "codes")

    def entries(self, structure: Any, shape: tuple[int, ...]) -> Entries:
        names = (AGE, *AJCC_COLUMNS)
        return Entries(names) if shape == (len(names),) else super().entries(structure, shape)

    def from_published(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {f"network.{name}": value for name, value in state.items()}

    def to_published(self, state: Mapping[str, Tensor], structure: Any) -> dict[str, Tensor]:
        return {name.removeprefix("network."): value for name, value in state.items()}
