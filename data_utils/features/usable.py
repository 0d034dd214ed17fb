"""Which slides have a feature file that can be read."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from pathlib import Path

from tqdm import tqdm

from data_utils.features.folder import FeatureFolder
from data_utils.features.store import FEATURE_SUFFIXES, FeatureFileError, num_patches

logger = logging.getLogger(__name__)


def find_features(folder: Path, slides: Iterable[str]) -> tuple[dict[str, Path], dict[str, str], list[Path]]:
    """Readable feature files of the slides named (see :mod:`data_utils.features.slide_names`).

    Of several readable files for a slide the first in alphabetical order counts.

    Returns:
        ``{slide: file}``, ``{slide: fault}`` of slides without a readable file, and files of no slide.

    Raises:
        FileNotFoundError: the folder does not exist or holds no feature file.
        ValueError: a slide and a file differ in upper and lower case only.
    """
    try:
        files = FeatureFolder(folder)
    except (NotADirectoryError, ValueError) as error:
        raise FileNotFoundError(
            f"no feature files ({', '.join(FEATURE_SUFFIXES)}) in {folder}; extract them first "
            "(scripts/submit_extract_patches.sh) or point --features_dir to them"
        ) from error
    found: dict[str, Path] = {}
    faults: dict[str, str] = {}
    used: set[Path] = set()
    for slide in tqdm(sorted(set(slides)), desc="feature files", disable=None):
        candidates = files.slides.candidates(slide)
        used.update(candidates)
        for file in candidates:
            if slide in found:
                logger.warning("slide %s has a second feature file %s, which is left out", slide, file)
                continue
            try:
                num_patches(file)
            except FeatureFileError as error:
                faults[slide] = f"feature file cannot be read: {error}"
            else:
                found[slide] = file
    faults = {slide: fault for slide, fault in faults.items() if slide not in found}
    return found, faults, [file for file in files.files if file not in used]
