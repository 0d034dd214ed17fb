"""Command line that all extraction entry points (``TCGA_extract_feats_*``) share."""

from __future__ import annotations

import argparse
import logging
import os
import re
import sys
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import partial
from pathlib import Path
from typing import Any

from torch import nn

from data_utils.slides.extraction import autocast_dtype, extract_cohort
from data_utils.slides.finding import find_slides, slide_name
from data_utils.slides.resolution import PLAUSIBLE_MPP, StatedMpp, plausible
from data_utils.slides.sharing import Shard, gpu_devices, report_name, run_parts, slurm_shard
from data_utils.slides.tile_reading import TileRecipe
from data_utils.slides.tissue import MIN_TISSUE
from data_utils.tables.cohorts import cohort_name
from utils import constants
from utils.devices import pick_device
from utils.files import check_writable, content_of, read_json

logger = logging.getLogger(__name__)

EXIT_STATUS = (
    "Exit status: 0 all slides are done (or no more than --allow_failures failed), 1 more failed, "
    "2 wrong usage or no slides found."
)


def in_shard(name: str, shard: tuple[int, int]) -> bool:
    """Whether job ``i`` of ``n`` (1-based) handles the slide of this name.

    Decided by the name alone, so that jobs agree although they list the folder at different times.
    """
    index, count = shard
    return zlib.crc32(os.fsencode(name)) % count == index - 1


def extraction_parser(
    description: str,
    encoder: str,
    config: Path,
    checkpoint: Path,
    parents: Sequence[argparse.ArgumentParser] = (),
) -> argparse.ArgumentParser:
    """Flags that all extraction entry points share.

    Args:
        description: text of ``--help``.
        encoder: name of the folder of feature files.
        config: default of ``--encoder_config``.
        checkpoint: default of ``--checkpoint``.
        parents: parsers of flags that only one entry point has.
    """
    parser = argparse.ArgumentParser(description=description, epilog=EXIT_STATUS, parents=[*parents])
    parser.set_defaults(encoder=encoder)
    add = parser.add_argument
    add(
        "--onco", required=True, type=cohort_name, help="cohort, such as BRCA; its folders are named after it"
    )
    add("--slides_dir", type=Path, help="folder of slides, searched recursively (default: of the cohort)")
    add("--output_dir", type=Path, help="folder of feature files and report (default: of the cohort)")
    add("--encoder_config", type=Path, default=config, help="default: %(default)s")
    add("--checkpoint", type=Path, default=checkpoint, help="weights of the encoder (default: %(default)s)")
    add("--batch_size", type=_count(1), default=64, help="tiles encoded at once (default: %(default)s)")
    add(
        "--workers",
        type=_count(0),
        default=_cpus(),
        help="reading processes (default: %(default)s); 0 reads in this one, which a damaged slide may then end",
    )
    add("--device", default="auto", help="auto, cpu, cuda or the number of a GPU (default: %(default)s)")
    add("--precision", choices=("auto", "fp32", "bf16", "fp16"), default="auto", help="default: bf16 on GPU")
    add(
        "--tissue",
        choices=tuple(MIN_TISSUE),
        default="auto",
        help="auto: what differs in colour from the glass of the slide; published: the mask of the published code "
        "(default: %(default)s)",
    )
    add(
        "--min_tissue",
        type=_share,
        help="least share of tissue in a tile (default: 0.1; 0.95 with --tissue published)",
    )
    add("--mpp", type=_mpp, help="micrometres per pixel of level 0 of slides that state none")
    add("--mpp_csv", type=Path, help="table (slide, mpp) of slides by name; goes before what they state")
    add(
        "--gpus",
        help="all, or numbers such as 0,1: a process on each, which share the slides and the --workers",
    )
    add(
        "--shard",
        type=_shard,
        default=(1, 1),
        metavar="i/n",
        help="handle part i of n, i from 1 to n; slurm: that of this task among those of one srun",
    )
    add("--limit", type=_count(1), help="handle only so many slides")
    add(
        "--previews",
        action="store_true",
        help="draw mask and grid of every slide to previews/*.png, and write them as *.geojson for QuPath",
    )
    add("--overwrite", action="store_true", help="make anew what exists and was made differently")
    add("--allow_failures", type=_count(0), default=0, help="failed slides that still count as success")
    return parser


@dataclass(frozen=True, kw_only=True)
class ExtractionConfig:
    """What an extraction was asked to do; see the flags of the same names."""

    encoder: str
    onco: str
    slides_dir: Path | None
    output_dir: Path | None
    encoder_config: Path
    checkpoint: Path
    batch_size: int
    workers: int
    device: str
    precision: str
    tissue: str
    min_tissue: float | None
    mpp: float | None
    mpp_csv: Path | None
    gpus: str | None
    shard: tuple[int, int]
    limit: int | None
    previews: bool
    overwrite: bool
    allow_failures: int

    @classmethod
    def of(cls, flags: Mapping[str, Any]) -> ExtractionConfig:
        """From parsed flags by name; those of one entry point only are left to it."""
        return cls(**{entry.name: flags[entry.name] for entry in fields(cls)})


def run_extraction(
    config: ExtractionConfig, load_encoder: Callable[[Mapping[str, Any], Path], nn.Module]
) -> int:
    """Runs an entry point; returns its exit status."""
    out_dir = config.output_dir or constants.feature_dir(config.onco, config.encoder)
    if config.gpus is not None:
        return _run_on_gpus(config, config.gpus, load_encoder, out_dir)
    try:
        folder = config.slides_dir or constants.slide_dir(config.onco)
        found = find_slides(folder)
        slides = [path for path in found.slides if in_shard(slide_name(path), config.shard)][: config.limit]
        faults = [fault for fault in found.faults if in_shard(slide_name(fault.path), config.shard)]
        stated = StatedMpp.read(config.mpp, config.mpp_csv, found.slides)
        device = pick_device(config.device)
        autocast_dtype(config.precision, device)
        content = read_json(config.encoder_config)
        with content_of(config.encoder_config, "correct it, or pass another --encoder_config"):
            recipe = TileRecipe.from_config(config.encoder_config.stem, content)
            encoder = load_encoder(content, config.checkpoint)
        check_writable(out_dir)
    except (OSError, ValueError) as error:
        logger.error("%s", error)
        return 2
    if found.others:
        kinds = ", ".join(f"{number} {kind}" for kind, number in found.others.most_common(8))
        logger.info("%s: %d other files are no slides (%s)", folder, found.others.total(), kinds)
    logger.info(
        "%s: %d of %d slides, %s on %s", config.onco, len(slides), found.total, recipe.encoder, device
    )
    if not config.workers:
        logger.info(
            "--workers 0: a slide at which reading ends the process ends the extraction; 1 loses it alone"
        )
    report = extract_cohort(
        slides,
        encoder,
        recipe,
        out_dir,
        report_path=out_dir / report_name(config.shard),
        device=device,
        precision=config.precision,
        batch_size=config.batch_size,
        workers=config.workers,
        min_tissue=config.min_tissue,
        tissue=config.tissue,
        previews=config.previews,
        faults=faults,
        stated=stated,
        overwrite=config.overwrite,
    )
    failed, left = report.count("failed"), found.total - len(report.results)
    logger.log(
        logging.WARNING if failed else logging.INFO,
        "%d slides found = %d done + %d skipped + %d failed + %d duplicates%s; see %s",
        found.total,
        report.count("done"),
        report.count("skipped"),
        failed,
        report.count("duplicate"),
        f" + {left} left to other --shard jobs or by --limit" if left else "",
        report.path,
    )
    return int(failed > config.allow_failures)


def _run_on_gpus(
    config: ExtractionConfig,
    gpus: str,
    load_encoder: Callable[[Mapping[str, Any], Path], nn.Module],
    out_dir: Path,
) -> int:
    try:
        devices = gpu_devices(gpus)
        if config.limit is not None:
            raise ValueError("--limit is for one process; leave out --gpus")
        return int(
            run_parts(partial(_run_part, config, load_encoder, len(devices)), devices, config.shard, out_dir)
            > config.allow_failures
        )
    except (RuntimeError, ValueError) as error:
        logger.error("%s", error)
        return 2


def _run_part(
    config: ExtractionConfig,
    load_encoder: Callable[[Mapping[str, Any], Path], nn.Module],
    count: int,
    device: str,
    part: Shard,
) -> int:
    part_config = replace(
        config,
        gpus=None,
        device=device,
        shard=part,
        workers=-(-config.workers // count),
        allow_failures=sys.maxsize,  # counted over all parts
    )
    return run_extraction(part_config, load_encoder)


def _cpus() -> int:
    # A SLURM job may use fewer cores than the machine has.
    return min(16, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)


def _count(least: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        if (value := int(text)) < least:
            raise argparse.ArgumentTypeError(f"must be at least {least}")
        return value

    parse.__name__ = "whole number"  # argparse shows it when the text is none
    return parse


def _share(text: str) -> float:
    if not 0 <= (value := float(text)) <= 1:
        raise argparse.ArgumentTypeError("must be between 0 and 1")
    return value


def _mpp(text: str) -> float:
    if (value := plausible(text)) is None:
        low, high = PLAUSIBLE_MPP
        raise argparse.ArgumentTypeError(
            f"{text!r} is no resolution; write micrometres per pixel, {low:g} to {high:g}"
        )
    return value


def _shard(text: str) -> Shard:
    if text == "slurm":
        try:
            return slurm_shard()
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from error
    match = re.fullmatch(r"(\d+)/(\d+)", text)
    if not match or not 1 <= int(match[1]) <= int(match[2]):
        raise argparse.ArgumentTypeError(f"{text!r} is not i/n with 1 <= i <= n, such as 1/4")
    return int(match[1]), int(match[2])
