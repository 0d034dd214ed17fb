"""Checkpoints: ours, the published layout, and files that are neither."""

import argparse
import json
import runpy
import sys
from collections import Counter
from pathlib import Path

import pytest
import torch

from models.aggregators import DataSpec, build_aggregator
from tests.structures import of_sizes, structures
from utils import checkpoint as weights_command
from utils import constants
from utils.files import FileError
from utils.training import checkpoint

GENES = "longnetvit_gene_adapter"
CLINICAL = "longnetvit_gene_clinical_adapter"
SIZES = (3, 1, 7, 2)  # of the fixture ``pathways``


def build(name, config, pathways):
    return build_aggregator(name, config, DataSpec(structures(pathways), 3)).eval()


def published(model):
    return checkpoint.to_published(model.state_dict(), of_sizes(SIZES))


# ---------------------------------------------------------------------------- through files
@pytest.mark.parametrize("name", [GENES, CLINICAL])
def test_a_published_file_loads(name, tmp_path, tiny_config, pathways, randomise, make_case):
    model = randomise(build(name, tiny_config, pathways))
    checkpoint.save(tmp_path / "published.pt", published(model))
    content = checkpoint.load_weights(tmp_path / "published.pt")
    assert set(content) == {"model", "layouts"} and set(content["model"]) == set(model.state_dict())
    other = build(name, tiny_config, pathways)
    checkpoint.load_trainable(other, content["model"], "published.pt")
    assert torch.equal(other(make_case()), model(make_case()))


@pytest.mark.filterwarnings("ignore:.*found in sys.modules")
def test_the_command_line_converts(
    tmp_path, tiny_config, pathways, randomise, make_case, monkeypatch, caplog
):
    """``python -m utils.checkpoint convert published.pt ours.pt``."""
    model = randomise(build(GENES, tiny_config, pathways))
    checkpoint.save(tmp_path / "published.pt", published(model))
    words = ["checkpoint.py", "convert", str(tmp_path / "published.pt"), str(tmp_path / "ours.pt")]
    monkeypatch.setattr(sys, "argv", words)
    with caplog.at_level("INFO"):
        runpy.run_module("utils.checkpoint", run_name="__main__")
    assert f"{len(model.state_dict())} tensors written" in caplog.text
    with pytest.raises(FileError, match="is read by this command"):
        weights_command.main(["convert", words[2], words[2]])
    content = checkpoint.load_weights(tmp_path / "ours.pt")
    assert content["run"] == {}
    other = build(GENES, tiny_config, pathways)
    checkpoint.load_trainable(other, content["model"], "ours.pt")
    assert torch.equal(other(make_case()), model(make_case()))


def test_conversion_is_its_own_inverse(tmp_path, tiny_config, pathways, randomise):
    state = published(randomise(build(CLINICAL, tiny_config, pathways)))
    checkpoint.save(tmp_path / "published.pt", state)
    weights_command.main(["convert", str(tmp_path / "published.pt"), str(tmp_path / "ours.pt")])
    back = checkpoint.to_published(checkpoint.load_weights(tmp_path / "ours.pt")["model"], of_sizes(SIZES))
    assert set(back) == set(state) and all(torch.equal(back[name], state[name]) for name in state)


def test_ours_come_back_with_their_description(tmp_path, tiny_config, pathways):
    model = build(GENES, tiny_config, pathways)
    run = {"seed": 3, "score": [0.5, float("-inf")], "mil_name": "m", "model_config": {}, "num_tasks": 3}
    run |= {"protocol": "strict", "structures": {"genes": {"names": ["a"], "genes": ["b"], "indices": [[0]]}}}
    checkpoint.save(tmp_path / "w.pt", {"model": checkpoint.trainable_state(model), "run": run})
    content = checkpoint.load_weights(tmp_path / "w.pt")
    assert content["run"] == run
    assert not any(name.startswith("backbone.") for name in content["model"])


def test_a_failed_save_leaves_the_older_file(tmp_path):
    checkpoint.save(tmp_path / "w.pt", {"a": torch.ones(1)})
    with pytest.raises(Exception, match="pickle"):
        checkpoint.save(tmp_path / "w.pt", {"a": (lambda: None)})
    assert checkpoint.load(tmp_path / "w.pt")["a"] == 1 and len(list(tmp_path.iterdir())) == 1


# ---------------------------------------------------------------------------- published size
def published_sizes():
    """331 uneven pathways of 9,731 members in all, as in the published table."""
    sizes = [5 + 7 * i % 41 for i in range(331)]
    sizes[0] += 9731 - sum(sizes)
    return sizes


@pytest.fixture(scope="module")
def full_size():
    """Both models at the published size, without memory for their parameters."""
    config = json.loads((constants.CONFIGS_ROOT / "modaltune_gigapath_config.json").read_text())
    sizes = published_sizes()
    assert min(sizes) > 0 and sum(sizes) == 9731
    spec = DataSpec(of_sizes(sizes), 3)
    with torch.device("meta"):
        return {name: build_aggregator(name, config, spec) for name in (GENES, CLINICAL)}


@pytest.mark.parametrize(("name", "trainable"), [(GENES, 33_524_890), (CLINICAL, 33_825_178)])
def test_number_of_parameters_is_the_published_one(full_size, name, trainable):
    counts = Counter()
    for parameter in full_size[name].parameters():
        counts[parameter.requires_grad] += parameter.numel()
    assert counts == {True: trainable, False: 86_330_880}


def shapes_of_the_manifest(clinical):
    """Names and shapes of the trainable parameters in a published checkpoint, first pathway only."""
    e, w, p, h = 768, 192, 331, 256
    norm = {"weight": [e], "bias": [e]}

    def linear(out, width):
        return {"weight": [out, width], "bias": [out]}

    def attention(kind):
        return {
            f"{kind}.q_proj_weight": [w, w],
            f"{kind}.k_proj_weight": [w, e],
            f"{kind}.v_proj_weight": [w, e],
            f"{kind}.in_proj_bias": [3 * w],
            **prefixed(f"{kind}.out_proj", linear(w, w)),
            **prefixed("q_proj", linear(w, e)),
            **prefixed("output_proj", linear(e, w)),
            **prefixed("norm", norm),
        }

    def prefixed(prefix, shapes):
        return {f"{prefix}.{name}": shape for name, shape in shapes.items()}

    cross = attention("multihead_attn") | prefixed("norm_kq", norm)
    extractor = prefixed("attn", cross) | prefixed(
        "ffn", prefixed("linear1", linear(w, e)) | prefixed("linear2", linear(e, w)) | prefixed("norm", norm)
    )
    shapes = {"gene_pe": [66 if clinical else 65, e]}
    for stage in range(3):
        shapes |= prefixed(f"interactions.{stage}.injector", {"gamma": [e], **prefixed("attn", cross)})
        shapes |= prefixed(f"interactions.{stage}.extractor", extractor)
    for extra in range(2):
        shapes |= prefixed(f"interactions.2.extra_extractors.{extra}", extractor)
    for stage in (1, 2):
        shapes |= prefixed(f"prompt_selfattention.{stage}", attention("self_attn"))
    network = prefixed("0.0", linear(h, published_sizes()[0])) | prefixed("1.0", linear(h, h))
    genes = prefixed("gene_networks.0", network)
    for block in range(3):
        tokens = {"0.weight": [p // 2, p, 1], "0.bias": [p // 2], "3.weight": [p, p // 2, 1], "3.bias": [p]}
        channels = prefixed("0", linear(h // 2, h)) | prefixed("3", linear(h, h // 2))
        for kind, shape in enumerate((tokens, channels)):
            genes |= prefixed(f"mlp_mixer.{block}.{kind}.fn", shape)
            genes |= prefixed(f"mlp_mixer.{block}.{kind}.norm", {"weight": [h], "bias": [h]})
    genes |= prefixed("mlp_mixer.3", {"weight": [h], "bias": [h]}) | prefixed("mlp_mixer.4", linear(e, h))
    genes |= prefixed("pathway_compression", linear(64, p))
    shapes |= prefixed("gene_encoder", genes)
    shapes |= prefixed("task_weight.0", linear(e, 3)) | prefixed("task_weight.1", norm)
    shapes |= prefixed("final_norm", norm) | prefixed("final_project", linear(h, e))
    if clinical:
        shapes |= prefixed("clinical_mlp.0", linear(e // 2, 5))
        shapes |= prefixed("clinical_mlp.2", linear(e, e // 2)) | prefixed("clinical_mlp.3", norm)
    return shapes


@pytest.mark.parametrize(("name", "tensors"), [(GENES, 224), (CLINICAL, 230)])
def test_names_and_shapes_are_those_of_published_checkpoints(full_size, name, tensors):
    model = full_size[name]
    trainable = {k for k, p in model.named_parameters() if p.requires_grad}
    state = {k: v for k, v in model.state_dict().items() if k in trainable}
    shapes = {
        k: list(v.shape) for k, v in checkpoint.to_published(state, of_sizes(published_sizes())).items()
    }
    networks = [k for k in shapes if k.startswith("gene_encoder.gene_networks.")]
    assert len(networks) == 4 * 331
    assert shapes["gene_encoder.gene_networks.330.0.0.weight"] == [256, published_sizes()[330]]
    first = {
        k: shape
        for k, shape in shapes.items()
        if k not in networks or k.startswith("gene_encoder.gene_networks.0.")
    }
    assert len(first) == tensors and first == shapes_of_the_manifest(name == CLINICAL)


def test_frozen_encoder_carries_its_published_names(full_size):
    model = full_size[GENES]
    names = set(checkpoint.to_published(model.state_dict(), of_sizes(published_sizes())))
    frozen = {k.removeprefix("backbone.vit.") for k in model.state_dict() if k.startswith("backbone.vit.")}
    assert len(frozen) == 247 and frozen <= names
    assert {"cls_token", "encoder.layers.11.ffn.fc2.bias", "patch_embed.proj.weight"} <= frozen


# ---------------------------------------------------------------------------- what is refused
def test_no_file(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"w\.pt does not exist.*--eval_weights"):
        checkpoint.load(tmp_path / "w.pt")


class Code:
    def __reduce__(self):
        return exec, ("raise SystemExit('code was executed')",)


@pytest.mark.parametrize("content", [{"model": Code(), "run": {}}, {"model": {}, "run": {"x": Code()}}])
def test_code_is_not_executed(tmp_path, content):
    torch.save(content, tmp_path / "w.pt")
    with pytest.raises(ValueError, match=r"w\.pt is no readable checkpoint"):
        checkpoint.load_weights(tmp_path / "w.pt")


@pytest.mark.parametrize("content", [b"", b"junk", b"PK\x03\x04 half a file"])
def test_a_damaged_file_is_named(tmp_path, content):
    (tmp_path / "w.pt").write_bytes(content)
    with pytest.raises(ValueError, match=r"w\.pt is no readable checkpoint"):
        checkpoint.load_weights(tmp_path / "w.pt")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (torch.zeros(3), "holds a Tensor, a checkpoint is a dict"),
        ([1, 2], "holds a list"),
        ({"epoch": 1, "model": {}}, r"holds no tensor of a ModalTune checkpoint.*'epoch', 'model'"),
        ({}, "holds no tensor of a ModalTune checkpoint"),
        ({"head.weight": torch.zeros(1)}, "is no ModalTune checkpoint.*head"),
    ],
)
def test_other_files_are_named(tmp_path, content, message):
    torch.save(content, tmp_path / "w.pt")
    with pytest.raises(ValueError, match=r"w\.pt " + message):
        checkpoint.load_weights(tmp_path / "w.pt")


def test_missing_unknown_and_misshapen_parameters_are_counted(tiny_config, pathways):
    model = build(GENES, tiny_config, pathways)
    state = checkpoint.trainable_state(model)
    del state["final_norm.weight"]
    state["gene_pe"] = torch.zeros(1, 48)
    state["other"] = torch.zeros(1)
    with pytest.raises(ValueError) as caught:
        checkpoint.load_trainable(model, state, "w.pt")
    for part in (
        "w.pt does not fit the model",
        "1 parameters missing ['final_norm.weight']",
        "1 parameters unknown ['other']",
        "1 parameters of another shape ['gene_pe is (1, 48), should be (5, 48)']",
        "--model_config",
    ):
        assert part in str(caught.value)


@pytest.mark.parametrize("change", ["missing", "unknown", "wrong"])
def test_each_alone_is_refused_and_changes_nothing(change, tiny_config, pathways, randomise):
    model = build(GENES, tiny_config, pathways)
    state = checkpoint.trainable_state(randomise(build(GENES, tiny_config, pathways), seed=1))
    if change == "missing":
        del state["gene_pe"]
    elif change == "unknown":
        state["gene_cls"] = torch.zeros(1, 1, 48)
    else:
        state["final_project.weight"] = state["final_project.weight"][:-1]
    before = {k: v.clone() for k, v in model.state_dict().items()}
    with pytest.raises(ValueError, match="does not fit the model"):
        checkpoint.load_trainable(model, state, "w.pt")
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


def test_another_number_of_pathways_does_not_fit(tmp_path, tiny_config, pathways, randomise):
    checkpoint.save(tmp_path / "w.pt", published(randomise(build(GENES, tiny_config, pathways))))
    fewer = build(GENES, tiny_config, pathways[:3])
    with pytest.raises(ValueError, match="pathway table"):
        checkpoint.load_trainable(fewer, checkpoint.load_weights(tmp_path / "w.pt")["model"], "w.pt")


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (None, r"incomplete: \['gene_networks.1.1.0.bias'\]"),
        (7, r"incomplete: \['gene_networks.1.1.0.bias'\]"),
        (torch.zeros(0), r"gene_networks.1.1.0.bias has the shape \(0,\)"),
        (torch.zeros(2, 2), r"gene_networks.1.1.0.bias has the shape \(2, 2\)"),
    ],
)
def test_a_damaged_pathway_network_is_named(tmp_path, tiny_config, pathways, value, message):
    state = published(build(GENES, tiny_config, pathways))
    state["gene_encoder.gene_networks.1.1.0.bias"] = value
    if value is None:
        del state["gene_encoder.gene_networks.1.1.0.bias"]
    torch.save(state, tmp_path / "w.pt")
    with pytest.raises(FileError, match=f"w.pt cannot be used: .*{message}"):
        checkpoint.load_weights(tmp_path / "w.pt")


def test_trainable_state_is_what_learns_off_the_graph(tiny_config, pathways):
    model = build(GENES, tiny_config, pathways)
    state = checkpoint.trainable_state(model)
    assert set(state) == {k for k, p in model.named_parameters() if p.requires_grad}
    assert not any(v.requires_grad for v in state.values())


def test_a_trusted_file_is_cleaned_to_plain_values(tmp_path, caplog):
    layer = torch.nn.Linear(2, 1)
    content = {
        "args": argparse.Namespace(lr=0.1, out=Path("x")),
        "model": layer,
        "steps": (1, None, "a", {2, 3}),
    }
    torch.save(content, tmp_path / "a.pt")
    with pytest.raises(ValueError, match=r"holds a \S+, and reading that would run code.*--trust_checkpoint"):
        checkpoint.load(tmp_path / "a.pt")
    with caplog.at_level("INFO"):
        weights_command.main(["clean", str(tmp_path / "a.pt"), str(tmp_path / "b.pt"), "--trust_checkpoint"])
    plain = checkpoint.load(tmp_path / "b.pt")
    assert plain["args"] == {"lr": 0.1, "out": "<PosixPath>"} and plain["steps"] == [1, None, "a", "<set>"]
    assert torch.equal(plain["model"]["weight"], layer.weight)
    assert "args.out (PosixPath)" in caplog.text and "steps[3] (set)" in caplog.text


# ---------------------------------------------------------------------------- schema
def whole_content() -> dict:
    scaler = {"genes": ["b"], "mean": [0.0], "std": [1.0]}
    run = {
        "mil_name": "m",
        "model_config": {},
        "num_tasks": 3,
        "protocol": "strict",
        "objective": None,
        "epoch": 2,
    }
    run |= {"structures": {"genes": {"names": ["a"], "genes": ["b"], "indices": [[0]]}}}
    run |= {"fitted": {"genes": {"all": scaler}}}
    return {"model": {"w": torch.ones(2)}, "objective": {"p": torch.ones(2)}, "run": run}


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        (("model",), [1], "model is a list, not a dict"),
        (("model", "w"), 3, "model holds entries that are no tensors: \\['w'\\]"),
        (("model", "w"), torch.tensor([float("nan")]), "NaN or infinite values in 1 parameters of model"),
        (("objective", "p"), torch.tensor([float("inf")]), "NaN or infinite values .* of objective"),
        (("run",), "none", "run is a str"),
        (("run", "mil_name"), None, "run.mil_name is a NoneType, not a str"),
        (("run", "num_tasks"), True, "run.num_tasks is a bool, not a int"),
        (("run", "train_cases"), "abc", "run.train_cases is a str, not a list"),
        (("run", "structures", "genes"), {"names": ["a"]}, "what it says of the RNA cannot be used"),
        (("run", "structures", "genes", "indices"), [[7]], "what it says of the RNA cannot be used"),
        (("run", "structures", "genes", "indices"), [[torch.zeros(0)]], "what it says of the RNA"),
        (("run", "fitted", "genes"), {"all": {"genes": ["b"], "mean": "x"}}, "the RNA cannot be used"),
        (("run", "fitted", "clinical"), {"codes": 3}, "the clinical features cannot be used"),
    ],
)
def test_weights_of_another_shape_are_refused_at_once(tmp_path, place, value, message):
    content = whole_content()
    checkpoint.save(tmp_path / "w.pt", content)
    assert checkpoint.load_weights(tmp_path / "w.pt")["run"] == content["run"]
    where = content
    for key in place[:-1]:
        where = where[key]
    where[place[-1]] = value
    checkpoint.save(tmp_path / "w.pt", content)
    with pytest.raises(ValueError, match=rf"w\.pt (is no whole checkpoint|has).*{message}"):
        checkpoint.load_weights(tmp_path / "w.pt")


@pytest.mark.parametrize("name", ["mil_name", "model_config", "num_tasks", "protocol"])
def test_missing_entries_are_named(tmp_path, name):
    content = whole_content()
    del content["run"][name]
    checkpoint.save(tmp_path / "w.pt", content)
    with pytest.raises(ValueError, match=rf"w\.pt is no whole checkpoint: run\.{name} is missing"):
        checkpoint.load_weights(tmp_path / "w.pt")
