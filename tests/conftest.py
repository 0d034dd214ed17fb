"""Shared small data: everything is generated."""

import gc

import pytest
import torch

from data_utils.cases.case import Case
from models.encoders import slide_encoders
from models.prov_gigapath.backbone import GigaPathBackbone
from models.titan.backbone import TitanBackbone

torch.set_num_threads(1)  # small models run many times slower on several threads


def pytest_collection_modifyitems(items):
    """Slow files first: they then run beside all the others (scripts/run_tests.sh)."""
    items.sort(key=lambda item: item.get_closest_marker("slow") is None)


def pytest_collection_finish(session):
    """What is imported stays: collections skip it from here on, in the processes that tests fork, too."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def warm_python(tmp_path_factory):
    """Python for scripts and documented commands; it starts at once."""
    from tests.warm_python import WarmPython

    with WarmPython(tmp_path_factory.mktemp("warm")) as warm:
        yield warm


@pytest.fixture(scope="module")
def quick_runs():
    """The evaluations of all runs of a module take no time."""
    from tests.small_runs import quick_evaluation  # not every test needs what it imports

    with quick_evaluation():
        yield


@pytest.fixture
def tiny_config():
    """A ModalTune config small enough for loops; heads do not divide by every ratio."""
    return {
        "slide_encoder": {
            "in_dim": 10,
            "embed_dim": 48,
            "depth": 6,
            "num_heads": 6,
            "ffn_dim": 40,
            "segment_lengths": [8, 20, 64],
            "dilated_ratios": [1, 2, 4],
            "dropout": 0.25,
            "drop_path_rate": 0.1,
        },
        "interaction_indexes": [[0, 1], [2, 3], [4, 5]],
        "num_heads": 3,
        "cffn_ratio": 0.25,
        "init_values": 0.0,
        "drop_path_rate": 0.1,
        "token_agg": "sum",
        "output_dim": 7,
        "gene_encoder": {"hidden_dim": 8, "depth": 2, "num_tokens": 4, "dropout": 0.25},
    }


@pytest.fixture
def tiny_titan_config(tiny_config):
    """The same on TITAN; the number of heads is no power of two."""
    slide_encoder = {
        "in_dim": 10,
        "embed_dim": 48,
        "depth": 6,
        "num_heads": 6,
        "mlp_ratio": 2.0,
        "pooler_heads": 4,
        "pooler_queries": 3,
    }
    return {**tiny_config, "slide_encoder": slide_encoder, "token_agg": "cat"}


@pytest.fixture
def tiny_configs(tiny_config, tiny_titan_config):
    """A small ModalTune config for every slide encoder there is, by the family of its backbone."""
    families = {GigaPathBackbone: tiny_config, TitanBackbone: tiny_titan_config}
    return {
        name: next(
            config for family, config in families.items() if issubclass(encoder.load("backbone"), family)
        )
        for name, encoder in slide_encoders().items()
    }


@pytest.fixture
def pathways():
    """Uneven, overlapping pathways over ten genes."""
    return ((0, 3, 5), (1,), (2, 3, 4, 6, 7, 8, 9), (5, 0))


@pytest.fixture
def make_case():
    """A factory of random cases."""

    def make(length=23, in_dim=10, num_genes=10, seed=0, dtype=torch.float32, **changes):
        """``genes``, ``clinical`` and ``vectors`` change the inputs (None leaves one out), others the fields."""
        generator = torch.Generator().manual_seed(seed)
        fields = {
            "case_id": f"case-{seed}",
            "submitter_id": f"TCGA-XX-{seed:04d}",
            "project_id": "TCGA-TEST",
            "features": torch.randn(length, in_dim, generator=generator, dtype=dtype),
            "coords": torch.randint(0, 40_000, (length, 2), generator=generator),
            "patch_size_lv0": 256,
            "slides": ("slide",),
            "slide_of_patch": torch.zeros(length, dtype=torch.int64),
        }
        inputs = {
            "genes": torch.randn(num_genes, generator=generator, dtype=dtype),
            "clinical": torch.rand(5, generator=generator, dtype=dtype),
        }
        fields |= {
            "text": torch.nn.functional.normalize(
                torch.randn(4, 512, generator=generator, dtype=dtype), dim=-1
            ),
            "label": seed % 2,
            "duration": 10.0 + seed,
            "event": seed % 2,
        }
        inputs["vectors"] = torch.randn(3, 6, generator=generator, dtype=dtype)
        inputs |= {name: changes.pop(name) for name in list(changes) if name in inputs}
        fields["inputs"] = {name: value for name, value in inputs.items() if value is not None}
        return Case(**{**fields, **changes})

    return make


@pytest.fixture
def randomise():
    """Gives every parameter of a model a random value, gates included, so that nothing hides at zero."""

    def apply(model, seed=0, scale=0.4):
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * scale)
        return model

    return apply
