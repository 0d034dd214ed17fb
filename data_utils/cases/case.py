"""The unit of work: one patient."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace

import torch
from torch import Tensor


@dataclass(frozen=True)
class Case:
    """Everything known of one patient; the slides of a patient are stacked into one set of patches.

    Attributes:
        case_id: GDC identifier (UUID) of the patient.
        submitter_id: TCGA barcode of the patient (12 characters).
        project_id: TCGA project, such as ``TCGA-BRCA``.
        features: patch features ``[L, D_in]``, float32; float16 as read from files that hold it, until :meth:`to`.
        coords: upper left corner of every patch ``[L, 2]``, (x, y) in level-0 pixels, int64.
        patch_size_lv0: level-0 distance between neighbouring patches, in pixels.
        slides: names of the slides, in the order in which they are stacked.
        slide_of_patch: index into ``slides`` of every patch ``[L]``, int64.
        inputs: what else the patient has, by modality (see :mod:`models.modalities`), float32; a modality that
            the patient lacks, or that is hidden, has no entry.
        text: label sentences embedded by the CONCH text tower ``[4, 512]``, float32.
        label: subtype class, -1 where the diagnosis is in none.
        duration: survival time in months.
        event: 1 the patient died, 0 censored.
        values: what else the tasks are evaluated by, by column; NaN where it is not known.
        site: cohort of the patient in pan-cancer splits, such as ``GBMLGG``; else empty.
        complete: whether the patient has every modality that the model reads.
    """

    case_id: str
    submitter_id: str
    project_id: str
    features: Tensor
    coords: Tensor
    patch_size_lv0: int | None = None
    slides: tuple[str, ...] = ()
    slide_of_patch: Tensor | None = None
    inputs: Mapping[str, Tensor] = field(default_factory=dict)
    text: Tensor | None = None
    label: int = -1
    duration: float = float("nan")
    event: int = 0
    values: Mapping[str, float] = field(default_factory=dict)
    site: str = ""
    complete: bool = True

    def to(self, device: torch.device | str) -> Case:
        """The same case with every tensor on ``device`` but ``coords``, and float32 features.

        Half-precision features travel as they are and are converted there.
        Models turn coordinates into cells and check them on the way: on a GPU every check would wait for it.
        """
        moved = self._map(lambda tensor: tensor.to(device, non_blocking=True))
        return replace(moved, coords=self.coords, features=moved.features.float())

    def without_patches(self) -> Case:
        """The same case without its patches and sentences, which would fill the memory."""
        empty = self.features.new_empty(0)
        return replace(self, features=empty, coords=empty, text=None)

    def pin_memory(self) -> Case:
        """The same case in page-locked memory; data loaders call this for faster copies to a GPU."""
        return self._map(Tensor.pin_memory)

    def _map(self, function: Callable[[Tensor], Tensor]) -> Case:
        values = {entry.name: getattr(self, entry.name) for entry in fields(self)}
        moved = {name: function(value) for name, value in values.items() if isinstance(value, Tensor)}
        return replace(self, **moved, inputs={name: function(value) for name, value in self.inputs.items()})
