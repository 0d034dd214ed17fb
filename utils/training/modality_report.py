"""Which modality decides the output: what changes when patients exchange one of theirs.

Influence of a modality: patients are paired, each takes over the modality of its partner, and its output moves.
How far, relative to the distance between the outputs of the two, is the influence: 1 where the modality decides
everything (the output becomes that of the partner), 0 where the model ignores it.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from data_utils.cases.case import Case
from data_utils.cases.datasets import CaseDataset, input_of
from utils.evaluation.embeddings import Embeddings
from utils.evaluation.heads import Head
from utils.evaluation.results import Evaluator
from utils.files import atomic_path
from utils.findings import Finding, ok, warning

logger = logging.getLogger(__name__)

IMAGES = "images"
# A modality of less influence counts as ignored.
IGNORED = 0.05
MODALITIES_FILE = "modalities.csv"


class Exchanged(Dataset):
    """Cases in which one modality is that of another patient.

    Args:
        dataset: the cases.
        modality: its name; ``images`` stands for patches and coordinates.
        partner: by position, whose modality a case takes over; cases without one stay as they are.
    """

    def __init__(self, dataset: CaseDataset, modality: str, partner: Mapping[int, int]) -> None:
        self.dataset, self.modality, self.partner = dataset, modality, dict(partner)
        self.name = f"{dataset.name}, {modality} exchanged"

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> Case:
        case, other = self.dataset[index], self.partner.get(index)
        if other is None:
            return case
        if self.modality != IMAGES:
            # Not from the partner's case, whose patches would be read for nothing.
            taken = input_of(self.dataset.patients[other], self.dataset.inputs[self.modality])
            assert taken is not None  # partners have the modality, see pair()
            return replace(case, inputs={**case.inputs, self.modality: taken})
        shown = self.dataset[other]
        images = ("features", "coords", "patch_size_lv0", "slides", "slide_of_patch")
        return replace(case, **{name: getattr(shown, name) for name in images})


def pair(dataset: CaseDataset, modality: str) -> dict[int, int]:
    """A partner for every case that has the modality, never itself; the same in every epoch."""
    tensors = dataset.inputs.get(modality)
    having = [
        i for i, p in enumerate(dataset.patients) if tensors is None or input_of(p, tensors) is not None
    ]
    order = np.random.default_rng(0).permutation(having).tolist()
    return dict(zip(order, order[1:] + order[:1], strict=True)) if len(order) > 1 else {}


@dataclass(frozen=True)
class ModalityReport:
    """What exchanging each modality did.

    Attributes:
        influence: by modality; NaN where all outputs are alike, or fewer than two patients have it.
        embeddings: of the cases with the modality exchanged.
    """

    influence: Mapping[str, float]
    embeddings: Mapping[str, Embeddings]

    @property
    def ignored(self) -> list[str]:
        """Modalities of less influence than :data:`IGNORED`."""
        return [name for name, value in self.influence.items() if value < IGNORED]

    def metrics(
        self, train: Embeddings, evaluator: Evaluator, heads: Mapping[str, Head] | None = None
    ) -> dict[str, float]:
        """For ``metrics.csv``: influences, and the validation metrics with each modality exchanged."""
        found = {f"modality_influence/{name}": value for name, value in self.influence.items()}
        for name, embedded in self.embeddings.items():
            scores = evaluator.score(evaluator.validate(train, embedded, heads))
            for selecting, score in zip(evaluator.headline, scores, strict=True):
                metric = selecting.partition("/")[0]
                found[f"{metric}_exchanged/{name}"] = score if math.isfinite(score) else math.nan
        return found

    def save(self, folder: Path) -> None:
        """Writes ``modalities.csv``."""
        rows = [{"modality": name, "influence": value} for name, value in self.influence.items()]
        with atomic_path(folder / MODALITIES_FILE) as temporary:
            pd.DataFrame(rows, columns=["modality", "influence"]).to_csv(temporary, index=False)

    @classmethod
    def read(cls, folder: Path) -> ModalityReport | None:
        """The influences that a run wrote; None where it wrote none."""
        if not (path := folder / MODALITIES_FILE).is_file():
            return None
        table = pd.read_csv(path)
        return cls(dict(zip(table.modality, table.influence.astype(float), strict=True)), {})

    def finding(self, where: str) -> Finding | None:
        """One line for the log and the doctor; None where there is nothing to weigh against each other."""
        if len(self.influence) < 2:
            return None
        shares = ", ".join(f"{name} {value:.2f}" for name, value in self.influence.items())
        what = f"{where}: influence on the output: {shares}"
        if all(math.isnan(value) for value in self.influence.values()):
            return warning(
                f"{where}: the outputs of all patients are alike, whatever their modalities",
                "train for longer, or at another learning rate (--lr)",
            )
        if not self.ignored:
            return ok(what)
        return warning(
            f"{what}; the model ignores the {' and the '.join(self.ignored)}",
            "train with the balanced config (BALANCED=1 in the scripts; docs/modality_balance.md) unless this is "
            "one, or check that what is ignored carries any signal",
        )


def modality_report(
    embed: Callable[[CaseDataset | Exchanged], Embeddings],
    dataset: CaseDataset,
    plain: Embeddings,
    reads_images: bool,
) -> ModalityReport:
    """Exchanges one modality after the other.

    Args:
        embed: outputs of every case in evaluation mode.
        dataset: the cases.
        plain: their outputs as they are.
        reads_images: whether the model is known to have images; else they are left out where they change nothing.
    """
    influence: dict[str, float] = {}
    embeddings: dict[str, Embeddings] = {}
    for name in (*dataset.inputs, IMAGES):
        partner = pair(dataset, name)
        if not partner:
            influence[name] = math.nan
            continue
        exchanged = embed(Exchanged(dataset, name, partner))
        if name == IMAGES and not reads_images and np.array_equal(exchanged.vectors, plain.vectors):
            continue
        influence[name] = _influence(plain.vectors, exchanged.vectors, partner)
        embeddings[name] = exchanged
    return ModalityReport(influence, embeddings)


def _influence(plain: np.ndarray, exchanged: np.ndarray, partner: Mapping[int, int]) -> float:
    """Mean movement over mean distance between partners, of outputs ``[n, T, O]``."""
    own, others = list(partner), list(partner.values())
    moved = np.linalg.norm(plain[own].astype(np.float64) - exchanged[own], axis=-1).mean()
    apart = np.linalg.norm(plain[own].astype(np.float64) - plain[others], axis=-1).mean()
    return float(moved / apart) if apart > 0 else math.nan


class GradientShares:
    """Share of the squared gradient norm that each modality's encoder has, over the steps of an epoch.

    What is left belongs to the adapter. The slide encoder is frozen and has none.

    Args:
        model: a model with ``modality_encoders``; of others nothing is measured.
    """

    def __init__(self, model: nn.Module) -> None:
        encoders = getattr(model, "modality_encoders", {})
        self.groups: dict[str, Sequence[nn.Parameter]] = {
            name: list(encoder.parameters()) for name, encoder in encoders.items()
        }
        of_encoders = {id(p) for group in self.groups.values() for p in group}
        if self.groups:
            rest = [p for p in model.parameters() if p.requires_grad and id(p) not in of_encoders]
            self.groups["adapter"] = rest
        self._shares: list[Tensor] = []

    def add(self) -> None:
        """Takes the gradients of a step."""
        if self.groups:
            squares = torch.stack([self._square(group) for group in self.groups.values()])
            self._shares.append(squares / squares.sum())

    def _square(self, parameters: Sequence[nn.Parameter]) -> Tensor:
        gradients = [p.grad for p in parameters if p.grad is not None]
        # In double precision: squares of gradients scaled for float16 could overflow.
        return nn.utils.get_total_norm(gradients).double().square().cpu()

    def metrics(self) -> dict[str, float]:
        """Mean shares, for ``metrics.csv``."""
        if not self._shares:
            return {}
        means = torch.stack(self._shares).nanmean(dim=0).tolist()
        return {f"gradient_share/{name}": value for name, value in zip(self.groups, means, strict=True)}
