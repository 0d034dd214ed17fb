"""Whether the feature files of a cohort were made alike, as far as they say."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path

from data_utils.features.making import shown
from data_utils.features.store import FeatureInfo
from utils.findings import Finding, listing, warning

_COMPARED = ("weights", "recipe", "precision", "tissue", "min_tissue")


def check_making(headers: Mapping[Path, FeatureInfo]) -> Iterator[Finding]:
    """A finding where files of one cohort come from other weights or settings."""
    known = {path: info.meta.making for path, info in headers.items() if info.meta.making is not None}
    mixed = []
    for name in _COMPARED:
        values = {path: shown(getattr(making, name)) for path, making in known.items()}
        counts = Counter(values.values())
        if len(counts) > 1:
            rarest = min(counts, key=lambda value: counts[value])
            examples = [path for path, value in values.items() if value == rarest]
            kinds = ", ".join(f"{number} of {value}" for value, number in counts.most_common())
            mixed.append(f"{name}: {kinds} ({listing(examples, 2)})")
    if mixed:
        yield warning(
            f"feature files were made differently; {'; '.join(mixed)}",
            "extract the slides again that are other than the rest (--overwrite)",
        )
