"""Gene expression of the demo cohort: Xena matrices and the pathway table.

The activity of a pathway answers to the axes of the subtype and to aggressiveness with the weights of
``PATHWAYS``; the rest of it is chance. Values imitate log2(normalised counts + 1).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from data_utils.demo.cohorts import DemoCohort
from data_utils.demo.patients import Patient, stream
from utils.files import atomic_path


@dataclass(frozen=True)
class Pathway:
    """Member genes and how strongly the activity answers to each hidden variable.

    ``tissue`` is how far the level of each gene differs between cohorts.
    """

    genes: str
    first: float = 0.0
    second: float = 0.0
    hazard: float = 0.0
    tissue: float = 0.0


# Well-known members of well-known processes (HGNC symbols). Sizes are uneven and genes recur, as in real
# tables.
PATHWAYS: dict[str, Pathway] = {
    "Cell cycle and mitosis": Pathway(
        "CDK1 CDK2 CDK4 CDK6 CCNA2 CCNB1 CCNB2 CCND1 CCNE1 CCNE2 CDC20 CDC25A CDC25B CDC25C CDC6 CDT1 "
        "PLK1 AURKA AURKB BUB1 BUB1B BUB3 MAD2L1 TTK KIF11 KIF20A KIF23 TOP2A MKI67 MCM2 MCM3 MCM4 MCM5 "
        "MCM6 MCM7 PCNA E2F1 E2F2 FOXM1 UBE2C",
        hazard=1.0,
    ),
    "DNA repair": Pathway(
        "BRCA1 BRCA2 RAD51 RAD50 MRE11 NBN ATM ATR CHEK1 CHEK2 PALB2 FANCA FANCD2 XRCC1 XRCC2 MSH2 MSH6 "
        "MLH1 PMS2 PARP1 PCNA TP53BP1 ABRAXAS1",
        hazard=0.5,
    ),
    "Hypoxia": Pathway(
        "HIF1A VEGFA CA9 SLC2A1 LDHA PGK1 ENO1 ALDOA BNIP3 ADM NDRG1 P4HA1 EGLN3 ANGPTL4", hazard=0.9
    ),
    "Glycolysis": Pathway("HK1 HK2 GPI PFKL PFKP ALDOA GAPDH PGK1 PGAM1 ENO1 PKM LDHA", hazard=0.7),
    "Angiogenesis": Pathway("VEGFA VEGFC KDR FLT1 TEK ANGPT1 ANGPT2 PECAM1 CDH5 NRP1", hazard=0.6),
    "MYC targets": Pathway("MYC NOP16 NPM1 NOP56 FBL RRP9 ODC1 LDHA SRM PHB1 NME1 EIF4E", hazard=0.8),
    "Apoptosis": Pathway(
        "BCL2 BCL2L1 MCL1 BAX BAK1 BID BAD CASP3 CASP7 CASP8 CASP9 APAF1 CYCS XIAP FAS TP53", hazard=-0.7
    ),
    "Antigen presentation": Pathway("HLA-A HLA-B HLA-C HLA-E B2M TAP1 TAP2 PSMB8 PSMB9 NLRC5", hazard=-0.8),
    "T cell activity": Pathway(
        "CD3D CD3E CD3G CD4 CD8A CD8B CD28 CTLA4 PDCD1 LAG3 GZMA GZMB PRF1 IFNG CXCL9 CXCL10 ZAP70 LCK",
        hazard=-0.9,
    ),
    "Cell adhesion": Pathway(
        "CDH1 CTNNA1 CTNNB1 CTNND1 EPCAM CLDN3 CLDN4 CLDN7 OCLN TJP1 DSP DSG2 JUP NECTIN2 NECTIN4", first=1.0
    ),
    "Epithelial differentiation": Pathway(
        "KRT5 KRT7 KRT8 KRT14 KRT17 KRT18 KRT19 GATA3 FOXA1 ELF3 GRHL2 MUC1 EPCAM", first=0.9
    ),
    "Extracellular matrix": Pathway(
        "COL1A1 COL1A2 COL3A1 COL4A1 COL5A1 COL6A1 COL6A3 FN1 FBN1 LUM DCN SPARC POSTN VCAN BGN THBS1 "
        "THBS2 ELN LOX CCN1 CCN2 CCN4 TNC MMP2 MMP9 MMP11 TIMP1 TIMP3",
        first=-0.9,
    ),
    "Mesenchymal transition": Pathway(
        "VIM CDH2 SNAI1 SNAI2 TWIST1 ZEB1 ZEB2 FN1 ITGA5 ITGB1 TGFB1 TGFBR2 SPARC", first=-1.0
    ),
    "Hormone response": Pathway("ESR1 PGR AR GREB1 TFF1 TFF3 XBP1 GATA3 FOXA1", first=0.6),
    "Ubiquitin ligase complex": Pathway("ELOC ELOB CUL2 RBX1 VHL PRKN AMER1", first=-0.5),
    "Lipid metabolism": Pathway(
        "FASN ACACA SCD ACLY HMGCR LDLR SREBF1 SREBF2 PPARG FABP4 CD36 LPL", second=1.0
    ),
    "Vesicle transport": Pathway("RAB5A RAB7A RAB11A VPS35 SNX1 EEA1 LAMP1 CLTC", second=-0.9),
    "Cytoskeleton": Pathway(
        "ACTB ACTG1 ACTN1 ACTN4 TUBA1B TUBB MYH9 MYL9 RHOA ROCK1 RAC1 CDC42 SEPTIN9", second=0.8
    ),
    "Tissue identity": Pathway("UPK1B UPK2 UPK3A SCGB2A2 PIP TBX3 HOXB13 NKX2-1 PAX8", tissue=2.0),
    "Chromatin": Pathway(
        "EZH2 SUZ12 EED KMT2A KMT2D KDM6A ARID1A SMARCA4 SMARCB1 HDAC1 HDAC2 DNMT1 H1-2 NSD2"
    ),
    "Interferon signalling": Pathway("STAT1 STAT2 IRF1 IRF7 IRF9 ISG15 MX1 OAS1 IFIT1 IFIT3 CXCL10"),
    "Notch signalling": Pathway("NOTCH1 NOTCH2 NOTCH3 DLL1 JAG1 HES1 HEY1"),
    "Selenium handling": Pathway("SELENOP GPX4 TXNRD1"),
    "Smell": Pathway("OR1A1 OR2W1 OR5AN1 OR51E2 OR7D4"),
}
# The genes of this pathway are in no matrix: the pipeline must drop it and say so.
ABSENT_PATHWAY = "Smell"
# Genes the matrices list under an old symbol, as matrices of 2013 do.
OLD_SYMBOLS = {
    "MRE11": "MRE11A",
    "ABRAXAS1": "FAM175A",
    "CCN1": "CYR61",
    "CCN2": "CTGF",
    "CCN4": "WISP1",
    "NECTIN2": "PVRL2",
    "NECTIN4": "PVRL4",
    "ELOC": "TCEB1",
    "ELOB": "TCEB2",
    "PRKN": "PARK2",
    "AMER1": "FAM123B",
    "H1-2": "HIST1H1C",
    "SELENOP": "SEPP1",
    "PHB1": "PHB",
    "SEPTIN9": "SEPT9",
}
# The reverse: the pathway table lists the old symbol.
OLD_PATHWAY_SYMBOLS = {"NSD2": "WHSC1"}
# Genes of no pathway, which most of a real matrix is.
OTHER_GENES = (
    "ALB APOA1 APOE TTR INS GCG SST CHGA SYP ENO2 MBP GFAP NEFL MAP2 SNAP25 RBFOX3 HBA1 HBB GYPA SPTB "
    "PTPRC CD19 MS4A1 CD79A CD14 CD68 CD163 FCGR3A NCAM1 KLRD1 LYZ MPO ELANE S100A8 S100A9 DES MYOD1 "
    "TNNT2 MYH7 ACTA1 PLIN1 ADIPOQ LEP TG TPO SFTPB SFTPC KLK3 AMY2A PRSS1 RPL3 RPL5 RPS6 EEF2 UBC "
    "HPRT1 TBP GUSB"
)
UNNAMED = tuple(f"?|{number}" for number in (100130426, 100133144, 100134869, 10357, 155060))
DUPLICATED = ("GUSB", "PKM", "LUM")
# Without variation in the pan-cancer matrix, so dropped; two of them are in pathways.
CONSTANT = ("FABP4", "HOXB13", "INS", "GCG")
# Varies over the pan-cancer matrix, but in one cohort every sample has the same value.
CONSTANT_IN_COHORT = {"BRCA": "UPK3A"}
# Real pan-cancer matrices lack some values.
GAPS_IN_PANCAN = "TG"

NOISE = 0.8
CHANCE_ACTIVITY = 0.4


def pathway_table() -> pd.DataFrame:
    """Gene x pathway membership: column ``gene``, then one 0/1 column per pathway."""
    members = {name: set(pathway.genes.split()) for name, pathway in PATHWAYS.items()}
    genes = sorted(set().union(*members.values()))
    return pd.DataFrame(
        {"gene": genes} | {n: [int(g in genes_) for g in genes] for n, genes_ in members.items()}
    )


def write_pathways(path: Path) -> None:
    """Writes the pathway table as CSV; one gene has its old symbol."""
    table = pathway_table().replace({"gene": OLD_PATHWAY_SYMBOLS})
    with atomic_path(path) as temporary:
        table.to_csv(temporary, index=False, lineterminator="\n")


def _genes() -> list[str]:
    absent = set(PATHWAYS[ABSENT_PATHWAY].genes.split())
    return [*(gene for gene in pathway_table()["gene"] if gene not in absent), *OTHER_GENES.split(), *UNNAMED]


def _baseline(seed: int) -> pd.DataFrame:
    """Mean level and spread of every gene, the same in all cohorts."""
    genes, rng = _genes(), stream(seed, "genes")
    return pd.DataFrame(
        {"level": rng.uniform(4, 13, len(genes)), "spread": rng.uniform(0.5, 1.4, len(genes))}, index=genes
    )


def cohort_expression(cohort: DemoCohort, patients: list[Patient], seed: int) -> pd.DataFrame:
    """Expression of a cohort as the pan-cancer matrix has it, genes x sample barcodes.

    Primary tumours (``-01``) come first, then one second sample (``-06``) and normal tissue (``-11``): who
    keeps the first sample of a patient keeps the tumour.
    """
    baseline = _baseline(seed)
    for name, pathway in PATHWAYS.items():
        if pathway.tissue:
            genes, rng = pathway.genes.split(), stream(seed, cohort.name, name)
            baseline.loc[genes, "level"] += pathway.tissue * rng.normal(size=len(genes))
    position = {gene: row for row, gene in enumerate(baseline.index)}
    columns: dict[str, np.ndarray] = {}
    later: dict[str, np.ndarray] = {}
    for patient in (p for p in patients if p.has_rna):
        rng = stream(seed, cohort.name, "expression", patient.number)
        hidden = (*patient.gene_look, patient.gene_aggressiveness)
        columns[f"{patient.barcode}-01"] = _sample(baseline, position, hidden, rng)
        if patient.has_normal_rna:
            later[f"{patient.barcode}-11"] = _sample(baseline, position, (0, 0, -2), rng)
    first = next(iter(columns), None)
    if first is not None:
        later = {f"{first[:12]}-06": columns[first] + 1.0} | later
    matrix = pd.DataFrame(columns | later, index=baseline.index).clip(lower=0)
    matrix.loc[list(CONSTANT)] = 0.0
    if cohort.name in CONSTANT_IN_COHORT:
        matrix.loc[CONSTANT_IN_COHORT[cohort.name]] = 3.0
    return matrix.round(4)


def _sample(
    baseline: pd.DataFrame,
    position: dict[str, int],
    hidden: tuple[float, float, float],
    rng: np.random.Generator,
) -> np.ndarray:
    """Expression of one sample, ``[n_genes]``."""
    shift = np.zeros(len(baseline))
    for pathway in PATHWAYS.values():
        weights = (pathway.first, pathway.second, pathway.hazard)
        activity = float(np.dot(weights, hidden)) + CHANCE_ACTIVITY * rng.normal()
        shift[[position[gene] for gene in pathway.genes.split() if gene in position]] += activity
    depth = 0.1 * rng.normal()
    values = shift + NOISE * rng.normal(size=len(baseline))
    return baseline["level"].to_numpy() + baseline["spread"].to_numpy() * values + depth


def write_cohort_matrix(matrix: pd.DataFrame, seed: int, path: Path) -> None:
    """Writes ``HiSeqV2_PANCAN`` of one cohort: values centred per gene, as that data set is."""
    _write_matrix(matrix.sub(_baseline(seed)["level"].round(4), axis=0), path)


def write_pancan_matrix(matrices: list[pd.DataFrame], path: Path) -> None:
    """Writes the pan-cancer matrix: the cohorts side by side, with a few missing values."""
    matrix = pd.concat(matrices, axis=1)
    matrix.loc[GAPS_IN_PANCAN, matrix.columns[::7]] = np.nan
    _write_matrix(matrix, path)


def _write_matrix(matrix: pd.DataFrame, path: Path) -> None:
    """Writes genes in rows under ``sample``: old symbols, symbols in duplicate, and ``?|`` ones included."""
    matrix = pd.concat([matrix, matrix.loc[list(DUPLICATED)] + 0.5]).rename(index=OLD_SYMBOLS)
    matrix = matrix.sort_index(kind="stable")
    with atomic_path(path) as temporary:
        matrix.to_csv(
            temporary, sep="\t", index_label="sample", float_format="%.4f", lineterminator="\n", na_rep=""
        )
