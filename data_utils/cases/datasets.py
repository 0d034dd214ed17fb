"""Datasets: patients of a split file become Cases."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from data_utils.cases.case import Case
from data_utils.cases.splits import Patient
from data_utils.cases.stacking import fits, repack_slides, stack_slides
from data_utils.features.source import FeatureSource
from data_utils.features.store import FeatureMeta
from utils.files import FileError

logger = logging.getLogger(__name__)

# Level-0 distance of patches where a feature file does not state it; only the rounding of shifts
# between stacked slides depends on it.
_DEFAULT_PATCH_SIZE = 256
# Fewer patches may lie close together for a reason.
_SEVERAL = 4


@dataclass(frozen=True)
class PatchOptions:
    """How the patches of a case are prepared.

    Attributes:
        threshold: more patches than this are sub-sampled.
        train_threshold: training takes no more than this, either.
        cumulative_stacking: see :func:`stack_slides`.
        extent: level-0 pixels of the slide encoder's position grid; stacks beyond it are re-packed.
        resample: draw a new subset every epoch (training) or always the same (evaluation).
        seed: of the subsets.
        patch_size: level-0 distance between neighbouring patches, for files that do not state it.
        check_slide: where the slide encoder counts distances in patches, its check of a slide (see
            :class:`models.slide_backbone.SlideBackbone`). Slides whose patch size differs from that of
            the first slide are then scaled to it.
        source: where features come from.
    """

    threshold: int | None = None
    train_threshold: int | None = None
    cumulative_stacking: bool = False
    extent: int | None = None
    resample: bool = False
    seed: int = 0
    patch_size: int | None = None
    check_slide: Callable[[Tensor, int | None, str], None] | None = None
    source: FeatureSource = field(default_factory=FeatureSource)

    def for_training(self) -> PatchOptions:
        """The same with new subsets every epoch, of at most ``train_threshold`` patches."""
        limits = [limit for limit in (self.threshold, self.train_threshold) if limit is not None]
        return replace(self, resample=True, threshold=min(limits, default=None))


@dataclass(frozen=True)
class SlidePatches:
    """Where the patches of a case lie on one of its slides.

    Attributes:
        path: the feature file.
        corners: upper left corners ``[L_k, 2]`` in level-0 pixels of the slide itself, not of the stack.
        meta: what the file states.
    """

    path: Path
    corners: np.ndarray
    meta: FeatureMeta


@dataclass(frozen=True)
class ModalityOptions:
    """Which modalities the cases get, and what happens where they are missing.

    Attributes:
        nouns: what messages call each modality of the model, by name.
        missing: ``drop`` leaves out patients who lack one of them, ``learned`` keeps them; the model then
            has a learned token for what is absent.
        dropout: probability with which training hides a modality that a patient has, each for itself.
        always: modalities that no learned token can stand for.
    """

    nouns: Mapping[str, str] = field(default_factory=dict)
    missing: str = "drop"
    dropout: float = 0.0
    always: frozenset[str] = frozenset()

    @property
    def names(self) -> tuple[str, ...]:
        """The modalities of the model."""
        return tuple(self.nouns)

    @property
    def needed(self) -> tuple[str, ...]:
        """The modalities without which a patient is left out."""
        return tuple(n for n in self.nouns if self.missing == "drop" or n in self.always)


# Tensors by case (barcode or GDC identifier), by modality.
Inputs = Mapping[str, Mapping[str, Tensor]]


def input_of(patient: Patient, tensors: Mapping[str, Tensor]) -> Tensor | None:
    """What the patient has of a modality; None where nothing is known."""
    found = tensors.get(patient.case_id)
    return tensors.get(patient.submitter_id) if found is None else found


def _check_reach(slide: Path, corners: np.ndarray, patch_size: int | None) -> None:
    """Refuses level-0 coordinates ``[L, 2]`` of several patches that all lie within a part of one."""
    width, height = np.ptp(corners, axis=0).tolist() if len(corners) >= _SEVERAL else (0, 0)
    if patch_size and 0 < max(width, height) < min(patch_size / 2, 2 * len(corners)):
        where = f"lie within {width} x {height} pixels, less than half a patch of {patch_size}"
        remedy = "its coords should be level-0 pixels, not positions in a grid; correct them"
        raise FileError(slide, f": its {len(corners)} patches {where}", remedy)


def usable_patients(
    patients: Sequence[Patient], inputs: Inputs, modalities: ModalityOptions
) -> list[Patient]:
    """Those a model can run on: who have every modality that a patient must have."""
    needed = [inputs[name] for name in modalities.needed]
    return [p for p in patients if all(input_of(p, tensors) is not None for tensors in needed)]


class CaseDataset(Dataset):
    """One :class:`Case` per patient.

    Args:
        patients: who; every feature file must exist.
        inputs: what is known of each modality the model reads. Patients who lack one are left out or
            kept, as ``modalities`` says, and counted in the log.
        texts: label sentences ``{case_id: [4, 512]}``; needed for training only.
        options: how patches are prepared.
        name: of the split, for messages.
        modalities: what happens to patients who lack one, and the modality dropout of training.

    Raises:
        FileNotFoundError: feature files are missing.
        ValueError: nobody is left, or texts lack a patient.
    """

    def __init__(
        self,
        patients: Sequence[Patient],
        inputs: Inputs,
        texts: Mapping[str, Tensor] | None,
        options: PatchOptions,
        name: str,
        modalities: ModalityOptions = ModalityOptions(),
    ) -> None:
        self.inputs, self.options, self.name, self.epoch = dict(inputs), options, name, 0
        self.texts, self.modalities = texts, modalities
        self.patients = usable_patients(patients, inputs, modalities)
        counts = {n: sum(input_of(p, known) is None for p in patients) for n, known in inputs.items()}
        what = ", ".join(f"{count} have no {modalities.nouns[n]}" for n, count in counts.items() if count)
        if not self.patients:
            raise ValueError(
                f"the {name} split has no patient to run on ({what or 'it is empty'}, of {len(patients)})"
            )
        left_out = len(patients) - len(self.patients)
        if left_out:
            logger.info("%s: %d of %d patients are left out: %s", name, left_out, len(patients), what)
        elif what:
            logger.info("%s: of %d patients %s; learned tokens stand in", name, len(patients), what)
        self._check_files()
        options.source.load(slide for p in self.patients for slide in p.slides)

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
        features, coords, patch_size, slide_of_patch = self._read_patches(patient)
        found = {name: input_of(patient, tensors) for name, tensors in self.inputs.items()}
        inputs = {name: value for name, value in found.items() if value is not None}
        complete = len(inputs) == len(found)
        return Case(
            case_id=patient.case_id,
            submitter_id=patient.submitter_id,
            project_id=patient.project_id,
            site=patient.site,
            features=torch.from_numpy(features),
            coords=torch.from_numpy(coords),
            patch_size_lv0=patch_size,
            slides=tuple(slide.stem for slide in patient.slides),
            slide_of_patch=torch.from_numpy(slide_of_patch),
            inputs=self._hide(patient, inputs),
            text=None if self.texts is None else self.texts[patient.case_id],
            label=patient.label,
            duration=patient.duration,
            event=patient.event,
            values=patient.values,
            complete=complete,
        )

    def _hide(self, patient: Patient, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        """Modality dropout: the same for a seed, an epoch and a patient, whoever else is in the split."""
        if not self.modalities.dropout:
            return inputs
        # One draw for every modality of the model, whatever the patient has.
        draws = self._generator(patient, "modalities").random(len(self.inputs))
        shown = {
            name: draw >= self.modalities.dropout
            for name, draw in zip(sorted(self.inputs), draws, strict=True)
        }
        return {
            name: value for name, value in inputs.items() if shown[name] or name in self.modalities.always
        }

    def _generator(self, patient: Patient, purpose: str = "") -> np.random.Generator:
        """Seeded by the patient, not by position, so that what is drawn does not depend on its neighbours."""
        epoch = self.epoch if self.options.resample else 0
        words = (self.options.seed, epoch, patient.case_id, *filter(None, [purpose]))
        digest = hashlib.sha256("/".join(map(str, words)).encode()).digest()
        return np.random.default_rng(int.from_bytes(digest[:8], "little"))

    def _read_patches(self, patient: Patient) -> tuple[np.ndarray, np.ndarray, int | None, np.ndarray]:
        """Of all slides: features ``[L, D]``, stacked coordinates, ``patch_size_level0``, slide of each patch."""
        if not patient.slides:  # of a model that reads no patches
            nothing = np.zeros((0, 2), dtype=np.int64)
            return nothing.astype(np.float32), nothing, None, nothing[:, 0]
        read = [self.options.source.coords(slide) for slide in patient.slides]
        coords = [corners for corners, _ in read]
        sizes = [meta.patch_size_level0 or self.options.patch_size for _, meta in read]
        if self.options.check_slide is not None:
            for slide, corners, size in zip(patient.slides, coords, sizes, strict=True):
                self.options.check_slide(torch.from_numpy(corners), size, f"feature file {slide}")
            # Whole multiples of a patch stay whole multiples.
            coords = [corners * sizes[0] // size for corners, size in zip(coords, sizes, strict=True)]
        else:
            for slide, corners, size in zip(patient.slides, coords, sizes, strict=True):
                _check_reach(slide, corners, size)
            if len(set(sizes)) > 1:
                logger.warning("case %s: its slides differ in patch_size_level0: %s", patient.case_id, sizes)
        coords = self._place(patient, coords, sizes[0] or _DEFAULT_PATCH_SIZE)
        rows = self._subsets(patient, [len(corners) for corners in coords])
        kept = [k for k, subset in enumerate(rows) if subset is None or len(subset)]
        features = [self.options.source.features(patient.slides[k], rows[k]) for k in kept]
        coords = [coords[k] if rows[k] is None else coords[k][rows[k]] for k in kept]
        slide_of_patch = np.repeat(np.array(kept, dtype=np.int64), [len(corners) for corners in coords])
        if len(kept) == 1:
            return features[0], coords[0], sizes[0], slide_of_patch
        if len(widths := {part.shape[1] for part in features}) > 1:
            fault = f": case {patient.case_id} has slides with features {sorted(widths)} wide"
            raise FileError(patient.slides[kept[0]], fault, "extract them with one encoder")
        return np.concatenate(features), np.concatenate(coords), sizes[0], slide_of_patch

    def slide_patches(self, index: int) -> list[SlidePatches]:
        """The slides of a case, each with its patches in the order in which the case has them."""
        patient = self.patients[index]
        read = [self.options.source.coords(slide) for slide in patient.slides]
        rows = self._subsets(patient, [len(corners) for corners, _ in read])
        return [
            SlidePatches(path, corners if kept is None else corners[kept], meta)
            for path, (corners, meta), kept in zip(patient.slides, read, rows, strict=True)
        ]

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
        chosen = np.sort(self._generator(patient).choice(total, threshold, replace=False))
        starts = np.cumsum([0, *lengths])
        edges = np.searchsorted(chosen, starts)
        return [chosen[edges[k] : edges[k + 1]] - starts[k] for k in range(len(lengths))]
