"""What is known of a case becomes tokens."""

import pytest
import torch

from models.modalities import Modality, all_modalities, modality, register_modality
from models.modalities.clinical import ClinicalEncoder
from models.modalities.genes import GeneEncoder
from models.modalities.vectors import VectorEncoder
from tests import oracle
from utils import constants
from utils.files import read_json

CONFIG = {"hidden_dim": 8, "depth": 2, "num_tokens": 4, "dropout": 0.25}


@pytest.fixture
def encoders(pathways):
    return {
        "genes": GeneEncoder(12, pathways, **CONFIG),
        "clinical": ClinicalEncoder(12),
        "vectors": VectorEncoder(12, (3, 6)),
    }


def test_every_modality_keeps_the_contract(encoders, make_case):
    assert set(encoders) == set(all_modalities())
    for name, encoder in encoders.items():
        declared = modality(name)
        assert isinstance(declared, Modality) and declared.name == name
        assert declared.locate("BRCA").is_relative_to(constants.TABLES_ROOT)
        for training in (True, False):
            tokens = encoder.train(training)(declared.input_of(make_case()), 3, "case-0")
            assert tokens.shape == (3, encoder.num_tokens, 12), name
    assert [encoders[name].num_tokens for name in ("genes", "clinical", "vectors")] == [4, 1, 3]


def test_tokens_leave_their_encoders_at_unit_scale(pathways, make_case):
    section = read_json(constants.CONFIGS_ROOT / "modaltune_gigapath_balanced.json")["gene_encoder"]
    encoders = {"genes": GeneEncoder(768, pathways, **{**section, "hidden_dim": 8, "num_tokens": 4})}
    encoders |= {"clinical": ClinicalEncoder(768), "vectors": VectorEncoder(768, (3, 6))}
    assert set(encoders) == set(all_modalities())
    for name, encoder in encoders.items():
        tokens = encoder.eval()(make_case().inputs[name], 1, "case-0")
        # The linear map of the genes adds as much again to the normalised tokens.
        assert 0.7 < tokens.square().mean().sqrt() < 1.8, name
    published = GeneEncoder(768, pathways, **CONFIG).eval()(make_case().inputs["genes"], 1, "case-0")
    assert published.square().mean().sqrt() < 0.3


def test_names_words_and_flags_differ():
    class Other(type(modality("vectors"))):
        name, word = "other", "other"

    with pytest.raises(ValueError, match=r"the flag 'vectors_location' is that of 'vectors'"):
        register_modality(Other)
    with pytest.raises(ValueError, match="unknown modality 'sound'; there are"):
        modality("sound")


def test_task_copies_agree_in_evaluation(encoders, make_case):
    for name, encoder in encoders.items():
        tokens = encoder.eval()(make_case().inputs[name], 3, "case-0")
        assert torch.equal(tokens[0], tokens[1]) and torch.equal(tokens[0], tokens[2])


def test_gene_copies_draw_their_own_masks_in_training(encoders, make_case, randomise):
    encoder = randomise(encoders["genes"]).train()
    tokens = encoder(make_case().inputs["genes"], 3, "case-0")
    assert not torch.equal(tokens[0], tokens[1]) and not torch.equal(tokens[1], tokens[2])


def test_training_without_dropout_equals_evaluation(pathways, make_case, randomise):
    encoder = randomise(GeneEncoder(12, pathways, **{**CONFIG, "dropout": 0.0}))
    training = encoder.train()(make_case().inputs["genes"], 3, "")
    torch.testing.assert_close(training, encoder.eval()(make_case().inputs["genes"], 3, ""))


def test_clinical_token_equals_the_formula(make_case, randomise):
    encoder = randomise(ClinicalEncoder(12)).double()
    case = make_case(dtype=torch.float64)
    state = dict(encoder.network.named_parameters())
    hidden = torch.relu(oracle.linear(case.inputs["clinical"], state, "0"))
    expected = oracle.layer_norm(oracle.linear(hidden, state, "2"), state, "3")
    assert state["0.weight"].shape == (6, 5)
    torch.testing.assert_close(encoder(case.inputs["clinical"], 2, "case-0"), expected.expand(2, 1, -1))


def test_genes_beyond_the_pathways_do_not_matter(encoders, make_case):
    encoder = encoders["genes"].eval()
    case = make_case(num_genes=10)
    longer = make_case(num_genes=10, genes=torch.cat([case.inputs["genes"], torch.full((5,), 1e6)]))
    assert torch.equal(*(encoder(c.inputs["genes"], 1, "") for c in (case, longer)))


@pytest.mark.parametrize(
    ("name", "field", "message"),
    [
        ("genes", "genes", "case-7 has no RNA"),
        ("clinical", "clinical", "case-7 has no clinical features"),
        ("vectors", "vectors", "case-7 has no precomputed vectors"),
    ],
)
def test_a_case_without_the_modality_is_named(encoders, make_case, name, field, message):
    with pytest.raises(ValueError, match=message):
        modality(name).input_of(make_case(seed=7, **{field: None}))


def test_gradients_reach_every_parameter(encoders, make_case, randomise):
    for name, encoder in encoders.items():
        randomise(encoder).eval()(make_case().inputs[name], 2, "case-0").square().sum().backward()
        assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in encoder.parameters())


def test_initialisation_is_the_published_one():
    torch.manual_seed(0)
    encoder = ClinicalEncoder(768)
    first, second = encoder.network[0], encoder.network[2]
    assert second.weight.std().item() == pytest.approx(0.02, rel=0.02) and second.weight.abs().max() < 0.2
    assert first.bias.abs().max() == 0 and second.bias.abs().max() == 0
