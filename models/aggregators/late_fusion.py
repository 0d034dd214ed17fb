"""Late fusion "(cat)": the image vector of a baseline beside a self-normalising network over all genes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from torch import nn

from models.aggregators.abmil import ABMIL
from models.aggregators.registry import DataSpec, register
from models.aggregators.single_vector import LABEL_OBJECTIVES, SingleVector, built, number_of_genes
from models.aggregators.transmil import TransMIL
from models.layers.fusion import LateFusion

_IMAGE: dict[str, Callable[..., nn.Module]] = {"abmil": ABMIL, "transmil": TransMIL}


def _build(image: str, config: Mapping[str, Any], spec: DataSpec) -> SingleVector:
    """``config`` is that of the image model; under ``fusion`` stand arguments of :class:`LateFusion`."""
    of_image = {name: value for name, value in config.items() if name != "fusion"}
    network = built(
        LateFusion,
        config.get("fusion", {}),
        f"{image}_cat: fusion",
        image=built(_IMAGE[image], of_image, f"{image}_cat"),
        num_genes=number_of_genes(spec.structures),
    )
    return SingleVector(network, ["patches", "genes"], spec.num_tasks)


for _name in _IMAGE:
    register(f"{_name}_cat", ["genes"], LABEL_OBJECTIVES)(partial(_build, _name))
