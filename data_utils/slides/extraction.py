"""Slides -> patch-feature files, for any patch encoder: loop, restart, isolation of bad slides, report."""

from __future__ import annotations

import errno
import logging
import re
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, fields
from itertools import groupby
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from data_utils.features.store import (
    FeatureFileError,
    FeatureInfo,
    FeatureMeta,
    FeatureWriter,
    inspect_features,
)
from data_utils.slides.encoding_stage import EncodingStage
from data_utils.slides.finding import Fault, printable, slide_name
from data_utils.slides.isolation import ENDED, Isolated
from data_utils.slides.opening import SlideError, describe
from data_utils.slides.tile_reading import (
    BatchList,
    SlidePlan,
    TileRecipe,
    plan_slide,
    reader_ended,
    tile_loader,
)
from utils.files import atomic_path, temporary_stem

logger = logging.getLogger(__name__)

# The report is written at most this often (and at the end), in seconds.
REPORT_INTERVAL = 30.0
# Slides that took longer than this get a line in the log, in seconds.
SLOW_SLIDE = 5.0
# What a file system says of a name that it does not take.
_BAD_NAME = {errno.ENAMETOOLONG, errno.EILSEQ, errno.EINVAL}
# From this share of the time on, waiting for tiles is worth a hint.
MUCH_WAITING = 0.1


# ---------------------------------------------------------------------------- report
@dataclass(frozen=True)
class SlideResult:
    """One line of the report; ``status`` is done, skipped (was finished before), failed or duplicate."""

    slide: str
    status: str
    tiles: int | None = None
    mpp: float | None = None
    mpp_assumed: bool | None = None
    seconds: float | None = None
    reason: str = ""
    reader: str = ""


class ExtractionReport:
    """Collects results of slides and keeps ``path`` (CSV) current.

    Attributes:
        path: the file.
        results: one a slide.
        waiting: share of the time of the extraction in which the encoder waited for tiles.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.results: list[SlideResult] = []
        self.waiting = 0.0
        self._written = time.monotonic()

    def add(self, result: SlideResult) -> None:
        """Notes one slide; writes the file if the last time was some seconds ago."""
        self.results.append(result)
        if result.status == "failed":
            logger.error("%s failed: %s", result.slide, result.reason)
        if time.monotonic() - self._written > REPORT_INTERVAL:
            self.write()

    def write(self) -> None:
        """Writes all results so far, atomically, sorted by slide."""
        table = pd.DataFrame(
            [asdict(result) for result in self.results], columns=[field.name for field in fields(SlideResult)]
        )
        table = table.astype({"tiles": "Int64", "seconds": float, "mpp": float}).round({"seconds": 2})
        write_report(table, self.path)
        self._written = time.monotonic()

    def count(self, status: str) -> int:
        """Number of slides with this status."""
        return sum(result.status == status for result in self.results)


def write_report(table: pd.DataFrame, path: Path) -> None:
    """Writes a report sorted by slide, atomically."""
    with atomic_path(path) as temporary:
        table.sort_values("slide", kind="stable").to_csv(temporary, index=False)


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
    min_tissue: float = 0.1,
    previews: bool = False,
    faults: Sequence[Fault] = (),
) -> ExtractionReport:
    """Extracts the features of slides into ``out_dir/<name>.h5``.

    Slides with a valid file are skipped; a slide that cannot be used is reported and the others go on.

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
        min_tissue: share of a tile that must be tissue.
        previews: whether to draw ``out_dir/previews/<name>.png``.
        faults: what cannot be a slide, for the report.

    Raises:
        ValueError: the precision is not possible on the device.
        RuntimeError: the encoder failed.
        OSError: ``out_dir`` cannot be written.
    """
    device = torch.device(device)
    run = _Encoder(encoder.to(device).eval(), recipe, device, autocast_dtype(precision, device))
    report = ExtractionReport(report_path or out_dir / "extraction_report.csv")
    for fault in faults:
        report.add(SlideResult(printable(fault.path.name), fault.status, reason=fault.reason))
    try:
        todo = _unfinished(slides, recipe, run.dim, out_dir, report)
        logger.info("%d slides to extract, %d finished before", len(todo), report.count("skipped"))
        if todo:
            _remove_leftovers(out_dir, todo)
            preview_dir = out_dir / "previews" if previews else None
            planning = _described(lambda path: plan_slide(path, recipe, min_tissue, preview_dir))
            with Isolated(planning) as plan:
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


def _unfinished(
    slides: Sequence[Path], recipe: TileRecipe, dim: int, out_dir: Path, report: ExtractionReport
) -> list[Path]:
    """The slides to extract; those with a valid file go to the report."""
    todo = []
    for slide in slides:
        target, name = out_dir / f"{slide_name(slide)}.h5", printable(slide.name)
        if not target.exists():
            todo.append(slide)
            continue
        try:
            info = inspect_features(target)
        except FeatureFileError as error:
            logger.warning("%s", error)
            todo.append(slide)
            continue
        if difference := _difference(info, recipe, dim):
            reason = f"{target} exists with {difference}; delete it or use another --output_dir"
            report.add(SlideResult(name, "failed", reason=reason))
        else:
            meta = info.meta
            report.add(SlideResult(name, "skipped", info.num_patches, meta.level0_mpp, meta.mpp_assumed))
    return todo


def _difference(info: FeatureInfo, recipe: TileRecipe, dim: int) -> str:
    """In what a feature file differs from what would be made; empty if it does not, as far as it says."""
    wanted = {"patch_size": recipe.tile_size, "target_mpp": recipe.target_mpp, "encoder": recipe.encoder}
    found = {name: getattr(info.meta, name) for name in wanted} | {"dim": info.dim}
    return ", ".join(
        f"{name} {found[name]} instead of {value}"
        for name, value in (wanted | {"dim": dim}).items()
        if found[name] not in (None, value)
    )


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
        try:
            _extract(batches, run, out_dir, report, workers if len(group) > 1 else min(workers, 1))
        except RuntimeError as error:
            if not reader_ended(error):
                raise
            if len(group) == 1:
                fail(group[0], f"{ENDED}: {' '.join(str(error).split())}")
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
                level0_mpp=plan.mpp,
                target_mpp=recipe.target_mpp,
                encoder=recipe.encoder,
                mpp_assumed=plan.mpp_assumed,
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
            report.add(
                SlideResult(name, status, tiles, plan.mpp, plan.mpp_assumed, seconds, reason, plan.reader)
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
