"""What differs between the cohorts of the demo, as data."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Subtype:
    """A class of a cohort: its raw diagnoses (the first is the usual one), project and look."""

    diagnoses: tuple[str, ...]
    project: str
    look: tuple[float, float]


@dataclass(frozen=True)
class DemoCohort:
    """What differs between cohorts. A new one is one more entry of ``COHORTS``.

    Attributes:
        name: as in ``TCGA-{name}``.
        patients: number at scale 1.
        subtypes: the classes, two or more.
        rare: raw diagnoses that belong to no class.
        sites: two-letter tissue source sites of the barcodes; differ between cohorts.
        median_months: of survival.
        tissue: tint and spacing of the connective tissue (about -1 to 1), its brown and its blue cast (0 to 1);
            all patients share them.
        corrupt_slide_is_spare: the patient of the corrupt slide has a second, good one.
        staged: the AJCC columns are filled.
    """

    name: str
    patients: int
    subtypes: tuple[Subtype, ...]
    rare: tuple[str, ...]
    sites: tuple[str, ...]
    median_months: float
    tissue: tuple[float, float, float, float]
    corrupt_slide_is_spare: bool = True
    staged: bool = True


# Three looks that are equally far from each other.
_LEFT, _RIGHT, _TOP = (-1.0, -0.6), (1.0, -0.6), (0.0, 1.15)

COHORTS: dict[str, DemoCohort] = {
    "BRCA": DemoCohort(
        name="BRCA",
        patients=110,
        subtypes=(
            Subtype(("Infiltrating duct carcinoma, NOS",), "TCGA-BRCA", (1.0, 0.0)),
            Subtype(("Lobular carcinoma, NOS",), "TCGA-BRCA", (-1.0, 0.0)),
        ),
        rare=("Medullary carcinoma, NOS", "Metaplastic carcinoma, NOS", "Mucinous adenocarcinoma"),
        sites=("X1", "X2", "X3"),
        median_months=40.0,
        tissue=(0.5, 0.5, 0.0, 0.0),
    ),
    "BLCA": DemoCohort(
        name="BLCA",
        patients=60,
        subtypes=(
            Subtype(("Transitional cell carcinoma",), "TCGA-BLCA", (1.0, 0.0)),
            Subtype(
                ("Papillary transitional cell carcinoma", "Papillary adenocarcinoma, NOS"),
                "TCGA-BLCA",
                (-1.0, 0.0),
            ),
        ),
        rare=("Squamous cell carcinoma, NOS", "Carcinoma, NOS"),
        sites=("Y1", "Y2"),
        median_months=30.0,
        tissue=(-0.5, -0.5, 0.0, 0.0),
        corrupt_slide_is_spare=False,
    ),
    "GBMLGG": DemoCohort(
        name="GBMLGG",
        patients=40,
        subtypes=(
            Subtype(("Glioblastoma",), "TCGA-GBM", (0.0, 1.0)),
            Subtype(
                ("Oligodendroglioma, NOS", "Astrocytoma, anaplastic", "Mixed glioma"),
                "TCGA-LGG",
                (0.0, -1.0),
            ),
        ),
        rare=("Giant cell glioblastoma", "Gliosarcoma"),
        sites=("Z1", "Z2"),
        median_months=18.0,
        tissue=(-0.9, 0.6, 1.0, 0.0),
        staged=False,
    ),
    "NSCLC": DemoCohort(
        name="NSCLC",
        patients=40,
        subtypes=(
            Subtype(("Adenocarcinoma, NOS", "Adenocarcinoma with mixed subtypes"), "TCGA-LUAD", (-1.0, 0.0)),
            Subtype(
                ("Squamous cell carcinoma, NOS", "Squamous cell carcinoma, keratinizing, NOS"),
                "TCGA-LUSC",
                (1.0, 0.0),
            ),
        ),
        rare=("Bronchiolo-alveolar carcinoma, mucinous", "Signet ring cell carcinoma"),
        sites=("V1", "V2"),
        median_months=26.0,
        tissue=(0.6, -0.9, 0.0, 1.0),
    ),
    "RCC": DemoCohort(
        name="RCC",
        patients=54,
        subtypes=(
            Subtype(("Papillary adenocarcinoma, NOS",), "TCGA-KIRP", _LEFT),
            Subtype(("Clear cell adenocarcinoma, NOS", "Renal cell carcinoma, NOS"), "TCGA-KIRC", _RIGHT),
            Subtype(("Renal cell carcinoma, chromophobe type",), "TCGA-KICH", _TOP),
        ),
        rare=("Carcinoma, NOS", "Sarcoma, NOS"),
        sites=("W1", "W2"),
        median_months=45.0,
        tissue=(0.9, 0.9, 1.0, 1.0),
    ),
}
