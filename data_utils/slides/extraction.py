"""Slides -> patch-feature files, for any patch encoder: loop, restart, isolation of bad slides, report."""

from __future__ import annotations

import errno
import logging
import re
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import replace
from itertools import groupby
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from data_utils.features.store import (
    FeatureFileError,
    FeatureMeta,
    FeatureWriter,
)
from data_utils.slides import tile_reading
from data_utils.slides.encoding_stage import EncodingStage
from data_utils.slides.finding import Fault, printable, slide_name
from data_utils.slides.isolation import ENDED, Isolated, too_long
from data_utils.slides.opening import SlideError, describe
from data_utils.slides.report import ExtractionReport, SlideResult
from data_utils.slides.resolution import NOTHING_STATED, StatedMpp
from data_utils.slides.resume import Work, unfinished, weights_digest
from data_utils.slides.tile_reading import (
    BatchList,
    SlidePlan,
    TileRecipe,
    plan_slide,
    reader_ended,
    tile_loader,
)
from data_utils.slides.tissue import TissueRule
from utils.files import temporary_stem

logger = logging.getLogger(__name__)

# Slides that took longer than this get a line in the log, in seconds.
SLOW_SLIDE = 5.0
# What a file system says of a name that it does not take.
_BAD_NAME = {errno.ENAMETOOLONG, errno.EILSEQ, errno.EINVAL}
# From this share of the time on, waiting for tiles is worth a hint.
MUCH_WAITING = 0.1


# ---------------------------------------------------------------------------- encoding
def autocast_dtype(precision: str, device: torch.device) -> torch.dtype | None:
    """Type of mixed precision; ``None`` is plain float32. ``auto``: bf16 (else fp16) on GPU, fp32 on CPU.

    Raises:
        ValueError: the device cannot do it.
    """
    if precision == "auto":
        if device.type != "cuda":
            return None
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16
    if precision == "fp16" and device.type == "cpu":
        raise ValueError("--precision fp16 needs a GPU; use bf16 or fp32 on the CPU")
    return {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]


class _Encoder:
    """An encoder on its device: ``[n, 3, s, s]`` uint8 -> ``[n, D]`` float32 array; ``dim`` is ``D``."""

    def __init__(
        self, module: nn.Module, recipe: TileRecipe, device: torch.device, dtype: torch.dtype | None
    ) -> None:
        self.module = module
        self.recipe = recipe
        self.device = device
        self.dtype = dtype
        # Kept from batch to batch: freeing and allocating this much for every batch fragments the heap, so
        # that the process grows by some 20 MB per slide.
        self._inputs = torch.empty(0)
        # One blank tile tells the width, and that the encoder runs at all.
        self.dim = self(torch.zeros(1, 3, recipe.input_size, recipe.input_size, dtype=torch.uint8)).shape[1]

    def __call__(self, pixels: Tensor) -> np.ndarray:
        try:
            with (
                torch.inference_mode(),
                torch.autocast(self.device.type, self.dtype, enabled=self.dtype is not None),
            ):
                pixels = pixels.to(self.device, non_blocking=True)
                if len(self._inputs) < len(pixels):
                    self._inputs = torch.empty(pixels.shape, dtype=torch.float32, device=self.device)
                inputs = self.recipe.normalise(pixels, out=self._inputs[: len(pixels)])
                return self.module(inputs).float().cpu().numpy()
        except torch.OutOfMemoryError as error:
            raise RuntimeError(
                f"{self.device} has not enough memory for {len(pixels)} tiles; use a smaller --batch_size"
            ) from error


# ---------------------------------------------------------------------------- the cohort
def extract_cohort(
    slides: Sequence[Path],
    encoder: nn.Module,
    recipe: TileRecipe,
    out_dir: Path,
    *,
    report_path: Path | None = None,
    device: torch.device | str = "cpu",
    precision: str = "auto",
    batch_size: int = 64,
    workers: int = 0,
    min_tissue: float | None = None,
    tissue: str = "auto",
    previews: bool = False,
    faults: Sequence[Fault] = (),
    stated: StatedMpp = NOTHING_STATED,
    overwrite: bool = False,
) -> ExtractionReport:
    """Extracts the features of slides into ``out_dir/<name>.h5``.

    Slides whose file is what would be made are skipped; a slide that cannot be used is reported and the others go on.

    Args:
        slides: files with distinct names (:func:`slide_name`); no other job may handle the same ones at the same time.
        encoder: maps ``[n, 3, s, s]`` to ``[n, D]``.
        recipe: how tiles are cut and prepared for it.
        out_dir: folder of feature files.
        report_path: CSV with one line a slide; ``out_dir/extraction_report.csv`` by default.
        device: where the encoder runs.
        precision: auto, fp32, bf16 or fp16.
        batch_size: tiles encoded at once.
        workers: reading processes; 0 reads in this process.
        min_tissue: share of a tile that must be tissue; that of the rule by default.
        tissue: rule by which tissue is found, see :mod:`data_utils.slides.tissue`.
        stated: resolutions that the user states.
        overwrite: whether to make anew what exists and was made differently, or does not say how.
        previews: whether to draw ``out_dir/previews/<name>.png`` and to write the same as ``.geojson``.
        faults: what cannot be a slide, for the report.

    Raises:
        ValueError: the precision is not possible on the device.
        RuntimeError: the encoder failed.
        OSError: ``out_dir`` cannot be written.
    """
    device = torch.device(device)
    dtype = autocast_dtype(precision, device)
    weights = weights_digest(encoder)
    run = _Encoder(encoder.to(device).eval(), recipe, device, dtype)
    rule = TissueRule.of(tissue, min_tissue)
    work = Work(recipe, run.dim, weights, dtype, rule, stated)
    report = ExtractionReport(report_path or out_dir / "extraction_report.csv")
    report.slides = [printable(path.name) for path in slides]
    for fault in faults:
        report.add(SlideResult(printable(fault.path.name), fault.status, reason=fault.reason))
    try:
        todo = unfinished(slides, work, out_dir, report, overwrite)
        logger.info("%d slides to extract, %d finished before", len(todo), report.count("skipped"))
        if todo:
            _remove_leftovers(out_dir, todo)
            preview_dir = out_dir / "previews" if previews else None

            def planning(path: Path) -> SlidePlan:
                found = plan_slide(path, recipe, rule, preview_dir, stated)
                return replace(found, making=work.making(path))

            with Isolated(_described(planning)) as plan:
                _extract_all(todo, plan, batch_size, run, out_dir, report, workers)
    finally:
        report.write()
    return report


def _described(plan: Callable[[Path], SlidePlan]) -> Callable[[Path], SlidePlan]:
    """The same, with every error as one line; finding its words may be as dangerous as opening the slide."""

    def planned(path: Path) -> SlidePlan:
        try:
            return plan(path)
        except Exception as error:  # whatever is wrong with a slide must not stop the cohort
            logger.debug("planning %s", printable(path), exc_info=True)
            raise SlideError(describe(error, path)) from None

    return planned


def _remove_leftovers(out_dir: Path, slides: Sequence[Path]) -> None:
    """Removes temporary files that killed runs left of these slides; other jobs may be writing others."""
    stems = {temporary_stem(slide_name(slide)) for slide in slides}
    for path in out_dir.glob(".*.tmp.h5"):
        match = re.fullmatch(r"\.(.+)\.\d+\.tmp\.h5", path.name)
        if match and match[1] in stems:
            path.unlink(missing_ok=True)
            logger.info("removed %s of an interrupted run", path.name)


def _extract_all(
    slides: list[Path],
    plan: Callable[[Path], SlidePlan],
    batch_size: int,
    run: _Encoder,
    out_dir: Path,
    report: ExtractionReport,
    workers: int,
) -> None:
    """Encodes slides; where a reading process ends, those at hand are read again one by one, to find which it was."""

    def fail(path: Path, why: str) -> None:
        report.add(SlideResult(printable(path.name), "failed", reason=why))

    groups = deque([slides])
    while groups:
        if not (group := groups.popleft()):
            continue
        batches = BatchList(group, plan, batch_size, fail)
        begun_at = time.monotonic()
        try:
            _extract(batches, run, out_dir, report, workers if len(group) > 1 else min(workers, 1))
        except RuntimeError as error:
            if not reader_ended(error):
                raise
            if len(group) == 1:
                said = " ".join(str(error).split())
                late = time.monotonic() - begun_at >= tile_reading.READ_LIMIT
                fail(group[0], too_long(tile_reading.READ_LIMIT) if late else f"{ENDED}: {said}")
                continue
            begun = [group[n] for n in range(batches.reached) if n not in batches.finished]
            logger.warning(
                "a process that reads slides ended (%s); %d slides are read again one by one",
                " ".join(str(error).split()),
                len(begun),
            )
            groups.extendleft(reversed([*([path] for path in begun), group[batches.reached :]]))


def _extract(
    batches: BatchList, run: _Encoder, out_dir: Path, report: ExtractionReport, workers: int
) -> None:
    """Encodes what the loader reads; one feature file a slide."""
    recipe = run.recipe
    loader = tile_loader(batches, recipe, workers, pin_memory=run.device.type == "cuda")
    stage = EncodingStage(run)
    with (
        logging_redirect_tqdm(),
        tqdm(total=len(batches.slides), unit="slide", disable=None) as bar,
        closing(stage(loader)) as encoded,
    ):
        started = begin = time.monotonic()
        waited = 0.0
        for number, of_slide in groupby(encoded, key=lambda item: item[0].slide):
            path, plan = batches.slides[number], batches.plans.pop(number)
            name = printable(path.name)
            tiles, status, reason = len(plan.grid.coords), "done", ""
            meta = FeatureMeta(
                patch_size=recipe.tile_size,
                patch_size_level0=plan.grid.size,
                level0_mpp=plan.resolution.mpp,
                target_mpp=recipe.target_mpp,
                encoder=recipe.encoder,
                mpp_assumed=plan.resolution.assumed,
                mpp_source=plan.resolution.source,
                making=plan.making,
            )
            try:
                with FeatureWriter(out_dir / f"{slide_name(path)}.h5", run.dim, meta) as writer:
                    for batch, features in of_slide:
                        writer.append(features.result(), batch.corners)
                        bar.set_postfix_str(f"{name[:23]} {writer.num_patches}/{tiles} tiles")
            except (SlideError, FeatureFileError, OSError) as error:
                if isinstance(error, OSError) and error.errno not in _BAD_NAME:
                    raise
                batches.given_up.add(number)
                status, reason = "failed", printable(str(error))
            seconds = time.monotonic() - begin
            waiting = _share(stage.waited - waited, seconds)
            begin, waited = time.monotonic(), stage.waited
            scale = plan.resolution
            report.add(
                SlideResult(
                    name, status, tiles, scale.mpp, scale.assumed, seconds, reason, plan.reader, scale.source
                )
            )
            level = logging.INFO if seconds > SLOW_SLIDE else logging.DEBUG
            logger.log(
                level,
                "%s %s: %d tiles in %.1f s, %.0f %% of it waiting for tiles",
                name,
                status,
                tiles,
                seconds,
                100 * waiting,
            )
            batches.finished.add(number)
            bar.update(number + 1 - bar.n)
        bar.update(len(batches.slides) - bar.n)
        report.waiting = _share(stage.waited, time.monotonic() - started)
    logger.info(
        "the encoder waited for tiles in %.0f %% of the time%s",
        100 * report.waiting,
        f": more --workers (now {workers}) and CPUs would help" if report.waiting > MUCH_WAITING else "",
    )


def _share(part: float, whole: float) -> float:
    return min(1.0, part / max(whole, 1e-9))
