"""The distillation loss against its formula, and what must not learn."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from utils.training.objectives import TextDistillation, TextProjector


def softmax(values, temperature):
    exponentials = [math.exp(v / temperature) for v in values]
    return [e / sum(exponentials) for e in exponentials]


def normalised(values):
    length = math.sqrt(sum(v * v for v in values))
    return [v / length for v in values]


def projected(text, state):
    """Linear -> LayerNorm -> ReLU -> Linear of one sentence, by loops over the output width."""
    weight, bias = state["projector.0.weight"], state["projector.0.bias"]
    hidden = [float(sum(weight[o] * text) + bias[o]) for o in range(len(bias))]
    mean = sum(hidden) / len(hidden)
    variance = sum((h - mean) ** 2 for h in hidden) / len(hidden)
    hidden = [
        (h - mean) / math.sqrt(variance + 1e-5) * float(w) + float(b)
        for h, w, b in zip(hidden, state["projector.1.weight"], state["projector.1.bias"], strict=True)
    ]
    hidden = [max(h, 0.0) for h in hidden]
    weight, bias = state["projector.3.weight"], state["projector.3.bias"]
    return [
        sum(float(weight[o, i]) * h for i, h in enumerate(hidden)) + float(bias[o]) for o in range(len(bias))
    ]


def loss_by_hand(outputs, text, state, rows, temperature):
    total = 0.0
    for task, row in enumerate(rows):
        teacher = softmax(normalised(projected(text[row], state)), temperature)
        student = softmax(normalised(outputs[task].tolist()), temperature)
        total += sum(p * (math.log(p) - math.log(q)) for p, q in zip(teacher, student, strict=True))
    return 10 * temperature**2 * total


def example(num_tasks=3, width=5, seed=0, **options):
    generator = torch.Generator().manual_seed(seed)
    objective = TextDistillation(width, num_tasks, **options).double()
    with torch.no_grad():
        for parameter in objective.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)
    outputs = torch.randn(num_tasks, width, generator=generator, dtype=torch.float64)
    text = torch.randn(4, 512, generator=generator, dtype=torch.float64)
    return objective, outputs, text


@settings(max_examples=15, deadline=None)
@given(st.integers(1, 3), st.sampled_from([0.5, 1.0, 3.0]), st.integers(2, 7), st.integers(0, 100))
def test_equals_the_formula(num_tasks, temperature, width, seed):
    objective, outputs, text = example(num_tasks, width, seed, temperature=temperature)
    rows = [0, 1, 3][:num_tasks]
    expected = loss_by_hand(outputs, text, objective.state_dict(), rows, temperature)
    assert float(objective.divergence(outputs, text)) == pytest.approx(expected, rel=1e-10, abs=1e-12)


def test_the_stage_sentence_is_not_learned():
    objective, outputs, text = example()
    before = objective.divergence(outputs, text)
    for row in range(4):
        changed = text.clone()
        changed[row] += torch.linspace(-1, 1, 512, dtype=torch.float64)
        assert (objective.divergence(outputs, changed) == before) == (row == 2)


def test_is_zero_where_outputs_are_the_targets_and_blind_to_their_length():
    objective, _, text = example()
    targets = objective.targets(text)
    torch.testing.assert_close(targets.norm(dim=1), torch.ones(3, dtype=torch.float64))
    assert float(objective.divergence(targets * 7, text)) == pytest.approx(0, abs=1e-12)
    assert float(objective.divergence(-targets, text)) > 0.1


def test_only_the_outputs_receive_a_gradient():
    objective, outputs, text = example()
    outputs.requires_grad_(), text.requires_grad_()
    objective.divergence(outputs, text).backward()
    assert outputs.grad.abs().min() > 0 and text.grad is None
    assert all(not p.requires_grad and p.grad is None for p in objective.parameters())
    torch.autograd.gradcheck(lambda x: objective.divergence(x, text.detach()), outputs)


def test_the_state_dict_is_the_projector(tmp_path):
    objective, outputs, text = example()
    names = {f"projector.{layer}.{kind}" for layer in (0, 1, 3) for kind in ("weight", "bias")}
    assert set(objective.state_dict()) == names
    other = TextDistillation(5, 3).double()
    assert other.divergence(outputs, text) != objective.divergence(outputs, text)
    other.load_state_dict(objective.state_dict())
    assert other.divergence(outputs, text) == objective.divergence(outputs, text)


def test_the_projector_is_the_published_one():
    projector = TextProjector(256)
    assert [tuple(p.shape) for p in projector.parameters()] == [
        (256, 512), (256,), (256,), (256,), (256, 256), (256,)
    ]  # fmt: skip
    assert [type(layer).__name__ for layer in projector] == ["Linear", "LayerNorm", "ReLU", "Linear"]
    assert projector(torch.zeros(4, 512)).shape == (4, 256)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_autocast_keeps_the_loss(dtype):
    objective, outputs, text = (x.float() for x in example(width=32))
    expected = objective.divergence(outputs, text)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = objective.divergence(outputs.to(dtype), text)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, expected, rtol=1e-6 if dtype == torch.float32 else 2e-2, atol=1e-6)


@pytest.mark.parametrize("num_tasks", [0, 4, -1])
def test_texts_exist_for_one_to_three_tasks(num_tasks):
    with pytest.raises(ValueError, match=f"num_tasks is {num_tasks}; texts exist for 1 to 3"):
        TextDistillation(5, num_tasks)


@pytest.mark.parametrize("outputs", [1, 2, 4])
def test_a_wrong_number_of_outputs_is_not_broadcast(outputs):
    objective, _, text = example()
    with pytest.raises(ValueError, match=f"{outputs} task outputs for 3 texts"):
        objective.divergence(torch.zeros(outputs, 5, dtype=torch.float64), text)


# ---------------------------------------------------------------------------- centred targets
def test_centred_targets_are_what_tells_patients_apart():
    objective, _, _ = example(centred=True)
    texts = torch.randn(6, 4, 512, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    objective.fit_centre(texts)
    state = objective.state_dict()
    every = [[projected(text[row], state) for row in (0, 1, 3)] for text in texts]
    for task in range(3):
        centre = [sum(patient[task][o] for patient in every) / 6 for o in range(5)]
        assert state["centre"][task].tolist() == pytest.approx(centre)
        expected = normalised([v - c for v, c in zip(every[2][task], centre, strict=True)])
        assert objective.targets(texts[2])[task].tolist() == pytest.approx(expected)
    mean = state["centre"].mean(0)
    expected = normalised([v - float(c) for v, c in zip(every[0][0], mean, strict=True)])
    assert objective.project(texts[0, 0]).tolist() == pytest.approx(expected)


def test_published_targets_have_no_centre():
    objective, _, text = example()
    before = objective.targets(text)
    objective.fit_centre(text[None])
    assert torch.equal(objective.targets(text), before) and "centre" not in objective.state_dict()
    with pytest.raises(ValueError, match="temperature is 0, should be positive"):
        TextDistillation(5, temperature=0)


def test_a_token_without_its_sentence_does_not_learn():
    objective, outputs, text = example()
    text[3] = torch.nan
    outputs.requires_grad_()
    loss = objective.divergence(outputs, text)
    expected = loss_by_hand(outputs.detach()[:2], text, objective.state_dict(), [0, 1], 1.0)
    assert loss.item() == pytest.approx(expected, rel=1e-10)
    loss.backward()
    assert outputs.grad[:2].abs().min() > 0
    assert torch.equal(outputs.grad[2], torch.zeros_like(outputs.grad[2]))


def test_the_centre_is_that_of_those_who_have_the_sentence():
    objective, _, text = example(centred=True)
    texts = torch.stack([text, text.flip(0), text.roll(1, 0)])
    texts[0, 3] = torch.nan
    objective.fit_centre(texts)
    expected = objective.projector(texts[1:, 3]).mean(dim=0)
    torch.testing.assert_close(objective.centre[2], expected)
