"""From files to datasets: what a cohort knows of its patients, and the three splits of it."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from data_utils.cases.datasets import CaseDataset, Inputs, ModalityOptions, PatchOptions, usable_patients
from data_utils.cases.doubts import doubts
from data_utils.cases.folds import make_folds, read_folds
from data_utils.cases.splits import Patient, check_disjoint, read_split
from data_utils.features.folder import FeatureFolder
from data_utils.tables.cohorts import load_cohort
from data_utils.tables.sentence_table import check_sentences, read_sentence_table
from data_utils.tables.tasks import CLASSES, TaskSet, published
from data_utils.tables.tensor_table import ModalityTable
from utils import constants
from utils.barcodes import misnamed
from utils.configuration.protocol import PROTOCOLS
from utils.files import FileError

logger = logging.getLogger(__name__)

Splits = Mapping[str, Sequence[Patient]]
# What was fitted of every modality, as :meth:`ModalityTable.fit` gives it.
Fitted = Mapping[str, Mapping[str, Any] | None]


@dataclass(frozen=True)
class CohortData:
    """The tables of a cohort, read once and shared by all folds and seeds.

    Attributes:
        patients: per split.
        tables: of the modalities that the model reads and the cohort has, by name.
        texts: label sentences ``{case_id: [4, 512]}``, where given.
        protocol: ``published`` or ``strict``.
        text_location: file of the sentences, for messages.
    """

    patients: Splits
    tables: Mapping[str, ModalityTable]
    texts: Mapping[str, Tensor] | None
    protocol: str
    text_location: Path | None = None

    @classmethod
    def read(
        cls,
        split_files: Mapping[str, Path],
        tables: Mapping[str, ModalityTable],
        text_location: Path | None,
        protocol: str,
        features_dir: Path | None = None,
        sites: Sequence[str] = (),
        tasks: TaskSet | None = None,
        patches: bool = True,
    ) -> CohortData:
        """Reads the splits and texts, and checks that the tables are of this cohort.

        Args:
            split_files: by name of the split.
            tables: see :class:`CohortData`.
            text_location: label sentences; None for an evaluation.
            protocol: ``published`` or ``strict``.
            features_dir: folder of the feature files, whatever the split files say.
            sites: cancer sites of a pan-cancer cohort.
            tasks: which sentences a case has, and what it is evaluated by; the published ones if not given.
            patches: whether feature files are read at all.

        Raises:
            FileNotFoundError, ValueError: a file is missing or damaged, or does not belong to the others.
        """
        tasks = tasks or published()
        folder = FeatureFolder(features_dir) if features_dir is not None and patches else None
        patients: Splits = {
            split: read_split(split_files[split], folder, patches, tasks.columns)
            for split in constants.SPLITS
        }
        check_disjoint(patients)
        if sites:
            patients = name_sites(patients, sites)
        for doubt in doubts(patients):
            logger.warning("%s - %s", doubt.what, doubt.remedy)
        texts = None
        if text_location is not None:
            remedy = "write it with python -m data_utils.make_textemb_conch"
            check_sentences(text_location, tasks)
            texts = read_sentence_table(text_location, len(tasks.rows), remedy)
        check_columns(patients, tasks, split_files["train"], texts is not None)
        for table in tables.values():
            check_names(table, [p for split in patients.values() for p in split])
        return cls(patients, tables, texts, protocol, text_location)

    @property
    def structures(self) -> dict[str, Any]:
        """What of the data decides the parameters of the model, by modality."""
        found = {name: table.structure for name, table in self.tables.items()}
        return {name: structure for name, structure in found.items() if structure is not None}

    def folds(
        self,
        num_folds: int,
        fold_json: Path | None,
        seed: int,
        modalities: ModalityOptions,
        draw_validation: bool = True,
    ) -> list[Splits]:
        """The splits to run: those of the files, or ``num_folds`` of all patients together.

        Patients who lack a modality of the model are in training splits only, unless a learned token stands in
        for what they lack.
        """
        if num_folds == 1 and fold_json is None:
            return [self.patients]
        everyone = [p for split in self.patients.values() for p in split]
        known = [set(self.tables[name].ids) if name in self.tables else set() for name in modalities.needed]
        eligible = [p.case_id for p in everyone if all({p.case_id, p.submitter_id} & ids for ids in known)]
        if fold_json is not None:
            folds = read_folds(fold_json, everyone, eligible, seed, draw_validation)
            if num_folds > len(folds):
                raise FileError(
                    fold_json, f"holds {len(folds)} folds", f"--num_folds is {num_folds}: lower it"
                )
            return folds[:num_folds]
        return make_folds(everyone, eligible, num_folds, seed)

    def fit(self, patients: Splits, names: Iterable[str]) -> dict[str, dict[str, Any] | None]:
        """What has to be learned of the modalities named: of the whole table (published), or the training split."""
        train = {name for p in patients["train"] for name in (p.case_id, p.submitter_id)}
        only = train if PROTOCOLS[self.protocol].training_only else None
        return {name: self.tables[name].fit(only) for name in names}

    def datasets(
        self,
        patients: Splits,
        fitted: Fitted,
        patches: PatchOptions,
        modalities: ModalityOptions,
        trained_on: Sequence[Patient] = (),
    ) -> dict[str, CaseDataset]:
        """One dataset per split, plus ``fit``: patients to train on, with fresh patch subsets every epoch.

        Splits in which no patient has the modalities of the model are left out; with learned absent tokens,
        empty ones only.

        Args:
            patients: of every split.
            fitted: what :meth:`fit` gave, or what a trained model holds.
            patches: how patches are prepared.
            modalities: what the model reads, and what happens to patients who lack some of it.
            trained_on: the training patients whom the objective can learn from; empty in an evaluation.
        """
        inputs: Inputs = {
            name: self.tables[name].encode(fitted.get(name)) if name in self.tables else {}
            for name in modalities.names
        }
        as_evaluated = replace(modalities, dropout=0.0)
        datasets = {}
        for split in constants.SPLITS:
            if usable_patients(patients[split], inputs, modalities):
                datasets[split] = CaseDataset(
                    patients[split], inputs, None, patches, name=split, modalities=as_evaluated
                )
            else:
                nouns = " and ".join(modalities.nouns.values()) or "a slide"
                logger.warning("no patient of the %s split has %s: nothing is evaluated on it", split, nouns)
        if trained_on:
            self._check_texts(usable_patients(trained_on, inputs, modalities))
            datasets["fit"] = CaseDataset(
                trained_on, inputs, self.texts, patches.for_training(), name="train", modalities=modalities
            )
        return datasets

    def _check_texts(self, patients: Sequence[Patient]) -> None:
        if self.texts is None:
            return
        if missing := [p.case_id for p in patients if p.case_id not in self.texts]:
            fault = (
                f": {len(missing)} patients of the train split have no label sentences, such as {missing[:3]}"
            )
            such = f"there are some for {list(self.texts)[:3]}"
            raise FileError(
                self.text_location or "texts", fault, f"{such}; was the table made for this cohort?"
            )


def check_columns(patients: Splits, tasks: TaskSet, path: Path, training: bool) -> None:
    """A column that no patient has a value of cannot be meant in a training; a cohort to evaluate may lack it."""
    everyone = [p for split in patients.values() for p in split]
    for column, target in tasks.columns.items():
        values = [p.values[column] for p in everyone]
        if any(value >= 0 if target.kind == CLASSES else value == value for value in values):
            continue
        fault = f"tells of no patient what the task file evaluates by {column!r}"
        if training:
            remedy = (
                f"keep the column (make_dataset --tasks FILE), or correct its name"
                f"{' or the values of its classes' if target.kind == CLASSES else ''} in the task file"
            )
            raise FileError(path, fault, remedy)
        logger.warning("%s %s: that is not evaluated", path, fault)


def check_classes(patients: Splits, split_files: Mapping[str, Path], num_classes: Mapping[str, int]) -> None:
    """A class that the run does not know would end its evaluation, after the training.

    Args:
        patients: of every split.
        split_files: where they were read from.
        num_classes: by cancer site; one number, of the empty name, where there are no sites.
    """
    for split, members in patients.items():
        for site, count in num_classes.items():
            of_site = (p for p in members if not site or p.site == site)
            if beyond := [p for p in of_site if p.label >= count]:
                largest = max(beyond, key=lambda p: p.label)
                fault = f"has class {largest.label} (case {largest.case_id}{site and ', site '}{site})"
                fault += f", but --num_classes is {count}"
                raise FileError(
                    split_files[split], fault, f"pass {largest.label + 1}, or correct primary_class"
                )


def check_names(table: ModalityTable, patients: Sequence[Patient]) -> None:
    """Whether a table names the patients as the split files do, each once.

    Raises:
        FileError: it holds nobody of them, somebody in other letters or by a sample, or somebody twice.
    """
    ids = set(table.ids)
    present = [p for p in patients if p.submitter_id in ids or p.case_id in ids]
    if ids and patients and not present:
        such = f"{[p.submitter_id for p in patients[:3]]}, it holds such as {sorted(ids)[:3]}"
        fault = f"holds no patient of the split files: they hold such as {such}"
        raise FileError(table.path, fault, "pass the table of this cohort")
    if twice := [p for p in present if p.case_id != p.submitter_id and {p.case_id, p.submitter_id} <= ids]:
        fault = f"holds {len(twice)} patients twice, such as {twice[0].case_id} and {twice[0].submitter_id}"
        raise FileError(table.path, fault, "keep one row of a patient")
    used = {name for p in present for name in (p.case_id, p.submitter_id)}
    absent = {name for p in patients for name in (p.case_id, p.submitter_id)} - used
    if fault := misnamed(ids - used, absent):
        raise FileError(table.path, f"and the split files: {fault}", "write them alike")


def name_sites(patients: Splits, sites: Sequence[str]) -> Splits:
    """The patients of the sites with their cancer site, by project where the split files name none (published ones).

    Patients of other sites are left out and counted in the log.

    Raises:
        ValueError: a site has no patient.
    """
    site_of = {project: site for site in sites for project in load_cohort(site).projects}
    kept: dict[str, list[Patient]] = {}
    others: Counter[str] = Counter()
    for split, part in patients.items():
        named = [replace(p, site=p.site or site_of.get(p.project_id, "")) for p in part]
        kept[split] = [p for p in named if p.site in sites]
        others.update(p.site or p.project_id for p in named if p.site not in sites)
    if others:
        logger.warning(
            "%d patients of %s are left out: --sites are %s",
            others.total(),
            ", ".join(sorted(others)),
            ", ".join(sites),
        )
    present = {p.site for part in kept.values() for p in part}
    if empty := [site for site in sites if site not in present]:
        raise ValueError(
            f"no patient of the split files is of {', '.join(empty)} (--sites {' '.join(sites)}); they hold "
            f"{', '.join(sorted({*present, *others})) or 'nobody'}"
        )
    return kept
