"""Frozen sections and diagnostic slides of a patient: how many there are, and which of them are taken."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from data_utils.cases.splitting import Dropped
from utils.barcodes import slide_kind

logger = logging.getLogger(__name__)

KINDS = {"dx": "diagnostic slides (DX)", "frozen": "frozen sections (TS, MS, BS)"}
ALL = "all"


def choose_slides(
    slides: Iterable[tuple[str, str, Path]], wanted: str
) -> tuple[list[tuple[str, str, Path]], Dropped]:
    """The slides (slide, case, file) of the kind that is wanted, and those left out with the reason.

    Slides whose names do not say what they are stay.

    Args:
        slides: all that have features.
        wanted: ``all``, ``dx`` or ``frozen``.
    """
    kept: list[tuple[str, str, Path]] = []
    dropped: Dropped = []
    counts: Counter[str | None] = Counter()
    for slide, case, file in slides:
        kind = slide_kind(slide)
        counts[kind] += 1
        if wanted == ALL or kind in (None, wanted):
            kept.append((slide, case, file))
        else:
            dropped.append((slide, case, f"not of --slide_kind {wanted}: one of the {KINDS[kind]}"))
    numbers = [f"{counts[kind]} {words}" for kind, words in KINDS.items()]
    logger.info(
        "slides with features: %s, %d of no known kind; --slide_kind %s leaves out %d",
        ", ".join(numbers),
        counts[None],
        wanted,
        len(dropped),
    )
    return kept, dropped
