"""``--slides_dir``: slides as the extraction finds and opens them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from tqdm import tqdm

from data_utils.slides.finding import find_slides, printable
from data_utils.slides.isolation import Isolated
from data_utils.slides.opening import SlideError, open_slide
from utils.diagnosis.inputs import Inputs
from utils.findings import Finding, error, listing, ok, warning

_REMEDY = "do what stands beside each; the extraction goes on without them (--allow_failures)"


def check_slides(inputs: Inputs) -> Iterator[Finding]:
    """What the extraction would report as failed before it reads any tissue."""
    try:
        found = find_slides(inputs.slides_dir or Path())
    except OSError as reason:
        yield error(str(reason), "pass the folder of the slides as --slides_dir")
        return
    failed = [fault.reason for fault in found.faults if fault.status == "failed"]
    twice = [fault.reason for fault in found.faults if fault.status == "duplicate"]
    with Isolated(_open) as opens:
        for path in tqdm(found.slides, desc="slides", unit="slide", leave=False, disable=None):
            try:
                opens(path)
            except SlideError as reason:
                failed.append(f"{printable(path)} {reason}")
    if failed:
        yield error(f"{len(failed)} of {found.total} slides cannot be used: {listing(failed)}", _REMEDY)
    if twice:
        yield warning(f"{len(twice)} are there twice: {listing(twice)}", "remove the second name of each")
    yield ok(
        f"{found.total - len(failed) - len(twice)} slides can be opened, {found.others.total()} other files"
    )


def _open(path: Path) -> None:
    open_slide(path).close()
