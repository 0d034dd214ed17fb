"""Reading: items of the dataset, epochs of the training loader, tiles of slides, whole extractions."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from io import BytesIO
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import numpy as np
import tifffile
import torch
from numpy.typing import NDArray
from openslide import OpenSlide
from PIL import Image
from torch import Tensor, nn

from data_utils.cases.datasets import CaseDataset, ModalityOptions, PatchOptions
from data_utils.cases.splits import Patient
from data_utils.demo.histology import HALF, paint_tissue, smooth_noise
from data_utils.features.source import FeatureSource
from data_utils.features.store import FeatureMeta, write_features
from data_utils.slides.extraction import extract_cohort
from data_utils.slides.jpeg_slide import fastest
from data_utils.slides.tile_reading import BatchList, TileRecipe, plan_slide, tile_loader
from data_utils.slides.tissue import TissueRule
from data_utils.slides.wsi import read_tile
from models.prov_gigapath.tile_encoder import build_tile_encoder
from tests.benchmarks.measuring import Row, row
from tests.benchmarks.training_step import NUM_GENES
from utils import constants
from utils.files import read_json
from utils.training.trainer import Trainer

PATCHES, SUBSET, WIDTH = 25_000, 4_096, 1_536
CASES = 12
CONFIGS = {
    "gigapath": "gigapath_tile_encoder.json",
    "titan": "conch_v1_5.json",
    "demo": "demo_gigapath_tile_encoder.json",
}

# A scanner at 40x: JPEG tiles of 240 pixels with halved colours, as in many files of TCGA. The piece of tissue
# that is painted fills whole JPEG tiles at every level, so that slides are made of copies of it.
MPP, JPEG_SIDE, QUALITY, LEVELS, CAMERA_NOISE = 0.25, 240, 70, (1, 4, 16), 3.0
PIECE = JPEG_SIDE * LEVELS[-1]
TIFF_COMPRESSION, TIFF_PHOTOMETRIC, TIFF_JPEG, TIFF_YCBCR = 259, 262, 7, 6


# ---------------------------------------------------------------------------- features
def _dataset(
    folder: Path, cases: int, patches: int, threshold: int | None = None, cache: str = "none"
) -> CaseDataset:
    """Patients with a slide of ``patches`` patches of 1,536 numbers each, float16 on disk."""
    generator = np.random.default_rng(0)
    coords = np.stack([np.arange(patches) % 200, np.arange(patches) // 200], axis=1) * 256
    patients = []
    for number in range(cases):
        path = folder / f"{number}.h5"
        if not path.exists():
            features = generator.standard_normal((patches, WIDTH), dtype=np.float32)
            write_features(path, features, coords, FeatureMeta(256, 256, 0.5, 0.5, "benchmark"))
        patients.append(Patient(f"case-{number}", f"TCGA-{number:04}", "TCGA-TEST", (path,), 0, 1.0, 1))
    table = torch.from_numpy(generator.standard_normal((cases, NUM_GENES), dtype=np.float32))
    genes = {patient.case_id: row for patient, row in zip(patients, table.unbind(), strict=True)}
    options = PatchOptions(threshold=threshold, resample=True, source=FeatureSource(cache))
    return CaseDataset(patients, {"genes": genes}, None, options, "train", ModalityOptions({"genes": "RNA"}))


def _speed(patches: int, seconds: float) -> str:
    return f"{patches / seconds:,.0f} patches/s, {patches * WIDTH * 2 / seconds / 1e6:,.0f} MB/s of float16"


def dataset_item(patches: int, threshold: int | None, repeats: int) -> Row:
    """One item; ``threshold`` of its patches where given."""
    with tempfile.TemporaryDirectory() as folder:
        dataset = _dataset(Path(folder), 1, patches, threshold)
        result = row(lambda: dataset[0], repeats)
    return {**result, "note": _speed(min(patches, threshold or patches), float(result["seconds"]))}


def dataset_item_without_image(repeats: int) -> Row:
    """What an item costs beside its image: the patches come from memory."""
    slide = np.zeros(1, dtype=np.int64)
    patches = (np.zeros((1, WIDTH), dtype=np.float32), np.zeros((1, 2), dtype=np.int64), 256, slide)
    with tempfile.TemporaryDirectory() as folder:
        dataset = _dataset(Path(folder), 1, 1)
        with mock.patch.object(dataset, "_read_patches", return_value=patches):
            return row(lambda: dataset[0], repeats)


def loader_epoch(
    cache: str, workers: int, first: bool, repeats: int, cases: int = CASES, patches: int = SUBSET
) -> Row:
    """An epoch of the trainer's loader.

    ``first`` includes what a run does before it (with ``ram``: reading all files) and begins with files that
    the operating system has dropped from its memory, where it does that on request.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        kept = _dataset(folder, cases, patches, cache=cache)
        settings = SimpleNamespace(workers=workers, device=torch.device("cpu"))

        def work() -> None:
            if first:
                _drop_from_memory(folder)
            dataset = _dataset(folder, cases, patches, cache=cache) if first else kept
            loader = Trainer._loader(settings, dataset, range(cases))
            if sum(len(case.features) for case in loader) != cases * patches:
                raise RuntimeError("the loader lost patches")

        result = row(work, repeats)
    return {**result, "note": _speed(cases * patches, float(result["seconds"]))}


def _drop_from_memory(folder: Path) -> None:
    for path in folder.iterdir():
        with path.open("rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


# ---------------------------------------------------------------------------- slides
def write_scan(path: Path, columns: int, rows: int) -> None:
    """A slide of ``columns x rows`` painted pieces of 3,840 pixels, all tissue, as a 40x scanner writes it."""
    generator = np.random.default_rng(0)
    half = (PIECE // HALF, PIECE // HALF)
    mask = (smooth_noise(half, 200, generator) > -1.5).astype(np.float32)
    piece = paint_tissue(mask, (0.0, 0.0), 0.0, (0.0, 0.0, 0.0, 0.0), MPP, generator)
    noise = np.rint(CAMERA_NOISE * generator.standard_normal(piece.shape, dtype=np.float32))
    piece = np.clip(piece + noise, 0, 255).astype(np.uint8)
    with tifffile.TiffWriter(path) as writer:
        for factor in LEVELS:
            side = PIECE // factor
            writer.write(
                _jpeg_tiles(np.asarray(Image.fromarray(piece).reduce(factor)), columns, rows),
                shape=(side * rows, side * columns, 3),
                dtype=np.uint8,
                tile=(JPEG_SIDE, JPEG_SIDE),
                photometric="rgb",
                compression="deflate",  # said only because tifffile wants a codec for JPEG; corrected below
                description=f"Aperio|AppMag = 40|MPP = {MPP}",
                metadata=None,
            )
    with tifffile.TiffFile(path, mode="r+") as file:
        for page in file.pages:
            page.tags[TIFF_COMPRESSION].overwrite(TIFF_JPEG)
            page.tags[TIFF_PHOTOMETRIC].overwrite(TIFF_YCBCR)


def _jpeg_tiles(level: NDArray[np.uint8], columns: int, rows: int) -> Iterator[bytes]:
    """JPEG tiles of ``columns x rows`` copies of a level, row by row."""
    lines: list[list[bytes]] = []
    for y in range(0, len(level), JPEG_SIDE):
        lines.append([])
        for x in range(0, level.shape[1], JPEG_SIDE):
            buffer = BytesIO()
            tile = Image.fromarray(level[y : y + JPEG_SIDE, x : x + JPEG_SIDE])
            tile.save(buffer, "JPEG", quality=QUALITY, subsampling="4:2:0")
            lines[-1].append(buffer.getvalue())
    for _ in range(rows):
        for line in lines:
            for _ in range(columns):
                yield from line


def _recipe(name: str) -> TileRecipe:
    return TileRecipe.from_config(name, read_json(constants.CONFIGS_ROOT / CONFIGS[name]))


def _fail(path: Path, reason: str) -> None:
    raise RuntimeError(f"{path}: {reason}")


def slide_tiles(encoder: str, workers: int, repeats: int, pieces: tuple[int, int] = (3, 2)) -> Row:
    """Planning, reading and decoding all tiles of a slide by the recipe of a tile encoder."""
    recipe = _recipe(encoder)
    counts: list[int] = []

    def read(path: Path) -> None:
        batches = BatchList([path], lambda p: plan_slide(p, recipe, TissueRule()), 64, _fail)
        counts.append(sum(len(batch.pixels) for batch in tile_loader(batches, recipe, workers, False)))

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "slide.svs"
        write_scan(path, *pieces)
        result = row(lambda: read(path), repeats)
    speed = counts[-1] / float(result["seconds"])
    note = f"{speed:.0f} tiles/s, {speed / max(1, workers):.0f} a process, {counts[-1]} tiles"
    return {**result, "note": note}


def _plain_tile(slide: OpenSlide, corner: tuple[int, int], size: int, tile_size: int) -> Image.Image:
    """The obvious way to the pixels of a tile."""
    region = slide.read_region(corner, 0, (size, size)).convert("RGB")
    return region.resize((tile_size, tile_size), Image.Resampling.BICUBIC)


# How a slide is opened and a tile of it read.
READERS: dict[str, tuple[Callable[[Path], OpenSlide], Callable[..., Image.Image]]] = {
    "plain": (OpenSlide, _plain_tile),
    "openslide": (OpenSlide, read_tile),
    "direct": (fastest, read_tile),
}


def reader(name: str, repeats: int, pieces: tuple[int, int] = (3, 2), size: int = 512) -> Row:
    """The pixels alone: every tile of a slide, ``size`` px read and halved, one of ``READERS``."""
    opened, read = READERS[name]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "slide.svs"
        write_scan(path, *pieces)
        with opened(path) as slide:
            columns, rows = (range(0, side - size + 1, size) for side in slide.dimensions)
            corners = [(x, y) for y in rows for x in columns]

            def work() -> None:
                for corner in corners:
                    read(slide, corner, size, size // 2)

            result = row(work, repeats)
    return {**result, "note": f"{len(corners) / float(result['seconds']):.0f} tiles/s, {len(corners)} tiles"}


class StandIn(nn.Module):
    """Takes as long as an accelerator that encodes so many tiles a second, and no processor meanwhile."""

    def __init__(self, tiles_per_second: float) -> None:
        super().__init__()
        self.tiles_per_second = tiles_per_second

    def forward(self, images: Tensor) -> Tensor:
        """``[n, 3, s, s] -> [n, 1536]``."""
        time.sleep(len(images) / self.tiles_per_second)
        return images.new_zeros(len(images), WIDTH)


def extraction(
    encoder: str | float,
    workers: int,
    repeats: int,
    slides: int = 3,
    pieces: tuple[int, int] = (2, 2),
    device: str = "cpu",
) -> Row:
    """Slides to feature files.

    Args:
        encoder: ``demo`` (the small encoder of the demo) and ``gigapath`` (published size), with random weights, or
            an accelerator of so many tiles/s.
        workers: reading processes.
        repeats: as everywhere.
        slides: how many.
        pieces: size of each, see :func:`write_scan`.
        device: where the encoder runs.
    """
    recipe = _recipe(encoder if isinstance(encoder, str) else "gigapath")
    if isinstance(encoder, str):
        module = build_tile_encoder(read_json(constants.CONFIGS_ROOT / CONFIGS[encoder]))
    else:
        module = StandIn(encoder)
    waiting: list[float] = []
    tiles: list[int] = []

    def extract(paths: Sequence[Path]) -> None:
        with tempfile.TemporaryDirectory() as out:
            report = extract_cohort(paths, module, recipe, Path(out), workers=workers, device=device)
        if report.count("done") != len(paths):
            raise RuntimeError(f"slides failed: {report.results}")
        waiting.append(report.waiting)
        tiles.append(sum(result.tiles for result in report.results))

    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder) / f"slide-{number}.svs" for number in range(slides)]
        write_scan(paths[0], *pieces)
        for path in paths[1:]:
            path.hardlink_to(paths[0])
        result = row(lambda: extract(paths), repeats)
    speed = tiles[-1] / float(result["seconds"])
    note = f"{speed:.0f} tiles/s, waiting for tiles {100 * float(np.median(waiting)):.0f} % of the time"
    return {**result, "note": f"{note}, {tiles[-1]} tiles"}


PARTS: dict[str, Callable[[int], Row]] = {
    "dataset/no-image": lambda repeats: dataset_item_without_image(50 * repeats),
    f"dataset/{PATCHES}/all": lambda repeats: dataset_item(PATCHES, None, repeats),
    f"dataset/{PATCHES}/subset-{SUBSET}": lambda repeats: dataset_item(PATCHES, SUBSET, repeats),
    **{
        f"loader/{cache}/{workers}-workers/{'first' if first else 'later'}": (
            lambda repeats, cache=cache, workers=workers, first=first: loader_epoch(
                cache, workers, first, repeats
            )
        )
        for cache in ("none", "ram")
        for workers in (0, 2)
        for first in (True, False)
    },
    **{
        f"tiles/{encoder}/{workers}-workers": (
            lambda repeats, encoder=encoder, workers=workers: slide_tiles(encoder, workers, repeats)
        )
        for encoder, counts in (("gigapath", (0, 1, 2, 4)), ("titan", (0, 2)))
        for workers in counts
    },
    **{f"reader/{name}": (lambda repeats, name=name: reader(name, repeats)) for name in READERS},
    **{
        f"extraction/{name}/{workers}-workers": (
            lambda repeats, encoder=encoder, workers=workers: extraction(encoder, workers, repeats)
        )
        for name, encoder in (("150-tiles-per-s", 150.0), ("1000-tiles-per-s", 1000.0), ("demo", "demo"))
        for workers in (0, 1, 2)
    },
}
