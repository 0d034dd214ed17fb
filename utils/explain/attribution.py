"""Integrated gradients over everything that a model reads of a case (Sundararajan et al., 2017).

The attribution of a number is its change from a baseline times the mean gradient of the target along the straight
line from the baseline to the case. All of them add up to the change of the target; how far they do not is the
completeness gap of the quadrature.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
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
# Steps are added until the gap is below this share of the change.
TOLERANCE = 0.01
MAX_STEPS = 320
# A change that is below this share of the absolute attributions has cancelled out; the gap is taken of the share then.
CANCELLED = 0.01


@dataclass(frozen=True, eq=False)
class Integrated:
    """Attributions in the shapes of their inputs, and how good they are.

    Attributes:
        attributions: by input, float64.
        value: the target of the case.
        baseline_value: the target of the baseline.
        steps: gradients that were taken.
        gap: ``|sum of attributions - change of the target|``, as a share of ``|change of the target|`` or, where this
            is more, of :data:`CANCELLED` times the absolute attributions (of patches and other rows, summed).
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

    The line is integrated by Gauss and Legendre's rule, which a smooth function needs few steps for. Where it bends
    more, completeness itself says where: on every piece of the line the attributions must add up to the change of
    the function there. The piece that misses most is halved, each half with half the steps of the whole line.

    Args:
        function: from tensors by name to a scalar.
        inputs: where the line ends.
        baselines: where it begins, of the same shapes.
        steps: to begin with; more follow while the gap is not below ``tolerance``.
        max_steps: that are never exceeded, whatever the gap.
        tolerance: see ``steps``.
    """
    line = _Line(function, inputs, baselines)
    pieces, used, size = [line.piece(0.0, 1.0, steps)], steps, max(steps // 2, 1)
    change = line.value(1.0) - line.value(0.0)
    while True:
        missing = abs(sum(piece.missing for piece in pieces))
        scale = max(abs(change), CANCELLED * sum(map(_size, _total(pieces).values())))
        gap = missing / scale if scale else (0.0 if not missing else math.inf)
        if gap < tolerance or used + 2 * size > max_steps:
            break
        pieces.sort(key=lambda piece: abs(piece.missing))
        worst = pieces.pop()
        middle = (worst.start + worst.end) / 2
        pieces += [line.piece(worst.start, middle, size), line.piece(middle, worst.end, size)]
        used += 2 * size
    return Integrated(_total(pieces), line.value(1.0), line.value(0.0), used, gap)


@dataclass(frozen=True, eq=False)
class _Piece:
    """A piece of the line, its attributions, and how far they miss the change of the function on it."""

    start: float
    end: float
    attributions: Mapping[str, Tensor]
    missing: float


def _total(pieces: Sequence[_Piece]) -> dict[str, Tensor]:
    return {
        name: torch.stack([p.attributions[name] for p in pieces]).sum(dim=0)
        for name in pieces[0].attributions
    }


def _size(attributions: Tensor) -> float:
    """Absolute sum of numbers, or of rows such as patches."""
    rows = attributions.flatten(start_dim=1).sum(dim=1) if attributions.dim() > 1 else attributions
    return float(rows.abs().sum())


class _Line:
    """A function along the straight line between two points."""

    def __init__(
        self,
        function: Callable[[Mapping[str, Tensor]], Tensor],
        inputs: Mapping[str, Tensor],
        baselines: Mapping[str, Tensor],
    ) -> None:
        self.function, self.inputs, self.baselines = function, inputs, baselines
        self.change = {name: value - baselines[name] for name, value in inputs.items()}
        self._values: dict[float, float] = {}

    def value(self, where: float) -> float:
        """The function at a share of the way."""
        if where not in self._values:
            # The ends themselves: baseline + (input - baseline) need not be the input to the last bit.
            ends = {0.0: self.baselines, 1.0: self.inputs}
            self._values[where] = _value(self.function, ends[where] if where in ends else self.point(where))
        return self._values[where]

    def point(self, where: float) -> dict[str, Tensor]:
        return {name: self.baselines[name] + where * change for name, change in self.change.items()}

    def piece(self, start: float, end: float, steps: int) -> _Piece:
        """Attributions of a piece by ``steps`` gradients."""
        total = {name: torch.zeros_like(value, dtype=torch.float64) for name, value in self.inputs.items()}
        roots, weights = np.polynomial.legendre.leggauss(steps)
        for root, weight in zip((1 + roots) / 2, weights / 2, strict=True):
            point = self.point(start + float(root) * (end - start))
            tensors = [tensor.requires_grad_() for tensor in point.values()]
            gradients = torch.autograd.grad(self.function(point), tensors, allow_unused=True)
            for name, gradient in zip(point, gradients, strict=True):
                if gradient is not None:
                    total[name] += (end - start) * float(weight) * gradient.double()
        attributions = {name: value * self.change[name].double() for name, value in total.items()}
        found = sum(float(value.sum()) for value in attributions.values())
        return _Piece(start, end, attributions, found - (self.value(end) - self.value(start)))


def _value(function: Callable[[Mapping[str, Tensor]], Tensor], inputs: Mapping[str, Tensor]) -> float:
    with torch.no_grad():
        return float(function(inputs))


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
    def missing(self) -> float:
        """How far the attributions are from adding up to the change of the target, in its units."""
        total = float(self.patches.sum()) + sum(float(value.sum()) for value in self.inputs.values())
        return abs(total - (self.value - self.baseline_value))

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
