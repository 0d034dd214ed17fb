"""A trained run as one folder to hand on: ``python -m utils.checkpoint bundle RUN FOLDER``.

It holds weights, probes, configs, cohort definitions, tasks, candidate sentences, a model card and checksums;
:mod:`utils.prediction` takes it alone, on any machine. The slide encoder's weights have a licence of their own: they
are named by checksum, not copied.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from data_utils.tables.tasks import COHORT_CLASS, TaskSet
from models.encoders import encoder_of
from utils import constants
from utils.evaluation.results import METRIC_NAMES
from utils.evaluation.stored_probes import PROBES, StoredProbes
from utils.files import atomic_path, check_writable, read_json, write_json
from utils.prediction.models import (
    CANDIDATES,
    CHECKSUMS,
    SITES,
    TrainedModel,
    candidate_file,
    checksum,
    checksums_below,
    find_models,
)
from utils.prediction.table import Columns
from utils.training.jobs import INPUTS
from utils.training.trainer import BEST_WEIGHTS

logger = logging.getLogger(__name__)

CARD = "README.md"
COHORTS = "cohorts"
TASKS = "tasks.json"
_METRICS = ("balanced_accuracy", "auc", "concordance_index", "r2", "spearman")


def bundle(run: Path, target: Path) -> None:
    """Writes the bundle of a run.

    Raises:
        FileExistsError: ``target`` exists.
        FileNotFoundError, ValueError: as :func:`utils.prediction.models.find_models`.
    """
    if target.exists():
        raise FileExistsError(f"{target} exists; choose another folder")
    check_writable(target.parent)
    sites = sorted({path.parent.name for path in run.rglob(f"{SITES}/*/{PROBES}")})
    by_site: dict[str | None, list[TrainedModel]] = {site: find_models(run, site) for site in sites}
    by_site = by_site or {None: find_models(run)}
    models = next(iter(by_site.values()))
    for model in models:
        job = target / model.name.partition("/")[2]
        job.mkdir(parents=True)
        shutil.copy2(model.weights.path, job / BEST_WEIGHTS)
        if model.evaluation:
            write_json(job / INPUTS, model.evaluation)
        for site in by_site:
            below = Path() if site is None else Path(SITES, site)
            (job / below).mkdir(parents=True, exist_ok=True)
            shutil.copy2(run / job.relative_to(target) / below / PROBES, job / below / PROBES)
    shutil.copy2(run / "config.json", target / "config.json")
    if (candidates := candidate_file(run, models[0].config)) is not None:
        shutil.copy2(candidates, target / CANDIDATES)
    for cohort in sites or filter(None, [models[0].config.data.onco]):
        if (definition := constants.cohort_file(cohort)).is_file():
            (target / COHORTS).mkdir(exist_ok=True)
            shutil.copy2(definition, target / COHORTS / definition.name)
    write_json(target / TASKS, models[0].setup.tasks)
    if (run / "results.csv").is_file():
        shutil.copy2(run / "results.csv", target / "results.csv")
    with atomic_path(target / CARD) as temporary:
        temporary.write_text(_card(run, models, sites), encoding="utf-8")
    write_json(
        target / CHECKSUMS, {"files": checksums_below(target), "slide_encoder": _slide_encoder(models[0])}
    )
    logger.info("%d folds or seeds of %s bundled: %s", len(models), run, target)


def _slide_encoder(model: TrainedModel) -> dict[str, str | None]:
    """The file that the slide encoder's weights came from, by name and checksum."""
    path = model.config.model.backbone_weights
    known = path is not None and path.is_file() and not model.config.model.random_backbone
    return {
        "encoder": encoder_of(model.setup.mil_name).name,
        "file": path.name if known and path is not None else None,
        "sha256": checksum(path) if known and path is not None else None,
    }


def _card(run: Path, models: Sequence[TrainedModel], sites: Sequence[str]) -> str:
    """The model card, in Markdown."""
    model, config = models[0], read_json(run / "config.json")
    encoder = _slide_encoder(model)
    data = model.config.data
    cohort = ", ".join(sites) or data.onco or data.train_json.stem
    nouns = ["slides", *(entry.noun for entry in model.setup.modalities.values())]
    patients = len(model.run.get("train_cases", ()))
    lines = [
        f"# {model.setup.mil_name} on {cohort}",
        "",
        "ModalTune model for research. It is not a medical device: no decision about a patient may rest on it.",
        "",
        "## Data",
        "",
        f"- Trained on {cohort}, {patients or 'an unknown number of'} training patients, protocol `{data.protocol}`.",
        f"- Reads {', '.join(nouns)}; missing modalities: `{model.setup.missing_modalities}`.",
        *_tasks(model.setup.tokens, model.probes),
        f"- {len(models)} folds or seeds: {', '.join(m.name.partition('/')[2] for m in models)}.",
        f"- Slide encoder `{encoder['encoder']}`, not part of this folder: file {encoder['file'] or 'unknown'}, "
        f"SHA-256 `{encoder['sha256'] or 'unknown'}`.",
        f"- Written by commit `{config.get('git_commit', 'unknown')}`.",
        "",
        "## Results on the test patients",
        "",
        *_results(run, model.probes),
        "",
        "## Use",
        "",
        "```bash",
        "python -m utils.prediction THIS_FOLDER --features_dir FEATURES --output predictions.csv",
        "```",
        "",
        "## Limits",
        "",
        "- Probabilities and risks hold for patients like those of the training; `outside_training` flags others by",
        "  the Mahalanobis distance of their embedding.",
        "- Features must come from the patch encoder, patch size and resolution of the training.",
        "- Survival probabilities are not given beyond the last death of the training patients.",
        "- Intended use: research on cancer subtype and survival. Out of scope: diagnosis, treatment.",
        "",
    ]
    return "\n".join(lines)


def _tasks(tasks: TaskSet, probes: StoredProbes) -> list[str]:
    """What the task tokens predict."""
    lines = [f"- Task tokens: {', '.join(tasks.names)}."]
    if any(task.target(COHORT_CLASS) for task in tasks.tokens):
        lines.append(f"- Classes: {', '.join(probes.class_names)}.")
    for task in tasks.tokens:
        for target in task.targets:
            if target.column:
                what = f"the classes {', '.join(target.names)}" if target.names else "a number"
                lines.append(f"- {task.name} predicts {what}, trained on the column `{target.column}`.")
    return lines


def _results(run: Path, probes: StoredProbes) -> list[str]:
    """Mean results of the task tokens that predictions are read from, as rows of a table."""
    path = run / "results.csv"
    if not path.is_file():
        return ["The run has not written its results."]
    table = pd.read_csv(path)
    table = table[(table["run"] == "mean") & (table["split"] == "test") & table["metric"].isin(_METRICS)]
    shown = Columns.of(probes).tokens
    table = table[table["task"].isin(shown)]
    lines = ["| | value | 95 % interval or spread | patients |", "| --- | --- | --- | --- |"]
    for row in table.to_dict("records"):
        site = row.get("site")
        name = METRIC_NAMES[row["metric"]] + (f", {site}" if isinstance(site, str) and site else "")
        name += f", {row['task']}" if len(shown) > 1 else ""
        inside = f"{row['ci_low']:.3f} to {row['ci_high']:.3f}"
        spread = inside if row["ci_low"] == row["ci_low"] else f"± {row['std']:.3f}"
        value = f"{row['value']:.3f}" if row["value"] == row["value"] else f"not evaluable: {row['reason']}"
        lines.append(f"| {name} | {value} | {spread} | {row['n']:g} |")
    return lines
