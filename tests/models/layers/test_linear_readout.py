"""The linear readout against loops, and what it changes of a model: nothing where it is off or not fitted."""

import pytest
import torch

from models.aggregators import DataSpec, build_aggregator
from models.layers.linear_readout import LinearReadout
from models.modalities import modality
from tests.structures import structures

ALL = "longnetvit_gene_clinical_vectors_adapter"


def fill(readout):
    generator = torch.Generator().manual_seed(3)
    for buffer in readout.buffers():
        buffer.copy_(torch.randn(buffer.shape, generator=generator, dtype=buffer.dtype))


@pytest.mark.parametrize("products", [False, True])
def test_a_readout_is_a_sum_of_linear_models_and_products(products):
    readout = LinearReadout({"a": 2, "b": 3}, num_tasks=3, output_dim=4, products=products).double()
    fill(readout)
    a, b = torch.tensor([1.0, -2.0]).double(), torch.tensor([0.5, 3.0, 2.0]).double()

    def expected(task, entry, vectors):
        total = float(readout.bias[task, entry])
        for name, vector in vectors.items():
            part = readout.parts[name]
            for k, value in enumerate(vector.tolist()):
                total += float(part.weight[task, entry, k]) * (value - float(part.mean[k]))
        if products and len(vectors) == 2:
            found, sides = readout.products["a x b"], []
            for name, direction in (("a", found.first), ("b", found.second)):
                values = zip(vectors[name].tolist(), readout.parts[name].mean.tolist(), strict=True)
                sides.append(
                    sum(float(direction[task, k]) * (v - mean) for k, (v, mean) in enumerate(values))
                )
            total += float(found.weight[task, entry]) * (sides[0] * sides[1] - float(found.mean[task]))
        return total

    for vectors in ({"a": a, "b": b}, {"b": b}, {}):
        found = readout(vectors, [2, 0])
        for row, task in enumerate([2, 0]):
            for entry in range(4):
                assert found[row, entry].item() == pytest.approx(expected(task, entry, vectors), rel=1e-12)


@pytest.fixture
def build(tiny_configs, pathways):
    def of(name=ALL, encoder="gigapath", **keys):
        torch.manual_seed(0)
        spec = DataSpec(structures(pathways, [3, 6]), 3)
        return build_aggregator(name, {**tiny_configs[encoder], **keys}, spec)

    return of


@pytest.mark.parametrize(
    ("encoder", "name"),
    [("gigapath", ALL), ("titan", "titan_gene_clinical_adapter"), ("gigapath", "longnetvit_adapter")],
)
def test_a_model_starts_at_its_readout(build, make_case, encoder, name):
    case = make_case(coords=256 * torch.arange(46).reshape(23, 2))
    model = build(name, encoder, linear_readout=True, readout_products=True).eval()
    fill(model.readout)
    vectors = {"images": case.features.mean(dim=0), "genes": case.inputs["genes"]}
    vectors |= {"clinical": case.inputs["clinical"], "vectors": case.inputs["vectors"].mean(dim=0)}
    parts = {part: vectors[part] for part in model.readout.parts}
    with torch.no_grad():
        torch.testing.assert_close(model(case), model.readout(parts, range(3)))
        torch.testing.assert_close(model(case, [1]), model.readout(parts, [1]))


def test_what_is_learned_adds_to_the_readout(build, make_case, randomise):
    with_it, without = build(linear_readout=True), build()
    for model in (with_it, without):
        randomise(model).eval()
    fill(with_it.readout)
    case = make_case()
    with torch.no_grad():
        rest = with_it(case) - without(case)
        torch.testing.assert_close(rest, with_it.readout(with_it.vectors(case), range(3)))


def test_all_other_parameters_start_alike_and_the_readout_is_saved_but_not_trained(build):
    with_it, without = build(linear_readout=True), build()
    own, state = without.state_dict(), with_it.state_dict()
    assert set(state) - set(own) == {f"readout.{n}" for n in with_it.readout.state_dict()}
    different = [name for name, value in own.items() if not torch.equal(value, state[name])]
    assert different == ["final_project.weight"]
    assert not list(with_it.readout.parameters())


def test_members_of_pathways_say_the_same_as_genes(build, make_case, pathways):
    model, case = build(linear_readout=True).eval(), make_case()
    fill(model.readout)
    structure = structures(pathways)["genes"]
    with torch.no_grad(), modality("genes").apart(model, case.inputs["genes"], structure) as (members, _):
        found = model(make_case(genes=members))
    torch.testing.assert_close(found, model(case).detach())
