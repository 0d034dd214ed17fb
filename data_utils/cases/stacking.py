"""Several slides of one patient become one set of coordinates without overlap."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from itertools import pairwise

import numpy as np

logger = logging.getLogger(__name__)

# Level-0 pixels between stacked slides, as in the published code.
GAP = 1500


def stack_slides(coords: Sequence[np.ndarray], patch_size: int, cumulative: bool) -> list[np.ndarray]:
    """Shifts slides along y.

    Args:
        coords: per slide, patch corners ``[L_k, 2]`` (x, y) in level-0 pixels.
        patch_size: level-0 distance between neighbouring patches.
        cumulative: False repeats the published code, which shifts slide ``k + 1`` by the height of
            slide ``k`` alone, so that from the third slide on slides overlap. True adds the shifts up,
            each rounded up to whole patches so that every slide keeps its grid. (Patches larger than
            the gap widen it.)

    Returns:
        New arrays, in the order of the slides.
    """
    stacked, shift = [np.array(coords[0])], 0
    for previous, current in pairwise(coords):
        height = int(previous[:, 1].max())
        if cumulative:
            shift += -(-(height + max(GAP, patch_size)) // patch_size) * patch_size
        else:
            shift = height + GAP
        stacked.append(current + np.array([0, shift]))
    return stacked


def repack_slides(
    coords: Sequence[np.ndarray], patch_size: int, extent: int, case_id: str
) -> list[np.ndarray]:
    """Packs slides by their tissue boxes into columns no higher than ``extent``.

    For stacks that leave the position grid of a slide encoder. Where even this does not fit, the
    coordinates are returned all the same and the encoder clamps them.

    Args:
        coords: per slide, patch corners ``[L_k, 2]`` in level-0 pixels.
        patch_size: level-0 distance between neighbouring patches; shifts are whole multiples of it.
        extent: level-0 pixels that the grid covers along each axis.
        case_id: for the log.
    """
    x = y = column_width = 0
    packed = []
    for slide in coords:
        corner = slide.min(axis=0) // patch_size * patch_size
        width, height = (
            -(-(slide.max(axis=0) - corner + patch_size + GAP) // patch_size) * patch_size
        ).tolist()
        if y and y + height - GAP > extent:
            x, y, column_width = x + column_width, 0, 0
        packed.append(slide - corner + np.array([x, y]))
        y, column_width = y + height, max(column_width, width)
    if any(slide.max() >= extent for slide in packed):
        logger.warning(
            "case %s: its %d slides do not fit into the position grid; what lies outside gets positions of its border",
            case_id,
            len(coords),
        )
    return packed


def fits(coords: Sequence[np.ndarray], extent: int) -> bool:
    """Whether all coordinates lie inside a square grid of ``extent`` level-0 pixels."""
    return all(slide.min() >= 0 and slide.max() < extent for slide in coords)
