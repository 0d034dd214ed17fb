"""Datasets: patients of a split file become Cases."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from torch.utils.data import Dataset

from data_utils.case import Case
from data_utils.feature_store import read_coords, read_features
from data_utils.splits import Patient
from data_utils.stacking import fits, repack_slides, stack_slides
from utils.files import read_tensors

logger = logging.getLogger(__name__)

# Level-0 distance of patches where a feature file does not state it; only the rounding of shifts
# between stacked slides depends on it.
_DEFAULT_PATCH_SIZE = 256


@dataclass(frozen=True)
class PatchOptions:
    """How the patches of a case are prepared.

    Attributes:
        threshold: more patches than this are sub-sampled.
        cumulative_stacking: see :func:`stack_slides`.
        extent: level-0 pixels of the slide encoder's position grid; stacks beyond it are re-packed.
        resample: draw a new subset every epoch (training) or always the same (evaluation).
        seed: of the subsets.
        patch_size: level-0 distance between neighbouring patches, for files that do not state it.
        check_slide: where the slide encoder counts distances in patches, its check of a slide (see
            :class:`models.slide_backbone.SlideBackbone`). Slides whose patch size differs from that of
            the first slide are then scaled to it.
    """

    threshold: int | None = None
    cumulative_stacking: bool = False
    extent: int | None = None
    resample: bool = False
    seed: int = 0
    patch_size: int | None = None
    check_slide: Callable[[Tensor, int | None, str], None] | None = None


class GeneVectors:
    """Standardised gene vectors by patient, ready to be handed out.

    Args:
        table: standardised cases x genes; the index holds barcodes or GDC identifiers.
    """

    def __init__(self, table: pd.DataFrame) -> None:
        self._rows = {str(case): i for i, case in enumerate(table.index)}
        self._values = torch.from_numpy(np.ascontiguousarray(table.to_numpy(dtype=np.float32)))

    def get(self, patient: Patient) -> Tensor | None:
        """``[n_genes]``, or None where the patient has no RNA."""
        row = self._rows.get(patient.case_id, self._rows.get(patient.submitter_id))
        return None if row is None else self._values[row]


def read_tensor_table(path: str | Path, shape: tuple[int, ...], remedy: str) -> dict[str, Tensor]:
    """Reads ``{case_id: tensor}`` (texts, clinical features).

    Raises:
        FileNotFoundError: there is no such file; the message ends with ``remedy``.
        ValueError: the file is damaged or holds something else, an entry has another shape or holds
            values that are not finite.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist; {remedy}")
    table = read_tensors(path, "table {case_id: tensor}")
    if not isinstance(table, dict) or not all(isinstance(value, Tensor) for value in table.values()):
        raise ValueError(f"{path} should hold {{case_id: tensor}}; {remedy}")
    for case_id, value in table.items():
        if tuple(value.shape) != shape:
            raise ValueError(f"{path}: case {case_id} is {tuple(value.shape)}, should be {shape}")
        if not torch.isfinite(value).all():
            raise ValueError(f"{path}: case {case_id} holds NaN or infinite values; {remedy}")
    return {str(case_id): value.float() for case_id, value in table.items()}


class CaseDataset(Dataset):
    """One :class:`Case` per patient.

    Args:
        patients: who; every feature file must exist.
        genes: gene vectors. Patients without RNA are left out, counted in the log, because the model
            cannot run on them.
        texts: label sentences ``{case_id: [4, 512]}``; needed for training only.
        clinical: clinical features ``{case_id: [5]}``.
        options: how patches are prepared.
        name: of the split, for messages.

    Raises:
        FileNotFoundError: feature files are missing.
        ValueError: nobody is left, or texts or clinical features lack a patient.
    """

    def __init__(
        self,
        patients: Sequence[Patient],
        genes: GeneVectors | None,
        texts: Mapping[str, Tensor] | None,
        clinical: Mapping[str, Tensor] | None,
        options: PatchOptions,
        name: str,
    ) -> None:
        self.genes, self.options, self.name, self.epoch = genes, options, name, 0
        self.texts, self.clinical = texts, clinical
        self.patients = [p for p in patients if genes is None or genes.get(p) is not None]
        left_out = len(patients) - len(self.patients)
        if left_out:
            logger.info("%s: %d of %d patients have no RNA and are left out", name, left_out, len(patients))
        if not self.patients:
            raise ValueError(f"the {name} split has no patient to run on ({len(patients)} have no RNA)")
        self._check_tables()
        self._check_files()

    def _check_tables(self) -> None:
        for kind, table in (("label sentences", self.texts), ("clinical features", self.clinical)):
            if table is None:
                continue
            missing = [p.case_id for p in self.patients if p.case_id not in table]
            if missing:
                raise ValueError(
                    f"{len(missing)} patients of the {self.name} split have no {kind}, such as {missing[:3]}; "
                    f"there are some for {list(table)[:3]}. Was the table made for this cohort?"
                )

    def _check_files(self) -> None:
        missing = [(p.case_id, slide) for p in self.patients for slide in p.slides if not slide.is_file()]
        if missing:
            case_id, slide = missing[0]
            raise FileNotFoundError(
                f"{len(missing)} feature files of the {self.name} split are missing, such as {slide} of case "
                f"{case_id}. "
                "Extract them, set FEATURES_ROOT or DATABASE_ROOT in utils/constants.py, or pass --features_dir"
            )

    def __len__(self) -> int:
        return len(self.patients)

    @property
    def sites(self) -> list[str]:
        """Cancer site of every patient; the TCGA project where the splits know no sites."""
        return [patient.site or patient.project_id for patient in self.patients]

    def set_epoch(self, epoch: int) -> None:
        """Chooses the patch subsets of the next pass."""
        self.epoch = epoch

    def __getitem__(self, index: int) -> Case:
        patient = self.patients[index]
        features, coords, patch_size = self._read_patches(patient)
        return Case(
            case_id=patient.case_id,
            submitter_id=patient.submitter_id,
            project_id=patient.project_id,
            site=patient.site,
            features=torch.from_numpy(features),
            coords=torch.from_numpy(coords),
            patch_size_lv0=patch_size,
            genes=None if self.genes is None else self.genes.get(patient),
            clinical=None if self.clinical is None else self.clinical[patient.case_id],
            text=None if self.texts is None else self.texts[patient.case_id],
            label=patient.label,
            duration=patient.duration,
            event=patient.event,
        )

    def _read_patches(self, patient: Patient) -> tuple[np.ndarray, np.ndarray, int | None]:
        """Features ``[L, D]``, stacked coordinates ``[L, 2]`` and ``patch_size_level0`` of all slides."""
        read = [read_coords(slide) for slide in patient.slides]
        coords = [corners for corners, _ in read]
        sizes = [meta.patch_size_level0 or self.options.patch_size for _, meta in read]
        if self.options.check_slide is not None:
            for slide, corners, size in zip(patient.slides, coords, sizes, strict=True):
                self.options.check_slide(torch.from_numpy(corners), size, f"feature file {slide}")
            # Whole multiples of a patch stay whole multiples.
            coords = [corners * sizes[0] // size for corners, size in zip(coords, sizes, strict=True)]
        elif len(set(sizes)) > 1:
            logger.warning("case %s: its slides differ in patch_size_level0: %s", patient.case_id, sizes)
        coords = self._place(patient, coords, sizes[0] or _DEFAULT_PATCH_SIZE)
        rows = self._subsets(patient, [len(corners) for corners in coords])
        kept = [k for k, subset in enumerate(rows) if subset is None or len(subset)]
        features = [read_features(patient.slides[k], rows[k]).features for k in kept]
        coords = [coords[k] if rows[k] is None else coords[k][rows[k]] for k in kept]
        if len(kept) == 1:
            return features[0], coords[0], sizes[0]
        if len(widths := {part.shape[1] for part in features}) > 1:
            raise ValueError(
                f"case {patient.case_id}: the features of its slides are {sorted(widths)} wide; extract them "
                "with one encoder"
            )
        return np.concatenate(features), np.concatenate(coords), sizes[0]

    def _place(self, patient: Patient, coords: list[np.ndarray], patch_size: int) -> list[np.ndarray]:
        stacked = stack_slides(coords, patch_size, self.options.cumulative_stacking)
        extent = self.options.extent
        if extent is None or fits(stacked, extent):
            return stacked
        return repack_slides(coords, patch_size, extent, patient.case_id)

    def _subsets(self, patient: Patient, lengths: Sequence[int]) -> list[np.ndarray | None]:
        """Rows to read of every slide, None for all; the order of the patches is kept."""
        total, threshold = sum(lengths), self.options.threshold
        if threshold is None or total <= threshold:
            return [None] * len(lengths)
        epoch = self.epoch if self.options.resample else 0
        # Seeded by the patient, not by position, so that a subset does not depend on its neighbours.
        digest = hashlib.sha256(f"{self.options.seed}/{epoch}/{patient.case_id}".encode()).digest()
        generator = np.random.default_rng(int.from_bytes(digest[:8], "little"))
        chosen = np.sort(generator.choice(total, threshold, replace=False))
        starts = np.cumsum([0, *lengths])
        edges = np.searchsorted(chosen, starts)
        return [chosen[edges[k] : edges[k + 1]] - starts[k] for k in range(len(lengths))]
