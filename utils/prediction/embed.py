"""Embeddings of patients without labels, by one trained model."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from data_utils.cases.cohort_data import Fitted
from data_utils.cases.datasets import CaseDataset, Inputs, input_of, usable_patients
from data_utils.cases.splits import Patient
from data_utils.tables.tensor_table import ModalityTable
from models.modalities import read_tables
from utils.evaluation.zero_shot import Candidates, read_candidates
from utils.prediction.models import TrainedModel
from utils.training.model_setup import patch_options, trained_model
from utils.training.objectives.build import distillation_of
from utils.training.precision import Precision

logger = logging.getLogger(__name__)


@dataclass
class Embedded:
    """What a model makes of the patients.

    Attributes:
        vectors: ``[T, O]`` of every patient that could be embedded, by patient.
        missing: modalities of the model that a patient lacks, by patient.
        patches: how many patches a patient has.
        errors: why a patient could not be embedded.
        candidates: projected candidate sentences by cohort, where there are any.
    """

    vectors: dict[str, np.ndarray] = field(default_factory=dict)
    missing: dict[str, tuple[str, ...]] = field(default_factory=dict)
    patches: dict[str, int] = field(default_factory=dict)
    errors: dict[str, str] = field(default_factory=dict)
    candidates: Mapping[str, Candidates] = field(default_factory=dict)


def embed_patients(
    model: TrainedModel,
    patients: Sequence[Patient],
    files: Mapping[str, Path | None],
    options: Mapping[str, Mapping[str, Any]],
    device: torch.device,
    candidate_location: Path | None,
) -> Embedded:
    """Runs a model on patients; one that fails is named in ``errors``, and the others go on.

    Genes and clinical texts become numbers by what the training fitted: a few new patients have no mean of their own.

    Args:
        model: see :func:`utils.prediction.models.find_models`.
        patients: whom.
        files: table of every modality, None where there is none.
        options: values of the flags that modalities add.
        device: where to compute.
        candidate_location: candidate sentences for zero-shot classes.

    Raises:
        FileNotFoundError, ValueError: a table is missing or damaged, or the weights do not fit.
    """
    setup, config = model.setup, model.config
    tables = tables_of(model, files, options)
    structures = model.run.get("structures") or {
        name: table.structure for name, table in tables.items() if table.structure is not None
    }
    inputs = _inputs(model, tables)
    network, objective = trained_model(config, setup, model.weights, structures, model.seed)
    network = network.to(device).eval()

    for name, table in tables.items():
        if patients and all(input_of(patient, inputs[name]) is None for patient in patients):
            logger.warning(
                "nobody, such as %s, is in the table of %s, with rows such as %s; --patients says whose a slide is",
                *(patients[0].case_id, setup.modalities[name].noun, next(iter(table.ids), "")),
            )

    found = Embedded()
    modalities = setup.options()
    usable = usable_patients(patients, inputs, modalities)
    known = {p.case_id for p in usable}
    for patient in patients:
        absent = tuple(modalities.nouns[n] for n, rows in inputs.items() if input_of(patient, rows) is None)
        found.missing[patient.case_id] = absent
        if patient.case_id not in known:
            found.errors[patient.case_id] = f"no {' and no '.join(absent)}, which {setup.mil_name} needs"
    if usable:
        _run(
            found,
            network,
            Precision(device, config.compute.use_amp, config.compute.tf32),
            device,
            CaseDataset(usable, inputs, None, patch_options(config, network, model.seed), "new", modalities),
        )
    distillation = distillation_of(objective)
    if candidate_location is not None and distillation is not None and model.weights.have_projector:
        found.candidates = read_candidates(candidate_location, distillation)
    return found


def tables_of(
    model: TrainedModel, files: Mapping[str, Path | None], options: Mapping[str, Mapping[str, Any]]
) -> dict[str, ModalityTable]:
    """The tables that a model reads of the patients, by modality."""
    tables = read_tables(model.setup.modalities, files, options, model.run.get("structures", {}))
    return {
        name: table if model.site is None else table.of_site(model.site) for name, table in tables.items()
    }


def _inputs(model: TrainedModel, tables: Mapping[str, ModalityTable]) -> Inputs:
    """Tensors by modality and patient, of every modality of the model; empty where there is no table."""
    fitted: Fitted = model.run.get("fitted", {})
    inputs: dict[str, Mapping[str, torch.Tensor]] = {}
    for name, entry in model.setup.modalities.items():
        if name not in tables:
            logger.warning("no --%s: nobody has %s", entry.flag, entry.noun)
        inputs[name] = tables[name].encode(fitted.get(name)) if name in tables else {}
    return inputs


def _run(
    found: Embedded, network: torch.nn.Module, precision: Precision, device: torch.device, cases: CaseDataset
) -> None:
    for index, patient in enumerate(tqdm(cases.patients, desc="patients", disable=None)):
        try:
            case = cases[index]
            with torch.inference_mode(), precision.running(network):
                vectors = network(case.to(device)).float().cpu().numpy()
        # PyTorch's own errors are about this patient, too: other features than the model takes, no memory for so many.
        except (OSError, ValueError, RuntimeError) as error:
            logger.error("%s: %s", patient.case_id, error)
            found.errors[patient.case_id] = str(error).strip().splitlines()[0]
            continue
        if np.isfinite(vectors).all():
            found.vectors[patient.case_id], found.patches[patient.case_id] = vectors, len(case.features)
        else:
            found.errors[patient.case_id] = "its embedding is not finite; check its features and tables"
