"""The doctor and the run agree: what people hand in is refused by both, with file and case."""

import json
import re
import shutil

import h5py
import numpy as np
import pandas as pd
import pytest
import torch

import train_modaltune
from tests.small_runs import copied, sound_cohort
from tests.utils.diagnosis.doctor_faults import Subject, several
from utils import constants
from utils.files import FileError
from utils.training.trainer import BEST_WEIGHTS

pytestmark = pytest.mark.usefixtures("quick_runs")
FILE = "slide-3-0.h5"
INFINITE = float("inf")


@pytest.fixture(scope="module")
def sound(tmp_path_factory, quick_runs):
    """A cohort without faults, its slide encoder, and a run of one epoch on it."""
    root = tmp_path_factory.mktemp("sound") / "cohort"
    cohort = sound_cohort(root, train=8, val=4, test=4)
    train_modaltune.main(cohort.flags(root / "trained", num_epochs=1))
    shutil.copy(root / "trained" / "seed_0" / BEST_WEIGHTS, root / BEST_WEIGHTS)
    shutil.rmtree(root / "trained")
    return cohort


@pytest.fixture
def subject(sound, tmp_path):
    return Subject(*copied(sound, tmp_path / "cohort"))


def row_of(split, number, **values):
    """Changes a row of a split file."""
    return lambda p: p.rows(split, lambda rows: rows[number].update(values))


def copied_row(split, number, source, **values):
    """Gives a row values of one of the training split."""

    def plant(p):
        train = json.loads(p.cohort.split("train").read_text())["data"]
        p.rows(split, lambda rows: rows[number].update({**{n: train[source][n] for n in values}}))

    return plant


def arrays(**changes):
    return lambda p: p.change_slide(3, **changes)


def dataset(name, **options):
    """Writes a dataset of the slide in another way."""

    def plant(p):
        with h5py.File(p.slide(3), "r+") as file:
            del file[name]
            file.create_dataset(name, **options)

    return plant


def group(p):
    with h5py.File(p.slide(3), "r+") as file:
        values = file["features"][:]
        del file["features"]
        file["features/uni"] = values


def flipped(p):
    content = bytearray(p.slide(3).read_bytes())
    with h5py.File(p.slide(3)) as file:
        at = file["features"].id.get_chunk_info(0).byte_offset
    content[at + 5] ^= 255
    p.slide(3).write_bytes(content)


def torch_slide(p):
    """The slide as a ``.pt`` file of which one byte was changed."""
    with h5py.File(p.slide(3)) as file:
        values = {name: torch.from_numpy(file[name][:]) for name in ("features", "coords")}
    path = p.slide(3).with_suffix(".pt")
    torch.save(values, path)
    content = bytearray(path.read_bytes())
    content[content.index(values["features"].numpy().tobytes()) + 2] ^= 255
    path.write_bytes(content)
    p.slide(3).unlink()
    p.rows(
        "train",
        lambda rows: [r.update(features_path=str(path)) for r in rows if r["case_id"] == "case-3"] and None,
    )


def in_folder(*names):
    """Feature files by name; those of the fourth patient are called so."""

    def plant(p):
        folder = p.root / "by_name"
        folder.mkdir()
        for split in constants.SPLITS:
            for row in json.loads(p.cohort.split(split).read_text())["data"]:
                own = names if row["case_id"] == "case-3" else ["{}.h5"]
                for name in own:
                    shutil.copy(row["features_path"], folder / name.format(row["slide_submitter_id"]))
            p.rows(split, lambda rows: [row.pop("features_path") for row in rows] and None)
        p.flags["features_dir"] = folder

    return plant


def folds(text, name="splits_0.csv"):
    def plant(p):
        (p.root / name).write_text(text)
        p.flags["fold_json"] = p.root / name

    return plant


def renamed(pattern, name):
    """Gives patients of the gene table other names."""
    return lambda p: p.cohort.genes.write_text(re.sub(pattern, name, p.cohort.genes.read_text()))


def encoder(change):
    return lambda p: p.tensors(p.root / "slide_encoder.pth", change)


def encoder_bytes(content):
    return lambda p: (p.root / "slide_encoder.pth").write_bytes(content)


def trained(change):
    return several(Subject.evaluate, lambda p: p.tensors(p.root / BEST_WEIGHTS, change))


def twice_named(p):
    path = p.cohort.split("train")
    path.write_text(
        path.read_text().replace('"primary_class": 1', '"primary_class": 1, "primary_class": 0', 1)
    )


TRAIN = [f"TCGA-AA-{case:04d}" for case in range(8)]
TEST = [f"TCGA-AA-{case:04d}" for case in range(8, 16)]
PAIRS = list(zip(TRAIN, TEST, strict=True))
CODES = {"stage": 1}

# name -> (what is done, area of the finding, words of the finding and of the error)
FAULTS = {
    # names and leakage
    "case ids that differ in case": (
        row_of("train", 1, case_id="CASE-0"),
        "splits",
        r"train\.json.*'case-0' and 'CASE-0' differ in case or dashes only",
    ),
    "case ids of two splits that differ in case": (
        row_of("test", 0, case_id="Case-3 "),
        "splits",
        "(?i)case-3 .*train.*test|case-3 .*test.*train",
    ),
    "barcodes of two splits that differ in case": (
        row_of("test", 0, case_submitter_id="tcga-aa-0003"),
        "splits",
        "(?i)TCGA-AA-0003.*(train.*test|test.*train)",
    ),
    "slide of two splits under two files": (
        copied_row("test", 0, 3, slide_submitter_id=""),
        "splits",
        "TCGA-AA-000.*(train.*test|test.*train)",
    ),
    "slide of two cases": (
        copied_row("train", -1, 3, slide_submitter_id=""),
        "splits",
        "TCGA-AA-000.*case-",
    ),
    "barcode of a sample of a training patient": (
        row_of("test", 0, case_submitter_id="TCGA-AA-0003-01A"),
        "splits",
        "TCGA-AA-0003.*(train.*test|test.*train)",
    ),
    "another slide of a training patient": (
        row_of("test", 0, slide_submitter_id="TCGA-AA-0003-01Z-00-DX7"),
        "splits",
        "TCGA-AA-0003.*(train.*test|test.*train)",
    ),
    "slide of a patient who is nowhere": (
        row_of("train", 1, slide_submitter_id="TCGA-AA-0099-01Z-00-DX7"),
        "splits",
        "TCGA-AA-0099-01Z-00-DX7 of case case-0",
    ),
    "feature file of a training patient by another path": (
        lambda p: p.rows(
            "test",
            lambda rows: rows[0].update(features_path=str(p.root / "features" / ".." / "features" / FILE)),
        ),
        "splits",
        f"{FILE}.*(train.*test|test.*train)",
    ),
    **{
        f"{name} {value!r}": (
            row_of("train", 1, **{name: value}),
            "splits",
            rf"train\.json: row 1 has {re.escape(repr(value))} for {name}",
        )
        for name, value in [
            ("case_id", ""),
            ("case_id", ["a"]),
            ("case_id", True),
            ("case_submitter_id", {"a": 1}),
            ("slide_submitter_id", " "),
            ("project_id", 1.5),
            ("features_path", 7),
            ("features_path", ""),
        ]
    },
    "feature file of a longer name": (in_folder("{}.2.h5"), "features", "TCGA-AA-0003-01Z-00-DX0"),
    "two feature files that fit": (
        in_folder("{}_featvec.h5", "{}_featvec.pt"),
        "splits",
        "TCGA-AA-0003.*_featvec.h5.*_featvec.pt",
    ),
    "feature file in other letters": (
        in_folder("X{}.h5", "tcga-aa-0003-01Z-00-DX0.h5"),
        "splits",
        "tcga-aa-0003.*TCGA-AA-0003.*differ in upper and lower case",
    ),
    "a fold whose columns are shifted": (
        folds(
            ",train,val\n"
            + "".join(f"{n},{a},{b},\n" for n, (a, b) in enumerate(PAIRS[:4]))
            + f"4,{TRAIN[4]},,,\n"
        ),
        "splits",
        r"splits_0\.csv.*line 2",
    ),
    "a fold with one patient on both sides": (
        folds("train,val,test\n" + "".join(f"{a},{b},{TRAIN[0]}\n" for a, b in PAIRS[:1])),
        "splits",
        "case-0|TCGA-AA-0000",
    ),
    "a fold without anybody to test": (
        folds("train,val\nTCGA-AA-0000,\n"),
        "splits",
        r"splits_0\.csv: nobody is in val",
    ),
    # labels
    **{
        f"{name} {value!r}": (
            row_of("val", 0, **{name: value}),
            "splits",
            rf"val\.json: row 0, case case-8: {name} is .*{re.escape(str(value))[:20]}",
        )
        for name, value in [
            ("vital_status", 2),
            ("vital_status", "Dead"),
            ("primary_class", 1.5),
            ("primary_class", -2),
            ("primary_class", "luminal"),
            ("durations", -3.0),
            ("durations", INFINITE),
            ("durations", float("nan")),
            ("durations", 5e4),
            ("durations", True),
            ("durations", "1_2"),
            ("age_at_index", True),
            ("age_at_index", -1),
            ("age_at_index", 131),
        ]
    },
    "time without event": (
        row_of("val", 0, vital_status=None),
        "splits",
        r"val\.json: row 0, case case-8: vital_status",
    ),
    "a key twice": (twice_named, "splits", r"train\.json.*primary_class"),
    "slides that disagree": (
        row_of("train", 0, durations=99.0),
        "splits",
        r"train\.json.*case-0 disagree on durations",
    ),
    # tables by patient
    "genes of samples": (
        renamed(r"TCGA-AA-000([0-3])", r"TCGA-AA-000\1-01A"),
        "genes",
        r"genes\.csv.*'TCGA-AA-0000-01A' is a sample of the patient 'TCGA-AA-0000'",
    ),
    "genes under names of R": (
        renamed(r"TCGA-AA-000([0-3])", r"TCGA.AA.000\1"),
        "genes",
        r"genes\.csv.*'TCGA.AA.0000' is a sample of",
    ),
    "genes of patients in small letters": (
        renamed("TCGA-AA-000([0-3])", r"tcga-aa-000\1"),
        "genes",
        r"genes\.csv.*'tcga-aa-0000' and 'TCGA-AA-0000' differ in upper and lower case",
    ),
    "genes of a patient under both names": (
        renamed("TCGA-AA-0001", "case-0"),
        "genes",
        r"genes\.csv.*1 patients twice, such as case-0 and TCGA-AA-0000",
    ),
    "row numbers before the patients": (
        lambda p: (
            pd.read_csv(p.cohort.genes)
            .assign(case_id=lambda table: table.case_id.str[-4:].astype(int))
            .to_csv(p.cohort.genes)
        ),
        "genes",
        r"genes\.csv has cases in the column case_id, which is not the first",
    ),
    "truth values as genes": (
        several(
            lambda p: (
                pd.read_csv(p.cohort.genes, index_col=0)
                .assign(G1=lambda table: table.G1 > 0)
                .to_parquet(p.root / "genes.parquet")
            ),
            lambda p: p.flags.update(genomics_csv_path=p.root / "genes.parquet"),
        ),
        "genes",
        r"genes\.parquet.*columns \['G1'\]",
    ),
    # feature files as numbers
    "infinite coordinate": (
        arrays(coords=lambda v: np.where(v == v.max(), INFINITE, v).astype("f4")),
        "features",
        f"{FILE}.*coords are NaN or infinite",
    ),
    "half precision": (
        arrays(coords=lambda v: (v + 4096).astype("f2")),
        "features",
        f"{FILE}.*float16.*whole pixels up to 2,048",
    ),
    "beyond int64": (
        arrays(coords=lambda v: np.where(v == v.max(), 2**64 - 1, v).astype("u8")),
        "features",
        f"{FILE}.*reach",
    ),
    "class beyond --num_classes": (
        row_of("test", 0, primary_class=2),
        "splits",
        r"test\.json.*2.*, but --num_classes is 2",
    ),
    "negative": (arrays(coords=lambda v: v - 10**6), "features", f"{FILE}.*reach from -1000000"),
    "fractions": (arrays(coords=lambda v: v + 0.5), "features", f"{FILE}.*no whole|{FILE}.*not whole"),
    "patch numbers": (
        arrays(coords=lambda v: v // 256),
        "features",
        f"{FILE}.*(neighbouring patches are 1 apart|less than half a patch)",
    ),
    "same coordinates": (arrays(coords=lambda v: v * 0), "features", f"{FILE}.*same coordinates"),
    "complex": (arrays(features=lambda v: v.astype("c8")), "features", f"{FILE}.*complex"),
    "texts": (arrays(features=lambda v: np.full(v.shape, b"a")), "features", f"{FILE}.*real numbers"),
    "compound": (
        arrays(coords=lambda v: np.zeros(v.shape, [("x", "i4")])),
        "features",
        f"{FILE}.*real numbers",
    ),
    "width 0": (arrays(features=lambda v: v[:, :0]), "features", f"{FILE}.*width 0"),
    "group": (group, "features", f"{FILE}.*is a group"),
    "never written": (
        dataset("features", shape=(5, 10), dtype="f4", chunks=(1, 10), compression="gzip"),
        "features",
        f"{FILE}.*never written|{FILE}.*vectors but",
    ),
    "declared far larger than the file": (
        dataset("features", shape=(4_000_000, 1536), dtype="f4", chunks=(64, 1536)),
        "features",
        f"{FILE}.*(GiB|vectors but)",
    ),
    "all zero": (arrays(features=lambda v: v * 0), "features", f"{FILE}.*zero"),
    "patch size 0": (
        lambda p: p.attribute("patch_size_level0", 0, range(3, 4)),
        "features",
        f"{FILE}.*states patch_size_level0 0",
    ),
    "patch size below the distance on TITAN": (
        several(Subject.titan, lambda p: p.attribute("patch_size_level0", 128, range(16))),
        "features",
        r"slide-\d+-\d\.h5.*128",
    ),
    "changed byte": (flipped, "features", f"{FILE}.*damaged"),
    "changed byte of .pt": (torch_slide, "features", r"slide-3-0\.pt.*(damaged|checksum)"),
    # weights
    "page of a server": (
        encoder_bytes(b"<!DOCTYPE html><html></html>"),
        "weights",
        "slide_encoder.pth.*no readable",
    ),
    "pointer of Git": (
        encoder_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"),
        "weights",
        "slide_encoder.pth.*no readable",
    ),
    "no tensors": (
        encoder(lambda c: c.update(model={"cls_token": "text"})),
        "weights",
        "slide_encoder.pth holds no tensor",
    ),
    "NaN in the encoder": (
        encoder(lambda c: c["model"].update(cls_token=c["model"]["cls_token"] * np.nan)),
        "weights",
        "slide_encoder.pth.*NaN.*cls_token",
    ),
    "zeros in the encoder": (
        encoder(lambda c: c["model"].update({k: torch.zeros_like(v) for k, v in c["model"].items()})),
        "weights",
        "slide_encoder.pth holds zeros only",
    ),
    "prefix at some": (
        encoder(lambda c: c["model"].update({"module.cls_token": c["model"]["cls_token"]})),
        "weights",
        "slide_encoder.pth.*with and without 'module.'",
    ),
    "encoder of another size": (
        encoder(lambda c: c["model"].update(cls_token=torch.zeros(1, 1, 7))),
        "weights",
        r"slide_encoder.pth.*cls_token is \(1, 1, 7\)",
    ),
    "run is missing": (
        trained(lambda c: c["run"].pop("num_tasks")),
        "weights",
        f"{BEST_WEIGHTS}.*run.num_tasks is missing",
    ),
    "run of another type": (
        trained(lambda c: c["run"].update(model_config="none")),
        "weights",
        f"{BEST_WEIGHTS}.*model_config is a str",
    ),
    "NaN in trained weights": (
        trained(lambda c: c["model"].update({"final_project.bias": torch.full((6,), np.nan)})),
        "weights",
        f"{BEST_WEIGHTS}.*NaN.*final_project.bias",
    ),
    "genes of the weights": (
        trained(lambda c: c["run"]["structures"]["genes"].update(indices=[[99]] * 4)),
        "weights",
        f"{BEST_WEIGHTS}.*RNA",
    ),
    "parameter of trained weights is missing": (
        trained(lambda c: c["model"].pop("final_project.bias")),
        "weights",
        f"{BEST_WEIGHTS}.*missing.*final_project.bias",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_doctor_and_run_refuse_the_same(subject, fault):
    plant, area, words = FAULTS[fault]
    plant(subject)
    findings = subject.findings()
    errors = [f for f in findings if f.level == "error"]
    assert any(f.area == area and re.search(words, f.what, re.DOTALL) for f in errors), "\n".join(
        map(str, findings)
    )
    assert not [f for f in findings if "the check stopped" in f.what]
    with pytest.raises((FileError, OSError, ValueError)) as refused:
        train_modaltune.main(subject.cohort.flags(subject.root / "run", **subject.flags))
    assert re.search(words, str(refused.value), re.DOTALL), refused.value


def test_a_sound_cohort_is_refused_by_neither(subject):
    assert not [f for f in subject.findings() if f.level == "error"]
    subject.evaluate()
    assert not [f for f in subject.findings() if f.level == "error"]
    train_modaltune.main(subject.cohort.flags(subject.root / "run", **subject.flags))
    assert len(pd.read_csv(subject.root / "run" / "results.csv"))
