"""Which slides have features already, and whether these are what would be made now."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from tqdm import tqdm

from data_utils.features.making import Making
from data_utils.features.scale import same
from data_utils.features.store import FeatureFileError, FeatureInfo, inspect_features
from data_utils.slides.finding import printable, slide_name
from data_utils.slides.isolation import Isolated
from data_utils.slides.opening import SlideError, mirax_folder, open_slide
from data_utils.slides.report import ExtractionReport, SlideResult
from data_utils.slides.resolution import Resolution, StatedMpp, slide_resolution
from data_utils.slides.tile_reading import TileRecipe
from data_utils.slides.tissue import TissueRule
from utils.files import ends_digest
from utils.findings import listing

logger = logging.getLogger(__name__)

_PRECISIONS = {None: "fp32", torch.bfloat16: "bf16", torch.float16: "fp16"}


@dataclass(frozen=True)
class Work:
    """What an extraction does to every slide.

    Attributes:
        recipe: how tiles are cut and prepared.
        dim: width of the features.
        weights: digest of the encoder's weights, see :func:`weights_digest`.
        dtype: of mixed precision; ``None`` is float32.
        rule: how tissue is found, and how much of it a tile must show.
        stated: resolutions that the user states.
    """

    recipe: TileRecipe
    dim: int
    weights: str
    dtype: torch.dtype | None
    rule: TissueRule
    stated: StatedMpp

    def making(self, slide: Path) -> Making:
        """The record of a feature file of ``slide``."""
        return Making(
            **_identity(slide),
            tissue=self.rule.record,
            min_tissue=self.rule.min_tissue,
            recipe=hashlib.sha256(repr(self.recipe).encode()).hexdigest(),
            weights=self.weights,
            precision=_PRECISIONS[self.dtype],
        )

    def resolution(self, slide: Path) -> Resolution:
        """Of a slide, as :func:`slide_resolution`."""
        with open_slide(slide) as opened:
            return slide_resolution(slide, opened.properties, self.stated)

    def difference(self, slide: Path, info: FeatureInfo, resolution: Callable[[Path], Resolution]) -> str:
        """In what an existing file is other than what would be made; empty if it is not, as far as it says.

        Args:
            slide: what the file should be of.
            info: header of the file.
            resolution: looks at a slide where that is needed.

        Raises:
            SlideError, OSError: the slide had to be looked at and cannot be read.
        """
        meta, wanted = info.meta, self.making(slide)
        recipe = self.recipe
        compared = [
            ("patch_size", meta.patch_size, recipe.tile_size),
            ("target_mpp", meta.target_mpp, recipe.target_mpp),
            ("encoder", meta.encoder, recipe.encoder),
            ("dim", info.dim, self.dim),
        ]
        words = [
            f"{name} {found} instead of {value}"
            for name, found, value in compared
            if found not in (None, value)
        ]
        if meta.making is None:
            return ", ".join(words)
        further = meta.making.differences(wanted)
        if words:
            further.pop("recipe", None)  # said more clearly already
        words += further.values()
        touched = meta.making.slide_mtime != wanted.slide_mtime
        stated = self.stated.given or (meta.mpp_source or "").startswith("--")
        if meta.level0_mpp and (touched or stated):
            now = resolution(slide)
            if not same(now.mpp, meta.level0_mpp):
                words.append(f"level0_mpp {meta.level0_mpp:g} instead of {now.mpp:g} ({now.source})")
        return ", ".join(words)


def _identity(slide: Path) -> dict[str, Any]:
    """Size, time and ends of all files of a slide; some formats keep their pixels in a folder."""
    folder = slide if slide.is_dir() else mirax_folder(slide) if slide.suffix.lower() == ".mrxs" else None
    files = [] if slide.is_dir() else [slide]
    files += sorted(path for path in folder.iterdir() if path.is_file()) if folder and folder.is_dir() else []
    states = [path.stat() for path in files]
    return {
        "slide_bytes": sum(state.st_size for state in states),
        "slide_mtime": max((state.st_mtime for state in states), default=0.0),
        "slide_ends": ends_digest(files),
    }


def unfinished(
    slides: Sequence[Path], work: Work, out_dir: Path, report: ExtractionReport, overwrite: bool
) -> list[Path]:
    """The slides to extract; those with a file that fits go to the report, and those with another one."""
    todo, without_record = [], []
    with Isolated(work.resolution) as resolution:
        for slide in tqdm(slides, desc="finished before", unit="slide", leave=False, disable=None):
            target, name = out_dir / f"{slide_name(slide)}.h5", printable(slide.name)
            if not target.exists():
                todo.append(slide)
                continue
            try:
                info = inspect_features(target)
                difference = work.difference(slide, info, resolution)
            except (
                FeatureFileError,
                SlideError,
                OSError,
            ) as error:  # the last two are told when it is extracted
                logger.warning("%s: %s", name, error)
                todo.append(slide)
                continue
            meta = info.meta
            if overwrite and (difference or meta.making is None):
                logger.info("%s is made anew: %s", target, difference or "it does not say how it was made")
                todo.append(slide)
            elif difference:
                reason = (
                    f"{target} was made differently: {difference}; --overwrite makes it anew, or use another "
                    "--output_dir"
                )
                report.add(SlideResult(name, "failed", reason=reason))
            else:
                if meta.making is None:
                    without_record.append(target)
                report.add(
                    SlideResult(
                        name,
                        "skipped",
                        info.num_patches,
                        meta.level0_mpp,
                        meta.mpp_assumed,
                        mpp_source=meta.mpp_source or "",
                    )
                )
    if without_record:
        logger.warning(
            "%d feature files do not say of which slide, with which weights and settings they were made, and are "
            "taken as they are: %s; --overwrite makes them anew",
            len(without_record),
            listing(without_record),
        )
    return todo


def weights_digest(module: nn.Module) -> str:
    """SHA-256 of names and values of all weights, whatever file they came from."""
    digest = hashlib.sha256()
    for name, value in sorted(module.state_dict().items()):
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
        digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()
