"""ModalTune against the oracle, and the behaviour the method promises."""

import pytest
import torch

from models.aggregators import DataSpec, available_aggregators, build_aggregator
from models.aggregators.modaltune import check_stages
from tests import oracle
from tests.models.prov_gigapath.test_dilated_attention import oracle as dilated_oracle
from utils.checkpoint import from_published, load_trainable, to_published, trainable_state

GENES = "longnetvit_gene_adapter"
CLINICAL = "longnetvit_gene_clinical_adapter"


def build(name, config, pathways, num_tasks=3):
    return build_aggregator(name, config, DataSpec(pathways, num_tasks)).eval()


@pytest.mark.parametrize("name", [GENES, CLINICAL])
@pytest.mark.parametrize("token_agg", ["sum", "cat"])
@pytest.mark.parametrize("length", [1, 11])
def test_equals_oracle(name, token_agg, length, tiny_config, pathways, make_case, randomise):
    tiny_config["token_agg"] = token_agg
    model = randomise(build(name, tiny_config, pathways)).double()
    model.backbone.vit.axis_positions = oracle.position_code(
        torch.stack([torch.zeros(1000), torch.arange(1000)], 1), 48
    )[:, :24]
    case = make_case(length, dtype=torch.float64)
    state = to_published(model.state_dict(), [len(p) for p in pathways])
    expected = oracle.modaltune(state, tiny_config, case, pathways, 3, dilated_oracle, name == CLINICAL)
    torch.testing.assert_close(model(case), expected, rtol=1e-8, atol=1e-8)


def test_single_precision_and_computed_positions(tiny_config, pathways, make_case, randomise):
    model = randomise(build(GENES, tiny_config, pathways), scale=0.2)
    case = make_case(50)
    state = {k: v.double() for k, v in to_published(model.state_dict(), [len(p) for p in pathways]).items()}
    double = make_case(50, dtype=torch.float32).to("cpu")
    double = type(case)(
        **{**double.__dict__, "features": case.features.double(), "genes": case.genes.double()}
    )
    expected = oracle.modaltune(state, tiny_config, double, pathways, 3, dilated_oracle)
    torch.testing.assert_close(model(case).double(), expected, rtol=1e-4, atol=1e-4)


def test_gradients_equal_oracle(tiny_config, pathways, make_case, randomise):
    model = randomise(build(GENES, tiny_config, pathways)).double()
    model.backbone.vit.axis_positions = model.backbone.vit.axis_positions.double()
    case = make_case(9, dtype=torch.float64)
    probe = torch.randn(3, 7, dtype=torch.float64)
    (model(case) * probe).sum().backward()
    # The oracle gets its own copies of the parameters, in the published layout.
    leaves = {k: v.detach().clone().requires_grad_() for k, v in model.state_dict().items()}
    state = to_published(leaves, [len(p) for p in pathways])
    expected = oracle.modaltune(state, tiny_config, case, pathways, 3, dilated_oracle)
    (expected * probe).sum().backward()
    compared = 0
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            # positions are float32 sines here and float64 sines there
            torch.testing.assert_close(parameter.grad, leaves[name].grad, rtol=1e-4, atol=1e-5)
            compared += 1
    assert compared == len(trainable_state(model))


@pytest.mark.parametrize("name", [GENES, CLINICAL])
def test_tasks_run_alone_as_in_a_batch(name, tiny_config, pathways, make_case, randomise):
    model, case = randomise(build(name, tiny_config, pathways)), make_case()
    together = model(case)
    alone = torch.cat([model(case, tasks=[task]) for task in range(3)])
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", [GENES, CLINICAL])
def test_closed_gates_leave_the_slide_encoder_alone(name, tiny_config, pathways, make_case):
    model, case = build(name, tiny_config, pathways), make_case()
    captured = {}
    pool = model.backbone.pool
    model.backbone.pool = lambda cls, patches, context: captured.setdefault(
        "image", pool(cls, patches, context)
    )
    model(case)
    tokens = torch.cat(model.backbone.embed(case, 1)[:2], dim=1)
    for block in model.backbone.blocks:
        tokens = block(tokens)
    torch.testing.assert_close(captured["image"][0], tokens[:, 0], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", [GENES, CLINICAL])
def test_only_adapter_parameters_learn(name, tiny_config, pathways, make_case, randomise):
    model = randomise(build(name, tiny_config, pathways)).train()
    model(make_case()).square().sum().backward()
    for parameter_name, parameter in model.named_parameters():
        assert parameter.requires_grad != parameter_name.startswith("backbone."), parameter_name
        assert (parameter.grad is not None) == parameter.requires_grad, parameter_name


def test_at_initialisation_of_the_injector_only_the_gate_learns(tiny_config, pathways, make_case):
    model = build(GENES, tiny_config, pathways)
    model(make_case()).square().sum().backward()
    injector = model.interactions[0].injector
    assert injector.gamma.grad.abs().max() > 0
    assert injector.attn.q_proj.weight.grad.abs().max() == 0


def test_training_mode_draws_masks_per_task(tiny_config, pathways, make_case, randomise):
    model = randomise(build(GENES, tiny_config, pathways)).train()
    case = make_case()
    with torch.no_grad():  # the same task thrice: only the masks differ
        torch.manual_seed(0)
        first, second, third = model(case, tasks=[1, 1, 1])
        cls, patches, _ = model.backbone.embed(case, 2)
        tokens, spans = model.modality_tokens(case, [1, 1])
    assert not torch.equal(first, second) and not torch.equal(second, third)
    assert not torch.equal(patches[0], patches[1]) and not torch.equal(cls[0], cls[1])
    assert not torch.equal(tokens[0, spans["genes"]], tokens[1, spans["genes"]])


def test_activation_checkpointing_changes_nothing(tiny_config, pathways, make_case, randomise):
    model = randomise(build(CLINICAL, tiny_config, pathways), scale=0.2).train()
    grads = {}
    for mode in ("off", "on"):
        model.activation_checkpointing = mode
        model.zero_grad()
        torch.manual_seed(3)
        model(make_case()).square().sum().backward()
        grads[mode] = [p.grad.clone() for p in model.parameters() if p.requires_grad]
    for off, on in zip(grads["off"], grads["on"], strict=True):
        assert torch.equal(off, on)


def test_auto_checkpointing_follows_the_free_memory(tiny_config, pathways, monkeypatch):
    model = build(GENES, tiny_config, pathways)
    patches = torch.zeros(3, 100, 48)
    for free, expected in ((1e12, False), (1e5, True)):
        monkeypatch.setattr("models.aggregators.modaltune._free_memory", lambda device, free=free: free)
        assert model._checkpoints_activations(patches) is expected


@pytest.mark.parametrize("name", [GENES, CLINICAL])
def test_published_layout_round_trip(name, tiny_config, pathways, randomise, make_case):
    model = randomise(build(name, tiny_config, pathways))
    published = to_published(model.state_dict(), [len(p) for p in pathways])
    assert published["gene_encoder.gene_networks.2.0.0.weight"].shape == (8, 7)
    assert "interactions.2.extra_extractors.1.ffn.linear2.weight" in published
    assert "encoder.layers.5.self_attn.inner_attn_ln.weight" in published
    assert ("clinical_mlp.3.weight" in published) == (name == CLINICAL)
    other = build(name, tiny_config, pathways)
    load_trainable(other, from_published({**published, "pos_embed": torch.zeros(1)}), "published.pt")
    case = make_case()
    torch.testing.assert_close(other(case), model(case), rtol=0, atol=0)


def test_token_order(tiny_config, pathways, make_case):
    model = build(CLINICAL, tiny_config, pathways)
    tokens, spans = model.modality_tokens(make_case(), range(3))
    assert tokens.shape == (3, 6, 48) and model.gene_pe.shape == (6, 48)
    assert spans == {"clinical": slice(0, 1), "task": slice(1, 2), "genes": slice(2, 6)}
    assert torch.equal(tokens[0, 0], tokens[2, 0]) and not torch.equal(tokens[0, 1], tokens[2, 1])


def test_gene_cls_token(tiny_config, pathways, make_case, randomise):
    tiny_config["prompt_agg"] = "cls"
    model = randomise(build(GENES, tiny_config, pathways))
    tokens, spans = model.modality_tokens(make_case(), range(3))
    assert spans["genes"] == slice(1, 6) and model.gene_pe.shape == (6, 48)
    assert torch.equal(tokens[0, 1], model.gene_cls[0, 0])
    assert model(make_case()).shape == (3, 7)


@pytest.mark.parametrize("field", ["genes", "clinical"])
def test_missing_modality_names_the_case(field, tiny_config, pathways, make_case):
    model = build(CLINICAL, tiny_config, pathways)
    with pytest.raises(ValueError, match="case-4"):
        model(make_case(seed=4, **{field: None}))


def test_wrong_feature_width_names_the_case(tiny_config, pathways, make_case):
    with pytest.raises(ValueError, match=r"case-0.*11 wide.*takes 10"):
        build(GENES, tiny_config, pathways)(make_case(in_dim=11))


@pytest.mark.parametrize("indexes", [[[0, 1], [3, 5]], [[0, 3], [3, 5]], [[0, 4]]])
def test_stages_must_cover_the_blocks(indexes):
    with pytest.raises(ValueError, match="once and in order"):
        check_stages(indexes, 6)


def test_unknown_names_and_keys_are_refused(tiny_config, pathways):
    with pytest.raises(ValueError, match="longnetvit_gene_adapter"):
        build("longnet_gene_adapter", tiny_config, pathways)
    with pytest.raises(ValueError, match="did you mean 'token_agg'"):
        build(GENES, {**tiny_config, "token_ag": "sum"}, pathways)
    with pytest.raises(ValueError, match="token_agg is 'mean'"):
        build(GENES, {**tiny_config, "token_agg": "mean"}, pathways)
    with pytest.raises(ValueError, match="missing keys"):
        build(GENES, {}, pathways)


@pytest.mark.parametrize("name", [n for n in available_aggregators() if "adapter" in n])
def test_state_dict_round_trip(name, tiny_config, pathways, randomise, make_case):
    model = randomise(build(name, tiny_config, pathways))
    other = build(name, tiny_config, pathways)
    other.backbone.load_state_dict(model.backbone.state_dict())
    load_trainable(other, trainable_state(model), "weights.pt")
    assert torch.equal(other(make_case()), model(make_case()))
