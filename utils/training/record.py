"""What a run says of itself beside its numbers: protocol, recipe, classes, versions."""

from __future__ import annotations

import importlib.metadata
import platform
import subprocess
from dataclasses import asdict
from pathlib import Path

import torch
from torch import nn

from data_utils.tables.cohorts import load_cohort
from data_utils.tables.tasks import CLASSES, TaskSet
from models.slide_backbone import SlideBackbone
from utils import constants
from utils.configuration.protocol import PROTOCOLS
from utils.configuration.run_config import RunConfig
from utils.evaluation.stored_probes import PROBES
from utils.files import FileError, content_of, read_json, write_json
from utils.training.fingerprint import file_digest
from utils.training.model_setup import ModelSetup
from utils.training.recipes import recipe_of

FITTED_BY = "fitted_by.json"
_PACKAGES = ("torch", "timm", "numpy", "pandas", "scikit-learn", "lifelines", "h5py")


def versions() -> dict[str, str]:
    """Versions of Python and of the packages numbers depend on."""
    return {"python": platform.python_version()} | {p: importlib.metadata.version(p) for p in _PACKAGES}


def git_commit() -> str:
    """Commit of the repository, ``unknown`` outside of git."""
    command = ["git", "-C", str(constants.REPO_ROOT), "rev-parse", "HEAD"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def choices_of(config: RunConfig, setup: ModelSetup) -> dict[str, str]:
    """What the protocol of a run decides for it; the scaling of genes may have been asked for by its flag."""
    choices = asdict(PROTOCOLS[config.data.protocol])
    if "genes" in setup.modalities:
        choices["gene_scaling"] = config.data.options["genes"]["gene_scaling"]
    else:
        del choices["gene_scaling"]
    return choices


def trained_how(config: RunConfig, setup: ModelSetup) -> dict[str, str]:
    """How a model was trained and which epoch is scored, for the result tables."""
    if config.output.eval_only:
        return {}
    recipe = recipe_of(config.training.recipe, setup.mil_name)
    scored = "the last epoch" if config.training.model_select == "last" else "the epoch that validates best"
    if config.data.survpath_protocol:
        scored += ", on the val column of every fold (SurvPath's protocol)"
    return {"recipe": f"{config.training.recipe} ({recipe.source})", "scored": scored}


def class_names_of_run(config: RunConfig, tasks: TaskSet) -> dict[str, str]:
    """What the classes are called, for the result tables."""
    cohorts = config.data.sites or ((config.data.onco,) if config.data.onco else ())
    named = {cohort: load_cohort(cohort).class_names for cohort in cohorts}
    lists = {
        cohort: ", ".join(f"{i} {name}" for i, name in enumerate(names)) for cohort, names in named.items()
    }
    for task in tasks.tokens:
        if (own := task.target(CLASSES)) is not None:
            lists[task.name] = ", ".join(f"{i} {name}" for i, name in enumerate(own.names))
    return {f"classes of {name}": text for name, text in lists.items() if text}


def note_probes(job: Path, weights: Path) -> None:
    """Writes beside the probes of a fold or seed by which weights they were fitted; both have the same shapes in all
    runs of a model."""
    probes = {str(path.relative_to(job)): file_digest(path) for path in sorted(job.rglob(PROBES))}
    write_json(job / FITTED_BY, {"weights": file_digest(weights), "probes": probes})


def check_probes(job: Path, weights: Path, probes: Path) -> None:
    """Whether probes were fitted by these weights; older runs do not say it.

    Raises:
        FileError: they were not.
    """
    record = job / FITTED_BY
    if not record.is_file():
        return
    remedy = "copy the folder again, or evaluate the run anew (--eval_only)"
    with content_of(record, remedy):
        content = read_json(record)
        known = {weights: content["weights"], probes: content["probes"][str(probes.relative_to(job))]}
    for path, digest in known.items():
        if file_digest(path) != digest:
            fault = f"is not that of {record}: weights and probes are of different trainings"
            raise FileError(path, fault, remedy)


def note_kernels(folder: Path, model: nn.Module, device: torch.device, dtype: torch.dtype) -> None:
    """Adds to ``config.json`` which kernels compute the slide encoder of a model: each is tried first."""
    backbone = getattr(model, "backbone", None)
    kernels = backbone.kernels(device, dtype) if isinstance(backbone, SlideBackbone) else {}
    if kernels:
        write_json(folder / "config.json", {**read_json(folder / "config.json"), "kernels": kernels})
