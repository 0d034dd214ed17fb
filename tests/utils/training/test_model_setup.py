"""Which model a run has, by its flags and by weights that are evaluated."""

import logging

import pytest

from data_utils.tables.genes import PathwayGroups
from tests.small_cohort import MODEL_CONFIG, make_small_cohort
from utils.arguments import parse_args
from utils.training.model_setup import model_config, model_spec

GENES = "longnetvit_gene_adapter"
EVERYTHING = "longnetvit_gene_clinical_vectors_adapter"
TRAINED = {
    "mil_name": EVERYTHING,
    "model_config": {"output_dim": 3},
    "missing_modalities": "learned",
    "shapes": {"vectors": [None, 5]},
    "num_tasks": 3,
    "protocol": "published",
}


@pytest.fixture(scope="module")
def cohort(tmp_path_factory):
    return make_small_cohort(tmp_path_factory.mktemp("cohort"), train=2, val=1, test=1)


@pytest.fixture
def parse(cohort, tmp_path):
    def parse(eval_only=False, **changes):
        if eval_only:
            changes |= {"eval_only": True, "eval_weights": "w.pt"}
        return parse_args("test", cohort.flags(tmp_path / "run", **changes))

    return parse


def test_the_flags_decide_a_training(parse):
    config = model_config(parse(missing_modalities="learned"), {})
    assert config == {"mil_name": GENES, "model_config": MODEL_CONFIG, "missing_modalities": "learned"}


def test_trained_weights_win_over_flags(parse, caplog):
    with caplog.at_level(logging.INFO):
        config = model_config(parse(True), TRAINED)
    assert config == {name: TRAINED[name] for name in config} and "shapes" in config
    assert f"the model is that of the trained weights ({EVERYTHING}), not of the flags" in caplog.text
    assert "no --vectors_location: learned tokens stand for the precomputed vectors of all" in caplog.text


def test_weights_from_before_there_was_a_choice_left_patients_out(parse):
    old = {name: TRAINED[name] for name in ("model_config", "num_tasks", "protocol")} | {"mil_name": GENES}
    assert model_config(parse(True), old)["missing_modalities"] == "drop"


@pytest.mark.parametrize(
    ("changes", "trained", "message"),
    [
        ({"missing_modalities": "learned"}, {"missing_modalities": "drop"}, "no learned tokens for missing"),
        ({}, {"missing_modalities": "drop"}, f"{EVERYTHING} needs --clinical_location, which was not given"),
        ({"num_tasks": 2}, {}, "the weights have 3 tasks, --num_tasks says 2"),
        ({"mil_name": "titan_gene_adapter"}, {}, "on the slide encoder gigapath; pass that --mil_name"),
        ({}, {"mil_name": "longnetvit_adapter"}, "unknown --mil_name 'longnetvit_adapter'"),
    ],
)
def test_what_does_not_fit_is_refused(parse, changes, trained, message):
    with pytest.raises(ValueError, match=message):
        model_config(parse(True, **changes), {**TRAINED, **trained})


def test_the_spec_of_stored_shapes():
    spec = model_spec(TRAINED, PathwayGroups(("P",), ("A", "B"), ((0, 1),)), 2)
    assert (spec.pathways, spec.num_tasks) == (((0, 1),), 2)
    assert (spec.shapes, spec.missing) == ({"vectors": (None, 5)}, "learned")
