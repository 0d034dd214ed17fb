"""``--slides_dir``: slides as the extraction finds and opens them."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from pathlib import Path

from tqdm import tqdm

from data_utils.features.scale import ENLARGED, too_coarse
from data_utils.slides.finding import find_slides, printable
from data_utils.slides.isolation import Isolated
from data_utils.slides.levels import odd_levels
from data_utils.slides.opening import SlideError, open_slide
from data_utils.slides.resolution import NOTHING_STATED, Resolution, slide_resolution
from models.encoders import encoder_of
from utils.diagnosis.inputs import Inputs
from utils.files import read_json
from utils.findings import Finding, error, listing, ok, warning

_REMEDY = "do what stands beside each; the extraction goes on without them (--allow_failures)"


def check_slides(inputs: Inputs) -> Iterator[Finding]:
    """What the extraction would report as failed before it reads any tissue, and at which scale it would read it."""
    try:
        found = find_slides(inputs.slides_dir or Path())
    except OSError as reason:
        yield error(str(reason), "pass the folder of the slides as --slides_dir")
        return
    failed = [fault.reason for fault in found.faults if fault.status == "failed"]
    twice = [fault.reason for fault in found.faults if fault.status == "duplicate"]
    scales: dict[Path, Resolution] = {}
    odd = []
    with Isolated(_look) as look:
        for path in tqdm(found.slides, desc="slides", unit="slide", leave=False, disable=None):
            try:
                scales[path], levels = look(path)
                odd += [f"{printable(path)}: {level}" for level in levels]
            except SlideError as reason:
                failed.append(f"{printable(path)} {reason}")
    if failed:
        yield error(f"{len(failed)} of {found.total} slides cannot be used: {listing(failed)}", _REMEDY)
    if twice:
        yield warning(f"{len(twice)} are there twice: {listing(twice)}", "remove the second name of each")
    yield from _check_scale(scales, _target_mpp(inputs))
    if odd:
        yield warning(
            f"{len(odd)} pyramid levels contradict the size of level 0: {listing(odd)}",
            "the extraction does not read them; convert these slides anew if it is slow",
        )
    yield ok(
        f"{found.total - len(failed) - len(twice)} slides can be opened, {found.others.total()} other files"
    )


def _look(path: Path) -> tuple[Resolution, list[str]]:
    logging.disable(logging.WARNING)  # in a process of its own: what it would say becomes a finding
    with open_slide(path) as slide:
        return slide_resolution(path, slide.properties, NOTHING_STATED), odd_levels(slide)


def _target_mpp(inputs: Inputs) -> float | None:
    """Micrometres per pixel of the patches of the model's encoder."""
    config = inputs.tile_config or encoder_of(inputs.config.model.mil_name).tile_config
    return None if config is None else read_json(config).get("target_mpp")


def _check_scale(scales: Mapping[Path, Resolution], target: float | None) -> Iterator[Finding]:
    remedy = "state it: --mpp for slides that state none, --mpp_csv for slides by name"
    if assumed := [path for path, scale in scales.items() if scale.assumed]:
        yield warning(
            f"{len(assumed)} slides state no resolution, so that it will be assumed: {listing(assumed)}",
            remedy,
        )
    coarse = [path for path, scale in scales.items() if target and scale.mpp / target > ENLARGED]
    if coarse:
        lost = sum(too_coarse(scales[path].mpp / target) for path in coarse)
        yield warning(
            f"{len(coarse)} slides are much coarser than patches at {target:g} micrometres per pixel, {lost} of them "
            f"too coarse to be extracted: {listing(f'{path} ({scales[path].mpp:g})' for path in coarse)}",
            f"leave them out; or, if that is wrong, {remedy}",
        )
