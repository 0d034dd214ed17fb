"""Embeddings for other tools: ``.npz``, ``.csv`` or ``.h5ad``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from data_utils.cases.splits import Patient
from utils.files import atomic_path
from utils.prediction.embed import Embedded
from utils.prediction.models import TrainedModel

SUFFIXES = (".npz", ".csv", ".h5ad")


def write_embeddings(
    path: Path, cases: Sequence[Patient], models: Sequence[TrainedModel], embedded: Sequence[Embedded]
) -> None:
    """Writes the embeddings of all cases that every model could embed; a case is a patient, or a slide of one.

    - ``.npz``: ``vectors [models, n, T, O]``, ``patients``, ``slides`` (empty: all of the patient), ``models`` and
      ``tasks``;
    - ``.csv``: a row for every case, model and task token, the dimensions as columns ``0``, ``1``, ...;
    - ``.h5ad``: ``X`` is the first task token of the first model, ``obsm["<model>-<task>"]`` every token of every
      model (a ``/`` in its name becomes ``-``: HDF5 would make groups of it), ``obs`` patient and slide (needs the
      package anndata).

    Raises:
        ValueError: another suffix, or the package is missing.
    """
    if path.suffix not in SUFFIXES:
        raise ValueError(f"--embeddings {path}: should end in {', '.join(SUFFIXES)}")
    kept = [case for case in cases if all(case.case_id in found.vectors for found in embedded)]
    vectors = np.array(
        [[found.vectors[case.case_id] for case in kept] for found in embedded], dtype=np.float32
    )
    patients = [case.submitter_id for case in kept]
    slides = ["" if case.case_id == case.submitter_id else case.slide_ids[0] for case in kept]
    names, tasks = [model.name for model in models], list(models[0].probes.tasks)
    with atomic_path(path) as temporary:
        if path.suffix == ".npz":
            labels = {"patients": patients, "slides": slides, "models": names, "tasks": tasks}
            arrays = {name: np.asarray(value, dtype=str) for name, value in labels.items()}
            with temporary.open("wb") as handle:
                np.savez(handle, allow_pickle=False, **{"vectors": vectors, **arrays})
        elif path.suffix == ".csv":
            index = pd.MultiIndex.from_product(
                [names, range(len(kept)), tasks], names=["model", "case", "task"]
            )
            table = pd.DataFrame(vectors.reshape(len(index), -1), index=index).reset_index()
            table.insert(0, "slide", [slides[i] for i in table["case"]])
            table.insert(0, "patient", [patients[i] for i in table["case"]])
            table.drop(columns="case").to_csv(temporary, index=False)
        else:
            _write_anndata(temporary, vectors, patients, slides, names, tasks)


def _write_anndata(
    path: Path,
    vectors: np.ndarray,
    patients: Sequence[str],
    slides: Sequence[str],
    names: Sequence[str],
    tasks: Sequence[str],
) -> None:
    try:
        import anndata
    except ImportError as error:
        raise ValueError("--embeddings: .h5ad needs the package anndata (pip install anndata)") from error
    keys = [f"{p} {s}".strip() for p, s in zip(patients, slides, strict=True)]
    obs = pd.DataFrame({"patient": patients, "slide": slides}, index=keys)
    parts = {
        f"{m}-{t}".replace("/", "-"): vectors[i, :, k]
        for i, m in enumerate(names)
        for k, t in enumerate(tasks)
    }
    anndata.AnnData(X=vectors[0, :, 0], obs=obs, obsm=parts).write_h5ad(path)
