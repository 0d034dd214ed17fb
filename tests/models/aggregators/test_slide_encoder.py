"""The slide encoder alone: its vector, what is trained at which rate, late fusion."""

import pytest
import torch
import torch.nn.functional as F

from models.aggregators import DataSpec, aggregator, build_aggregator
from models.encoders import slide_encoders
from tests.small_cohort import IN_DIM, MODEL_CONFIG, PATHWAYS
from tests.small_runs import TITAN_CONFIG
from tests.structures import structures
from utils.configuration.run_config import TrainingConfig
from utils.training.optimizers import build_optimizer
from utils.training.schedule import WarmupCosine

SPEC = DataSpec(structures(list(PATHWAYS.values())), 1)


def build(name, **changes):
    torch.manual_seed(0)
    config = TITAN_CONFIG if name.startswith("titan") else MODEL_CONFIG
    return build_aggregator(name, {**config, **changes}, SPEC)


def test_every_encoder_has_them():
    for encoder in slide_encoders().values():
        assert aggregator(f"{encoder.prefix}_probe").encoder == encoder.name
        assert aggregator(f"{encoder.prefix}_tuned").modalities == ()
        assert aggregator(f"{encoder.prefix}_cat").modalities == ("genes",)


def test_gigapath_is_cls_of_the_last_block_behind_the_outer_norm(make_case):
    model, case = build("longnetvit_tuned").eval(), make_case(in_dim=IN_DIM)
    vit = model.backbone.vit
    with torch.no_grad():
        vit.norm.weight.normal_()
        vit.norm.bias.normal_()
        patches = vit.patch_embed(case.features) + vit.positions(case.coords)
        tokens = torch.cat([vit.cls_token[0], patches])[None]
        for block in vit.encoder.layers:
            tokens = block(tokens)
        expected = F.layer_norm(tokens[0, :1], (24,), vit.norm.weight, vit.norm.bias, eps=1e-6)
        torch.testing.assert_close(model(case), expected, rtol=1e-5, atol=1e-6)


def test_titan_is_its_own_vector(make_case):
    model, case = build("titan_probe").eval(), make_case(in_dim=IN_DIM)
    assert torch.equal(model(case), model.backbone(case)[0])


def test_a_probe_trains_nothing(make_case):
    model = build("longnetvit_probe").train()
    assert not any(p.requires_grad for p in model.parameters())
    assert not model(make_case(in_dim=IN_DIM)).requires_grad


@pytest.mark.parametrize("name", ["longnetvit_tuned", "titan_tuned", "longnetvit_cat"])
def test_gradients_reach_all_that_is_used(name, make_case):
    model = build(name).eval()  # drop path may leave out a branch
    model(make_case(in_dim=IN_DIM)).square().sum().backward()
    unused = {n for n, p in model.named_parameters() if p.grad is None}
    # The encoder's inner norm, and the projection and pooler of TITAN that its vector does not pass.
    assert all("encoder.layer_norm" in n or "attn_pool." in n or n.endswith("vit.proj") for n in unused), (
        unused
    )


def test_recomputed_activations_give_the_same_gradients(make_case):
    found = []
    for mode in ("off", "on"):
        model = build("longnetvit_tuned").train()
        model.activation_checkpointing = mode
        torch.manual_seed(1)
        model(make_case(in_dim=IN_DIM)).square().sum().backward()
        found.append(torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None]))
    torch.testing.assert_close(*found)


def test_layer_wise_decay_is_the_published_table():
    model = build("longnetvit_tuned")
    depth = len(model.backbone.blocks)
    expected = {
        "backbone.vit.cls_token": 0.95 ** (depth + 1),
        "backbone.vit.patch_embed.proj.weight": 1.0,
        "backbone.vit.norm.weight": 1.0,
    }
    for i in range(depth):
        expected[f"backbone.vit.encoder.layers.{i}.ffn.fc1.weight"] = 0.95 ** (depth - i)
    assert {name: model.learning_rate_scale(name) for name in expected} == pytest.approx(expected)
    options = TrainingConfig(lr=1e-3, weight_decay=0.05)
    head = torch.nn.Linear(24, 2)
    optimizer = build_optimizer(model, [head], options)
    schedule = WarmupCosine(optimizer, 1e-3, 30)
    for _ in range(3):
        schedule.step()
    where = {id(p): group for group in optimizer.param_groups for p in group["params"]}
    assert len(where) == sum(1 for _ in [*model.parameters(), *head.parameters()])
    for name, scale in expected.items():
        group = where[id(model.get_parameter(name))]
        assert group["lr"] == pytest.approx(schedule.lr * scale)
        assert group["weight_decay"] == (0.0 if name.endswith("norm.weight") else 0.05)
    assert where[id(head.weight)]["lr"] == pytest.approx(schedule.lr)
    assert schedule.lr == pytest.approx(3.35e-4)


def test_late_fusion_reads_image_and_genes(make_case):
    model, case = build("longnetvit_cat", fusion={"dim": 5}).eval(), make_case(in_dim=IN_DIM)
    with torch.no_grad():
        image = build("longnetvit_tuned").eval()(case)[0]
        fused = model.fusion
        expected = fused.mm(torch.cat([image, fused.fc_omic(case.inputs["genes"])]))
    torch.testing.assert_close(model(case)[0], expected)


def test_impossible_configs_are_refused():
    with pytest.raises(ValueError, match="layer_decay is 0"):
        build("longnetvit_tuned", layer_decay=0)
    with pytest.raises(ValueError, match="fusion: unknown key 'widht'"):
        build("longnetvit_cat", fusion={"widht": 5})
