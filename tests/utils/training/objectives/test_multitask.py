"""Sums of objectives: who counts where, weights given and learned."""

import math

import pytest
import torch

from tests.utils.training.objectives.test_survival import BINS, case
from utils.training.objectives import (
    OBJECTIVES,
    MultiTask,
    ObjectiveConfig,
    SubtypeObjective,
    SurvivalObjective,
    TextDistillation,
    build_objective,
)
from utils.training.objectives.build import distillation_of


class Model(torch.nn.Module):
    output_dim = 6


def parts():
    torch.manual_seed(0)
    return {"subtype": SubtypeObjective(6, 3, task=1), "survival": SurvivalObjective(6, BINS, task=2)}


OUTPUTS = torch.linspace(-1, 1, 18).view(3, 6)


def test_given_weights_are_factors():
    both = MultiTask(parts(), {"subtype": 2.0, "survival": 0.5})
    patient = case(label=1, duration=15.0, event=1)
    subtype, survival = (part(OUTPUTS, patient).item() for part in both.parts.values())
    assert both(OUTPUTS, patient).item() == pytest.approx(2 * subtype + 0.5 * survival)


def test_learned_weights_follow_the_formula_and_learn():
    both = MultiTask(parts())
    with torch.no_grad():
        both.log_variances["subtype"].fill_(0.7)
    patient = case(label=1, duration=15.0, event=1)
    subtype, survival = (part(OUTPUTS, patient).item() for part in both.parts.values())
    loss = both(OUTPUTS, patient)
    assert loss.item() == pytest.approx(math.exp(-0.7) * subtype + 0.35 + survival)
    loss.backward()
    gradient = both.log_variances["subtype"].grad.item()
    assert gradient == pytest.approx(-math.exp(-0.7) * subtype + 0.5)


def test_a_case_counts_where_it_can():
    both = MultiTask(parts())
    only_class = case(label=1)
    assert both(OUTPUTS, only_class).item() == pytest.approx(
        both.parts["subtype"](OUTPUTS, only_class).item()
    )
    only_survival = case(duration=3.0)
    both.zero_grad()
    both(OUTPUTS, only_survival).backward()
    assert both.parts["subtype"].classifier.weight.grad is None
    assert both.log_variances["subtype"].grad is None
    assert not both.learns_from(case())
    with pytest.raises(ValueError, match="no label that the objective learns from"):
        both(OUTPUTS, case())


def test_weights_must_fit():
    with pytest.raises(ValueError, match="one positive number for each"):
        MultiTask(parts(), {"subtype": 1.0})
    with pytest.raises(ValueError, match="one positive number for each"):
        MultiTask(parts(), {"subtype": 1.0, "survival": 0.0})
    with pytest.raises(ValueError, match="has the parts subtype, survival"):
        ObjectiveConfig("multitask", weights=(1.0,))


@pytest.mark.parametrize("name", OBJECTIVES)
@pytest.mark.parametrize("num_tasks", [1, 3])
def test_every_objective_is_built_and_trains(name, num_tasks):
    config = ObjectiveConfig(name, num_classes=3, bins=BINS)
    objective = build_objective(config, Model(), num_tasks)
    patient = case(label=2, duration=25.0, event=0, text=torch.randn(4, 512))
    outputs = torch.randn(num_tasks, 6, requires_grad=True)
    objective(outputs, patient).backward()
    assert outputs.grad.abs().sum() > 0
    assert objective.needs_text == ("distill" in name)
    assert (distillation_of(objective) is not None) == ("distill" in name)
    assert set(objective.heads()) == set(config.parts) - {"distill"}
    tokens = {kind: head.task for kind, head in objective.heads().items()}
    assert (
        tokens.items() <= {"subtype": min(1, num_tasks - 1), "survival": 2 if num_tasks == 3 else 0}.items()
    )
    again = build_objective(config, Model(), num_tasks)
    again.load_state_dict(objective.state_dict())
    assert again(outputs, patient).item() == objective(outputs, patient).item()


def test_distillation_alone_keeps_the_names_of_its_tensors():
    objective = build_objective(ObjectiveConfig("distill"), Model(), 3)
    assert isinstance(objective, TextDistillation)
    assert all(name.startswith("projector.") for name in objective.state_dict())


def test_a_model_may_initialise_its_heads():
    class Own(Model):
        def init_head(self, head):
            torch.nn.init.constant_(head.weight, 0.25)

    objective = build_objective(ObjectiveConfig("multitask", bins=BINS), Own(), 1)
    assert all((part.classifier.weight == 0.25).all() for part in objective.parts.values())


def test_survival_needs_intervals_and_names_are_checked():
    with pytest.raises(ValueError, match="needs survival intervals"):
        build_objective(ObjectiveConfig("survival"), Model(), 1)
    with pytest.raises(ValueError, match="unknown objective 'cox'"):
        ObjectiveConfig("cox")
