"""Precomputed vectors become tokens."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from models.aggregators import DataSpec, build_aggregator
from models.modalities.vectors import VectorEncoder
from tests import oracle
from tests.structures import structures


def expected_tokens(encoder, vectors):
    """One vector at a time by the formula."""
    state = dict(encoder.network.named_parameters())
    rows = []
    for vector in vectors:
        hidden = torch.relu(oracle.linear(vector, state, "0"))
        rows.append(oracle.layer_norm(oracle.linear(hidden, state, "2"), state, "3"))
    return torch.stack(rows)


@settings(max_examples=10, deadline=None)
@given(number=st.integers(1, 5), width=st.integers(1, 7), seed=st.integers(0, 99))
def test_tokens_equal_the_formula(number, width, seed):
    torch.manual_seed(seed)
    encoder = VectorEncoder(12, (number, width)).double()
    vectors = torch.randn(number, width, dtype=torch.float64)
    with torch.no_grad():
        for parameter in encoder.parameters():
            parameter.normal_()
        expected = expected_tokens(encoder, vectors)
        assert encoder.num_tokens == number
        torch.testing.assert_close(encoder(vectors, 2, "a"), expected.expand(2, -1, -1))
        pooled = VectorEncoder(12, (None, width), pool="mean").double()
        pooled.load_state_dict(encoder.state_dict())
        assert pooled.num_tokens == 1
        torch.testing.assert_close(pooled(vectors, 3, "a"), expected.mean(0).expand(3, 1, -1))


def test_different_numbers_need_pooling():
    with pytest.raises(ValueError, match=r'different numbers of vectors.*"pool": "mean"'):
        VectorEncoder(12, (None, 6))
    with pytest.raises(ValueError, match="pool is 'max'"):
        VectorEncoder(12, (3, 6), pool="max")


@pytest.mark.parametrize(
    ("shape", "pool", "given", "takes"),
    [
        ((3, 6), "none", (2, 6), r"\[3, 6\]"),
        ((3, 6), "none", (3, 5), r"\[3, 6\]"),
        ((None, 6), "mean", (3, 5), r"\[any number, 6\]"),
    ],
)
def test_vectors_of_another_shape_name_the_case(shape, pool, given, takes):
    with pytest.raises(ValueError, match=rf"case x has vectors .*the model takes {takes}"):
        VectorEncoder(12, shape, pool)(torch.zeros(given), 3, "x")


def test_the_model_config_reaches_the_encoder(tiny_config, pathways, make_case):
    name, spec = "longnetvit_gene_vectors_adapter", DataSpec(structures(pathways, (None, 6)), 3)
    with pytest.raises(ValueError, match="the data have no precomputed vectors"):
        build_aggregator(name, tiny_config, DataSpec(structures(pathways), 3))
    with pytest.raises(ValueError, match="different numbers of vectors"):
        build_aggregator(name, tiny_config, spec)
    config = {**tiny_config, "modalities": {"vectors": {"pool": "mean"}}}
    model = build_aggregator(name, config, spec).eval()
    for number in (1, 4):
        case = make_case(vectors=torch.randn(number, 6))
        assert model.modality_tokens(case, [0])[0].shape == (1, 6, 48) and model(case).shape == (3, 7)


@pytest.mark.parametrize(
    ("modalities", "message"),
    [
        ({"vectors": {"pol": "mean"}}, r"modalities: vectors: unknown key 'pol'; did you mean 'pool'\?"),
        ({"vektors": {}}, r"unknown \['vektors'\]"),
        ({"genes": {"depth": 1}}, r"unknown \['genes'\]; genes are gene_encoder"),
    ],
)
def test_unknown_keys_of_the_model_config_are_refused(tiny_config, pathways, modalities, message):
    spec = DataSpec(structures(pathways, (3, 6)), 3)
    with pytest.raises(ValueError, match=message):
        build_aggregator("longnetvit_gene_vectors_adapter", {**tiny_config, "modalities": modalities}, spec)


def test_an_unknown_policy_for_missing_modalities_is_refused():
    with pytest.raises(ValueError, match="missing is 'ignore'"):
        DataSpec(missing="ignore")
