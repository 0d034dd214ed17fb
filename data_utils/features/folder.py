"""``--features_dir``: feature files by name in one folder, wherever the split file says they are.

Looked up, in this order: the file name of ``features_path``; its stem with another known suffix; the slide's
identifier (``slide_submitter_id``) as a stem; and the identifier followed by what other tools append to it: a
GDC identifier (``<slide>.<uuid>``) or ``_featvec``.
"""

from __future__ import annotations

import logging
import re
from collections import defaultdict
from pathlib import Path

from data_utils.features.plain_arrays import COORDS_ENDING
from data_utils.features.store import FEATURE_SUFFIXES

logger = logging.getLogger(__name__)

_APPENDED = re.compile(r"(\.[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}|_featvec)$", re.IGNORECASE)


class FeatureFolder:
    """The feature files directly in a folder.

    Raises:
        NotADirectoryError: there is no such folder.
        ValueError: it holds no feature file.
    """

    def __init__(self, root: str | Path) -> None:
        self.root = Path(root)
        if not self.root.is_dir():
            raise NotADirectoryError(f"--features_dir {self.root} is no folder")
        self._by_stem: dict[str, list[Path]] = defaultdict(list)
        self._by_slide: dict[str, list[Path]] = defaultdict(list)
        for path in sorted(self.root.iterdir()):
            if path.suffix in FEATURE_SUFFIXES and not path.stem.endswith(COORDS_ENDING):
                self._by_stem[path.stem].append(path)
                self._by_slide[_APPENDED.sub("", path.stem)].append(path)
        if not self._by_stem:
            raise ValueError(
                f"--features_dir {self.root} holds no feature file ({', '.join(FEATURE_SUFFIXES)})"
            )

    def find(self, features_path: str | None, slide: str) -> Path | None:
        """The file of a slide, or None.

        Args:
            features_path: what the split file says, if it does; only the file name counts.
            slide: ``slide_submitter_id``.

        Raises:
            ValueError: several files fit; the message names them.
        """
        name = Path(features_path or "").name
        stem = Path(name).stem
        for files in (self._by_stem.get(stem), self._by_stem.get(slide), self._by_slide.get(slide)):
            exact = [file for file in files or () if file.name == name]
            if exact or files:
                found = exact or files
                if len(found) > 1:
                    raise ValueError(
                        f"--features_dir {self.root}: slide {slide} could be {[file.name for file in found]}; keep one"
                    )
                return found[0]
        return None
