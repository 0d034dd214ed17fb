"""One patient: attributions for every target, written as tables, maps, GeoJSON and a page."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from torch import Tensor

from data_utils.cases.case import Case
from data_utils.cases.datasets import CaseDataset, SlidePatches
from data_utils.features.slide_names import stem_of
from models.aggregators.modaltune import ModalTune
from utils.explain.attention import Attention, attention_of
from utils.explain.attention_report import attention_section, panels, rollout_columns, write_attention
from utils.explain.attribution import MAX_STEPS, TOLERANCE, Attribution, explain_case
from utils.explain.loaded_run import LoadedRun
from utils.explain.maps import (
    PLACE,
    Ground,
    attention_scale,
    attribution_scale,
    draw_attention,
    draw_gallery,
    draw_map,
    find_slide,
    patch_table,
    write_geojson,
)
from utils.explain.pathways import entry_table, group_sums, member_bars, members, patient_bars
from utils.explain.report import Picture, Section, Table, write_page
from utils.explain.targets import Target
from utils.files import FileError, atomic_path, content_of, read_json, write_json

logger = logging.getLogger(__name__)

SUMMARY = "summary.json"


@dataclass(frozen=True)
class Settings:
    """What an explanation depends on besides the run.

    Attributes:
        steps: of the quadrature, to begin with.
        patch_baseline: see :mod:`utils.explain.baselines`.
        task: name of the task token.
        targets: their names.
        job: which fold and seed.
        heads: whether the attention of every head is written.
        weights: SHA-256 of the weights of the job.
    """

    steps: int
    patch_baseline: str
    task: str
    targets: tuple[str, ...]
    job: str
    heads: bool = False
    weights: str = ""

    def plain(self) -> dict[str, Any]:
        """Values that JSON can hold."""
        return {**vars(self), "targets": list(self.targets)}


def is_done(folder: Path, settings: Settings) -> bool:
    """Whether a patient was explained with these settings; the summary is written last.

    Raises:
        FileError: by the same fold and seed of another run.
    """
    path = folder / SUMMARY
    if not path.is_file():
        return False
    with content_of(path, "remove this folder, and the patient is explained again"):
        before = dict(read_json(path)["settings"])
    other = before.get("weights", settings.weights) != settings.weights
    if other and before.get("job") == settings.job:
        fault = f"explains a patient by other weights of {settings.job}: another run, or trained again"
        raise FileError(path, fault, "name another --output, or remove the old report")
    return before == settings.plain()


def explain_patient(
    run: LoadedRun,
    dataset: CaseDataset,
    index: int,
    targets: Sequence[Target],
    baselines: Mapping[str, Tensor],
    settings: Settings,
    folder: Path,
    pictures: Mapping[str, Path],
) -> None:
    """Explains one patient and writes everything below ``folder``.

    Args:
        run: the model.
        dataset: the patients.
        index: of the patient in it.
        targets: what to explain.
        baselines: see :func:`utils.explain.baselines.baselines`.
        settings: what is noted in the summary.
        folder: of the patient.
        pictures: whole slides, see :func:`utils.explain.maps.slides_below`; maps of others are drawn without.
    """
    case = dataset[index]
    found = {
        target.name: explain_case(
            run.model, case.to(run.device), target, baselines, run.structures, settings.steps
        )
        for target in targets
    }
    attention = (
        attention_of(run.model, case.to(run.device), targets[0].task)
        if isinstance(run.model, ModalTune)
        else None
    )
    slides = dataset.slide_patches(index)
    values = {name: attribution.patches for name, attribution in found.items()}
    if attention is not None:
        write_attention(attention, slides, folder, settings.heads)
        values |= rollout_columns(attention)
    patches = patch_table(slides, values)
    with atomic_path(folder / "patches.csv") as temporary:
        patches.to_csv(temporary, index=False)
    sections = []
    summary: dict[str, Any] = {"settings": settings.plain(), **_about(case), "targets": {}}
    for target in targets:
        section, content = _target(target, found[target.name], folder)
        sections.append(section)
        summary["targets"][target.name] = content
    if attention is not None:
        sections.append(attention_section(attention))
    absent = _slides(slides, patches, targets, attention, sections, folder, pictures)
    about = [
        f"{case.project_id} · {len(case.features)} patches of {len(case.slides)} slides · {settings.job}",
        f"Attributions are integrated gradients from the mean training patient (patches: {settings.patch_baseline}); "
        "they add up to the change of the target. They say what moved this model, not what causes disease.",
    ]
    if absent:
        about.append(f"Not found, so drawn without background: {', '.join(absent)}")
    write_page(folder / "index.html", f"Explanation of {case.submitter_id}", about, sections)
    write_json(folder / SUMMARY, summary)


def _about(case: Case) -> dict[str, Any]:
    duration = float(case.duration)
    return {
        "case_id": case.case_id,
        "submitter_id": case.submitter_id,
        "label": case.label,
        "duration": None if np.isnan(duration) else duration,
        "event": case.event,
        "patches": len(case.features),
        "slides": list(case.slides),
    }


def _target(target: Target, found: Attribution, folder: Path) -> tuple[Section, dict[str, Any]]:
    """The part of the page and of the summary about one target, without maps."""
    entries = entry_table(found.inputs, found.entries)
    with atomic_path(folder / f"inputs_{target.name}.csv") as temporary:
        entries.to_csv(temporary, index=False)
    sums = group_sums(entries)
    section = Section(f"What moves the {target.title}")
    if found.gap >= TOLERANCE:
        section.warnings.append(_rough(found))
        logger.warning("%s, %s: %s", folder.name, target.name, section.warnings[-1])
    overview: list[list[Any]] = [
        ["value of this patient", found.value],
        ["value of the baseline", found.baseline_value],
        ["completeness gap", f"{found.gap:.2%} ({found.steps} steps)"],
    ]
    section.tables.append(Table(["", ""], overview))
    rows = [[name, f"{share:.1%}", found.without[name]] for name, share in found.shares.items()]
    section.tables.append(
        Table(
            ["modality", "share of the absolute attribution", "change when it alone is at the baseline"], rows
        )
    )
    if len(sums):
        section.charts.append(patient_bars(sums))
    order = [str(name) for name in sums.index[np.argsort(-sums.abs().to_numpy(), kind="stable")]]
    if inside := members(entries, order, "attribution"):
        caption = "Inside the groups (pathways) with the greatest attributions"
        section.charts.append(member_bars(inside, caption))
    content = {
        "title": target.title,
        "value": found.value,
        "baseline_value": found.baseline_value,
        "gap": found.gap,
        "missing": found.missing,
        "steps": found.steps,
        "shares": found.shares,
        "without": dict(found.without),
        "groups": {str(name): float(value) for name, value in sums.items()},
    }
    return section, content


def _rough(found: Attribution) -> str:
    """What is wrong with attributions that miss the change of the target."""
    change = abs(found.value - found.baseline_value)
    return (
        f"the attributions miss the change of the target by {found.gap:.1%} ({found.missing:.2g} of {change:.2g}) "
        f"after {found.steps} steps (at most {MAX_STEPS}); read them as approximate"
    )


def _slides(
    slides: Sequence[SlidePatches],
    patches: pd.DataFrame,
    targets: Sequence[Target],
    attention: Attention | None,
    sections: Sequence[Section],
    folder: Path,
    pictures: Mapping[str, Path],
) -> list[str]:
    """Draws the maps and writes the GeoJSON of every slide; returns the slides that were not found.

    ``sections`` are those of the targets, and of the attention where there is one. Colours mean the same on all slides.
    """
    absent = []
    scales = [attribution_scale(patches[target.name].to_numpy()) for target in targets]
    drawn = {} if attention is None else panels(attention)
    values = [str(name) for name in patches.columns if name not in PLACE]
    for slide in slides:
        name = stem_of(slide.path.name)
        own = patches[patches["slide"] == name]
        if not len(own):
            continue
        write_geojson(own, values, folder / f"{name}.geojson")
        picture = find_slide(pictures, name)
        if picture is None:
            absent.append(name)
        ground = Ground.of(own, picture, slide.meta.level0_mpp)
        for target, scale, section in zip(targets, scales, sections, strict=False):
            path = folder / f"{name}_{target.name}.png"
            draw_map(own, target.name, path, target.title, ground, scale)
            section.pictures.append(Picture(path, f"Patches of {name}"))
            if ground.slide is not None:
                gallery = folder / f"{name}_{target.name}_patches.png"
                draw_gallery(own, target.name, ground.slide, gallery)
                section.pictures.append(
                    Picture(gallery, f"Patches of {name} with their corners in level-0 pixels")
                )
        if drawn:
            path = folder / f"{name}_attention.png"
            here = {key: row[own.index] for key, row in drawn.items()}
            draw_attention(own, here, path, ground, attention_scale(np.stack(list(drawn.values()))))
            sections[-1].pictures.append(Picture(path, f"Attention of the tokens to the patches of {name}"))
    return absent
