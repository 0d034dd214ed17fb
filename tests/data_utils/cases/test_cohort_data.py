"""From the files of a cohort to datasets, under both protocols."""

import json

import numpy as np
import pandas as pd
import pytest
import torch

from data_utils.cases.cohort_data import CohortData
from data_utils.cases.datasets import ModalityOptions, PatchOptions
from data_utils.features.store import read_features
from data_utils.tables.clinical import ClinicalCodes
from data_utils.tables.genes import PathwayGroups
from models.modalities import all_modalities, modality, read_tables
from tests.small_cohort import NUM_GENES, PATHWAYS, make_small_cohort
from utils.arguments import parse_args
from utils.files import FileError


@pytest.fixture
def cohort(tmp_path):
    return make_small_cohort(tmp_path / "cohort", without_genes=(3, 9))


@pytest.fixture
def read(cohort, tmp_path):
    """``read(flag=value, pathways=...)``: the data of the cohort under changed flags."""

    def read(pathways=None, **changes):
        data = parse_args("test", cohort.flags(tmp_path / "run", **changes)).data
        structures = {} if pathways is None else {"genes": pathways.to_dict()}
        tables = read_tables(all_modalities(), data.files, data.options, structures)
        return CohortData.read(data.split_files, tables, data.text_location, data.protocol, data.features_dir)

    return read


def options(*names, missing="drop", dropout=0.0):
    return ModalityOptions({name: modality(name).noun for name in names}, missing, dropout)


def datasets(data, names=("genes",), missing="drop", dropout=0.0):
    fitted = data.fit(data.patients, data.tables)
    modalities = options(*names, missing=missing, dropout=dropout)
    train = () if data.texts is None else data.patients["train"]
    return data.datasets(data.patients, fitted, PatchOptions(threshold=4), modalities, train)


def test_everything_is_read(read):
    data = read()
    assert {split: len(patients) for split, patients in data.patients.items()} == {
        "train": 8,
        "val": 4,
        "test": 4,
    }
    pathways = data.tables["genes"].pathways
    assert pathways.names == tuple(PATHWAYS) and data.tables["genes"].values.shape == (14, NUM_GENES)
    members = [sorted(pathways.genes[i] for i in group) for group in pathways.indices]
    assert members == [sorted(f"G{i}" for i in group) for group in PATHWAYS.values()]
    assert len(data.texts) == 16 and set(data.tables) == {"genes"}


def test_datasets_of_a_run(read):
    parts = datasets(read())
    assert set(parts) == {"train", "val", "test", "fit"}
    assert {name: len(part) for name, part in parts.items()} == {"train": 7, "val": 3, "test": 4, "fit": 7}
    case = parts["fit"][0]
    assert case.text.shape == (4, 512) and set(case.inputs) == {"genes"}
    assert case.inputs["genes"].shape == (NUM_GENES,)
    assert parts["train"][0].text is None
    assert parts["fit"].options.resample and not parts["train"].options.resample
    assert [p.case_id for p in parts["fit"].patients] == [p.case_id for p in parts["train"].patients]


def test_modalities_are_read_where_the_model_wants_them(read, cohort):
    data = read(clinical_location=cohort.clinical, vectors_location=cohort.vectors)
    assert data.structures["vectors"] == [2, 5] and set(data.structures) == {"genes", "vectors"}
    case = datasets(data, ("clinical", "vectors", "genes"))["val"][0]
    assert (
        case.inputs["clinical"].shape == (5,)
        and case.inputs["vectors"].shape == (2, 5)
        and "genes" in case.inputs
    )
    case = datasets(data)["val"][0]
    assert set(case.inputs) == {"genes"}


@pytest.mark.parametrize("protocol", ["published", "strict"])
def test_whose_clinical_values_decide_the_codes(read, cohort, protocol):
    values = pd.read_csv(cohort.clinical_values, index_col=0)
    values.loc["case-12", ["age_at_index", "ajcc_pathologic_m"]] = 90, "M1"
    values.to_csv(cohort.clinical_values)
    data = read(protocol=protocol, clinical_location=cohort.clinical_values)
    codes = ClinicalCodes.from_dict(data.fit(data.patients, ["clinical"])["clinical"], "codes")
    everyone = protocol == "published"
    ages = values["age_at_index"] if everyone else values["age_at_index"][:8]
    assert (codes.max_age, codes.median_age) == (ages.max(), ages.median())
    names = ["M0", "M1"] if everyone else ["M0", "unknown"]
    assert list(codes.codes["ajcc_pathologic_m"]) == names
    case = datasets(data, ("clinical", "genes"))["test"][0]
    assert case.case_id == "case-12" and case.inputs["clinical"][0] == pytest.approx(90 / ages.max())
    assert case.inputs["clinical"][4] == 1


def test_codes_of_a_trained_model_are_applied(read, cohort, caplog):
    data = read(clinical_location=cohort.clinical_values)
    # Stages II and III, T1 and T2, ages 35 and 40.
    fitted = data.fit(data.patients, ["genes"]) | {
        "clinical": data.tables["clinical"].fit({"case-1", "case-2"})
    }
    with caplog.at_level("WARNING"):
        parts = data.datasets(data.patients, fitted, PatchOptions(), options("clinical", "genes"))
    assert parts["train"][0].inputs["clinical"].tolist() == pytest.approx([37.5 / 40, 2, 2, 0, 0])
    assert "ajcc_pathologic_stage: ['Stage I'] get the code of unknown" in caplog.text


def test_everyone_is_kept_where_tokens_stand_in(read, cohort):
    parts = datasets(read(), missing="learned", dropout=0.5)
    assert {name: len(part) for name, part in parts.items()} == {"train": 8, "val": 4, "test": 4, "fit": 8}
    assert ["genes" not in parts["train"][i].inputs for i in range(8)] == [i == 3 for i in range(8)]
    assert [parts["val"][i].complete for i in range(4)] == [True, False, True, True]
    assert parts["fit"].modalities.dropout == 0.5 and not parts["train"].modalities.dropout


def test_a_cohort_without_any_table(read):
    flags = {"genomics_csv_path": None, "text_location": None, "eval_only": True, "eval_weights": "w.pt"}
    data = read(**flags)
    assert data.tables == {} and data.structures == {}
    parts = datasets(data, ("clinical", "vectors", "genes"), missing="learned")
    assert {name: len(part) for name, part in parts.items()} == {"train": 8, "val": 4, "test": 4}
    case = parts["test"][0]
    assert case.inputs == {} and not case.complete
    assert not datasets(data, ("genes",))  # nobody has what the model needs
    assert len(datasets(data, ())["train"]) == 8  # a model of images alone needs nothing


@pytest.mark.parametrize("protocol", ["published", "strict"])
def test_what_standardises_the_genes(read, cohort, protocol):
    data = read(protocol=protocol)
    table = pd.read_csv(cohort.genes, index_col=0)
    fitted = table if protocol == "published" else table[table.index < "TCGA-AA-0008"]
    assert len(fitted) == (14 if protocol == "published" else 7)
    expected = (table - fitted.mean()) / fitted.std(ddof=0)
    for part in datasets(data).values():
        for i in range(len(part)):
            case = part[i]
            row = expected.loc[case.submitter_id, list(data.tables["genes"].pathways.genes)]
            np.testing.assert_allclose(case.inputs["genes"].numpy(), row, rtol=1e-4, atol=1e-5)


def test_strict_scaler_does_not_see_the_other_splits(read, cohort):
    before = read(protocol="strict")
    table = pd.read_csv(cohort.genes, index_col=0)
    table.loc[table.index >= "TCGA-AA-0008"] += 100
    table.to_csv(cohort.genes)
    after = read(protocol="strict")
    assert before.fit(before.patients, ["genes"]) == after.fit(after.patients, ["genes"])
    assert read().fit(after.patients, ["genes"]) != after.fit(after.patients, ["genes"])


def test_pathways_of_a_trained_model_keep_their_genes(read, caplog):
    pathways = PathwayGroups(("P", "Q"), ("G7", "X", "G1"), ((0, 1), (2,)))
    with caplog.at_level("WARNING"):
        data = read(pathways, missing_genes="zero", max_missing_genes=0.5)
        parts = datasets(data)
    assert data.tables["genes"].values.columns.tolist() == ["G7", "X", "G1"] and "X" in caplog.text
    genes = parts["train"][0].inputs["genes"]
    assert genes[1] == 0 and genes[0] != 0  # the gene the cohort lacks stands at the mean


def test_evaluation_reads_no_texts(read):
    data = read(text_location=None, eval_only=True, eval_weights="w.pt")
    assert data.texts is None and set(datasets(data)) == {"train", "val", "test"}


def test_folds_leave_out_whom_the_model_cannot_run_on(read, cohort):
    vectors = torch.load(cohort.vectors)
    torch.save({case: value for case, value in vectors.items() if case != "case-5"}, cohort.vectors)
    data = read(vectors_location=cohort.vectors)
    for modalities, train_only in (
        (options("vectors", "genes"), {"case-3", "case-5", "case-9"}),
        (options("vectors", "genes", missing="learned"), set()),
    ):
        folds = data.folds(3, None, 0, modalities)
        tested = {p.case_id for fold in folds for p in fold["test"]}
        assert tested == {f"case-{i}" for i in range(16)} - train_only


@pytest.mark.parametrize("how", ["empty file", "no RNA"])
def test_a_split_without_patients_is_left_out_aloud(read, cohort, caplog, how):
    if how == "empty file":
        cohort.split("test").write_text('{"data": []}')
    else:
        table = pd.read_csv(cohort.genes)
        table[table.case_id < "TCGA-AA-0012"].to_csv(cohort.genes, index=False)
    with caplog.at_level("WARNING"):
        parts = datasets(read())
    assert set(parts) == {"train", "val", "fit"} and "no patient of the test split has RNA" in caplog.text


# ---------------------------------------------------------------------------- folds
def test_one_fold_is_the_split_files(read):
    data = read()
    assert data.folds(1, None, 0, options("genes")) == [data.patients]


def test_folds_test_everyone_with_rna_once(read):
    data = read()
    folds = data.folds(3, None, 0, options("genes"))
    tested = [p.case_id for fold in folds for p in fold["test"]]
    assert sorted(tested) == sorted(f"case-{i}" for i in range(16) if i not in (3, 9))
    assert all({"case-3", "case-9"} <= {p.case_id for p in fold["train"]} for fold in folds)


def test_folds_of_a_file(read, tmp_path):
    data = read()
    ids = [f"case-{i}" for i in range(16)]
    content = [
        {"train": ids[4:], "val": ids[2:4], "test": ids[:2]},
        {"train": ids[:12], "val": [], "test": ids[12:]},
    ]
    path = tmp_path / "folds.json"
    path.write_text(json.dumps(content))
    assert [p.case_id for p in data.folds(2, path, 0, options("genes"))[1]["test"]] == ids[12:]
    with pytest.raises(FileError, match=r"folds\.json holds 2 folds; --num_folds is 3"):
        data.folds(3, path, 0, options("genes"))


def test_folds_of_a_csv_draw_validation_from_patients_with_rna(read, tmp_path):
    barcodes = [f"TCGA-AA-{i:04d}" for i in range(16)]
    rows = [f"{i},{barcodes[i]},{barcodes[14 + i] if i < 2 else ''}" for i in range(14)]
    (tmp_path / "splits_0.csv").write_text("\n".join([",train,val", *rows]))
    data = read(fold_json=tmp_path)
    (fold,) = data.folds(1, tmp_path, 0, options("genes"))
    assert [p.case_id for p in fold["test"]] == ["case-14", "case-15"] and len(fold["val"]) == 2
    assert {"case-3", "case-9"} <= {p.case_id for p in fold["train"]}


# ---------------------------------------------------------------------------- other people's features
def test_a_folder_of_plain_arrays_instead_of_the_files_of_the_splits(read, cohort, tmp_path):
    expected = datasets(read())["train"]
    folder = tmp_path / "plain"
    folder.mkdir()
    for path in (cohort.root / "features").iterdir():
        slide = read_features(path)
        np.save(folder / f"{path.stem}.npy", slide.features)
        np.save(folder / f"{path.stem}_coords.npy", slide.coords)
        path.unlink()
    found = datasets(read(features_dir=folder))["train"]
    (folder / "slide-1-0.npy").unlink()
    with pytest.raises(FileNotFoundError, match=r"slide-1-0\.h5 of case case-1.*--features_dir"):
        datasets(read(features_dir=folder))
    with pytest.raises(FileNotFoundError, match="9 feature files of the train split are missing"):
        datasets(read())
    assert [p.case_id for p in found.patients] == [p.case_id for p in expected.patients]
    case = found[2]
    stored = np.load(folder / "slide-2-0.npy")
    assert (case.features.numpy()[:, None] == stored).all(-1).any(1).all() and case.patch_size_lv0 is None


# ---------------------------------------------------------------------------- what does not fit
def test_splits_that_share_a_patient(read, cohort):
    with pytest.raises(ValueError, match="is in the splits train and test"):
        read(test_json=cohort.split("train"))


def test_genes_of_another_cohort_show_both_sides(read, cohort):
    table = pd.read_csv(cohort.genes)
    table["case_id"] = [f"TCGA-ZZ-{i:04d}" for i in range(len(table))]
    table.to_csv(cohort.genes, index=False)
    with pytest.raises(ValueError, match=r"no patient of the split files.*TCGA-AA-0000.*TCGA-ZZ-0000"):
        read()


def test_texts_of_another_cohort_are_refused(read, cohort):
    torch.save({"someone": torch.ones(4, 512)}, cohort.texts)
    with pytest.raises(FileError, match=r"texts\.pt: 7 patients of the train split have no label sentences"):
        datasets(read())


@pytest.mark.parametrize("table", ["clinical_location", "vectors_location"])
def test_tables_of_another_cohort_show_both_sides(read, cohort, table, tmp_path):
    rows = {f"other-{i}": torch.zeros(5) for i in range(3)}
    torch.save(rows, tmp_path / "other.pt")
    with pytest.raises(FileError, match=r"other\.pt holds no patient of the split files.*'other-0'"):
        read(**{table: tmp_path / "other.pt"})


@pytest.mark.parametrize(
    ("flag", "writer"), [("text_location", "make_textemb_conch"), ("clinical_location", "make_clinical")]
)
def test_missing_tables_say_what_writes_them(read, tmp_path, flag, writer):
    with pytest.raises(
        FileNotFoundError, match=rf"none\.pt does not exist; write it with python -m data_utils\.{writer}"
    ):
        read(**{flag: tmp_path / "none.pt"})


def test_texts_of_the_wrong_shape_name_the_case(read, cohort):
    torch.save({"case-0": torch.zeros(3, 512)}, cohort.texts)
    with pytest.raises(ValueError, match=r"texts\.pt: case case-0 is \(3, 512\), should be \(4, 512\)"):
        read()
