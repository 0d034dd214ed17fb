"""Which modality decides the output: planted models, real runs, and what is said of them."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

import train_modaltune
from data_utils.cases.case import Case
from tests.small_cohort import make_small_cohort
from utils.diagnosis.inputs import Inputs
from utils.diagnosis.weights import check_weights
from utils.evaluation.embeddings import Embeddings
from utils.training.modality_report import (
    IMAGES,
    Exchanged,
    GradientShares,
    ModalityReport,
    modality_report,
    pair,
)
from utils.training.trainer import BEST_WEIGHTS

CLINICAL = "longnetvit_gene_clinical_adapter"


class Cases:
    """Patients with one number each as patch feature, RNA and vector; the last one has no vector."""

    name = "val"

    def __init__(self, count=12):
        values = np.random.default_rng(0).normal(size=(count, 3)).astype(np.float32)
        ids = [f"case-{i}" for i in range(count)]
        self.patients = [SimpleNamespace(case_id=i, submitter_id=f"T-{i}") for i in ids]
        self.inputs = {
            "genes": {i: torch.tensor(v[1:2]) for i, v in zip(ids, values, strict=True)},
            "vectors": {i: torch.tensor(v[2:]) for i, v in zip(ids[:-1], values, strict=False)},
        }
        self.images = torch.from_numpy(values[:, :1])

    def __len__(self):
        return len(self.patients)

    def __getitem__(self, index):
        case_id = self.patients[index].case_id
        inputs = {name: tensors[case_id] for name, tensors in self.inputs.items() if case_id in tensors}
        patches = self.images[index : index + 1]
        coords = torch.full((1, 2), index)
        return Case(case_id, f"T-{case_id}", "TCGA-X", patches, coords, inputs=inputs, label=index % 2)


def embedding(weights):
    """``weights`` times image, RNA and vector, in two task tokens of width one."""

    def embed(dataset):
        cases = [dataset[i] for i in range(len(dataset))]
        outputs = [
            weights[0] * case.features.sum()
            + weights[1] * case.inputs["genes"].sum()
            + weights[2] * (case.inputs["vectors"].sum() if "vectors" in case.inputs else 0)
            for case in cases
        ]
        vectors = np.array(outputs, dtype=np.float32)[:, None, None].repeat(2, axis=1)
        count = len(cases)
        return Embeddings(
            vectors=vectors,
            case_ids=[case.case_id for case in cases],
            labels=[case.label for case in cases],
            durations=np.ones(count),
            events=np.ones(count),
            sites=["X"] * count,
        )

    return embed


def report_of(weights, reads_images=True):
    cases, embed = Cases(), embedding(weights)
    return modality_report(embed, cases, embed(cases), reads_images)


@pytest.mark.parametrize(("position", "name"), enumerate([IMAGES, "genes", "vectors"]))
def test_a_modality_that_decides_alone_has_influence_one(position, name):
    weights = [0.0, 0.0, 0.0]
    weights[position] = 2.0
    found = report_of(weights)
    if name == "vectors":
        # The only patient without a vector is no partner of anybody.
        assert pair(Cases(), name).keys() == set(range(11))
    assert found.influence == {n: pytest.approx(float(n == name)) for n in ("genes", "vectors", IMAGES)}
    assert sorted(found.ignored) == sorted({"genes", "vectors", IMAGES} - {name})


def test_the_influence_of_a_sum_is_the_share_of_its_movement():
    found, cases = report_of([1.0, 3.0, 0.0]), Cases()
    partner = pair(cases, "genes")
    assert all(case != other for case, other in partner.items())
    genes = np.array([float(cases.inputs["genes"][p.case_id]) for p in cases.patients])
    outputs = cases.images[:, 0].double().numpy() + 3 * genes
    moved = np.mean([abs(3 * (genes[j] - genes[i])) for i, j in partner.items()])
    apart = np.mean([abs(outputs[j] - outputs[i]) for i, j in partner.items()])
    assert found.influence["genes"] == pytest.approx(moved / apart, rel=1e-5)
    assert found.ignored == ["vectors"]


def test_only_the_modality_named_is_exchanged():
    cases = Cases()
    for name in (IMAGES, "genes"):
        partner = pair(cases, name)
        exchanged = Exchanged(cases, name, partner)
        for i, j in partner.items():
            own, other, found = cases[i], cases[j], exchanged[i]
            assert (found.case_id, found.label) == (own.case_id, own.label)
            assert torch.equal(found.inputs["genes"], (other if name == "genes" else own).inputs["genes"])
            for part in ("features", "coords"):
                expected = getattr(other if name == IMAGES else own, part)
                assert torch.equal(getattr(found, part), expected)


def test_a_model_without_images_does_not_ignore_them():
    assert IMAGES not in report_of([0.0, 1.0, 0.0], reads_images=False).influence
    assert IMAGES in report_of([0.1, 1.0, 0.0], reads_images=False).influence


def test_outputs_that_are_all_alike_have_no_influences():
    found = report_of([0.0, 0.0, 0.0])
    assert np.isnan(list(found.influence.values())).all()
    assert found.finding("run").level == "warning"
    assert "alike" in found.finding("run").what


def test_what_is_said(tmp_path):
    ModalityReport({"genes": 0.012, IMAGES: 0.9}, {}).save(tmp_path)
    finding = ModalityReport.read(tmp_path).finding("run")
    assert finding.level == "warning"
    assert "genes 0.01, images 0.90; the model ignores the genes" in finding.what
    assert "BALANCED=1" in finding.remedy
    assert ModalityReport({"genes": 0.3, IMAGES: 0.9}, {}).finding("run").level == "OK"
    assert ModalityReport({IMAGES: 1.0}, {}).finding("run") is None
    assert ModalityReport.read(tmp_path / "nothing") is None


def test_gradient_shares_are_squared_norms_averaged_over_steps():
    model = nn.Module()
    model.modality_encoders = nn.ModuleDict({"genes": nn.Linear(1, 1, bias=False)})
    model.adapter = nn.Linear(2, 1, bias=False)
    shares = GradientShares(model)
    for genes, adapter in ((3.0, (0.0, 4.0)), (1.0, (0.0, 0.0))):
        model.modality_encoders["genes"].weight.grad = torch.tensor([[genes]])
        model.adapter.weight.grad = torch.tensor([adapter])
        shares.add()
    assert shares.metrics() == pytest.approx(
        {"gradient_share/genes": (9 / 25 + 1) / 2, "gradient_share/adapter": 16 / 50}
    )
    other = GradientShares(nn.Linear(2, 2))
    other.add()
    assert other.metrics() == {}


@pytest.mark.usefixtures("quick_runs")
def test_a_run_reports_changes_no_number_and_is_read_by_the_doctor(tmp_path):
    cohort = make_small_cohort(tmp_path / "cohort")
    flags = {"mil_name": CLINICAL, "clinical_location": cohort.clinical_values, "num_epochs": 2}
    for name, every in (("plain", 0), ("reported", 2)):
        train_modaltune.main(cohort.flags(tmp_path / name, modality_report_every=every, **flags))
    plain, reported = (
        pd.read_csv(tmp_path / name / "seed_0" / "metrics.csv") for name in ("plain", "reported")
    )
    pd.testing.assert_frame_equal(plain, reported[plain.columns])
    added = reported.drop(columns=plain.columns)
    names = {"genes", "clinical", IMAGES}
    assert added.iloc[0].isna().all()
    assert {c.split("/")[1] for c in added if c.startswith("modality_influence/")} == names
    assert {c.split("/")[1] for c in added if c.startswith("val_balanced_accuracy_exchanged/")} == names
    shares = added.iloc[1][[c for c in added if c.startswith("gradient_share/")]]
    assert len(shares) == 3
    assert shares.sum() == pytest.approx(1)
    for name in ("plain", "reported"):
        table = pd.read_csv(tmp_path / name / "seed_0" / "modalities.csv")
        assert set(table.modality) == names
        assert table.influence.between(0, 3).all()
    from utils.doctor import parse_args

    weights = tmp_path / "plain" / "seed_0" / BEST_WEIGHTS
    words = cohort.flags(tmp_path / "plain", mil_name=CLINICAL, clinical_location=cohort.clinical_values)
    config, _ = parse_args([*words, "--eval_only", "--eval_weights", str(weights)])
    assert any("influence on the output" in finding.what for finding in check_weights(Inputs(config)))
