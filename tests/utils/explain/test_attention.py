"""Attention against what the fused layers return, and its rollout against a product of dense matrices."""

import itertools

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from models.aggregators import DataSpec, build_aggregator
from models.vitadapter.attention import CrossAttention, SelfAttention
from tests.structures import structures
from utils.explain.attention import EXTRACTOR, INJECTOR, attention_of, watched

GROUPS = ("clinical", "vectors", "task", "genes")


@pytest.fixture(params=["longnetvit", "titan"])
def build(request, tiny_config, tiny_titan_config, pathways, randomise):
    def make(modalities="gene_clinical_vectors_", **changes):
        config = tiny_config if request.param == "longnetvit" else tiny_titan_config
        spec = DataSpec(structures(pathways, [3, 6]), 3)
        built = build_aggregator(f"{request.param}_{modalities}adapter", {**config, **changes}, spec)
        return randomise(built, scale=0.3).eval()

    return make


def reads_of(model, case, task=1):
    found = []
    with watched(model, found.append), torch.no_grad():
        model(case, [task])
    return found


# ---------------------------------------------------------------------------- layers
def test_rows_add_up_to_one_and_reproduce_what_the_layer_returns(build, make_case):
    model, case = build(), make_case()
    calls, names = [], {module: name for name, module in model.named_modules()}

    def remember(layer, given, named, out):
        calls.append((layer, given, named, out))

    for module in list(names):
        if isinstance(module, (CrossAttention, SelfAttention)):
            module.register_forward_hook(remember, with_kwargs=True)
    reads = reads_of(model, case)
    assert len(reads) == len(calls) == 3 + 3 + 2 + 2  # injectors, extractors, the extra ones, self-attention
    for read, (layer, given, named, out) in zip(reads, calls, strict=True):
        torch.testing.assert_close(read.weights.sum(-1), torch.ones(read.weights.shape[:-1]))
        assert read.weights.shape[0] == 3
        if isinstance(layer, CrossAttention):
            inner, memory = layer.multihead_attn, layer.norm_kq(given[1])
            value = memory + (0 if named.get("key_pos") is None else named["key_pos"])
        else:
            inner, value = layer.self_attn, layer.norm(given[0])
        bias = inner.in_proj_bias[2 * inner.embed_dim :]
        values = F.linear(value, inner.v_proj_weight, bias)[0].unflatten(-1, (3, -1)).transpose(0, 1)
        heads = (read.weights @ values).transpose(0, 1).flatten(1)
        expected = given[0][0] + layer.output_proj(inner.out_proj(heads))
        torch.testing.assert_close(out[0], expected, rtol=1e-5, atol=1e-5, msg=names[layer])


def test_who_reads_what(build, make_case):
    tokens = 1 + 1 + 3 + 4  # task, clinical, vectors, genes
    reads = {read.name: read for read in reads_of(build(), make_case())}
    patches = reads["stage_1_injector"].weights.shape[1]
    assert list(reads) == [
        "stage_1_injector",
        "stage_1_extractor_1",
        *(f"stage_2_{name}" for name in ("prompt_selfattention", "injector", "extractor_1")),
        *(f"stage_3_{name}" for name in ("prompt_selfattention", "injector")),
        *(f"stage_3_extractor_{k}" for k in (1, 2, 3)),
    ]
    for read in reads.values():
        shape = {INJECTOR: (patches, tokens), EXTRACTOR: (tokens, patches)}.get(read.kind, (tokens, tokens))
        assert read.weights.shape[1:] == shape


def test_outputs_and_hooks_are_as_before(build, make_case):
    model, case = build(), make_case()
    with torch.no_grad():
        before = model(case)
        attention_of(model, case, 0)
        assert torch.equal(model(case), before)
    assert not any(module._forward_hooks for module in model.modules())
    with pytest.raises(ValueError, match="eval"):
        attention_of(model.train(), case, 0)


# ---------------------------------------------------------------------------- by group and patch
def test_groups_of_tokens_by_layer_and_head(build, make_case):
    model, case = build(), make_case()
    found, reads = attention_of(model, case, 1), {read.name: read for read in reads_of(model, case)}
    assert sorted(found.groups) == sorted(GROUPS)
    assert found.groups[-1] == "genes"
    spans = dict(zip(found.groups, np.split(np.arange(9), np.cumsum(sizes(found.groups))), strict=False))
    owner = model.backbone.token_of_patch(case).numpy()
    for name, heads in found.extractors.items():
        np.testing.assert_allclose(heads.sum(axis=-1), 1, rtol=1e-5)
        for k, group in enumerate(found.groups):
            by_token = reads[name].weights[:, spans[group]].mean(dim=1).numpy()
            summed = np.stack([np.bincount(owner, weights=row) for row in heads[:, k]])
            np.testing.assert_allclose(summed, by_token, rtol=1e-5, atol=1e-7)
    for name, heads in found.injectors.items():
        np.testing.assert_allclose(heads.sum(axis=1), 1, rtol=1e-5)
        for k, group in enumerate(found.groups):
            expected = reads[name].weights[:, :, spans[group]].sum(dim=2).numpy()[:, owner]
            np.testing.assert_allclose(heads[:, k], expected, rtol=1e-5, atol=1e-7)
    columns = found.columns()
    assert set(map(len, columns.values())) == {len(case.features)}
    np.testing.assert_array_equal(
        columns["stage_3_extractor_2.task"],
        found.extractors["stage_3_extractor_2"].mean(axis=0)[found.groups.index("task")],
    )


def sizes(groups):
    return [{"clinical": 1, "vectors": 3, "task": 1, "genes": 4}[group] for group in groups]


@pytest.mark.parametrize("modalities", ["", "clinical_"])
def test_models_without_genes(build, make_case, modalities):
    found = attention_of(build(modalities), make_case(), 0)
    assert found.groups == (*(["clinical"] if modalities else []), "task")


def test_a_learned_token_before_the_genes_is_its_own_group(build, make_case):
    found = attention_of(build("gene_", prompt_agg="cls"), make_case(), 0)
    assert found.groups == ("task", "genes_cls", "genes")
    np.testing.assert_allclose(found.rollout.sum(axis=1) + found.origin.sum(axis=1), 1)


def test_patches_are_in_the_order_of_the_case(build, make_case):
    """Whatever the order of the patches, each keeps its attention (dilated attention depends on the order)."""
    model = build()
    with torch.no_grad():
        for stage in model.interactions:
            stage.injector.gamma.zero_()
    case = make_case(length=12)
    order = torch.randperm(12, generator=torch.Generator().manual_seed(3))
    changed = make_case(length=12, features=case.features[order], coords=case.coords[order])
    first = "stage_1_extractor_1"
    for layer in model.backbone.blocks:  # patches as they were embedded
        layer.forward = lambda tokens, *_: tokens
    one, other = (attention_of(model, c, 0).extractors[first] for c in (case, changed))
    np.testing.assert_allclose(other, one[..., order], rtol=1e-4, atol=1e-6)


def test_titan_shares_cells_and_drops_background(tiny_titan_config, pathways, randomise, make_case):
    spec = DataSpec(structures(pathways), 3)
    model = randomise(build_aggregator("titan_gene_adapter", tiny_titan_config, spec), scale=0.3).eval()
    coords = 256 * torch.stack([torch.arange(12) // 4, torch.arange(12) % 4], dim=1)
    coords[2] = coords[1] + 5
    case = make_case(length=12, coords=coords)
    case.features[3] = 0
    found = attention_of(model, case, 0)
    for heads in found.extractors.values():
        np.testing.assert_allclose(heads.sum(axis=-1), 1, rtol=1e-5)
        np.testing.assert_array_equal(heads[..., 1], heads[..., 2])  # one cell
        assert (heads[..., 3] == 0).all()
    for heads in found.injectors.values():
        assert np.isnan(heads[..., 3]).all()
        np.testing.assert_allclose(np.delete(heads, 3, axis=-1).sum(axis=1), 1, rtol=1e-5)
    assert (found.rollout[:, 3] == 0).all()
    np.testing.assert_allclose(found.rollout.sum(axis=1) + found.origin.sum(axis=1), 1)


# ---------------------------------------------------------------------------- rollout
def test_rollout_is_the_product_of_dense_matrices(build, make_case):
    model, case = build(), make_case(length=7)
    reads = reads_of(model, case)
    patches, tokens = reads[0].weights.shape[1:]
    total = np.eye(patches + tokens)  # patches first
    for read in reads:
        number = int(read.name.split("_")[1]) - 1
        gamma = model.interactions[number].injector.gamma.detach().numpy()
        own, added = {
            INJECTOR: (np.abs(1 + gamma).mean(), np.abs(gamma).mean()),
            EXTRACTOR: (2, 1),
        }.get(read.kind, (1, 1))
        rows = np.arange(patches) if read.kind == INJECTOR else np.arange(patches, patches + tokens)
        columns = np.arange(patches) if read.kind == EXTRACTOR else np.arange(patches, patches + tokens)
        layer = np.eye(patches + tokens)
        layer[rows] *= own
        layer[np.ix_(rows, columns)] += added * read.weights.double().numpy().mean(axis=0)
        layer[rows] /= own + added
        total = layer @ total
    found = attention_of(model, case, 1)
    owner = model.backbone.token_of_patch(case).numpy()
    start = patches + np.cumsum([0, *sizes(found.groups)])
    for k in range(len(found.groups)):
        row = total[start[k] : start[k + 1]].mean(axis=0)
        by_token = np.bincount(owner, weights=found.rollout[k])
        np.testing.assert_allclose(by_token, row[:patches], rtol=1e-5)
        by_group = [row[a:b].sum() for a, b in itertools.pairwise(start)]
        np.testing.assert_allclose(found.origin[k], by_group, rtol=1e-5)


def test_closed_gates_take_nothing_from_tokens(build, make_case):
    model = build("")
    with torch.no_grad():
        for stage in model.interactions:
            stage.injector.gamma.zero_()
    found = attention_of(model, make_case(), 0)
    # Self-attention of a single token keeps all of it, and each of the five extractors two thirds.
    assert found.origin.item() == pytest.approx((2 / 3) ** 5)
    assert found.rollout.sum() == pytest.approx(1 - (2 / 3) ** 5)


# ---------------------------------------------------------------------------- memory
class Largest(TorchDispatchMode):
    """Remembers how many numbers the largest tensor has that an operation returned."""

    numbers = 0

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        out = operation(*args, **(kwargs or {}))
        tensors = [leaf for leaf in tree_leaves(out) if isinstance(leaf, torch.Tensor)]
        self.numbers = max([self.numbers, *(tensor.numel() for tensor in tensors)])
        return out


def test_memory_is_linear_at_25_000_patches(tiny_config, pathways, make_case):
    config = {**tiny_config, "gene_encoder": {**tiny_config["gene_encoder"], "num_tokens": 64}}
    model = build_aggregator("longnetvit_gene_adapter", config, DataSpec(structures(pathways), 3)).eval()
    case = make_case(length=25_000)
    with Largest() as largest:
        found = attention_of(model, case, 0)
    assert found.rollout.shape == (2, 25_000)
    weights = 3 * 65 * 25_000  # of one layer
    assert weights <= largest.numbers < 1.5 * weights
