"""From slides to batches of tiles: the recipe of an encoder, the plan of a slide, one loader for all slides.

The loader reads the tiles of all slides in order, so its workers start once and already read the next slide
while the encoder works on this one. Slides are planned (mask, grid) one ahead, in a thread.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from openslide import OpenSlide
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, get_worker_info

from data_utils.features.making import Making
from data_utils.slides import geojson, wsi
from data_utils.slides.finding import slide_name
from data_utils.slides.isolation import end_after
from data_utils.slides.jpeg_slide import OPENSLIDE, fastest, reader_name
from data_utils.slides.levels import odd_levels
from data_utils.slides.opening import describe
from data_utils.slides.resolution import (
    NOTHING_STATED,
    Resolution,
    StatedMpp,
    check_enlargement,
    slide_resolution,
)
from data_utils.slides.tissue import TissueRule

logger = logging.getLogger(__name__)

# Batches that every worker reads ahead.
PREFETCH = 4
# Pixels of a side; no encoder takes more.
MAX_TILE = 65_536
# A batch is read in seconds; a process that needs longer than this for one, in seconds, is ended.
READ_LIMIT = 600


@dataclass(frozen=True)
class TileRecipe:
    """How tiles are cut and prepared for an encoder.

    Attributes:
        encoder: name written into feature files.
        tile_size: side of a tile in pixels at ``target_mpp``.
        target_mpp: micrometres per pixel of tiles.
        input_size: side of the encoder's input, cropped from the centre.
        mean: mean of the encoder's input channels, for values in [0, 1].
        std: standard deviation of the same.
        resize: side to which tiles are resized before the crop; ``None`` keeps ``tile_size``.
        interpolation: of that resizing: bilinear or bicubic.
    """

    encoder: str
    tile_size: int
    target_mpp: float
    input_size: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    resize: int | None = None
    interpolation: str = "bicubic"

    def __post_init__(self) -> None:
        resized = self.input_size if self.resize is None else self.resize
        whole = [self.tile_size, self.input_size, resized]
        if not all(type(size) is int and size <= MAX_TILE for size in whole):
            raise ValueError(
                f"recipe of {self.encoder}: sizes are whole numbers up to {MAX_TILE:,}, not {whole}"
            )
        if len(self.mean) != 3 or len(self.std) != 3:
            raise ValueError(f"recipe of {self.encoder}: mean and std need three numbers each")
        for value in (self.target_mpp, *self.mean, *self.std):
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not abs(value) <= MAX_TILE:
                raise ValueError(f"recipe of {self.encoder}: {str(value)[:60]!r} is no number of a tile")
        if not all(0 <= value <= 1 for value in (*self.mean, *self.std)):
            raise ValueError(f"recipe of {self.encoder}: mean and std are of values from 0 to 1")
        if min(self.tile_size, self.target_mpp, self.input_size, resized, *self.std) <= 0:
            raise ValueError(f"recipe of {self.encoder}: sizes, target_mpp and std must be positive")
        if self.input_size > (self.resize or self.tile_size):
            raise ValueError(f"recipe of {self.encoder}: tiles are smaller than input_size {self.input_size}")
        if self.interpolation not in ("bilinear", "bicubic"):
            raise ValueError(f"recipe of {self.encoder}: unknown interpolation {self.interpolation!r}")

    @classmethod
    def from_config(cls, encoder: str, config: Mapping[str, Any]) -> TileRecipe:
        """The recipe in an encoder config; ``model_*`` entries belong to the encoder.

        Raises:
            ValueError: entries are missing, unknown or make no sense.
        """
        known = {field.name: field for field in fields(cls) if field.name != "encoder"}
        given = {name: value for name, value in config.items() if not name.startswith("model_")}
        required = known.keys() - {"resize", "interpolation"}
        if unknown := sorted(given.keys() - known.keys()):
            raise ValueError(
                f"encoder config {encoder}: unknown entries {unknown}; known are {sorted(known)}"
            )
        if missing := sorted(required - given.keys()):
            raise ValueError(f"encoder config {encoder}: entries {missing} are missing")
        return cls(encoder, **given | {"mean": tuple(given["mean"]), "std": tuple(given["std"])})

    def prepare(self, tile: Image.Image) -> np.ndarray:
        """A tile as the encoder's input before normalisation, ``[3, input_size, input_size]`` uint8."""
        if self.resize is not None and tile.width != self.resize:
            tile = tile.resize((self.resize, self.resize), Image.Resampling[self.interpolation.upper()])
        edge = round((tile.width - self.input_size) / 2)
        tile = tile.crop((edge, edge, edge + self.input_size, edge + self.input_size))
        return np.asarray(tile).transpose(2, 0, 1)

    def normalise(self, pixels: Tensor, out: Tensor | None = None) -> Tensor:
        """``[n, 3, s, s]`` uint8 -> float32 with the encoder's mean and deviation, into ``out`` if given."""
        mean = torch.tensor(self.mean, device=pixels.device).view(1, 3, 1, 1)
        std = torch.tensor(self.std, device=pixels.device).view(1, 3, 1, 1)
        out = pixels.float() if out is None else out.copy_(pixels)
        return out.div_(255.0).sub_(mean).div_(std)


# ---------------------------------------------------------------------------- planning
@dataclass(frozen=True)
class SlidePlan:
    """Which tiles of a slide will be read, and the record of that where one was made."""

    grid: wsi.TileGrid
    resolution: Resolution
    seconds: float
    reader: str = OPENSLIDE
    making: Making | None = None


def plan_slide(
    path: Path,
    recipe: TileRecipe,
    rule: TissueRule,
    preview_dir: Path | None = None,
    stated: StatedMpp = NOTHING_STATED,
) -> SlidePlan:
    """Finds the tissue of a slide and lays the grid over it; draws ``preview_dir/<name>.png`` if asked to, and writes
    both as ``<name>.geojson``.

    Raises:
        SlideError: the file cannot be opened, has no tissue, is smaller than a tile or far coarser than one.
        openslide.OpenSlideError: the file is damaged.
    """
    begin = time.monotonic()
    with fastest(path) as slide:
        reader = reader_name(slide)
        resolution = slide_resolution(path, slide.properties, stated)
        check_enlargement(path, resolution, recipe.target_mpp)
        if odd := odd_levels(slide):
            logger.warning(
                "%s: %s contradict the size of level 0 and are not read", path.name, ", ".join(odd)
            )
        mpp = resolution.mpp
        overview, mask = rule.look(slide, mpp)
        dimensions = slide.dimensions
    grid = wsi.tile_grid(mask, dimensions, mpp, recipe.tile_size, recipe.target_mpp, rule.min_tissue)
    if preview_dir is not None:
        name = slide_name(path)
        wsi.save_preview(preview_dir / f"{name}.png", overview, mask, grid, dimensions)
        geojson.write_plan(preview_dir / f"{name}.geojson", mask, grid, dimensions)
    return SlidePlan(grid, resolution, time.monotonic() - begin, reader)


# ---------------------------------------------------------------------------- reading
class BatchJob(NamedTuple):
    """One batch to read: ``corners [n, 2]`` of tiles of ``size`` level-0 pixels of slide number ``slide``."""

    slide: int
    path: Path
    corners: np.ndarray
    size: int


class TileBatch(NamedTuple):
    """One batch read: ``pixels [n, 3, s, s]`` uint8, or what went wrong. Never of two slides."""

    slide: int
    corners: np.ndarray
    pixels: Tensor | None
    error: str | None


class BatchList:
    """Lists the batches of all slides in order, planning slides as it goes.

    Attributes:
        slides: the slides, in order.
        plans: plan of every slide that has been reached and could be planned, by number.
        given_up: numbers of slides whose further batches are not wanted.
        reached: so many slides were begun.
        finished: numbers of slides that need no more work, whatever became of them.
    """

    def __init__(
        self,
        slides: Sequence[Path],
        plan: Callable[[Path], SlidePlan],
        batch_size: int,
        on_failure: Callable[[Path, str], None],
    ) -> None:
        """``on_failure`` receives slides that cannot be planned, and why."""
        self.slides = slides
        self.plans: dict[int, SlidePlan] = {}
        self.given_up: set[int] = set()
        self.reached = 0
        self.finished: set[int] = set()
        self._plan = plan
        self._batch_size = batch_size
        self._on_failure = on_failure

    def __iter__(self) -> Iterator[BatchJob]:
        with ThreadPoolExecutor(max_workers=1) as thread:
            following = thread.submit(self._plan, self.slides[0])
            for index, path in enumerate(self.slides):
                current, self.reached = following, index + 1
                if index + 1 < len(self.slides):
                    following = thread.submit(self._plan, self.slides[index + 1])
                try:
                    plan = self.plans[index] = current.result()
                except Exception as error:  # whatever is wrong with a slide must not stop the cohort
                    if reader_ended(error):  # PyTorch interrupts whatever is being done
                        raise
                    logger.debug("planning %s", path, exc_info=True)
                    self._on_failure(path, describe(error, path))
                    self.finished.add(index)
                    continue
                for start in range(0, len(plan.grid.coords), self._batch_size):
                    if index in self.given_up:
                        break
                    corners = plan.grid.coords[start : start + self._batch_size]
                    yield BatchJob(index, path, corners, plan.grid.size)


class TileReader(Dataset):
    """Reads batches; every worker keeps the slide open that it read last."""

    def __init__(self, recipe: TileRecipe) -> None:
        self.recipe = recipe
        self._opened: tuple[Path, OpenSlide] | None = None

    def __getitem__(self, job: BatchJob) -> TileBatch:
        if get_worker_info() is None:
            return self._read(job)
        end_after(READ_LIMIT)
        try:
            return self._read(job)
        finally:
            end_after(0)

    def _read(self, job: BatchJob) -> TileBatch:
        try:
            slide = self._slide(job.path)
            tiles = (
                wsi.read_tile(slide, (int(x), int(y)), job.size, self.recipe.tile_size)
                for x, y in job.corners
            )
            pixels = np.stack([self.recipe.prepare(tile) for tile in tiles])
        except Exception as error:  # handed to the main process, which gives up this slide only
            logger.debug("reading %s", job.path, exc_info=True)
            self._close()
            return TileBatch(job.slide, job.corners, None, describe(error, job.path))
        return TileBatch(job.slide, job.corners, torch.from_numpy(pixels), None)

    def _slide(self, path: Path) -> OpenSlide:
        if self._opened is None or self._opened[0] != path:
            self._close()
            self._opened = (path, fastest(path))
        return self._opened[1]

    def _close(self) -> None:
        if self._opened is not None:
            self._opened[1].close()
            self._opened = None


def tile_loader(batches: BatchList, recipe: TileRecipe, workers: int, pin_memory: bool) -> DataLoader:
    """Iterates over the batches of all slides, in order, read by ``workers`` processes (0: this one)."""
    return DataLoader(
        TileReader(recipe),
        batch_size=None,  # every entry of the sampler is one batch already
        sampler=batches,
        collate_fn=_unchanged,
        num_workers=workers,
        prefetch_factor=PREFETCH if workers else None,
        pin_memory=pin_memory,
    )


def reader_ended(error: Exception) -> bool:
    """Whether a reading process of the loader ended by itself; PyTorch has no class for it."""
    return isinstance(error, RuntimeError) and "DataLoader worker" in str(error)


def _unchanged(batch: TileBatch) -> TileBatch:
    return batch
