"""A small trained run with all its files, and the commands that read them: training, evaluation, prediction."""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import save_file

import train_modaltune
from data_utils import TCGA_extract_feats_TITAN, make_textemb_conch
from data_utils.cases.datasets import CaseDataset, input_of
from data_utils.features.store import read_features
from data_utils.slides import command_line
from data_utils.tables.gdc import split_paths
from models.conch.text_tower import build_text_tower, read_text_config
from models.titan.conch_v1_5 import build_conch_v1_5
from tests.data_utils.slides.test_wsi import tissue_slide, write_slide
from tests.data_utils.test_make_textemb_conch import CONFIG, split_row
from tests.models.conch.test_text_tower import write_tokenizer
from tests.small_cohort import make_small_cohort
from tests.small_runs import quick_evaluation, save_as_published, small_model
from tests.soak.tables import Rows
from utils import constants
from utils.files import FileError, read_json, write_json
from utils.prediction import __main__ as prediction
from utils.prediction.bundle import bundle
from utils.training import run as training
from utils.training.trainer import BEST_WEIGHTS, Trainer

MIL_NAME = "longnetvit_gene_clinical_vectors_adapter"


class _Reached(Exception):
    """A run has read everything."""


def _digest(value: torch.Tensor) -> str:
    return hashlib.sha256(value.contiguous().cpu().numpy().tobytes()).hexdigest()


class Runs:
    """A cohort, a run trained on it, and new patients."""

    def __init__(self, folder: Path) -> None:
        self.folder, self._calls = folder, 0
        self.cohort = make_small_cohort(folder / "cohort", train=10)
        state = small_model().backbone.vit.state_dict()
        self.encoder, self.encoder_st = folder / "slide_encoder.pth", folder / "slide_encoder.safetensors"
        torch.save({"model": state}, self.encoder)
        save_file({name: value.contiguous() for name, value in state.items()}, self.encoder_st)
        cases = [f"{case:04d}" for case in range(18)]
        self.folds = folder / "splits_0.csv"
        parts = (cases[:10], cases[10:14], cases[14:])
        columns = {
            n: pd.Series([f"TCGA-AA-{c}" for c in part])
            for n, part in zip(constants.SPLITS, parts, strict=True)
        }
        pd.DataFrame(columns).to_csv(self.folds)
        self.folds_json = folder / "folds.json"
        write_json(self.folds_json, [{n: column.tolist() for n, column in columns.items()}])

    # ------------------------------------------------------------------------ trainings
    def train(self, output: Path | None = None, **flags: Any) -> Rows:
        """The results of a training of one epoch, by what they are of."""
        self._calls += 1
        output = output or self.folder / f"training_{self._calls}"
        with quick_evaluation():
            train_modaltune.main(self.cohort.flags(output, num_epochs=1, **flags))
        table = pd.read_csv(output / "results.csv").fillna("")
        found = {str(tuple(row[:5])): {"values": row[5:]} for row in table.astype(str).to_numpy().tolist()}
        if output.name.startswith("training_"):
            shutil.rmtree(output)
        return found

    def given(self, **flags: Any) -> Rows:
        """What a training, or an evaluation of weights, is given: patients with labels and inputs, and the model.

        It stops there: what follows depends on nothing else.
        """
        found: Rows = {}

        def note(trainer: Trainer, datasets: Mapping[str, CaseDataset], *rest: object) -> None:
            for split, dataset in datasets.items():
                for p in dataset.patients:
                    tensors = [
                        input_of(p, table) for table in (*dataset.inputs.values(), dataset.texts or {})
                    ]
                    digests = [None if value is None else _digest(value) for value in tensors]
                    found[f"{split} {p.case_id}"] = {"values": repr((p, digests))}
            state = trainer.model.state_dict() | trainer.objective.state_dict()
            found["model"] = {name: _digest(value) for name, value in state.items()}
            raise _Reached

        output = Path(tempfile.mkdtemp(dir=self.folder)) / "run"
        with pytest.MonkeyPatch.context() as patch, suppress(_Reached):
            patch.setattr(training, "_report", note)
            patch.setattr(Trainer, "fit", lambda *given: None)
            try:
                train_modaltune.main(self.cohort.flags(output, num_epochs=1, **flags))
            finally:
                shutil.rmtree(output.parent)
        return found

    def again(self) -> Rows:
        """The results of a finished run to which the same command is given again.

        Where its report is made anew, that of the first time stands for what would be computed.
        """
        path, sound = self.report, self._sound_report

        def write(*given: object) -> None:
            path.write_bytes(sound)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(training, "_report", write)
            return self.train(self.run)

    @cached_property
    def report(self) -> Path:
        """The report of a finished run."""
        path = self.run / "seed_0" / "report.csv"
        self._sound_report = path.read_bytes()
        return path

    @cached_property
    def run(self) -> Path:
        """A finished run."""
        self.train(self.folder / "run")
        return self.folder / "run"

    @cached_property
    def bundle(self) -> Path:
        """The run as a folder to hand on."""
        bundle(self.run, self.folder / "bundle")
        return self.folder / "bundle"

    @cached_property
    def published(self) -> Path:
        """Its weights as the published code stores them."""
        return save_as_published(self.run / "seed_0" / BEST_WEIGHTS, self.folder / "published.pt")

    def evaluate(self, weights: Path) -> Rows:
        """What an evaluation of weights is given."""
        return self.given(eval_only=True, eval_weights=weights)

    def encode(self, weights: Path) -> Rows:
        """What a training upon a file of the slide encoder is given."""
        return self.given(random_backbone=None, backbone_weights=weights)

    # ------------------------------------------------------------------------ predictions
    @cached_property
    def big_run(self) -> Path:
        """A finished run of a model that reads every modality."""
        self.train(self.folder / "big", **self._modalities, mil_name=MIL_NAME)
        return self.folder / "big"

    @property
    def _modalities(self) -> dict[str, Path]:
        cohort = self.cohort
        return {"clinical_location": cohort.clinical, "vectors_location": cohort.vectors}

    @cached_property
    def features(self) -> Path:
        """Features of three new patients: HDF5, a published dict, and an array with its coordinates beside it."""
        folder = self.folder / "new"
        folder.mkdir()
        for number, kind in enumerate(("h5", "pt", "npy"), 1):
            source, name = self.cohort.root / "features" / f"slide-{number}-0.h5", f"TCGA-AA-{number:04d}"
            slide = read_features(source)
            if kind == "h5":
                shutil.copy(source, folder / f"{name}.h5")
            elif kind == "pt":
                arrays = {"features": slide.features, "coords": slide.coords}
                torch.save({n: torch.from_numpy(v) for n, v in arrays.items()}, folder / f"{name}.pt")
            else:
                np.save(folder / f"{name}.npy", slide.features)
                np.save(folder / f"{name}_coords.npy", slide.coords)
        ids = [f"TCGA-AA-{number:04d}" for number in (1, 2, 3)]
        for path in (self.cohort.clinical, self.cohort.vectors):
            table = torch.load(path)
            torch.save(
                {f"TCGA-AA-{int(case[5:]):04d}": value for case, value in table.items()},
                folder.with_name(path.name),
            )
        table = pd.read_csv(self.cohort.genes, index_col=0).loc[ids]
        table.to_csv(folder.with_name("genes.csv"))
        return folder

    def predict(self, run: Path) -> Rows:
        """The predictions of the new patients; what is wrong with one of them is an error."""
        output, folder = self.folder / "predictions.csv", self.features
        flags = {
            "features_dir": folder,
            "output": output,
            "device": "cpu",
            "genomics_csv_path": folder.with_name("genes.csv"),
        }
        if run == self.folder / "big":
            flags |= {name: folder.with_name(path.name) for name, path in self._modalities.items()}
        prediction.main([str(run), *(f"--{name}={value}" for name, value in flags.items())])
        table = pd.read_csv(output, keep_default_na=False)
        for error in table["error"]:
            if error:
                raise FileError("a new patient", error, "see the column error")
        return {str(row["patient"]): dict(row) for row in table.to_dict("records")}

    def table(self, name: str) -> Path:
        """A table of the new patients."""
        return self.features.with_name(name)


class Texts:
    """A small text tower with its files, and label sentences."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        rows = [split_row(case, 10.0 * n) for n, case in enumerate("abcd", 1)]
        for split, path in split_paths("BRCA", folder=folder).items():
            path.write_text(json.dumps({"data": rows if split == "train" else []}))
        self.config, self.tokenizer, self.weights = (
            folder / n for n in ("text.json", "tokenizer.json", "conch.pt")
        )
        write_json(self.config, {**CONFIG, "width": 8})
        write_tokenizer(self.tokenizer)
        torch.manual_seed(0)
        tower = build_text_tower(read_text_config(self.config))
        torch.save({f"text.{name}": value for name, value in tower.state_dict().items()}, self.weights)

    def embed(self) -> Rows:
        """The embeddings of every patient."""
        output = self.folder / "texts.pt"
        flags = {
            "onco": "brca",
            "device": "cpu",
            "splits_dir": self.folder,
            "output": output,
            "conch_config": self.config,
        }
        flags |= {"conch_checkpoint": self.weights, "conch_tokenizer": self.tokenizer}
        make_textemb_conch.main([f"--{name}={value}" for name, value in flags.items()])
        return {case: {"values": value.tolist()} for case, value in torch.load(output).items()}


class Tiles(logging.Handler):
    """A slide, and a small patch encoder with its files."""

    def __init__(self, folder: Path) -> None:
        super().__init__(logging.ERROR)
        self.folder, self.config, self.weights = folder, folder / "conch_small.json", folder / "vision.bin"
        config = read_json(constants.CONFIGS_ROOT / "demo_conch_v1_5.json")
        config["model_args"] |= {"img_size": 32, "embed_dim": 8, "num_heads": 2, "depth": 1}
        config |= {"model_pooler": {"embed_dim": 4, "num_heads": 2}, "resize": 32, "input_size": 32}
        write_json(self.config, config)
        torch.manual_seed(0)
        torch.save(build_conch_v1_5(config).state_dict(), self.weights)
        write_slide(
            folder / "slides" / "TCGA-AA-0001.svs", tissue_slide(600, (0, 0, 600, 600), seed=1), 0.5, (1, 2)
        )
        self.said: list[str] = []
        command_line.logger.addHandler(self)
        command_line.logger.setLevel(logging.ERROR)

    def emit(self, record: logging.LogRecord) -> None:
        """Keeps what the command says before it returns a status."""
        self.said.append(record.getMessage())

    def extract(self) -> Rows:
        """The features of the slide."""
        output = Path(tempfile.mkdtemp(dir=self.folder))
        flags: Mapping[str, Any] = {"slides_dir": self.folder / "slides", "output_dir": output, "workers": 0}
        files = {"encoder_config": self.config, "checkpoint": self.weights, "device": "cpu", "onco": "TEST"}
        self.said.clear()
        logging.disable(logging.WARNING)
        try:
            status = TCGA_extract_feats_TITAN.main([f"--{n}={v}" for n, v in {**flags, **files}.items()])
        finally:
            logging.disable(logging.CRITICAL)
        try:
            if status:
                raise FileError("slide extraction", "; ".join(self.said), "see above")
            return {"slide": {"values": read_features(output / "TCGA-AA-0001.h5").features.tolist()}}
        finally:
            shutil.rmtree(output)
