"""``--features_dir``: feature files by name in one folder, wherever the split file says they are.

Looked up, in this order: the file name of ``features_path``; its stem with another known suffix; and the slide's
identifier (``slide_submitter_id``) by the rule of :mod:`data_utils.features.slide_names`.
"""

from __future__ import annotations

from pathlib import Path

from data_utils.features.plain_arrays import COORDS_ENDING
from data_utils.features.slide_names import SlideFiles, stem_of
from data_utils.features.store import FEATURE_SUFFIXES
from utils.files import FileError


class FeatureFolder:
    """The feature files directly in a folder; hidden files do not count.

    Raises:
        NotADirectoryError: there is no such folder.
        ValueError: it holds no feature file.
    """

    def __init__(self, root: str | Path) -> None:
        self.root = Path(root)
        if not self.root.is_dir():
            raise NotADirectoryError(f"--features_dir {self.root} is no folder")
        self.files = sorted(
            path
            for path in self.root.iterdir()
            if path.suffix.lower() in FEATURE_SUFFIXES
            and not stem_of(path.name).endswith(COORDS_ENDING)
            and not path.name.startswith(".")
        )
        if not self.files:
            fault = f"holds no feature file ({', '.join(FEATURE_SUFFIXES)})"
            raise FileError(
                self.root, fault, "extract the features of the slides, or pass another --features_dir"
            )
        self.slides = SlideFiles(self.files)

    def find(self, features_path: str | None, slide: str) -> Path | None:
        """The file of a slide, or None.

        Args:
            features_path: what the split file says, if it does; only the file name counts.
            slide: ``slide_submitter_id``.

        Raises:
            FileError: several files fit, or one but for upper and lower case; the message names them.
        """
        found = self.slides.candidates(slide, features_path)
        if len(found) > 1:
            fault = f": slide {slide} could be {[file.name for file in found]}"
            raise FileError(self.root, fault, "keep one")
        return found[0] if found else None
