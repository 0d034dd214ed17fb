"""Tasks of a user, end to end: three published ones, a second class task and a number, by the commands of a user."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

import train_modaltune
import train_modaltune_pancancer
from data_utils import make_textemb_conch
from data_utils.tables.tasks import published
from tests.forked import run_ranks
from tests.own_cohort import HospitalCohort, patient
from tests.small_cohort import MODEL_CONFIG, write_slide
from utils import checkpoint, constants, doctor, rescore
from utils.evaluation.embeddings import Embeddings
from utils.evaluation.stored_probes import PROBES, StoredProbes
from utils.explain.loaded_run import LoadedRun
from utils.prediction import __main__ as prediction
from utils.training.checkpoint import TrainedWeights

pytestmark = [pytest.mark.usefixtures("quick_runs"), pytest.mark.filterwarnings("ignore:.*fork.*")]
GRADES = ("low", "middle", "high")
TOKENS = ["General", "Diagnosis", "Survival", "Grade", "Ki67"]


def task_file(path: Path, **changes: object) -> Path:
    grade = {"kind": "classes", "column": "Grade", "values": ["1", "2", "3"], "names": list(GRADES)}
    own = [
        {"name": "Grade", "sentence": "Grade: {Grade}", "evaluate": [grade]},
        {
            "name": "Ki67",
            "sentence": "Ki67: {Ki67}",
            "evaluate": [{"kind": "number", "column": "Ki67"}],
            **changes,
        },
    ]
    path.write_text(json.dumps({"tasks": [*published().plain()["tasks"], *own]}))
    return path


class House:
    """A hospital cohort with tasks of its own, and the run on it."""

    def __init__(self, root: Path) -> None:
        self.root, self.tasks, self.run = root, task_file(root / "tasks.json"), root / "run"
        self.hospital = HospitalCohort.of(root, 40)
        self.hospital.rows[2]["Grade"] = self.hospital.rows[3]["Ki67"] = None
        self.hospital.rows[6]["Grade"] = "4"
        for number in range(40):
            features = self.hospital.features / f"{patient(number)}_S1.h5"
            write_slide(features, 6 + number % 3, number, 2.0 * (number % 2))
        self.rows = self.hospital.make("--tasks", str(self.tasks))
        self.words = ["--onco=HOUSE", f"--tasks={self.tasks}"]
        (root / "model.json").write_text(json.dumps(MODEL_CONFIG))

    def texts(self) -> None:
        own = [*self.words, f"--splits_dir={self.hospital.splits}"]
        make_textemb_conch.main([*own, f"--list_sentences={self.root / 'sentences.json'}"])
        self.sentences = json.loads((self.root / "sentences.json").read_text())
        torch.manual_seed(0)
        torch.save({sentence: torch.randn(16) for sentence in self.sentences}, self.root / "vectors.pt")
        make_textemb_conch.main([*own, f"--text_vectors={self.root / 'vectors.pt'}"])

    def flags(self, **changes: object) -> list[str]:
        flags = {
            **{f"{s}_json": self.hospital.splits / f"{s}_house_cls_feat.json" for s in constants.SPLITS},
            "mil_name": "longnetvit_adapter",
            "model_config": self.root / "model.json",
            "output_path": self.run,
            "num_epochs": 1,
            "device": "cpu",
            **changes,
        }
        words = [f"--{name}={value}" for name, value in flags.items() if value is not None]
        return ["--onco=HOUSE", "--random_backbone", *words]


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory, quick_runs: None):
    root = tmp_path_factory.mktemp("house")
    with pytest.MonkeyPatch.context() as patch:
        for name in ("COHORTS_ROOT", "TABLES_ROOT"):
            patch.setattr(constants, name, root / {"COHORTS_ROOT": "cohorts"}.get(name, "tables"))
        made = House(root)
        made.texts()
        train_modaltune.main(made.flags(tasks=made.tasks))
        yield made


def known(house: House, column: str, split: str = "test") -> dict[str, str]:
    return {row["case_id"]: row[column] for row in house.rows[split] if row[column] is not None}


def test_every_stage_follows_the_file(house: House) -> None:
    assert {row["Grade"] for row in house.rows["train"]} <= {"1", "2", "3", "4", None}
    assert {"Grade: 1", "Grade: 2", "Grade: 3", "Ki67: 2.0"} <= set(house.sentences)
    texts = torch.load(constants.text_table("HOUSE"), weights_only=True)
    assert texts["H-0001"].shape == (6, 16)
    assert texts["H-0002"][4].isnan().all() and texts["H-0003"][5].isnan().all()
    candidates = torch.load(constants.candidate_table("HOUSE"), weights_only=True)["HOUSE"]
    assert [name for name in candidates if name.startswith("task:")] == [f"task:Grade:{k}" for k in (1, 2, 3)]

    weights = TrainedWeights.read(house.run / "seed_0" / "best_model_weights.pt")
    assert weights.run["num_tasks"] == 5 and weights.run["objective"]["text_rows"] == [0, 1, 3, 4, 5]
    config = json.loads((house.run / "config.json").read_text())
    assert config["task_file"]["path"] == str(house.tasks) and len(config["task_file"]["sha256"]) == 64
    assert [task["name"] for task in config["model"]["tasks"]["tasks"] if task["trained"]] == TOKENS

    table = pd.read_csv(house.run / "results.csv")
    metrics = table[(table.run == "mean") & (table.split == "test")].groupby("task").metric.agg(set)
    assert list(dict.fromkeys(table.task)) == TOKENS
    assert {"balanced_accuracy", "concordance_index"} <= metrics["General"] and "r2" not in metrics["General"]
    assert "concordance_index" not in metrics["Grade"] and "zero_shot_balanced_accuracy" in metrics["Grade"]
    assert metrics["Ki67"] == {"r2", "spearman"}
    text = (house.run / "results.md").read_text()
    assert "- **classes of Grade**: 0 low, 1 middle, 2 high" in text
    assert "## Task token Ki67" in text and "| R² |" in text and "| Patients with the number |" in text


def test_numbers_and_own_classes_are_those_of_the_probes(house: House) -> None:
    seed = house.run / "seed_0"
    probes = StoredProbes.load(seed / PROBES)
    assert list(probes.tasks) == TOKENS and probes.classes_of("Grade") == GRADES
    assert probes.class_names == ("LumA", "LumB") == probes.classes_of("General")
    cases = Embeddings.load(seed / "data" / "test_embeddings.npz")
    written = pd.read_csv(seed / "predictions" / "test.csv")
    numbers = written[written.task == "Ki67"].set_index("case_id")
    assert numbers["value"].dropna().to_dict() == {c: float(v) for c, v in known(house, "Ki67").items()}
    found = probes.tasks["Ki67"].number(cases.task(4).astype(float))
    np.testing.assert_allclose(numbers["predicted_value"], found, atol=1e-9)
    grades = written[written.task == "Grade"].set_index("case_id")
    names = dict(zip("123", GRADES, strict=True))
    true = {case: names[grade] for case, grade in known(house, "Grade").items() if grade in names}
    assert grades["label_name"].dropna().to_dict() == true
    shares = probes.tasks["Grade"].probabilities(cases.task(3).astype(float), 3)
    np.testing.assert_allclose(grades[[f"probability {g}" for g in GRADES]], shares, atol=1e-9)
    table = pd.read_csv(seed / "report.csv").set_index(["task", "split", "metric"])
    apart = numbers.dropna(subset="value")
    r2 = (
        1
        - ((apart.value - apart.predicted_value) ** 2).sum() / ((apart.value - apart.value.mean()) ** 2).sum()
    )
    assert table.loc[("Ki67", "test", "r2"), "value"] == pytest.approx(r2, rel=1e-9)
    assert table.loc[("Ki67", "test", "r2"), "n"] == len(apart)


def test_new_patients_get_every_task_from_a_bundle_alone(house: House, tmp_path: Path) -> None:
    checkpoint.main(["bundle", str(house.run), str(tmp_path / "bundle")])
    assert (
        json.loads((tmp_path / "bundle" / "tasks.json").read_text())
        == json.loads((house.run / "config.json").read_text())["model"]["tasks"]
    )
    card = (tmp_path / "bundle" / "README.md").read_text()
    assert "- Grade predicts the classes low, middle, high, trained on the column `Grade`." in card
    assert "- Ki67 predicts a number, trained on the column `Ki67`." in card and "R², Ki67" in card
    (tmp_path / "features").mkdir()
    for row in house.rows["test"]:
        shutil.copy(row["features_path"], tmp_path / "features" / f"{row['case_id']}.h5")
    tables = []
    for run in (house.run, tmp_path / "bundle"):
        words = [str(run), f"--features_dir={tmp_path / 'features'}", f"--output={tmp_path / 'p.csv'}"]
        assert prediction.main([*words, "--device=cpu"]) == 0
        tables.append(pd.read_csv(tmp_path / "p.csv").set_index("patient"))
    pd.testing.assert_frame_equal(*tables, rtol=1e-6)
    theirs = pd.read_csv(house.run / "seed_0" / "predictions" / "test.csv").set_index(["task", "case_id"])
    for case, ours in tables[1].iterrows():
        assert ours["risk"] == pytest.approx(theirs.loc[("General", case), "risk"], abs=1e-6)
        assert ours["Ki67 value"] == pytest.approx(theirs.loc[("Ki67", case), "predicted_value"], abs=1e-6)
        grade = theirs.loc[("Grade", case)]
        assert ours["Grade class"] == grade["prediction_name"]
        assert ours["Grade probability high"] == pytest.approx(grade["probability high"], abs=1e-6)
        assert ours["Grade zero_shot_class"] in GRADES and ours["zero_shot_class"] in ("LumA", "LumB")


def test_evaluation_reads_the_tasks_back_and_refuses_others(house: House, tmp_path: Path) -> None:
    evaluation = {
        "eval_only": 1,
        "eval_weights": house.run,
        "num_epochs": None,
        "output_path": tmp_path / "eval",
    }
    train_modaltune.main(house.flags(**evaluation))
    ours, theirs = (report(root) for root in (tmp_path / "eval", house.run))
    pd.testing.assert_frame_equal(ours, theirs)
    rescore.rescore(house.run, tmp_path / "again")
    again = report(tmp_path / "again")
    probes = ~theirs.metric.str.startswith("zero_shot_")
    pd.testing.assert_frame_equal(again, theirs[probes].reset_index(drop=True))
    other = task_file(tmp_path / "other.json", sentence="Proliferation: {Ki67}")
    with pytest.raises(ValueError, match=r"trained on other tasks than --tasks .* of Ki67"):
        train_modaltune.main(house.flags(**evaluation, tasks=other))
    with pytest.raises(ValueError, match=r"holds a run on other tasks .* of Ki67"):
        train_modaltune.main(house.flags(tasks=other, text_location=rows_of(tmp_path)))
    with pytest.raises(ValueError, match="holds the sentences of other tasks"):
        train_modaltune.main(house.flags(tasks=other, output_path=tmp_path / "new"))
    with pytest.raises(ValueError, match=r"holds the sentences of other tasks.*pass the --tasks"):
        train_modaltune.main(house.flags(output_path=tmp_path / "new"))


def test_processes_share_what_tasks_are_evaluated_by(house: House, tmp_path: Path) -> None:
    flags = house.flags(eval_only=1, eval_weights=house.run, num_epochs=None, output_path=tmp_path)
    assert run_ranks(2, lambda: train_modaltune.main(flags)) == [0, 0]
    pd.testing.assert_frame_equal(report(tmp_path), report(house.run))


def test_sites_are_evaluated_by_the_tasks(house: House, tmp_path: Path) -> None:
    """Nobody of the second site has the number: its line says so, and the others stand."""
    changes: dict[str, object] = {"tasks": house.tasks, "output_path": tmp_path / "run"}
    shutil.copy(house.hospital.cohort_file, house.hospital.cohort_file.with_stem("clinic"))
    for split, rows in house.rows.items():
        sites = [{**row, "site": ("HOUSE", "CLINIC")[n % 2]} for n, row in enumerate(rows)]
        sites = [row if row["site"] == "HOUSE" else {**row, "Ki67": None} for row in sites]
        changes[f"{split}_json"] = tmp_path / f"{split}.json"
        (tmp_path / f"{split}.json").write_text(json.dumps({"data": sites}))
    train_modaltune_pancancer.main([*house.flags(**changes), "--sites", "HOUSE", "CLINIC"])
    table = pd.read_csv(tmp_path / "run" / "seed_0" / "report.csv")
    assert table.task.unique().tolist() == TOKENS
    table = table[table.split == "test"].set_index(["task", "metric", "site"]).sort_index()
    assert table.loc[("Grade", "balanced_accuracy"), "value"].notna().all()
    numbers = table.loc[("Ki67", "r2")]
    assert numbers["value"].isna().to_dict() == {"HOUSE": False, "CLINIC": True, "overall": False}
    assert numbers.loc["CLINIC", "reason"] == "no case of known Ki67 among the training cases"
    assert numbers.loc["overall", "reason"] == "mean of 1 sites, not evaluable: CLINIC"


def report(root: Path) -> pd.DataFrame:
    """The numbers of a report, which differ in their last digits at most."""
    return pd.read_csv(root / "seed_0" / "report.csv").drop(columns="checksum", errors="ignore")


def rows_of(folder: Path) -> Path:
    """The sentences without the file that says which tasks they are of."""
    return Path(shutil.copy(constants.text_table("HOUSE"), folder / "texts.pt"))


def test_explanations_are_of_the_task(house: House) -> None:
    loaded = LoadedRun.open(house.run, torch.device("cpu"))
    written = pd.read_csv(house.run / "seed_0" / "predictions" / "test.csv").set_index(["task", "case_id"])
    (number,) = loaded.targets(["number"], "Ki67")
    high, near = loaded.targets(["probability:2", "zero_shot:2"], "Grade")
    assert (high.title, near.title) == ("probability of high", "similarity to the sentences of high")
    case = loaded.datasets["test"][0]
    with torch.no_grad():
        outputs = loaded.model(case)
    expected = written.loc[("Ki67", case.case_id), "predicted_value"]
    assert float(number(outputs[4])) == pytest.approx(expected, abs=1e-5)
    share = written.loc[("Grade", case.case_id), "probability high"]
    assert float(high(outputs[3])) == pytest.approx(share, abs=1e-5)
    assert -1 <= float(near(outputs[3])) <= 1
    with pytest.raises(ValueError, match="no number to explain"):
        loaded.targets(["number"], "Grade")


def test_the_doctor_counts_and_refuses(
    house: House, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [word for word in house.flags(tasks=house.tasks) if not word.startswith("--output_path")]
    assert doctor.main(words) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "Ki67 of 8 of 8 patients is known" in said or "Ki67 of" in said
    evaluate = [{"kind": "number", "column": "Age"}]
    wrong = task_file(tmp_path / "wrong.json", sentence="Ki67: {Ki67}", evaluate=evaluate)
    with pytest.raises(ValueError, match="tells of no patient what the task file evaluates by 'Age'"):
        train_modaltune.main(house.flags(tasks=wrong, output_path=tmp_path / "new"))
    words = [word for word in house.flags(tasks=wrong) if not word.startswith("--output_path")]
    assert doctor.main(words) == 1
    assert "evaluates by 'Age'" in " ".join(capsys.readouterr().out.split())
