"""What a pixel of level 0 measures: as the slide states it, as the user states it, or assumed.

``mpp`` is micrometres per pixel.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from xml.etree import ElementTree

import openslide

from data_utils.features.scale import ENLARGED, MOST_ENLARGED, same, too_coarse
from data_utils.features.slide_names import slide_of
from data_utils.slides.opening import SlideError
from data_utils.tables.text_table import read_table
from utils.files import FileError
from utils.findings import listing

logger = logging.getLogger(__name__)

# What a slide that states no resolution is taken for (40x, the commonest in TCGA).
DEFAULT_MPP = 0.25
# Resolutions outside of this range are no microscope's: 352.8 is the 72 dpi of an image editor.
PLAUSIBLE_MPP = (0.05, 20.0)
# Pixels longer than wide by more than this cannot be cut into square tiles.
MOST_OBLONG = 1.1
# Micrometres of the units of length that OME-XML knows; micrometres where it names none.
_OME_UNITS = {
    "": 1.0,
    "\u00b5m": 1.0,  # micro sign
    "\u03bcm": 1.0,  # Greek letter
    "um": 1.0,
    "m": 1e6,
    "dm": 1e5,
    "cm": 1e4,
    "mm": 1e3,
    "nm": 1e-3,
    "pm": 1e-6,
    "\u00c5": 1e-4,
    "in": 25_400.0,
    "li": 25_400.0 / 12,
}
# Longer descriptions are no OME-XML of a slide.
_MOST_XML = 4_000_000
_BY_NAME = "give its resolution by --mpp_csv (columns slide, mpp)"


@dataclass(frozen=True)
class Resolution:
    """Resolution of level 0.

    Attributes:
        mpp: of the width, and of the height where ``height`` is none.
        source: where the number comes from, in a word or two.
        assumed: whether it was guessed.
        height: of the height, where the slide states it.
    """

    mpp: float
    source: str
    assumed: bool = False
    height: float | None = None


@dataclass(frozen=True)
class StatedMpp:
    """Resolutions that the user states.

    Attributes:
        otherwise: for slides that state none (``--mpp``).
        by_slide: for slides by name, whatever they state themselves (``--mpp_csv``).
    """

    otherwise: float | None = None
    by_slide: Mapping[str, float] = field(default_factory=dict)

    @property
    def given(self) -> bool:
        """Whether anything is stated."""
        return self.otherwise is not None or bool(self.by_slide)

    @classmethod
    def read(cls, otherwise: float | None, path: Path | None, slides: Iterable[Path]) -> StatedMpp:
        """From the flags; the log names rows of ``path`` that belong to none of the slides.

        Raises:
            FileNotFoundError: the table does not exist.
            FileError: it has no columns slide and mpp, a value that is no resolution, or two for one slide.
        """
        if path is None:
            return cls(otherwise)
        remedy = "write a table with the columns slide and mpp (micrometres per pixel)"
        table = read_table(path, "the table of resolutions", remedy)
        if missing := [name for name in ("slide", "mpp") if name not in table.columns]:
            raise FileError(
                path, f"has no column {' and '.join(missing)}, only {list(table.columns)}", remedy
            )
        by_slide: dict[str, float] = {}
        for name, text in zip(table["slide"], table["mpp"], strict=True):
            if (mpp := plausible(text)) is None:
                low, high = PLAUSIBLE_MPP
                raise FileError(
                    path, f"has mpp {text!r} for {name}", f"write a number from {low:g} to {high:g}"
                )
            if not same(by_slide.setdefault(name, mpp), mpp):
                raise FileError(path, f"has two resolutions for {name}", "leave one row for every slide")
        known = {name for slide in slides for name in _names(slide)}
        if strange := sorted(by_slide.keys() - known):
            logger.warning("%s names %d slides that are not here: %s", path, len(strange), listing(strange))
        return cls(otherwise, by_slide)

    def of(self, slide: Path) -> float | None:
        """What the table states for a slide, by its file name, with or without suffix and UUID."""
        return next((self.by_slide[name] for name in _names(slide) if name in self.by_slide), None)


NOTHING_STATED = StatedMpp()


def _names(slide: Path) -> tuple[str, str, str]:
    return slide.name, slide.stem, slide_of(slide.stem)


# ---------------------------------------------------------------------------- finding it
def slide_resolution(path: Path, properties: Mapping[str, str], stated: StatedMpp) -> Resolution:
    """Resolution of a slide: of the table, else what the slide states, else ``--mpp``, else assumed.

    What had to be assumed, what contradicts and pixels that are not quite square are logged.

    Raises:
        SlideError: the pixels are far from square.
    """
    own = stated_resolution(properties)
    if (mpp := stated.of(path)) is not None:
        if own is not None and not same(own.mpp, mpp):
            logger.warning(
                "%s states %g micrometres per pixel (%s): taking %g from --mpp_csv",
                path.name, own.mpp, own.source, mpp,
            )  # fmt: skip
        return Resolution(mpp, "--mpp_csv")
    if own is not None:
        return _square(path, own)
    if stated.otherwise is not None:
        return Resolution(stated.otherwise, "--mpp")
    found = _assumed(properties)
    logger.warning(
        "%s states no resolution: assuming %g micrometres per pixel (%s); --mpp or --mpp_csv state it",
        path.name, found.mpp, found.source,
    )  # fmt: skip
    return found


def stated_resolution(properties: Mapping[str, str]) -> Resolution | None:
    """What a slide states: in its OME-XML, in its vendor's way, or in the tags of TIFF."""
    return _of_ome(properties) or _of_vendor(properties) or _of_tiff(properties)


def _of_vendor(properties: Mapping[str, str]) -> Resolution | None:
    for name, across in (
        (openslide.PROPERTY_NAME_MPP_X, openslide.PROPERTY_NAME_MPP_Y),
        ("aperio.MPP", "aperio.MPP"),
    ):
        if (mpp := plausible(properties.get(name))) is not None:
            return Resolution(mpp, name, height=plausible(properties.get(across)))
    return None


def _of_tiff(properties: Mapping[str, str]) -> Resolution | None:
    unit = {"centimeter": 1e4, "inch": 25_400.0}.get(properties.get("tiff.ResolutionUnit", "").lower())
    width, height = (number(properties.get(f"tiff.{side}Resolution")) for side in "XY")
    if unit and width and (mpp := plausible(unit / width)) is not None:
        return Resolution(mpp, "tiff.XResolution", height=plausible(unit / height) if height else None)
    return None


def _of_ome(properties: Mapping[str, str]) -> Resolution | None:
    text = properties.get("tiff.ImageDescription") or properties.get(openslide.PROPERTY_NAME_COMMENT) or ""
    # A description with a DTD could declare entities without end; OME-XML has none.
    if "<OME" not in text[:2000] or len(text) > _MOST_XML or "<!DOCTYPE" in text[:2000]:
        return None
    try:
        root = ElementTree.fromstring(text.strip("\0 \n\r\t").encode())
    except (ElementTree.ParseError, ValueError, LookupError) as error:
        logger.warning("the OME-XML of a slide cannot be read (%s)", error)
        return None
    pixels = root.findall(".//{*}Pixels")
    width = properties.get("openslide.level[0].width")
    # The file may describe a label or a macro image, too: the picture of this width is the slide.
    for entry in [p for p in pixels if p.get("SizeX") == width] or pixels[:1]:
        across, down = (_ome_length(entry, side) for side in "XY")
        if across is not None:
            return Resolution(across, "OME PhysicalSizeX", height=down)
    return None


def _ome_length(pixels: ElementTree.Element, side: str) -> float | None:
    length = number(pixels.get(f"PhysicalSize{side}"))
    unit = _OME_UNITS.get(pixels.get(f"PhysicalSize{side}Unit", "").strip())
    return plausible(length * unit) if length and unit else None


def _assumed(properties: Mapping[str, str]) -> Resolution:
    for name in (openslide.PROPERTY_NAME_OBJECTIVE_POWER, "aperio.AppMag"):
        power = number(properties.get(name))
        if power and (mpp := plausible(10.0 / power)) is not None:
            return Resolution(mpp, f"of a {power:g}x objective", assumed=True)
    return Resolution(DEFAULT_MPP, "as most slides at 40x", assumed=True)


def _square(path: Path, found: Resolution) -> Resolution:
    if found.height is None or same(found.mpp, found.height):
        return found
    sides = f"{found.mpp:g} micrometres wide and {found.height:g} high ({found.source})"
    if max(found.mpp / found.height, found.height / found.mpp) > MOST_OBLONG:
        raise SlideError(f"its pixels are {sides}: tiles would be distorted. If that is wrong, {_BY_NAME}")
    mean = math.sqrt(found.mpp * found.height)
    logger.warning("%s: its pixels are %s; taking the mean, %.4g", path.name, sides, mean)
    return Resolution(mean, found.source, height=found.height)


# ---------------------------------------------------------------------------- judging it
def check_enlargement(path: Path, found: Resolution, target_mpp: float) -> None:
    """Warns where a slide is much coarser than its tiles.

    Raises:
        SlideError: it is so coarse that tiles would show next to nothing.
    """
    factor = found.mpp / target_mpp
    if factor <= ENLARGED:
        return
    what = (
        f"{found.mpp:g} micrometres per pixel ({found.source}), {factor:.3g} times coarser than tiles at "
        f"{target_mpp:g}"
    )
    if too_coarse(factor):
        raise SlideError(
            f"{what}; the most is {MOST_ENLARGED:g} times. If the resolution is wrong, {_BY_NAME}"
        )
    logger.warning("%s: %s; its tiles are enlarged and blurred", path.name, what)


def number(text: str | float | None) -> float | None:
    """A positive number, however its decimals are written."""
    try:
        value = float(str(text).replace(",", "."))
    except ValueError:
        return None
    return value if math.isfinite(value) and value > 0 else None


def plausible(text: str | float | None) -> float | None:
    """A number that can be the resolution of a slide."""
    value = number(text)
    return value if value and PLAUSIBLE_MPP[0] <= value <= PLAUSIBLE_MPP[1] else None
