"""ModalTune against the oracle on every slide encoder, and its config.

What holds on every encoder alike is in tests/models/test_every_encoder.py.
"""

from dataclasses import replace

import pytest
import torch
from torch import nn

from models.aggregators import DataSpec, build_aggregator
from models.aggregators.modaltune import ModalTune, _free_memory, check_stages
from models.encoders import encoder_of
from models.lora import LowRankLinear
from models.modalities import Modality, ModalityEncoder, registry
from models.pretrained import load_strict
from tests import oracle
from tests.models.prov_gigapath.test_dilated_attention import oracle as dilated_oracle
from tests.structures import structures
from utils.training.checkpoint import to_published, trainable_state

GENES = "longnetvit_gene_adapter"
NAMES = [
    f"{p}_{m}_adapter" for p in ("longnetvit", "gigapath_flash", "titan") for m in ("gene", "gene_clinical")
]


def build(name, config, pathways, num_tasks=3):
    return build_aggregator(name, config, DataSpec(structures(pathways), num_tasks)).eval()


def on_grid(make_case, length, dtype):
    """Patches near each other; of larger cases two lie on one cell and one is background."""
    case = make_case(length, dtype=dtype)
    cells = torch.randperm(64, generator=torch.Generator().manual_seed(1))[:length]
    coords, features = torch.stack([cells // 8, cells % 8], dim=1) * 256 + 7, case.features.clone()
    if length > 10:
        coords[1], features[2] = coords[0] + 5, 0
    return replace(case, coords=coords, features=features)


def oracle_encoder(name, state, config):
    vit = config["slide_encoder"]
    return oracle.Titan(state, vit) if "titan" in name else oracle.GigaPath(state, vit, dilated_oracle)


def with_exact_positions(model):
    """GigaPath's table of sines is float32; the oracle computes them in float64."""
    vit = model.backbone.vit
    if hasattr(vit, "axis_positions"):
        places = torch.stack([torch.zeros(vit.grid_size), torch.arange(vit.grid_size)], dim=1)
        vit.axis_positions = oracle.position_code(places, vit.embed_dim)[:, : vit.embed_dim // 2]
    return model


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("token_agg", ["sum", "cat"])
@pytest.mark.parametrize("length", [1, 11])
def test_equals_oracle(name, token_agg, length, tiny_configs, pathways, make_case, randomise):
    config = {**tiny_configs[encoder_of(name).name], "token_agg": token_agg}
    model = with_exact_positions(randomise(build(name, config, pathways)).double())
    case = on_grid(make_case, length, torch.float64)
    state = to_published(model.state_dict(), structures(pathways))
    encoder = oracle_encoder(name, state, config)
    expected = oracle.modaltune(encoder, state, config, case, pathways, 3, "clinical" in name)
    torch.testing.assert_close(model(case), expected, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("encoder_name", ["longnetvit", "titan"])
@pytest.mark.parametrize("token_agg", ["sum", "cat"])
@pytest.mark.parametrize("absent", [(), ("genes",), ("vectors",), ("clinical", "genes", "vectors")])
def test_further_and_absent_modalities_equal_oracle(
    encoder_name, token_agg, absent, tiny_configs, pathways, make_case, randomise
):
    name = f"{encoder_name}_gene_clinical_vectors_adapter"
    config = {**tiny_configs[encoder_of(name).name], "token_agg": token_agg}
    spec = DataSpec(structures(pathways, (3, 6)), 3, "learned")
    model = with_exact_positions(randomise(build_aggregator(name, config, spec).eval()).double())
    case = on_grid(make_case, 11, torch.float64)
    case = replace(case, inputs={k: v for k, v in case.inputs.items() if k not in absent})
    state = to_published(model.state_dict(), structures(pathways))

    def tokens(modality, count, present):
        if modality in absent:
            return state[f"absent_tokens.{modality}"][0].repeat(count, 1)
        return present()

    def vector_tokens():
        at = "modality_encoders.vectors.network"
        hidden = torch.relu(oracle.linear(case.inputs["vectors"], state, f"{at}.0"))
        return oracle.layer_norm(oracle.linear(hidden, state, f"{at}.2"), state, f"{at}.3")

    clinical = "clinical" not in absent
    others = [] if clinical else [tokens("clinical", 1, None)]
    others.append(tokens("vectors", 3, vector_tokens))
    genes = tokens("genes", 4, lambda: None)
    encoder = oracle_encoder(name, state, config)
    expected = oracle.modaltune(encoder, state, config, case, pathways, 3, clinical, others, genes)
    torch.testing.assert_close(model(case), expected, rtol=1e-8, atol=1e-8)


class MonthsEncoder(ModalityEncoder):
    """Two tokens from a number."""

    num_tokens = 2

    def __init__(self, embed_dim):
        super().__init__()
        self.network = nn.Linear(1, 2 * embed_dim)

    def forward(self, data, num_tasks, case_id):
        return self.network(data).reshape(1, 2, -1).expand(num_tasks, -1, -1)


class Months(Modality):
    """A modality nobody planned for."""

    name, word, noun, flag, help, remedy = "months", "months", "months", "months_table", "", ""
    locate = read = None

    def build(self, embed_dim, structure, **config):
        return MonthsEncoder(embed_dim)


def test_the_adapter_takes_any_modality(tiny_config, pathways, make_case, randomise, monkeypatch):
    monkeypatch.setattr(Months, "__abstractmethods__", frozenset())
    monkeypatch.setitem(registry._REGISTERED, "months", Months())
    known = build(GENES, tiny_config, pathways)
    encoders = {"months": MonthsEncoder(48), "genes": known.modality_encoders["genes"]}
    model = ModalTune(known.backbone, encoders, known.config, 3, learn_absent=True)
    model = randomise(model).eval()

    def case(months):
        plain = make_case()
        extra = {} if months is None else {"months": torch.tensor([months])}
        return replace(plain, inputs={**plain.inputs, **extra})

    tokens, spans = model.modality_tokens(case(7.0), range(3))
    assert spans == {"months": slice(0, 2), "task": slice(2, 3), "genes": slice(3, 7)}
    assert torch.equal(tokens[1, :2], encoders["months"](torch.tensor([7.0]), 1, "a")[0])
    outputs = [model(case(months)) for months in (7.0, 8.0, None)]
    assert not torch.allclose(outputs[0], outputs[1]) and not torch.allclose(outputs[0], outputs[2])


@pytest.mark.parametrize("encoder_name", ["longnetvit", "titan"])
@pytest.mark.parametrize("token_agg", ["sum", "cat"])
@pytest.mark.parametrize("clinical", [False, True])
def test_without_genes_equals_oracle(encoder_name, token_agg, clinical, tiny_configs, make_case, randomise):
    name = f"{encoder_name}{'_clinical' if clinical else ''}_adapter"
    config = {**tiny_configs[encoder_of(name).name], "token_agg": token_agg}
    model = with_exact_positions(randomise(build_aggregator(name, config, DataSpec())).double().eval())
    case = replace(on_grid(make_case, 11, torch.float64), inputs=make_case(dtype=torch.float64).inputs)
    state = to_published(model.state_dict(), {})
    encoder = oracle_encoder(name, state, config)
    nothing = torch.zeros(0, 48, dtype=torch.float64)
    expected = oracle.modaltune(encoder, state, config, case, (), 3, clinical, genes=nothing)
    torch.testing.assert_close(model(case), expected, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("name", NAMES[::2])
def test_single_precision_and_computed_positions(name, tiny_configs, pathways, make_case, randomise):
    config = tiny_configs[encoder_of(name).name]
    model = randomise(build(name, config, pathways), scale=0.2)
    case = on_grid(make_case, 50, torch.float32)
    state = {k: v.double() for k, v in to_published(model.state_dict(), structures(pathways)).items()}
    inputs = {name: value.double() for name, value in case.inputs.items()}
    double = replace(case, features=case.features.double(), inputs=inputs)
    encoder = oracle_encoder(name, state, config)
    expected = oracle.modaltune(encoder, state, config, double, pathways, 3)
    torch.testing.assert_close(model(case).double(), expected, rtol=1e-4, atol=1e-4)


def backward_with_oracle(name, model, config, case, pathways):
    """Gradients of one scalar for the model, and for the oracle on its own copies of the parameters, returned."""
    probe = torch.randn(3, 7, dtype=torch.float64)
    (model(case) * probe).sum().backward()
    leaves = {k: v.detach().clone().requires_grad_() for k, v in model.state_dict().items()}
    state = to_published(leaves, structures(pathways))
    encoder = oracle_encoder(name, state, config)
    (oracle.modaltune(encoder, state, config, case, pathways, 3) * probe).sum().backward()
    return leaves


@pytest.mark.parametrize("name", NAMES[::2])
def test_gradients_equal_oracle(name, tiny_configs, pathways, make_case, randomise):
    config = tiny_configs[encoder_of(name).name]
    model = with_exact_positions(randomise(build(name, config, pathways)).double())
    leaves = backward_with_oracle(name, model, config, on_grid(make_case, 11, torch.float64), pathways)
    compared = 0
    for parameter_name, parameter in model.named_parameters():
        if parameter.requires_grad:
            torch.testing.assert_close(parameter.grad, leaves[parameter_name].grad, rtol=1e-6, atol=1e-8)
            compared += 1
    assert compared == len(trainable_state(model))


ABLATIONS = [
    {"with_cffn": False},
    {"global_pool": True},
    {"task_token": False},
    {"add_prompt_feature": False},
]


@pytest.mark.parametrize("encoder_name", ["longnetvit", "titan"])
@pytest.mark.parametrize("token_agg", ["sum", "cat"])
@pytest.mark.parametrize("ablation", ABLATIONS, ids=lambda a: next(iter(a)))
def test_ablations_equal_oracle(
    encoder_name, token_agg, ablation, tiny_configs, pathways, make_case, randomise
):
    name = f"{encoder_name}_gene_clinical_adapter"
    config = {**tiny_configs[encoder_of(name).name], "token_agg": token_agg, **ablation}
    tasks = 3 if config.get("task_token", True) else 1
    model = with_exact_positions(randomise(build(name, config, pathways, tasks)).double())
    case = on_grid(make_case, 11, torch.float64)
    state = to_published(model.state_dict(), structures(pathways))
    encoder = oracle_encoder(name, state, config)
    expected = oracle.modaltune(encoder, state, config, case, pathways, tasks, clinical=True)
    torch.testing.assert_close(model(case), expected, rtol=1e-8, atol=1e-8)


def test_prompt_dropout_acts_in_training_alone(tiny_config, pathways, make_case, randomise):
    case = make_case()
    plain = randomise(build(GENES, tiny_config, pathways))
    model = build(GENES, {**tiny_config, "prompt_dropout": 0.5}, pathways)
    model.load_state_dict(plain.state_dict())
    assert torch.equal(model(case), plain(case))
    seen = []
    model.interactions[0].register_forward_pre_hook(lambda module, inputs: seen.append(inputs[2]))
    model.train()(case)
    assert 0.4 < (seen[0] == 0).float().mean() < 0.6


@pytest.mark.parametrize(
    ("config", "tasks", "message"),
    [
        ({"task_token": False}, 3, "3 tasks need task_token"),
        ({"prompt_dropout": 1.0}, 3, "prompt_dropout is 1.0"),
        (
            {"lora": {"rank": 2, "alpha": 2, "targets": ["q_proj"]}, "freeze_vit": False},
            3,
            "lora adapts a frozen",
        ),
        (
            {"lora": {"rank": 2, "alpha": 2, "targets": ["qkv"]}},
            3,
            "no linear layer is called 'qkv'; there are",
        ),
        ({"lora": {"rank": 0, "alpha": 2, "targets": ["q_proj"]}}, 3, "rank is 0"),
        ({"lora": {"rank": 2, "targets": ["q_proj"]}}, 3, "lora: missing keys"),
    ],
)
def test_ablations_that_cannot_be(tiny_config, pathways, config, tasks, message):
    with pytest.raises(ValueError, match=message):
        build(GENES, {**tiny_config, **config}, pathways, tasks)


@pytest.mark.parametrize("name", NAMES[::2])
def test_a_slide_encoder_that_trains_gets_the_oracles_gradients(
    name, tiny_configs, pathways, make_case, randomise
):
    config = {**tiny_configs[encoder_of(name).name], "freeze_vit": False}
    model = with_exact_positions(randomise(build(name, config, pathways)).double())
    leaves = backward_with_oracle(name, model, config, on_grid(make_case, 11, torch.float64), pathways)
    trained = 0
    for parameter_name, parameter in model.backbone.named_parameters(prefix="backbone"):
        expected = leaves[parameter_name].grad
        if parameter.grad is None:  # of the checkpoint, but not on the path of the adapter
            assert expected is None or not expected.any(), parameter_name
            continue
        torch.testing.assert_close(parameter.grad, expected, rtol=1e-6, atol=1e-8)
        trained += 1
    assert trained > 20 and len(trainable_state(model)) == len(list(model.parameters()))


TARGETS = {"longnetvit": ["q_proj", "v_proj", "fc1"], "titan": ["attn.qkv", "mlp.fc2"]}


@pytest.mark.parametrize("prefix", TARGETS)
def test_lora_equals_merged_weights(prefix, tiny_configs, pathways, make_case, randomise):
    name = f"{prefix}_gene_adapter"
    config = tiny_configs[encoder_of(name).name]
    plain = randomise(build(name, config, pathways)).double()
    lora = {"rank": 2, "alpha": 6.0, "targets": TARGETS[prefix]}
    model = build(name, {**config, "lora": lora}, pathways).double()
    model.load_state_dict(plain.state_dict(), strict=False)
    case = on_grid(make_case, 11, torch.float64)
    torch.testing.assert_close(model(case), plain(case), rtol=1e-12, atol=1e-12)  # it starts as it was

    layers = {n: m for n, m in model.backbone.named_modules() if isinstance(m, LowRankLinear)}
    assert len(layers) == len(lora["targets"]) * len(model.backbone.blocks)
    assert not any(layer.weight.requires_grad for layer in layers.values())
    for layer in layers.values():
        nn.init.normal_(layer.lora_b)
    out = model(case)
    out.square().sum().backward()
    merged = {n: m.weight + 3.0 * m.lora_b @ m.lora_a for n, m in layers.items()}
    merged = {f"{n}.weight": weight.detach().requires_grad_() for n, weight in merged.items()}
    expected = torch.func.functional_call(plain, {f"backbone.{n}": w for n, w in merged.items()}, case)
    torch.testing.assert_close(out, expected, rtol=1e-10, atol=1e-10)
    expected.square().sum().backward()
    for n, layer in layers.items():  # the chain rule of W + alpha / rank B A
        grad = merged[f"{n}.weight"].grad
        torch.testing.assert_close(layer.lora_a.grad, 3.0 * layer.lora_b.T @ grad, rtol=1e-8, atol=1e-10)
        torch.testing.assert_close(layer.lora_b.grad, 3.0 * grad @ layer.lora_a.T, rtol=1e-8, atol=1e-10)
    added = set(trainable_state(model)) - set(trainable_state(plain))
    assert added == {f"backbone.{n}.lora_{x}" for n in layers for x in "ab"}


def test_official_weights_load_into_an_adapted_encoder(tiny_config, pathways):
    plain = build(GENES, tiny_config, pathways).backbone.vit
    lora = {"rank": 2, "alpha": 2, "targets": ["q_proj"]}
    vit = build(GENES, {**tiny_config, "lora": lora}, pathways).backbone.vit
    load_strict(vit, plain.state_dict(), "the slide encoder", "file")
    state = vit.state_dict()
    assert all(torch.equal(state[name], value) for name, value in plain.state_dict().items())


def test_training_mode_draws_masks_per_task(tiny_config, pathways, make_case, randomise):
    model = randomise(build(GENES, tiny_config, pathways)).train()
    case = make_case()
    with torch.no_grad():
        cls, patches, _ = model.backbone.embed(case, 2)
        tokens, spans = model.modality_tokens(case, [1, 1])
    assert not torch.equal(patches[0], patches[1]) and not torch.equal(cls[0], cls[1])
    assert not torch.equal(tokens[0, spans["genes"]], tokens[1, spans["genes"]])


def test_auto_checkpointing_follows_the_free_memory(tiny_config, pathways, monkeypatch):
    model = build(GENES, tiny_config, pathways)
    patches = torch.zeros(3, 100, 48)
    for free, expected in ((1e12, False), (1e5, True)):
        monkeypatch.setattr("models.aggregators.modaltune._free_memory", lambda device, free=free: free)
        assert model._checkpoints_activations(patches) is expected


def test_memory_that_pytorch_keeps_for_reuse_counts_as_free(monkeypatch):
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (3_000, 80_000))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 50_000)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: 20_000)
    assert _free_memory(torch.device("cuda")) == 33_000


def test_auto_checkpointing_halves_its_estimate_under_autocast(tiny_config, pathways, monkeypatch):
    model = build(GENES, tiny_config, pathways)
    patches = torch.zeros(3, 100, 48)
    whole = patches.numel() * 4 * 20 * len(model.backbone.blocks)
    # Half of the free memory may be used: what is enough for bfloat16 is not for float32.
    monkeypatch.setattr("models.aggregators.modaltune._free_memory", lambda device: 1.5 * whole)
    assert model._checkpoints_activations(patches)
    with torch.autocast("cpu", torch.bfloat16):
        assert not model._checkpoints_activations(patches)


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
    for section in ("slide_encoder", "gene_encoder"):
        with pytest.raises(ValueError, match="unknown key 'wdth'"):
            build(GENES, {**tiny_config, section: {**tiny_config[section], "wdth": 3}}, pathways)
    with pytest.raises(ValueError, match="missing keys"):
        build(GENES, {}, pathways)
