"""Cross-entropy of the subtype head by hand, and what counts."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from tests.utils.evaluation.evaluation_data import make_embeddings
from tests.utils.training.objectives.test_survival import case
from utils.training.objectives import SubtypeObjective


def test_equals_the_formula_on_its_token():
    torch.manual_seed(0)
    objective = SubtypeObjective(6, 3, task=1)
    outputs = torch.randn(2, 6)
    logits = objective.classifier(outputs[1]).tolist()
    expected = -math.log(math.exp(logits[2]) / sum(math.exp(v) for v in logits))
    assert objective(outputs, case(label=2)).item() == pytest.approx(expected, rel=1e-6)


def test_cases_of_no_class_do_not_count():
    objective = SubtypeObjective(6, 3)
    assert objective.learns_from(case(label=0))
    assert not objective.learns_from(case(label=-1))
    for label in (-1, 3):
        with pytest.raises(ValueError, match=f"has class {label}; the head has 3"):
            objective(torch.zeros(1, 6), replace(case(), label=label))


def test_the_head_predicts_as_the_layer_does():
    torch.manual_seed(1)
    cases = make_embeddings(14, tasks=2, width=6)
    objective = SubtypeObjective(6, 2, task=1)
    expected = objective.classifier(torch.from_numpy(cases.vectors[:, 1])).softmax(1).detach().numpy()
    head = objective.heads()["subtype"]
    np.testing.assert_allclose(head.probabilities(cases), expected, rtol=1e-5)
    result = head.subtype(cases)
    known = cases.labels >= 0
    assert result.predictions.tolist() == expected[known].argmax(1).tolist()
    assert result.case_ids == cases.select_ids(known)


def test_the_head_is_a_copy():
    objective = SubtypeObjective(6, 2)
    head = objective.heads()["subtype"]
    before = head.weight.copy()
    with torch.no_grad():
        objective.classifier.weight.zero_()
    assert np.array_equal(head.weight, before)
