"""Feature files: headers of all of them, values and coordinates of a seeded sample."""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from data_utils.cases.stacking import fits
from data_utils.features.identity import copies, feature_identity
from data_utils.features.store import FeatureInfo, inspect_features, read_features
from models.titan.grid import likely_patch_size
from utils.diagnosis.inputs import Inputs
from utils.diagnosis.making import check_making
from utils.diagnosis.scale import check_scale
from utils.findings import Finding, error, listing, ok, warning

_EXTRACT = (
    "extract these slides again (data_utils.TCGA_extract_feats_*), or leave them out of the split files"
)
# Steps between patches are never this short; coordinates with such steps count patches, not pixels.
SHORTEST_STEP = 16
# Features of one encoder differ by less between slides: other weights, or another normalisation.
_OTHER_SCALE = 30


def check_features(inputs: Inputs) -> Iterator[Finding]:
    """Whether every file exists and can be read, and whether what it holds can be right."""
    if not inputs.reads_patches:
        yield ok(f"{inputs.mil_name} reads no patches: it needs no feature files")
        return
    used, idle = _files(inputs)
    if not used:
        yield warning(
            "no patient runs, so no feature file was looked at", "correct the splits or the gene table"
        )
    missing = [path for path in used if not path.is_file()]
    if missing:
        yield error(
            f"{len(missing)} of {len(used)} feature files are missing: {listing(missing)}",
            "extract them, set FEATURES_ROOT or DATABASE_ROOT in utils/constants.py, or pass --features_dir",
        )
    not_needed = sum(not path.is_file() for path in idle)
    if not_needed:
        yield ok(
            f"{not_needed} feature files of patients who are left out are missing, which does not matter"
        )
    headers: dict[Path, FeatureInfo] = {}
    broken = []
    for path in tqdm(
        [p for p in used if p.is_file()], desc="feature files", unit="file", leave=False, disable=None
    ):
        try:
            headers[path] = inspect_features(path)
        except ValueError as reason:
            broken.append(str(reason))
    if broken:
        yield error(f"{len(broken)} feature files cannot be read: {listing(broken)}", _EXTRACT)
    if headers:
        yield from _check_headers(inputs, headers)
        yield from _check_copies(inputs, headers)
        yield from _check_sample(inputs, headers)


def _files(inputs: Inputs) -> tuple[list[Path], list[Path]]:
    """Files that a run reads, and those of patients it leaves out; each once."""
    used: dict[Path, None] = {}
    idle: dict[Path, None] = {}
    for _, patient in inputs.patients():
        (used if inputs.runs(patient) else idle).update(dict.fromkeys(patient.slides))
    return list(used), [path for path in idle if path not in used]


def _check_headers(inputs: Inputs, headers: dict[Path, FeatureInfo]) -> Iterator[Finding]:
    counts = [info.num_patches for info in headers.values()]
    yield ok(
        f"{len(headers)} feature files, {min(counts):,} to {max(counts):,} patches (median {np.median(counts):,.0f})"
    )
    backbone = inputs.backbone
    widths = Counter(info.dim for info in headers.values())
    wanted = getattr(backbone or inputs.need("model"), "feature_dim", None)
    if wanted is not None and set(widths) != {wanted}:
        wrong = [path for path, info in headers.items() if info.dim != wanted]
        yield error(
            f"{len(wrong)} feature files are {sorted(set(widths) - {wanted})} wide, {inputs.mil_name} takes "
            f"{wanted}: {listing(wrong)}",
            "extract them with the patch encoder of this model, or pass the --mil_name of these features"
            if backbone is not None
            else "pass a --model_config with the feature_dim of these files, or the features of the other encoder",
        )
    encoders = Counter(info.meta.encoder for info in headers.values() if info.meta.encoder)
    if len(encoders) > 1:
        yield warning(
            f"features of several encoders: {listing(f'{n} of {name}' for name, n in encoders.items())}",
            "extract all slides with one encoder",
        )
    unknown = [path for path, info in headers.items() if not info.meta.patch_size_level0]
    if unknown and inputs.config.data.patch_size_lv0 is None:
        what = f"{len(unknown)} feature files do not state patch_size_level0: {listing(unknown)}"
        remedy = (
            "pass --patch_size_lv0, the level-0 distance between neighbouring patches (for 512 px at 0.5 mpp, "
            "1024 on a 40x slide and 512 on a 20x slide)"
        )
        if backbone is not None and backbone.check_slide is not None:
            yield error(f"{what}; the positions of {inputs.mil_name} depend on it", remedy)
        else:
            yield warning(f"{what}; only the distance of stacked slides depends on it", remedy)
    yield from check_scale(headers)
    yield from check_making(headers)


def _check_copies(inputs: Inputs, headers: dict[Path, FeatureInfo]) -> Iterator[Finding]:
    """Files of as many patches are compared; all others differ anyway."""
    owners = {path: patient.case_id for _, patient in inputs.patients() for path in patient.slides}
    shapes = Counter((info.num_patches, info.dim) for info in headers.values())
    alike = [path for path, info in headers.items() if shapes[info.num_patches, info.dim] > 1]
    if same := copies({path: feature_identity(path)[1] for path in alike}, owners):
        yield warning(
            f"{len(same)} feature files hold the patches of another case: {listing(same, 2)}",
            "copies or wrong links: extract these slides again, or leave one of the patients out",
        )


def _check_sample(inputs: Inputs, headers: dict[Path, FeatureInfo]) -> Iterator[Finding]:
    count = min(inputs.feature_samples, len(headers))
    sample = sorted(random.Random(inputs.config.training.seed).sample(sorted(headers), count))
    faults: dict[str, list[str]] = defaultdict(list)
    means: dict[Path, float] = {}
    for path in tqdm(sample, desc="features and coordinates", unit="file", leave=False, disable=None):
        try:
            slide = read_features(path)
        except ValueError as reason:
            faults["unreadable"].append(str(reason))
            continue
        size = slide.patch_size_level0 or inputs.config.data.patch_size_lv0
        means[path] = float(np.abs(slide.features).mean())
        for kind, what in _faults(inputs, path, slide.features, slide.coords, size):
            faults[kind].append(what)
    typical = float(np.median(list(means.values()))) if means else 0.0
    for path, mean in means.items():
        if not typical / _OTHER_SCALE <= mean <= typical * _OTHER_SCALE:
            faults["scale"].append(f"{path}: values of {mean:.3g} in the mean, {typical:.3g} elsewhere")
    remedies = {
        "unreadable": ("error", _EXTRACT),
        "equal": ("warning", _EXTRACT),
        "scale": ("warning", f"features of one encoder are of one size; {_EXTRACT}"),
        "grid": ("error", "correct the attribute patch_size_level0, or pass --patch_size_lv0"),
        "units": ("error", "store level-0 pixels of the upper left corner, not patch numbers"),
        "doubled": ("warning", "extract without overlap and write every patch once"),
        "step": ("warning", "correct the attribute, or extract without overlap"),
        "far": ("warning", "such slides are moved to the corner of the grid; are these level-0 pixels?"),
    }
    for kind, files in faults.items():
        level, remedy = remedies[kind]
        yield Finding(level, f"{len(files)} of {count} sampled files: {listing(files, 2)}", remedy)
    if not faults and count:
        yield ok(f"values and coordinates of {count} sampled files are plausible")


def _faults(
    inputs: Inputs, path: Path, features: np.ndarray, coords: np.ndarray, size: int | None
) -> Iterator[tuple[str, str]]:
    """Kinds of faults in one file, with words for each."""
    backbone = inputs.backbone
    if len(features) > 1 and (features == features[0]).all():
        yield "equal", f"{path}: all {len(features)} patches have the same features"
    tensor = torch.from_numpy(coords)
    likely = likely_patch_size(tensor)
    if likely is not None and likely < SHORTEST_STEP:
        yield "units", f"{path}: neighbouring patches are {likely} apart"
        return
    if backbone is not None and backbone.check_slide is not None:
        if size is not None:  # without one, the headers have been complained about
            try:
                backbone.check_slide(tensor, size, str(path))
            except ValueError as reason:
                yield "grid", str(reason)
        return
    doubled = len(coords) - len(np.unique(coords, axis=0))
    if doubled:
        yield "doubled", f"{path}: {doubled} of {len(coords)} patches lie where another one lies"
    elif size and likely and likely < 0.95 * size:
        yield "step", f"{path}: states patch_size_level0 {size}, neighbouring patches are {likely} apart"
    extent = None if backbone is None else backbone.grid_extent
    if extent is not None and not fits([coords], extent):
        yield "far", f"{path}: coordinates up to {coords.max()}, the position grid ends at {extent}"
