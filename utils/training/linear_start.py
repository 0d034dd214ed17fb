"""The linear readout of a model, fitted before the training: no modality starts unheard.

One ridge regression for every modality and task, from its numbers to the text targets of the training patients. How
much of each joins the sum is decided by predictions for patients that were left out, so that a modality without
signal gets no say (stacked regressions, Breiman 1996). Products of two modalities join where the config asks for them.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from copy import copy
from dataclasses import dataclass, replace

import numpy as np
import torch
from scipy.optimize import nnls
from sklearn.linear_model import Ridge, RidgeCV
from sklearn.model_selection import KFold, cross_val_predict
from torch import nn
from tqdm import tqdm

from data_utils.cases.datasets import CaseDataset
from data_utils.tables.tasks import published
from models.layers.linear_readout import LinearReadout, product_name
from utils.training.objectives import TextDistillation
from utils.training.product_start import Product, fit_products

logger = logging.getLogger(__name__)

PENALTIES = np.logspace(1, 6, 11)
FOLDS = 5
# Numbers that vary less are constant.
CONSTANT = 1e-6
# Fewer patients decide nothing.
FEWEST = 4 * FOLDS


def fit_readout(
    model: nn.Module,
    distillation: TextDistillation | None,
    dataset: CaseDataset,
    task_names: Sequence[str] | None = None,
) -> None:
    """Fits the readout of a model that has one on the training patients.

    Args:
        model: any.
        distillation: gives the targets; without, the readout stays zero.
        dataset: the training patients with their sentences.
        task_names: for messages; the published ones if not given.
    """
    task_names = task_names or published().names
    readout: LinearReadout | None = getattr(model, "readout", None)
    if readout is None:
        return
    if distillation is None:
        logger.warning("linear_readout: the objective has no label sentences to fit it to, it stays zero")
        return
    vectors, targets = _collect(model, distillation, dataset)
    scaled, scales = _standardise(readout, vectors)
    for task in range(targets.shape[1]):
        known = np.isfinite(targets[:, task]).all(axis=1)
        name = task_names[task]
        if known.sum() < FEWEST:
            logger.warning(
                "linear_readout: %d patients have sentences of task %s, fewer than %d; it stays zero",
                known.sum(),
                name,
                FEWEST,
            )
            continue
        fit = _fit_task({n: x[known] for n, x in scaled.items()}, targets[known, task], bool(readout.pairs))
        readout.bias[task] = torch.from_numpy(fit.bias)
        for part, weight in fit.maps.items():
            readout.parts[part].weight[task] = torch.from_numpy(weight / scales[part])
        for (a, b), found in fit.products.items():
            product = readout.products[product_name(a, b)]
            product.first[task] = torch.from_numpy(found.first / scales[a])
            product.second[task] = torch.from_numpy(found.second / scales[b])
            product.mean[task] = found.mean
            product.weight[task] = torch.from_numpy(found.weight)
        said = [f"{part} {share:.2f}" for part, share in fit.shares.items()]
        said += [f"and {product_name(*pair)}" for pair in fit.products]
        logger.info("linear readout of task %s: %s", name, ", ".join(said))


@torch.no_grad()
def _collect(
    model: nn.Module, distillation: TextDistillation, dataset: CaseDataset
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """By modality the vectors ``[n, d]``, rows of NaN where a patient has none, and the targets ``[n, T, O]``."""
    shown = copy(dataset)
    shown.modalities = replace(dataset.modalities, dropout=0.0)
    device = model.readout.bias.device
    rows: dict[str, list[np.ndarray]] = {name: [] for name in model.readout.parts}
    targets = []
    for index in tqdm(range(len(shown)), desc="linear readout", leave=False, disable=None):
        case = shown[index].to(device)
        found = model.vectors(case)
        for name, part in model.readout.parts.items():
            empty = torch.full_like(part.mean, torch.nan)
            rows[name].append(found.get(name, empty).double().cpu().numpy())
        targets.append(distillation.targets(case.text).double().cpu().numpy())
    return {name: np.stack(values) for name, values in rows.items()}, np.stack(targets)


def _standardise(readout: LinearReadout, vectors: Mapping[str, np.ndarray]) -> tuple[dict, dict]:
    """Standardised vectors, and the scales, of the modalities that anybody has; the readout takes their means.

    Who has none stands at the mean, as in the model. What does not vary becomes zero.
    """
    scaled, scales = {}, {}
    for name, x in vectors.items():
        if np.isnan(x).all():
            continue
        mean, spread = np.nanmean(x, axis=0), np.nanstd(x, axis=0)
        scales[name] = np.where(spread > CONSTANT, spread, np.inf)
        scaled[name] = np.nan_to_num((x - mean) / scales[name])
        readout.parts[name].mean.copy_(torch.from_numpy(mean))
    return scaled, scales


@dataclass(frozen=True)
class _Fit:
    """A task of the readout, of standardised vectors.

    Attributes:
        bias: ``[O]``.
        maps: by modality ``[O, d]``.
        shares: of each modality in its map.
        products: by pair of modalities.
    """

    bias: np.ndarray
    maps: Mapping[str, np.ndarray]
    shares: Mapping[str, float]
    products: Mapping[tuple[str, str], Product]


def _fit_task(scaled: Mapping[str, np.ndarray], targets: np.ndarray, products: bool) -> _Fit:
    bias = targets.mean(axis=0)
    centred, maps, left_out = targets - bias, {}, []
    # With intercepts, although all is centred: a patient who is left out must not have moved the mean, which with
    # fewer patients than numbers would tell every target.
    folds = KFold(FOLDS, shuffle=True, random_state=0)
    for name, x in scaled.items():
        ridge = Ridge(_penalty(x, centred))
        left_out.append(cross_val_predict(ridge, x, centred, cv=folds))
        maps[name] = ridge.fit(x, centred).coef_
    values, _ = nnls(np.stack([predicted.ravel() for predicted in left_out], axis=1), centred.ravel())
    shares = dict(zip(maps, values.tolist(), strict=True))
    maps = {name: shares[name] * weight for name, weight in maps.items()}
    residual = centred - np.tensordot(values, left_out, axes=1)
    found = fit_products(scaled, residual, folds) if products else {}
    total = bias + sum(scaled[name] @ weight.T for name, weight in maps.items())
    total = total + sum(product(scaled[a], scaled[b]) for (a, b), product in found.items())
    # Entries of the size that a final projection gives; the loss knows directions only.
    size = np.sqrt(np.mean(total**2))
    found = {pair: replace(product, weight=product.weight / size) for pair, product in found.items()}
    return _Fit(bias / size, {name: weight / size for name, weight in maps.items()}, shares, found)


def _penalty(x: np.ndarray, targets: np.ndarray) -> float:
    """The largest penalty whose error for a patient who is left out is within one standard error of the least.

    Among penalties that the patients cannot tell apart the cautious one: the probes are fitted on predictions of the
    same patients, which look better than they are the smaller the penalty is. (Breiman et al. 1984, section 3.4.3.)
    """
    by_output = RidgeCV(PENALTIES, store_cv_results=True).fit(x, targets).cv_results_  # [n, O, penalties]
    errors = by_output.sum(axis=1)
    means = errors.mean(axis=0)
    least = means.argmin()
    bound = means[least] + errors[:, least].std(ddof=1) / np.sqrt(len(errors))
    return float(PENALTIES[np.flatnonzero(means <= bound).max()])
