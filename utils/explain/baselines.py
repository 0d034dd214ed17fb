"""Where integrated gradients begin: what an average training patient has.

Every modality begins at the mean over the training patients who have it (standardised genes: zero, up to who was
standardised with whom), patches at the mean training patch or at zero.
"""

from __future__ import annotations

import logging

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from data_utils.cases.datasets import CaseDataset, input_of
from utils.explain.attribution import PATCHES

logger = logging.getLogger(__name__)

PATCH_BASELINES = ("mean", "zero")
# So many patches of every training slide are enough for their mean.
PATCHES_PER_SLIDE = 256


def baselines(train: CaseDataset, patch_baseline: str = "mean") -> dict[str, Tensor]:
    """Baselines by modality, and ``[D]`` of a patch under ``patches``.

    Args:
        train: the training patients of the run.
        patch_baseline: ``mean`` or ``zero``.

    Raises:
        ValueError: ``patch_baseline`` is something else, or no training patient has a modality.
    """
    if patch_baseline not in PATCH_BASELINES:
        raise ValueError(f"patch baseline {patch_baseline!r} should be one of {', '.join(PATCH_BASELINES)}")
    mean = _mean_patch(train)
    found = {PATCHES: mean if patch_baseline == "mean" else torch.zeros_like(mean)}
    return found | {name: _mean_input(train, name) for name in train.inputs if _known(train, name)}


def _known(train: CaseDataset, name: str) -> list[Tensor]:
    known = [input_of(patient, train.inputs[name]) for patient in train.patients]
    return [value for value in known if value is not None]


def _mean_input(train: CaseDataset, name: str) -> Tensor:
    """The mean over the patients; of all rows together ``[1, d]`` where patients have different numbers of them."""
    known = _known(train, name)
    if len({tuple(value.shape) for value in known}) == 1:
        return torch.stack(known).double().mean(dim=0).float()
    return torch.cat(known).double().mean(dim=0, keepdim=True).float()


def _mean_patch(train: CaseDataset) -> Tensor:
    """The mean over training patients of the mean of their patches, so that large slides do not count more."""
    total, source = 0.0, train.options.source
    for patient in tqdm(train.patients, desc="mean training patch", leave=False, disable=None):
        parts = []
        for slide in patient.slides:
            count = len(source.coords(slide)[0])
            rows = np.unique(np.linspace(0, count - 1, min(count, PATCHES_PER_SLIDE)).astype(np.int64))
            parts.append(source.features(slide, rows).astype(np.float64))
        total = total + np.concatenate(parts).mean(axis=0)
    return torch.from_numpy(total / len(train.patients)).float()
