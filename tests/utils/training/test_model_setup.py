"""Which model a run has, by its flags and by weights that are evaluated."""

import json
import logging

import pytest

from data_utils.tables.tasks import published
from models.encoders import encoder_of
from tests.small_cohort import MODEL_CONFIG, make_small_cohort
from utils import constants
from utils.arguments import parse_args
from utils.training.model_setup import ModelSetup, model_setup

GENES = "longnetvit_gene_adapter"
EVERYTHING = "longnetvit_gene_clinical_vectors_adapter"
TRAINED = {
    "mil_name": EVERYTHING,
    "model_config": {"output_dim": 3},
    "missing_modalities": "learned",
    "structures": {"vectors": [None, 5]},
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
    setup = model_setup(parse(missing_modalities="learned"), {})
    assert setup == ModelSetup(GENES, MODEL_CONFIG, 3, "learned") and set(setup.modalities) == {"genes"}


@pytest.mark.parametrize(("mil_name", "own"), [(GENES, {"dropout": 0.25}), ("titan_gene_adapter", {})])
def test_a_published_config_is_completed(parse, tmp_path, mil_name, own):
    """It names the adapter alone, and the dropout of GigaPath."""
    shipped = json.loads(encoder_of(mil_name).config.read_text())
    nested = ("slide_encoder", "interaction_indexes", "gene_encoder")
    flat = {name: value for name, value in shipped.items() if name not in nested} | own
    (tmp_path / "published.json").write_text(json.dumps(flat))
    flags = {"mil_name": mil_name, "model_config": tmp_path / "published.json"}
    assert model_setup(parse(**flags), {}).model_config == shipped
    (tmp_path / "published.json").write_text(
        json.dumps({**flat, **dict.fromkeys(own, 0.1), "token_agg": "cat"})
    )
    changed = model_setup(parse(**flags), {}).model_config
    encoder = {**shipped["slide_encoder"], **dict.fromkeys(own, 0.1)}
    assert changed == {**shipped, "token_agg": "cat", "slide_encoder": encoder}


def test_trained_weights_win_over_flags(parse, caplog):
    with caplog.at_level(logging.INFO):
        setup = model_setup(parse(True), TRAINED)
    # Weights from before there were task files have the published tasks.
    assert setup.plain() == {
        **{name: TRAINED[name] for name in vars(setup) if name != "tasks"},
        "tasks": published().plain(),
    }
    assert list(setup.modalities) == ["clinical", "vectors", "genes"]
    assert f"the model is that of the trained weights ({EVERYTHING}), not of the flags" in caplog.text
    assert "no --vectors_location: learned tokens stand for the precomputed vectors of all" in caplog.text


def test_the_tasks_are_those_of_the_weights(parse, tmp_path):
    file = tmp_path / "tasks.json"
    own = published().plain()["tasks"][:2]
    own[1] = {**own[1], "sentence": "Grade: {grade}", "needs": ["grade"]}
    file.write_text(json.dumps({"tasks": own}))
    setup = model_setup(parse(tasks=file), {})
    assert (setup.num_tasks, setup.tokens.names) == (2, ("General", "Diagnosis"))
    trained = {**TRAINED, **setup.plain()}
    assert model_setup(parse(True), trained) == setup
    assert model_setup(parse(True, tasks=file), trained) == setup
    own[1]["sentence"] = "Gleason: {grade}"
    file.write_text(json.dumps({"tasks": own}))
    with pytest.raises(
        ValueError, match=r"other tasks than --tasks .* another sentence or evaluation of Diagnosis"
    ):
        model_setup(parse(True, tasks=file), trained)
    with pytest.raises(ValueError, match="General, Diagnosis against General, Diagnosis, Survival"):
        model_setup(parse(True, tasks=constants.TASK_FILE), trained)


def test_weights_from_before_there_was_a_choice_left_patients_out(parse):
    old = {name: TRAINED[name] for name in ("model_config", "num_tasks", "protocol")} | {"mil_name": GENES}
    assert model_setup(parse(True), old).missing_modalities == "drop"


@pytest.mark.parametrize(
    ("changes", "trained", "message"),
    [
        ({"missing_modalities": "learned"}, {"missing_modalities": "drop"}, "no learned tokens for missing"),
        ({}, {"missing_modalities": "drop"}, f"{EVERYTHING} needs --clinical_location, which was not given"),
        ({"num_tasks": 2}, {}, "the weights have 3 tasks, --num_tasks says 2"),
        ({"mil_name": "titan_gene_adapter"}, {}, "on the slide encoder gigapath; pass that --mil_name"),
        ({}, {"mil_name": "longnetvit_x_adapter"}, "unknown --mil_name 'longnetvit_x_adapter'"),
    ],
)
def test_what_does_not_fit_is_refused(parse, changes, trained, message):
    with pytest.raises(ValueError, match=message):
        model_setup(parse(True, **changes), {**TRAINED, **trained})


def test_what_patients_need():
    options = ModelSetup(EVERYTHING, {}, 3, "drop").options(0.25)
    assert options.needed == ("clinical", "vectors", "genes") and options.dropout == 0.25
    assert options.nouns["genes"] == "RNA" and not options.always
    assert ModelSetup(EVERYTHING, {}, 3, "learned").options().needed == ()
    assert ModelSetup("titan_adapter", {}, 3, "drop").options().needed == ()
