"""Integrated gradients over everything that a model reads of a case (Sundararajan et al., 2017).

The attribution of a number is its change from a baseline times the mean gradient of the target along the straight
line from the baseline to the case. All of them add up to the change of the target; how far they do not is the
completeness gap of the quadrature.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from data_utils.cases.case import Case
from models.modalities import Entries, modality
from models.slide_backbone import SlideBackbone
from utils.explain.targets import Target

logger = logging.getLogger(__name__)

PATCHES = "patches"
# The quadrature is repeated with twice the steps until the gap is below this share of the change.
TOLERANCE = 0.01
MAX_STEPS = 320


@dataclass(frozen=True, eq=False)
class Integrated:
    """Attributions in the shapes of their inputs, and how good they are.

    Attributes:
        attributions: by input, float64.
        value: the target of the case.
        baseline_value: the target of the baseline.
        steps: of the quadrature.
        gap: ``|sum of attributions - change of the target| / |change of the target|``.
    """

    attributions: Mapping[str, Tensor]
    value: float
    baseline_value: float
    steps: int
    gap: float


def integrated_gradients(
    function: Callable[[Mapping[str, Tensor]], Tensor],
    inputs: Mapping[str, Tensor],
    baselines: Mapping[str, Tensor],
    steps: int = 20,
    max_steps: int = MAX_STEPS,
    tolerance: float = TOLERANCE,
) -> Integrated:
    """Integrated gradients of a function of several tensors, along one common line.

    The line is integrated by Gauss and Legendre's rule, which a smooth function needs few steps for.

    Args:
        function: from tensors by name to a scalar.
        inputs: where the line ends.
        baselines: where it begins, of the same shapes.
        steps: to begin with; doubled while the gap is not below ``tolerance``.
        max_steps: at which doubling ends, whatever the gap.
        tolerance: see ``steps``.
    """
    value, baseline_value = _value(function, inputs), _value(function, baselines)
    change = value - baseline_value
    while True:
        total = _quadrature(function, inputs, baselines, steps)
        missing = abs(sum(float(part.sum()) for part in total.values()) - change)
        gap = missing / abs(change) if change else (0.0 if not missing else math.inf)
        if gap < tolerance or 2 * steps > max_steps:
            return Integrated(total, value, baseline_value, steps, gap)
        steps *= 2


def _value(function: Callable[[Mapping[str, Tensor]], Tensor], inputs: Mapping[str, Tensor]) -> float:
    with torch.no_grad():
        return float(function(inputs))


def _quadrature(
    function: Callable[[Mapping[str, Tensor]], Tensor],
    inputs: Mapping[str, Tensor],
    baselines: Mapping[str, Tensor],
    steps: int,
) -> dict[str, Tensor]:
    change = {name: value - baselines[name] for name, value in inputs.items()}
    total = {name: torch.zeros_like(value, dtype=torch.float64) for name, value in inputs.items()}
    nodes, weights = np.polynomial.legendre.leggauss(steps)
    for node, weight in zip((1 + nodes) / 2, weights / 2, strict=True):
        point = {n: (baselines[n] + float(node) * change[n]).requires_grad_() for n in inputs}
        gradients = torch.autograd.grad(function(point), list(point.values()), allow_unused=True)
        for name, gradient in zip(point, gradients, strict=True):
            if gradient is not None:
                total[name] += float(weight) * gradient.double()
    return {name: value * change[name].double() for name, value in total.items()}


# ---------------------------------------------------------------------------- cases
@dataclass(frozen=True, eq=False)
class Attribution:
    """What drove one target of one case.

    Attributes:
        patches: attribution of every patch ``[L]``, summed over its features.
        inputs: attribution of every number of each modality that the case has, flattened.
        entries: what these numbers are, by modality.
        without: by ``patches`` and modality, the change of the target when this one alone is at its baseline;
            positive where it raises the target.
        value, baseline_value, steps, gap: see :class:`Integrated`.
    """

    patches: np.ndarray
    inputs: Mapping[str, np.ndarray]
    entries: Mapping[str, Entries]
    without: Mapping[str, float]
    value: float
    baseline_value: float
    steps: int
    gap: float

    @property
    def shares(self) -> dict[str, float]:
        """Share of the absolute attribution of patches and modalities; they add up to 1."""
        sizes = {n: float(np.abs(v).sum()) for n, v in {PATCHES: self.patches, **self.inputs}.items()}
        total = sum(sizes.values())
        return {name: size / total if total else 0.0 for name, size in sizes.items()}


def explain_case(
    model: nn.Module,
    case: Case,
    target: Target,
    baselines: Mapping[str, Tensor],
    structures: Mapping[str, Any],
    steps: int = 20,
    max_steps: int = MAX_STEPS,
) -> Attribution:
    """Attributions of a target over the patches and every modality that the case has.

    Costs ``steps`` passes forwards and backwards and one forwards for the case, the baseline, the patches and each
    modality; gradients of parameters are not computed.

    Args:
        model: maps a case to outputs; in evaluation mode.
        case: on the model's device.
        target: what to explain.
        baselines: ``[D]`` of a patch under ``patches``, and of every modality one tensor (see
            :mod:`utils.explain.baselines`).
        structures: of the modalities, as the model was trained with.
        steps, max_steps: see :func:`integrated_gradients`.
    """
    if model.training:
        raise ValueError("a model in training mode draws dropout masks and cannot be explained; call eval()")
    with ExitStack() as stack:
        inputs, starts, entries = {PATCHES: case.features}, {}, {}
        starts[PATCHES] = baselines[PATCHES].to(case.features).expand_as(case.features)
        for name, data in case.inputs.items():
            start = baselines[name].to(data)
            start = start if start.shape == data.shape else start.expand_as(data)
            apart = modality(name).apart
            # Both ends are taken apart alike; the second block only shares what the first one switched on.
            inputs[name], entries[name] = stack.enter_context(apart(model, data, structures.get(name)))
            starts[name], _ = stack.enter_context(apart(model, start, structures.get(name)))

        def function(point: Mapping[str, Tensor]) -> Tensor:
            others = {name: value for name, value in point.items() if name != PATCHES}
            changed = replace(case, features=point[PATCHES], inputs={**case.inputs, **others})
            return target(model(changed, [target.task])[0])

        stack.enter_context(_without_gradients(model))
        if isinstance(backbone := getattr(model, "backbone", None), SlideBackbone):
            stack.enter_context(backbone.whole_gradient())
        found = integrated_gradients(function, inputs, starts, steps, max_steps)
        without = {name: found.value - _value(function, {**inputs, name: starts[name]}) for name in inputs}
    flat = {name: value.cpu().numpy() for name, value in found.attributions.items()}
    return Attribution(
        patches=flat.pop(PATCHES).sum(axis=1),
        inputs={name: value.reshape(-1) for name, value in flat.items()},
        entries=entries,
        without=without,
        value=found.value,
        baseline_value=found.baseline_value,
        steps=found.steps,
        gap=found.gap,
    )


@contextmanager
def _without_gradients(model: nn.Module) -> Iterator[None]:
    """Within the block no parameter asks for a gradient."""
    asking = [parameter for parameter in model.parameters() if parameter.requires_grad]
    for parameter in asking:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in asking:
            parameter.requires_grad_(True)
