"""Where datasets get patch features from: the files, or the memory they were read into once."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from tqdm import tqdm

from data_utils.features.store import FeatureMeta, SlideFeatures, read_coords, read_features, read_values

logger = logging.getLogger(__name__)

CACHES = ("none", "ram")


class FeatureSource:
    """Features and coordinates of slides by path.

    Args:
        cache: ``none`` reads the file every time, and only the patches asked for; ``ram`` keeps whole files in
            memory, in half precision where this loses nothing. Processes that read for a data loader share
            them, because they begin as copies of the process that holds them.

    Raises:
        ValueError: ``cache`` is something else.
    """

    def __init__(self, cache: str = "none") -> None:
        if cache not in CACHES:
            raise ValueError(f"cache_features is {cache!r}, should be one of {CACHES}")
        self.cache = cache
        self._slides: dict[Path, SlideFeatures] = {}

    def load(self, paths: Iterable[Path]) -> None:
        """Reads what is to be kept; nothing with ``none``.

        Raises:
            FeatureFileError: as :func:`read_features`.
        """
        new = [path for path in dict.fromkeys(paths) if path not in self._slides]
        if self.cache == "none" or not new:
            return
        for path in tqdm(new, desc="features into memory", leave=False, disable=None):
            self._slides[path] = _compact(read_features(path))
        size = sum(slide.features.nbytes + slide.coords.nbytes for slide in self._slides.values())
        logger.info("features of %d slides are in memory: %.2f GiB", len(self._slides), size / 2**30)

    def coords(self, path: Path) -> tuple[np.ndarray, FeatureMeta]:
        """As :func:`read_coords`."""
        slide = self._slides.get(path)
        return read_coords(path) if slide is None else (slide.coords.copy(), slide.meta)

    def features(self, path: Path, rows: np.ndarray | None) -> np.ndarray:
        """Features ``[L, D]`` of some patches (strictly increasing rows), or of all; ask for the coordinates first.

        float16 where this loses nothing, else float32.
        """
        slide = self._slides.get(path)
        if slide is None:
            return read_values(path, rows)
        return slide.features.copy() if rows is None else slide.features[rows]


def _compact(slide: SlideFeatures) -> SlideFeatures:
    with np.errstate(over="ignore"):
        half = slide.features.astype(np.float16)
    exact = np.array_equal(half.astype(np.float32), slide.features)
    return SlideFeatures(half if exact else slide.features, slide.coords, slide.patch_size_level0, slide.meta)
