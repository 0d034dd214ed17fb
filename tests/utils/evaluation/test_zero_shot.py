"""Zero-shot evaluation against loops over patients and sentences."""

import numpy as np
import pytest
import torch

from tests.utils.evaluation.evaluation_data import make_embeddings, slow_concordance
from utils.evaluation.zero_shot import Candidates, read_candidates
from utils.training.objectives import TextDistillation

WIDTH = 8


def make_candidates(sizes=(2, 3), seed=0) -> Candidates:
    rng = np.random.default_rng(seed)

    def unit(rows):
        vectors = rng.normal(size=(rows, WIDTH))
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)

    return Candidates([unit(rows) for rows in sizes], unit(4), unit(4))


def cosine(one, other):
    return float(one @ other / np.linalg.norm(one) / np.linalg.norm(other))


def test_the_nearest_sentence_gives_the_class():
    cases, candidates = make_embeddings(50, tasks=2), make_candidates()
    result = candidates.subtype(cases, 1)
    for vector, predicted in zip(cases.task(1), result.predictions, strict=True):
        best, best_class = -2.0, None
        for number, members in enumerate(candidates.classes):
            for sentence in members:
                if cosine(vector, sentence) > best:
                    best, best_class = cosine(vector, sentence), number
        assert predicted == best_class
    assert result.probabilities.sum(axis=1) == pytest.approx(np.ones(50))
    assert (result.probabilities.argmax(axis=1) == result.predictions).all()
    assert set(result.predictions) == {0, 1}
    assert result.accuracy == pytest.approx(np.mean(result.predictions == cases.labels))


def test_the_risk_compares_early_deaths_with_late_censoring():
    cases, candidates = make_embeddings(40), make_candidates()
    result = candidates.survival(cases, 0)
    for vector, risk in zip(cases.task(0), result.risk, strict=True):
        early = sum(cosine(vector, candidates.died[k]) for k in (0, 1)) / 2
        late = sum(cosine(vector, candidates.censored[k]) for k in (2, 3)) / 2
        assert risk == pytest.approx(early - late, abs=1e-6)
    expected = slow_concordance(cases.durations, cases.events, result.risk)
    assert result.concordance_index == pytest.approx(expected)


def test_a_patient_on_its_sentence_is_recognised():
    candidates = make_candidates()
    vectors = np.stack([members[-1] for members in candidates.classes])[:, None]
    cases = make_embeddings(2, vectors=5 * vectors, labels=[0, 1])
    assert candidates.subtype(cases, 0).balanced_accuracy == 1.0
    fates = np.stack([candidates.died[0], candidates.censored[3]])[:, None]
    cases = make_embeddings(2, vectors=fates, durations=[2.0, 50.0], events=[1, 0])
    assert candidates.survival(cases, 0).concordance_index == 1.0


def test_unknown_classes_and_times_take_no_part():
    labels, durations = np.arange(20) % 3 - 1, np.arange(20.0)
    durations[[3, 5]] = np.nan
    cases = make_embeddings(20, labels=labels, durations=durations)
    candidates = make_candidates()
    assert len(candidates.subtype(cases, 0).case_ids) == np.sum(labels >= 0)
    assert len(candidates.survival(cases, 0).case_ids) == 18


def test_nothing_to_score_has_a_reason():
    cases, candidates = make_embeddings(6, labels=[-1] * 6, durations=[np.nan] * 6), make_candidates()
    assert candidates.subtype(cases, 0).reason and candidates.survival(cases, 0).reason


# ---------------------------------------------------------------------------- files
def sentence_table(classes=11, seed=0):
    generator = torch.Generator().manual_seed(seed)
    groups = {f"class_{i}": torch.randn(1 + i % 3, 512, generator=generator) for i in range(classes)}
    return groups | {name: torch.randn(4, 512, generator=generator) for name in ("died", "censored")}


def test_sentences_are_projected_as_in_training(tmp_path):
    table, objective = sentence_table(), TextDistillation(WIDTH)
    torch.save({"BRCA": table, "RCC": sentence_table(3, 1)}, tmp_path / "c.pt")
    read = read_candidates(tmp_path / "c.pt", objective)
    assert list(read) == ["BRCA", "RCC"] and len(read["RCC"].classes) == 3
    for number, members in enumerate(read["BRCA"].classes):  # class 10 follows class 9
        projected = objective.projector(table[f"class_{number}"])
        expected = projected / projected.norm(dim=1, keepdim=True)
        np.testing.assert_allclose(members, expected.numpy(), rtol=1e-5, atol=1e-6)
    assert read["BRCA"].died.shape == (4, WIDTH)


@pytest.mark.parametrize(
    "content",
    [
        [1, 2],
        {"BRCA": {"died": torch.zeros(4, 512)}},
        {"BRCA": {**sentence_table(2), "class_1": torch.zeros(2, 100)}},
        {"case": torch.zeros(4, 512)},
    ],
)
def test_other_files_are_refused(tmp_path, content):
    torch.save(content, tmp_path / "c.pt")
    with pytest.raises(ValueError, match=r"c\.pt holds no candidate sentences"):
        read_candidates(tmp_path / "c.pt", TextDistillation(WIDTH))


def test_a_missing_file_names_the_remedy(tmp_path):
    with pytest.raises(FileNotFoundError, match="make_textemb_conch"):
        read_candidates(tmp_path / "none.pt", TextDistillation(WIDTH))


def test_a_cohort_without_classes_or_survival_leaves_that_out(tmp_path):
    table = sentence_table(2)
    fates = {name: table[name] for name in ("died", "censored")}
    classes = {name: value for name, value in table.items() if name.startswith("class_")}
    torch.save({"A": fates, "B": classes}, tmp_path / "c.pt")
    found = read_candidates(tmp_path / "c.pt", TextDistillation(WIDTH))
    cases = make_embeddings(40)
    assert "no classes" in found["A"].subtype(cases, 0).reason
    assert not found["A"].survival(cases, 0).reason
    assert "no survival times" in found["B"].survival(cases, 0).reason
    assert not found["B"].subtype(cases, 0).reason
