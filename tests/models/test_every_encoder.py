"""What ModalTune promises, on every registered slide encoder with every set of modalities."""

import re

import pytest
import torch

from models.aggregators import DataSpec, available_aggregators, build_aggregator, modalities_of
from models.encoders import encoder_of, slide_encoders
from models.modalities import all_modalities
from tests.structures import structures
from utils.training.checkpoint import from_published, load_trainable, to_published, trainable_state

EVERY = [name for name in available_aggregators() if name.endswith("_adapter")]
# Every encoder without modalities, with one of either place, and with all of them.
CHOSEN = ("adapter", "clinical_adapter", "gene_adapter", "gene_clinical_vectors_adapter")
NAMES = [name for name in EVERY if name.removeprefix(f"{encoder_of(name).prefix}_") in CHOSEN]
MODALITIES = all_modalities()
TOKENS = {"clinical": 1, "vectors": 3}  # of make_case, besides task and genes


@pytest.fixture(params=NAMES)
def name(request):
    return request.param


@pytest.fixture
def build(name, tiny_configs, pathways):
    """``build(token_agg="cat")``: the model in evaluation mode, with changes to its config."""

    def make(missing="drop", **changes):
        config = {**tiny_configs[encoder_of(name).name], **changes}
        spec = DataSpec(structures(pathways, (3, 6)), 3, missing)
        return build_aggregator(name, config, spec).eval()

    return make


def test_every_encoder_is_here(tiny_configs):
    assert {encoder_of(name).name for name in NAMES} == set(slide_encoders()) == set(tiny_configs)
    sets = [frozenset(modalities_of(name)) for name in EVERY if name.startswith("titan")]
    assert len(sets) == len(set(sets)) == 2 ** len(MODALITIES)
    assert frozenset(MODALITIES) in sets and len(EVERY) == len(sets) * len(slide_encoders())


# ---------------------------------------------------------------------------- forward
def test_closed_gates_leave_the_slide_encoder_alone(build, make_case, monkeypatch):
    model, case = build(), make_case()
    pooled = []
    pool = model.backbone.pool

    def record(cls, patches, context):
        pooled.append(pool(cls, patches, context))
        return pooled[-1]

    monkeypatch.setattr(model.backbone, "pool", record)
    model(case)
    assert torch.equal(pooled[0], model.backbone(case, 3))
    with torch.no_grad():
        model.interactions[0].injector.gamma.add_(0.1)
    model(case)
    assert not torch.allclose(pooled[2], pooled[0])


@pytest.mark.parametrize("length", [1, 23])
def test_shapes(build, make_case, length):
    model, case = build(), make_case(length)
    cls, patches, _ = model.backbone.embed(case, 3)
    assert cls.shape == (3, 1, 48) and patches.shape == (3, length, 48)
    assert model(case).shape == (3, 7) and model(case, tasks=[2]).shape == (1, 7)


def others_of(name):
    """Modalities before the task token, in order, with how many tokens each has."""
    return {other: TOKENS[other] for other in ("clinical", "vectors") if other in name}


def test_token_order(name, build, make_case):
    model = build()
    tokens, spans = model.modality_tokens(make_case(), range(3))
    expected, first = {}, 0
    for other, count in others_of(name).items():
        expected[other] = slice(first, first + count)
        first += count
    expected["task"], last = slice(first, first + 1), first + 1
    if "gene" in name:
        expected["genes"], last = slice(first + 1, first + 5), first + 5
    assert spans == expected and list(spans) == list(expected)
    assert tokens.shape == (3, last, 48) and model.gene_pe.shape == (last, 48)
    task = tokens[:, spans["task"]]
    assert not torch.equal(task[0], task[1]) and not torch.equal(task[1], task[2])
    others = torch.cat([tokens[:, :first], tokens[:, first + 1 :]], dim=1)
    assert torch.equal(others[0], others[2])


def test_tasks_run_alone_as_in_a_batch(build, make_case, randomise):
    model, case = randomise(build()), make_case()
    alone = torch.cat([model(case, tasks=[task]) for task in range(3)])
    torch.testing.assert_close(model(case), alone, rtol=1e-4, atol=1e-5)


def test_copies_draw_their_own_masks_in_training_only(name, build, make_case, randomise):
    model, case = randomise(build()), make_case()
    with torch.no_grad():  # the same task thrice: only the masks differ
        first, second, third = model(case, tasks=[1, 1, 1])
        torch.testing.assert_close(first, third)
        if name.startswith("titan") and "gene" not in name:
            return  # nothing in it is random but the depth of the extractors
        first, second, third = model.train()(case, tasks=[1, 1, 1])
    assert not torch.allclose(first, second) and not torch.allclose(second, third)


def test_gene_cls_token(name, build, make_case, randomise):
    if "gene" not in name:
        with pytest.raises(ValueError, match="prompt_agg cls needs genes"):
            build(prompt_agg="cls")
        return
    model = randomise(build(prompt_agg="cls"))
    tokens, spans = model.modality_tokens(make_case(), range(3))
    first = 1 + sum(others_of(name).values())
    assert spans["genes"] == slice(first, first + 5) and len(model.gene_pe) == first + 5
    assert torch.equal(tokens[0, first], model.gene_cls[0, 0])
    assert model(make_case()).shape == (3, 7)


# ---------------------------------------------------------------------------- gradients
def test_only_adapter_parameters_learn(build, make_case, randomise):
    model = randomise(build()).train()
    model(make_case()).square().sum().backward()
    for parameter_name, parameter in model.named_parameters():
        assert parameter.requires_grad != parameter_name.startswith("backbone."), parameter_name
        assert (parameter.grad is not None) == parameter.requires_grad, parameter_name


def test_at_initialisation_of_the_injector_only_the_gate_learns(build, make_case):
    model = build()
    model(make_case()).square().sum().backward()
    injector = model.interactions[0].injector
    assert injector.gamma.grad.abs().max() > 0
    assert injector.attn.q_proj.weight.grad.abs().max() == 0


def test_activation_checkpointing_changes_nothing(build, make_case, randomise):
    model = randomise(build(), scale=0.2).train()
    grads = {}
    for mode in ("off", "on"):
        model.activation_checkpointing = mode
        model.zero_grad()
        torch.manual_seed(3)
        model(make_case()).square().sum().backward()
        grads[mode] = [p.grad.clone() for p in model.parameters() if p.requires_grad]
    for off, on in zip(grads["off"], grads["on"], strict=True):
        assert torch.equal(off, on)


@pytest.mark.parametrize("absent", [(), ("genes",), ("clinical", "vectors")])
def test_mixed_precision_stays_near(build, make_case, randomise, absent):
    model = randomise(build("learned"), scale=0.1).train()
    case = make_case(**dict.fromkeys(absent))
    outputs = {}
    for enabled in (False, True):
        torch.manual_seed(3)
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            outputs[enabled] = model(case).float()
    torch.testing.assert_close(outputs[True], outputs[False], rtol=0.1, atol=0.1)
    outputs[True].square().sum().backward()
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    assert gradients and all(torch.isfinite(gradient).all() for gradient in gradients)


# ---------------------------------------------------------------------------- weights
def test_state_dict_round_trip(build, make_case, randomise):
    model, other = randomise(build()), build()
    other.backbone.load_state_dict(model.backbone.state_dict())
    load_trainable(other, trainable_state(model), "weights.pt")
    assert torch.equal(other(make_case()), model(make_case()))


def test_published_layout_round_trip(name, build, make_case, pathways, randomise):
    model, other = randomise(build()), build()
    published = to_published(model.state_dict(), structures(pathways))
    if "gene" in name:
        assert published["gene_encoder.gene_networks.2.0.0.weight"].shape == (8, 7)
    assert "interactions.2.extra_extractors.1.ffn.linear2.weight" in published
    assert ("clinical_mlp.3.weight" in published) == ("clinical" in name)
    assert model.backbone.vit.state_dict().keys() <= published.keys()
    load_trainable(other, from_published({**published, "pos_embed": torch.zeros(1)}), "published.pt")
    assert torch.equal(other(make_case()), model(make_case()))


# ---------------------------------------------------------------------------- what a case lacks
def test_learned_tokens_add_one_vector_per_modality_and_change_nothing_else(name, build, make_case):
    models = {}
    for missing in ("drop", "learned"):
        torch.manual_seed(0)
        models[missing] = build(missing)
    published, learned = (set(models[m].state_dict()) for m in ("drop", "learned"))
    assert learned - published == {f"absent_tokens.{m}" for m in modalities_of(name)} and published <= learned
    count = {m: sum(p.numel() for p in model.parameters()) for m, model in models.items()}
    assert count["learned"] - count["drop"] == 48 * len(modalities_of(name))
    assert torch.equal(models["learned"](make_case()), models["drop"](make_case()))


def test_the_learned_token_stands_for_every_token_of_an_absent_modality(name, build, make_case, randomise):
    model = randomise(build("learned"))
    for absent in modalities_of(name):
        whole, spans = model.modality_tokens(make_case(), range(3))
        tokens, same_spans = model.modality_tokens(make_case(**{absent: None}), range(3))
        assert same_spans == spans and tokens.shape == whole.shape
        expected = model.absent_tokens[absent].expand_as(tokens[:, spans[absent]])
        assert torch.equal(tokens[:, spans[absent]], expected)
        for other in spans.keys() - {absent}:
            assert torch.equal(tokens[:, spans[other]], whole[:, spans[other]])
        assert not torch.allclose(model(make_case(**{absent: None})), model(make_case()))


def test_a_case_of_nothing_but_an_image_trains_the_learned_tokens(name, build, make_case, randomise):
    model = randomise(build("learned")).train()
    model(make_case(genes=None, clinical=None, vectors=None)).square().sum().backward()
    for parameter_name, parameter in model.named_parameters():
        if parameter_name.startswith(("backbone.", "modality_encoders.")):
            assert parameter.grad is None, parameter_name
        elif not modalities_of(name) and re.search("q_proj|k_proj|attn.norm.", parameter_name):
            continue  # attention to a single token does not depend on its score
        else:
            assert parameter.grad is not None and parameter.grad.abs().sum() > 0, parameter_name


def test_closed_gates_leave_the_slide_encoder_alone_without_modalities(build, make_case, monkeypatch):
    model, case = build("learned"), make_case(genes=None, clinical=None, vectors=None)
    pooled, pool = [], model.backbone.pool
    monkeypatch.setattr(model.backbone, "pool", lambda *args: pooled.append(pool(*args)) or pooled[-1])
    model(case)
    assert torch.equal(pooled[0], model.backbone(case, 3))


@pytest.mark.parametrize("field", sorted(MODALITIES))
def test_without_learned_tokens_a_missing_modality_names_the_case(field, name, build, make_case):
    if field in modalities_of(name):
        with pytest.raises(ValueError, match="case-4"):
            build()(make_case(seed=4, **{field: None}))
    else:
        assert build()(make_case(seed=4, **{field: None})).shape == (3, 7)


# ---------------------------------------------------------------------------- bad input
def test_wrong_feature_width_names_the_case(build, make_case):
    with pytest.raises(ValueError, match=r"case-0.*11 wide.*takes 10"):
        build()(make_case(in_dim=11))
