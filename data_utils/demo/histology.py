"""Painting slides that look like H&E-stained tissue and carry the planted signal.

A picture is two maps, the amounts of haematoxylin (blue, nuclei) and eosin (pink, the rest), turned into
colours by Beer-Lambert absorption. What the hidden variables change:

* first axis of ``look``: compact tumour nests against single cells dispersed in much stroma;
* second axis of ``look``: clear against dense cytoplasm, round against spindle nuclei;
* ``grade``: size and darkness of nuclei, and eosin (paler stroma in aggressive tumours).
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import tifffile
from numpy.random import Generator
from numpy.typing import NDArray
from PIL import Image
from scipy.ndimage import gaussian_filter

from data_utils.demo.patients import Slide
from utils.files import atomic_path

Field = NDArray[np.float32]  # stain amounts or shares; 1.0 is a strong stain
Amount = NDArray[np.uint8]  # stain amounts in UNITS

BACKGROUND = np.array((244, 243, 245), dtype=np.float32)
HAEMATOXYLIN = np.array((0.62, 0.78, 0.30), dtype=np.float32)  # optical density per unit, red green blue
EOSIN = np.array((0.10, 0.86, 0.36), dtype=np.float32)
# What a cohort's stroma may absorb besides: a brown and a blue cast, per unit of eosin.
CASTS = np.array(((0.0, 0.05, 0.45), (0.40, 0.05, 0.0)), dtype=np.float32)
UNITS = np.float32(120)  # whole-number stain amount of 1.0
# Amounts are rounded to steps of so many units, which keeps the losslessly compressed files small.
STEP = 6
HALF = 2  # cytoplasm and fibres are computed at this fraction of the resolution
COARSEST_MPP = 0.5
ORIENTATIONS = 6
SIZES = (0.75, 0.9, 1.05, 1.25)


def smooth_noise(shape: tuple[int, int], scale: float, rng: Generator) -> Field:
    """Gaussian noise of about unit variance that varies over ``scale`` pixels, ``[H, W]``."""
    step = max(scale / 2, 1.0)
    coarse = tuple(int(np.ceil(n / step)) + 4 for n in shape)
    values = gaussian_filter(rng.standard_normal(coarse, dtype=np.float32), 1.0, mode="wrap")
    values /= values.std() + 1e-6
    box = (2.0, 2.0, 2.0 + shape[1] / step, 2.0 + shape[0] / step)
    image = Image.fromarray(values).resize((shape[1], shape[0]), Image.Resampling.BICUBIC, box=box)
    return np.asarray(image)


def tissue_mask(shape: tuple[int, int], rng: Generator) -> Field:
    """One irregular piece of tissue, values 0 to 1 with a soft edge, ``[H, W]``."""
    height, width = shape
    y = np.linspace(-1, 1, height, dtype=np.float32)[:, None]
    x = np.linspace(-1, 1, width, dtype=np.float32)[None, :]
    angle = rng.uniform(0, np.pi)
    u, v = x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle)
    distance = 1.0 - np.sqrt((u / 0.92) ** 2 + (v / rng.uniform(0.80, 0.90)) ** 2)
    distance += 0.09 * smooth_noise(shape, min(shape) / 4, rng) + 0.03 * smooth_noise(
        shape, min(shape) / 20, rng
    )
    return np.clip(distance * min(shape) / 12, 0, 1)


def paint_tissue(
    mask: Field,
    look: tuple[float, float],
    grade: float,
    tissue: tuple[float, float, float, float],
    mpp: float,
    rng: Generator,
) -> NDArray[np.uint8]:
    """Paints tissue where ``mask`` is above zero.

    Args:
        mask: ``[H / 2, W / 2]``, 0 to 1. Only nuclei are sharp enough to need full resolution; all
            else is computed at half of it, in a quarter of the time.
        look: the two axes of the subtype, about -1 to 1.
        grade: aggressiveness as the image shows it, about -2.5 to 2.5.
        tissue: tint and spacing of fibres (about -1 to 1), brown and blue cast of the stroma (0 to 1); shared
            by a cohort.
        mpp: microns per pixel of the picture; every structure has a size in microns.
        rng: random stream.

    Returns:
        Colours ``[H, W, 3]``.
    """
    first, second = (float(np.clip(value, -2.2, 2.2)) for value in look)
    grade = float(np.clip(grade, -3, 3))

    def noise(microns: float) -> Field:
        return smooth_noise(mask.shape, microns / (HALF * mpp), rng)

    # Every slide is stained a little differently.
    gain_h, gain_e = np.exp(0.04 * rng.standard_normal(2)).astype(np.float32)
    nests = noise(52 + 16 * first) + np.float32(0.35) * noise(18)
    nests = np.clip((nests + np.float32(0.25 + 0.50 * first)) * 5, 0, 1)
    fibres = np.sin(noise(70 + 15 * tissue[1]) * 9 + noise(14))
    eosin = np.float32(0.50 - 0.055 * grade + 0.03 * tissue[0]) + np.float32(0.12) * fibres * (1 - nests)
    eosin -= nests * np.float32(0.10 + 0.06 * second)
    haematoxylin = np.float32(0.05) + nests * np.float32(0.20 - 0.06 * second)
    haematoxylin += np.float32(0.03) * noise(6)
    stain = mask * (noise(22) < 2.0)  # the rest is holes: lumina, fat

    nuclei = _nuclei(nests, stain, first, second, grade, float(gain_h), mpp, rng)
    np.maximum(nuclei, _enlarge(haematoxylin * stain * gain_h), out=nuclei)
    return _colours(nuclei, _enlarge(eosin * stain * gain_e), tissue[2:])


def _nuclei(
    nests: Field,
    stain: Field,
    first: float,
    second: float,
    grade: float,
    gain: float,
    mpp: float,
    rng: Generator,
) -> Amount:
    """Haematoxylin of nuclei, ``[H, W]``: many in nests, few (more when dispersed) between them."""
    height, width = (HALF * side for side in nests.shape)
    pitch = 9.5 / mpp
    grid = np.mgrid[0 : height / pitch, 0 : width / pitch].reshape(2, -1).T
    centres = ((grid + rng.uniform(0.15, 0.85, grid.shape)) * pitch).astype(np.int64)
    centres = centres[(centres < (height, width)).all(axis=1)]
    rows, columns = (centres // HALF).T
    inside = nests[rows, columns]
    tissue = stain[rows, columns] > 0.3
    share = 0.80 * inside + (0.26 - 0.06 * first) * (1 - inside)
    centres = centres[tissue & (rng.random(len(centres)) < share)]

    radius = (3.1 + 0.42 * grade) / mpp
    stretch = float(np.exp(0.16 - 0.16 * second))
    darkness = gain * (0.85 + 0.10 * grade)
    reach = int(np.ceil(max(1.5, radius) * SIZES[-1] * stretch)) + 1
    canvas = np.zeros((height + 2 * reach, width + 2 * reach), dtype=np.uint8)
    flat, stride = canvas.reshape(-1), canvas.shape[1]
    offsets = (np.arange(-reach, reach + 1)[:, None] * stride + np.arange(-reach, reach + 1)).reshape(-1)
    kinds = rng.integers(len(SIZES) * ORIENTATIONS, size=len(centres))
    starts = (centres[:, 0] + reach) * stride + centres[:, 1] + reach
    for kind in range(len(SIZES) * ORIENTATIONS):
        size, turn = SIZES[kind // ORIENTATIONS], np.pi * (kind % ORIENTATIONS) / ORIENTATIONS
        stamp = _nucleus(reach, max(1.5, radius) * size, stretch, turn, darkness, rng).reshape(-1)
        filled = stamp > 0
        places = starts[kinds == kind][:, None] + offsets[filled]
        flat[places] = np.maximum(flat[places], stamp[filled])
    return np.ascontiguousarray(canvas[reach:-reach, reach:-reach])


def _nucleus(
    reach: int, radius: float, stretch: float, turn: float, darkness: float, rng: Generator
) -> Amount:
    """One nucleus: an ellipse with a dark rim and mottled chromatin, ``[2 reach + 1, 2 reach + 1]``."""
    y, x = np.mgrid[-reach : reach + 1, -reach : reach + 1].astype(np.float32)
    u, v = x * np.cos(turn) + y * np.sin(turn), y * np.cos(turn) - x * np.sin(turn)
    distance = np.sqrt((u / stretch) ** 2 + (v * stretch) ** 2) / radius
    edge = np.clip((1 - distance) * radius * 0.8, 0, 1)
    chromatin = 0.88 + 0.16 * distance + 0.10 * smooth_noise(x.shape, max(radius / 1.5, 1), rng)
    return _amount(edge * darkness * chromatin)


def _amount(stain: Field) -> Amount:
    """Stain amounts as whole numbers, which are quicker to enlarge and to look up."""
    return np.clip(stain * UNITS + 0.5, 0, 255).astype(np.uint8)


def _enlarge(stain: Field) -> Amount:
    """``[H / 2, W / 2] -> [H, W]``, bilinear."""
    size = (HALF * stain.shape[1], HALF * stain.shape[0])
    return np.asarray(Image.fromarray(_amount(stain)).resize(size, Image.Resampling.BILINEAR))


def _colours(haematoxylin: Amount, eosin: Amount, casts: tuple[float, float]) -> NDArray[np.uint8]:
    """Colours ``[H, W, 3]`` of stain amounts ``[H, W]`` (Beer-Lambert)."""
    stroma = EOSIN + np.asarray(casts, dtype=np.float32) @ CASTS
    rounded = np.rint(np.arange(256) / STEP).astype(np.uint16)
    levels = int(rounded[-1]) + 1
    amounts = np.arange(levels) * STEP / UNITS
    density = amounts[:, None, None] * HAEMATOXYLIN + amounts[None, :, None] * stroma
    table = np.rint(BACKGROUND * np.exp(-density)).astype(np.uint8).reshape(-1, 3)
    index = (rounded * levels).take(haematoxylin)
    index += rounded.take(eosin)
    return table.take(index, axis=0)


def paint_slide(slide: Slide) -> NDArray[np.uint8]:
    """Level 0 of a slide, ``[H, W, 3]``: 1300 to 1700 pixels a side, half to 70 % of it tissue.

    Slides at a finer resolution have more pixels, though they show a smaller piece.
    """
    rng = np.random.default_rng(slide.seed)
    enlarge = (COARSEST_MPP / slide.mpp) ** 0.4 / HALF
    height, width = (int(side * enlarge) for side in rng.integers(1300, 1700, size=2))
    mask = tissue_mask((height, width), rng)
    return paint_tissue(mask, slide.look, slide.grade, slide.tissue, slide.mpp, rng)


def write_slide(slide: Slide, path: Path) -> None:
    """Writes a slide as a tiled pyramidal TIFF in Aperio's layout, atomically.

    OpenSlide recognises the vendor by the image description and needs every page tiled. A slide marked
    corrupt is cut off in the middle, as an interrupted download leaves it.
    """
    picture = paint_slide(slide)
    description = f"Aperio|AppMag = {round(10 / slide.mpp)}"
    if slide.has_mpp_tag:
        description += f"|MPP = {slide.mpp}"
    levels = [picture, _shrink(picture, 4)]
    with atomic_path(path) as temporary:
        with tifffile.TiffWriter(temporary) as writer:
            for level in levels:
                writer.write(
                    level,
                    tile=(256, 256),
                    photometric="rgb",
                    compression="deflate",
                    compressionargs={"level": 2},  # a seventh larger than level 4, in half the time
                    description=description,
                    metadata=None,
                )
        if slide.corrupt:
            with temporary.open("rb+") as handle:
                handle.truncate(temporary.stat().st_size // 3)


def _shrink(picture: NDArray[np.uint8], factor: int) -> NDArray[np.uint8]:
    return np.asarray(Image.fromarray(picture).reduce(factor))
