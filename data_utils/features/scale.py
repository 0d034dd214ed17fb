"""When two resolutions are the same, and how much coarser than its patches a slide may be."""

from __future__ import annotations

# Two values closer than this are the same resolution but for rounding.
SAME = 1.02
# A slide coarser than its patches is enlarged: from the first factor on with a warning, beyond the second not at all.
ENLARGED, MOST_ENLARGED = 1.5, 4.0


def same(one: float, other: float) -> bool:
    """Whether two resolutions are the same but for rounding."""
    return max(one, other) <= SAME * min(one, other)


def too_coarse(factor: float) -> bool:
    """Whether a slide that is so many times coarser than its patches shows next to nothing in them."""
    return factor > MOST_ENLARGED * SAME
