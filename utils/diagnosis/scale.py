"""At which scale feature files were made, as far as they say: assumed, enlarged, mixed, or contradicting itself."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path

from data_utils.features.scale import ENLARGED, same, too_coarse
from data_utils.features.store import FeatureInfo, FeatureMeta
from utils.findings import Finding, error, listing, warning

# By how much patch_size_level0 may miss the size that the resolutions imply; it is rounded to whole pixels.
_SIZE_TOLERANCE = 0.05


def check_scale(headers: Mapping[Path, FeatureInfo]) -> Iterator[Finding]:
    """Findings about the resolutions that feature files state."""
    metas = {path: info.meta for path, info in headers.items()}
    if assumed := [path for path, meta in metas.items() if meta.mpp_assumed]:
        yield warning(
            f"slides that do not state their resolution, so that it was assumed: {listing(assumed)}",
            "if they were not scanned so, extract them again with the right resolution (--mpp or --mpp_csv)",
        )
    enlarged = {path: factor for path, meta in metas.items() if (factor := _enlargement(meta)) > ENLARGED}
    if enlarged:
        worst = max(enlarged, key=enlarged.__getitem__)
        judge = error if too_coarse(enlarged[worst]) else warning
        yield judge(
            f"{len(enlarged)} feature files are of slides coarser than their patches, which were enlarged, most "
            f"({enlarged[worst]:.3g} times) in {worst}: {listing(enlarged)}",
            "leave them out, or state the right resolution (--mpp_csv) and extract them again",
        )
    odd = [f"{path} ({meta.patch_size_level0})" for path, meta in metas.items() if not _size_fits(meta)]
    if odd:
        yield warning(
            f"{len(odd)} feature files state a patch_size_level0 that their resolutions contradict: {listing(odd)}",
            "correct the attributes, or extract these slides again",
        )
    targets = Counter(round(meta.target_mpp, 3) for meta in metas.values() if meta.target_mpp)
    if targets and not same(min(targets), max(targets)):
        counts = (f"{number} of {target:g}" for target, number in sorted(targets.items()))
        yield warning(
            f"patches of several resolutions (micrometres per pixel): {listing(counts)}",
            "extract all slides with one encoder config",
        )


def _enlargement(meta: FeatureMeta) -> float:
    return meta.level0_mpp / meta.target_mpp if meta.level0_mpp and meta.target_mpp else 1.0


def _size_fits(meta: FeatureMeta) -> bool:
    if not (meta.patch_size and meta.patch_size_level0 and meta.level0_mpp and meta.target_mpp):
        return True
    implied = meta.patch_size * meta.target_mpp / meta.level0_mpp
    return abs(meta.patch_size_level0 - implied) <= max(1.0, _SIZE_TOLERANCE * implied)
