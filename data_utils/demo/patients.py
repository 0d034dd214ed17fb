"""Patients of the demo cohort: hidden variables, and the GDC tables that follow from them.

Two hidden variables drive everything: the subtype (a point ``look`` on two axes) and the aggressiveness
(standard normal, independent of the subtype). Image and expression each see them with errors of their
own, so either modality alone is imperfect and both together are strong. Where the signal is split, they also make
large errors in opposite directions: either alone says little, their mean nearly all.
"""

from __future__ import annotations

import uuid
import zlib
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.random import Generator
from numpy.typing import ArrayLike

from data_utils.demo.cohorts import DemoCohort
from utils.files import atomic_path

MISSING = "'--"  # what a GDC export writes for a value it has not got

# How far image and expression stray from the hidden variables (standard deviations).
IMAGE_LOOK_ERROR, GENE_LOOK_ERROR = 0.35, 0.45
AGGRESSIVENESS_ERROR = 0.25
# The same of what they make in opposite directions where the signal is split.
SPLIT_LOOK_ERROR, SPLIT_AGGRESSIVENESS_ERROR = 1.25, 1.0
# How far a slide strays from what the image of its patient shows.
SLIDE_ERROR = 0.15
# Survival is Weibull with hazard proportional to exp(HAZARD_SLOPE * aggressiveness).
HAZARD_SLOPE = 3.0
WEIBULL_SHAPE = 2.5
DAYS_PER_MONTH = 30.44


class Peculiar(IntEnum):
    """Numbers of patients that have one peculiarity of real cohorts each.

    They come first, so that even the smallest demo has them all; later patients share some by chance.
    """

    CORRUPT = 0  # the last slide is cut off
    NO_MPP = 1  # the slide has no resolution tag
    RARE = 2  # diagnosis of no class
    NO_RNA = 3
    THREE_SLIDES = 4
    NO_STAGE = 5
    NO_AGE = 6
    MANY_ROWS = 7  # three treatments, so three rows in the clinical table
    NO_SURVIVAL = 8  # neither days to death nor to the last follow-up
    NO_DEATH_DATE = 9  # dead, but only the last follow-up is known
    NO_SLIDE = 10  # the slide is listed and was not downloaded
    NEGATIVE = 11  # days with a minus sign


@dataclass(frozen=True)
class Slide:
    """One slide of a patient; ``look`` and ``grade`` are what its picture shows."""

    barcode: str
    uuid: str
    folder: str
    seed: int
    look: tuple[float, float]
    grade: float
    mpp: float
    has_mpp_tag: bool
    corrupt: bool
    tissue: tuple[float, float, float, float]

    @property
    def path(self) -> Path:
        """Below ``images/``; the GDC client makes one folder per file."""
        return Path(self.folder) / f"{self.barcode}.{self.uuid}.svs"


@dataclass(frozen=True)
class Patient:
    """One patient: identifiers, hidden variables, slides and the row of the clinical table."""

    number: int
    case_id: str
    barcode: str
    project: str
    subtype: int
    look: tuple[float, float]
    aggressiveness: float
    gene_look: tuple[float, float]
    gene_aggressiveness: float
    has_rna: bool
    has_normal_rna: bool
    slides: tuple[Slide, ...]
    treatments: tuple[str, ...]
    clinical: dict[str, str]


def cohort_patients(cohort: DemoCohort, seed: int, scale: float, split: bool = False) -> list[Patient]:
    """The patients of a cohort; ``split`` decides what their images and genes show, and nothing else.

    Every patient has a random stream of its own, so a larger ``scale`` only adds patients.

    Raises:
        ValueError: ``scale`` is not positive.
    """
    if not scale > 0:
        raise ValueError(f"scale must be positive, not {scale}")
    count = max(len(Peculiar), round(cohort.patients * scale))
    return [_patient(cohort, seed, number, split) for number in range(count)]


def stream(seed: int, *labels: str | int) -> Generator:
    """A random stream that belongs to ``labels`` and to nothing else."""
    return np.random.default_rng([seed, *(zlib.crc32(str(label).encode()) for label in labels)])


def _patient(cohort: DemoCohort, seed: int, number: int, split: bool) -> Patient:
    rng = stream(seed, cohort.name, "patient", number)
    # Classes take turns in random order, so that every cohort is balanced at any scale.
    turn, place = divmod(number, len(cohort.subtypes))
    order = stream(seed, cohort.name, "classes", turn).permutation(len(cohort.subtypes))
    subtype = int(order[place])
    kind = cohort.subtypes[subtype]
    usual = len(kind.diagnoses) == 1 or rng.random() < 0.85
    diagnosis, look = kind.diagnoses[0 if usual else rng.integers(1, len(kind.diagnoses))], kind.look
    if number == Peculiar.RARE or (number >= len(Peculiar) and rng.random() < 0.05):
        diagnosis, subtype, look = str(rng.choice(cohort.rare)), -1, (0.0, 0.0)

    aggressiveness = float(rng.normal())
    opposite = stream(seed, cohort.name, "split", number).normal(size=3) if split else np.zeros(3)
    apart, grade_apart = SPLIT_LOOK_ERROR * opposite[:2], SPLIT_AGGRESSIVENESS_ERROR * opposite[2]
    image_look = _seen(look + apart, IMAGE_LOOK_ERROR, rng)
    gene_look = _seen(look - apart, GENE_LOOK_ERROR, rng)
    image_grade, gene_grade = (
        aggressiveness + shift + AGGRESSIVENESS_ERROR * rng.normal() for shift in (grade_apart, -grade_apart)
    )
    barcode = f"TCGA-{rng.choice(cohort.sites)}-{number:04X}"
    clinical = {
        "case_id": _uuid(rng),
        "case_submitter_id": barcode,
        "project_id": kind.project,
        "primary_diagnosis": diagnosis,
        **_survival(cohort, aggressiveness, number, rng),
        **_staging(cohort, aggressiveness, number, rng),
    }
    return Patient(
        number=number,
        case_id=clinical["case_id"],
        barcode=barcode,
        project=kind.project,
        subtype=subtype,
        look=look,
        aggressiveness=aggressiveness,
        gene_look=gene_look,
        gene_aggressiveness=float(gene_grade),
        has_rna=not (number == Peculiar.NO_RNA or (number >= len(Peculiar) and rng.random() < 0.05)),
        has_normal_rna=number == Peculiar.NO_AGE or bool(rng.random() < 0.08),
        slides=_slides(cohort, barcode, number, image_look, float(image_grade), rng),
        treatments=_treatments(number, rng),
        clinical=clinical,
    )


def _seen(look: ArrayLike, error: float, rng: Generator) -> tuple[float, float]:
    first, second = np.asarray(look) + error * rng.normal(size=2)
    return float(first), float(second)


def _uuid(rng: Generator) -> str:
    return str(uuid.UUID(bytes=rng.bytes(16), version=4))


def _slides(
    cohort: DemoCohort, barcode: str, number: int, look: tuple[float, float], grade: float, rng: Generator
) -> tuple[Slide, ...]:
    count = 1 + int(rng.choice(3, p=(0.84, 0.12, 0.04)))
    if number < len(Peculiar):
        counts: dict[int, int] = {
            Peculiar.THREE_SLIDES: 3,
            Peculiar.NO_SLIDE: 0,
            Peculiar.CORRUPT: 1 + cohort.corrupt_slide_is_spare,
        }
        count = counts.get(number, 1)
    slides = []
    for k in range(count):
        fine = number == Peculiar.NO_MPP or (number >= len(Peculiar) and rng.random() < 0.06)
        slides.append(
            Slide(
                barcode=f"{barcode}-01Z-00-DX{k + 1}",
                uuid=_uuid(rng).upper(),
                folder=_uuid(rng),
                seed=int(rng.integers(2**31)),
                look=_seen(look, SLIDE_ERROR, rng),
                grade=grade + SLIDE_ERROR * float(rng.normal()),
                mpp=0.25 if fine else 0.5,
                has_mpp_tag=number != Peculiar.NO_MPP,
                corrupt=number == Peculiar.CORRUPT and k == count - 1,
                tissue=cohort.tissue,
            )
        )
    return tuple(slides)


def _survival(cohort: DemoCohort, aggressiveness: float, number: int, rng: Generator) -> dict[str, str]:
    relative = rng.exponential() / np.log(2) * np.exp(-HAZARD_SLOPE * aggressiveness)
    death = cohort.median_months * relative ** (1 / WEIBULL_SHAPE)
    censoring = cohort.median_months * rng.uniform(0.4, 5.0)
    dead = bool(death <= censoring) or number == Peculiar.NO_DEATH_DATE
    days = str(max(5, round(float(death if dead else censoring) * DAYS_PER_MONTH)))
    to_death, to_follow_up = (days, MISSING) if dead else (MISSING, days)
    if number == Peculiar.NO_SURVIVAL:
        dead, to_death, to_follow_up = False, MISSING, MISSING
    elif number == Peculiar.NO_DEATH_DATE:
        to_death, to_follow_up = MISSING, days
    elif number == Peculiar.NEGATIVE:
        dead, to_death, to_follow_up = False, MISSING, f"-{days}"
    return {
        "vital_status": "Dead" if dead else "Alive",
        "days_to_death": to_death,
        "days_to_last_follow_up": to_follow_up,
    }


def _staging(cohort: DemoCohort, aggressiveness: float, number: int, rng: Generator) -> dict[str, str]:
    """Stage follows aggressiveness with a large error: informative, and far from the whole story."""

    def level(cuts: tuple[float, ...]) -> int:
        return int(np.searchsorted(cuts, 0.8 * aggressiveness + 0.6 * rng.normal()))

    stage = ("Stage I", "Stage IIA", "Stage IIB", "Stage IIIA", "Stage IIIC", "Stage IV")
    values = {
        "ajcc_pathologic_stage": stage[level((-0.9, -0.2, 0.4, 0.9, 1.6))],
        "ajcc_pathologic_t": ("T1", "T1c", "T2", "T2b", "T3", "T4b")[level((-1.2, -0.7, 0.1, 0.6, 1.3))],
        "ajcc_pathologic_n": ("N0", "N0 (i-)", "N1", "N1a", "N2a", "N3")[level((-0.6, 0.0, 0.4, 0.9, 1.5))],
    }
    values["ajcc_pathologic_m"] = "M1" if values["ajcc_pathologic_stage"] == "Stage IV" else "M0"
    if values["ajcc_pathologic_m"] == "M0" and rng.random() < 0.15:
        values["ajcc_pathologic_m"] = str(rng.choice(("MX", "cM0 (i+)")))
    if number >= len(Peculiar) and rng.random() < 0.06:
        values["ajcc_pathologic_n"] = "NX"
    for name in values:
        absent = number == Peculiar.NO_STAGE or (number >= len(Peculiar) and rng.random() < 0.02)
        if absent or not cohort.staged:
            values[name] = MISSING
    age = int(np.clip(rng.normal(60, 12), 27, 90))
    no_age = number == Peculiar.NO_AGE or (number >= len(Peculiar) and rng.random() < 0.02)
    return {
        **values,
        "age_at_index": MISSING if no_age else str(age),
        "year_of_diagnosis": str(rng.integers(1998, 2014)),
    }


def _treatments(number: int, rng: Generator) -> tuple[str, ...]:
    known = ("Radiation Therapy, NOS", "Pharmaceutical Therapy, NOS", "Surgery, NOS")
    count = 3 if number == Peculiar.MANY_ROWS else int(rng.choice(3, p=(0.4, 0.2, 0.4)))
    return known[:count] if count else (MISSING,)


CLINICAL_COLUMNS = (
    "case_id",
    "case_submitter_id",
    "project_id",
    "age_at_index",
    "vital_status",
    "days_to_death",
    "days_to_last_follow_up",
    "ajcc_pathologic_m",
    "ajcc_pathologic_n",
    "ajcc_pathologic_stage",
    "ajcc_pathologic_t",
    "primary_diagnosis",
    "year_of_diagnosis",
    "treatment_type",
)


def write_clinical(patients: list[Patient], path: Path) -> None:
    """Writes a GDC ``clinical.tsv``: one row per case and treatment, missing values ``'--``."""
    rows = [
        {**patient.clinical, "treatment_type": kind} for patient in patients for kind in patient.treatments
    ]
    _write_table(pd.DataFrame(rows, columns=list(CLINICAL_COLUMNS)), path, "\t")


def write_slide_table(patients: list[Patient], path: Path) -> None:
    """Writes a GDC ``slide.tsv``. It also lists slides nobody downloaded, as real exports do."""
    rows = []
    for patient in patients:
        barcodes = [slide.barcode for slide in patient.slides] or [f"{patient.barcode}-01Z-00-DX1"]
        if patient.number % 4 == 0:
            barcodes.append(f"{patient.barcode}-01A-01-TS1")
        rows += [(patient.project, patient.case_id, patient.barcode, barcode) for barcode in barcodes]
    columns = ["project_id", "case_id", "case_submitter_id", "slide_submitter_id"]
    _write_table(pd.DataFrame(rows, columns=columns), path, "\t")


def write_truth(patients: list[Patient], path: Path) -> None:
    """Writes the hidden variables, for tests; no step of the pipeline reads them."""
    rows = [
        (p.case_id, p.barcode, p.subtype, p.aggressiveness, *p.gene_look, p.gene_aggressiveness)
        for p in patients
    ]
    columns = ["case_id", "case_submitter_id", "subtype", "aggressiveness"]
    columns += ["gene_look_1", "gene_look_2", "gene_aggressiveness"]
    _write_table(pd.DataFrame(rows, columns=columns), path, ",")


def _write_table(table: pd.DataFrame, path: Path, separator: str) -> None:
    with atomic_path(path) as temporary:
        table.to_csv(temporary, sep=separator, index=False, lineterminator="\n")
