"""Levels of a slide: which one a rectangle is read from, and those that cannot be a smaller level 0."""

from __future__ import annotations

from openslide import OpenSlide

# A level counts as fine enough for a tile when it is coarser than wanted by less than this factor, because
# down-sampling factors of real slides are odd (2.0005 for a nominal 2).
LEVEL_TOLERANCE = 1.01
# By how much the sides of a level may miss its factor: in pixels (sizes are rounded), and as a share.
_PIXELS, _SHARE = 2.0, 0.01


def true_downsample(slide: OpenSlide, level: int) -> float:
    """By how much a level is smaller than level 0.

    OpenSlide divides the sizes, but pyramids that halve drop odd pixels: 4443 -> 2221 is a factor of 2, not
    2.0005, which far from the origin would be off by a pixel.
    """
    stated = slide.level_downsamples[level]
    sizes = zip(slide.dimensions, slide.level_dimensions[level], strict=True)
    whole = round(stated)
    return float(whole) if all(abs(full / whole - small) < 1 for full, small in sizes) else stated


def fits_level0(slide: OpenSlide, level: int) -> bool:
    """Whether both sides of a level are those of level 0 divided by the level's factor.

    A level that was cut, padded or stretched on one side would show other places than asked for.
    """
    factor = slide.level_downsamples[level]
    sizes = zip(slide.dimensions, slide.level_dimensions[level], strict=True)
    return all(abs(full / factor - small) <= max(_PIXELS, _SHARE * small) for full, small in sizes)


def odd_levels(slide: OpenSlide) -> list[str]:
    """Levels that are not read from, in words."""
    return [
        f"level {level} ({slide.level_dimensions[level][0]} x {slide.level_dimensions[level][1]} px, factor "
        f"{slide.level_downsamples[level]:.4g})"
        for level in range(1, slide.level_count)
        if not fits_level0(slide, level)
    ]


def best_level(slide: OpenSlide, downsample: float) -> int:
    """The coarsest level that is fine enough for a picture made smaller by ``downsample``."""
    levels = [level for level in range(1, slide.level_count) if fits_level0(slide, level)]
    fine = [level for level in levels if slide.level_downsamples[level] <= downsample * LEVEL_TOLERANCE]
    return max(fine, key=lambda level: slide.level_downsamples[level], default=0)
