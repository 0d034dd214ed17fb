"""The worked example of docs/extend.md: a package outside the repository, through every command, unchanged."""

import json
import os
import re
import subprocess

import numpy as np
import pandas as pd
import pytest

from tests.small_cohort import IN_DIM, make_small_cohort
from utils import constants

PAGE = constants.REPO_ROOT / "docs" / "extend.md"
# The entry point as a command whose figures and most resamples are left out.
QUICK = """
import os
import runpy
variables = dict(os.environ)
import tests  # forgets those of the user
os.environ |= variables
from tests.small_runs import quick_evaluation
with quick_evaluation():
    runpy.run_path("train_modaltune.py", run_name="__main__")
"""


@pytest.fixture(scope="module")
def call(package, warm_python):
    """Runs a Python command with the package as a plugin, as a user would."""
    return lambda *words: run(warm_python, package, *words)


@pytest.fixture(scope="module")
def package(tmp_path_factory):
    """The code blocks of the page as files."""
    root = tmp_path_factory.mktemp("packages")
    pattern = r'```\w+ title="(my_lab/\w+\.\w+)"\n(.*?)```'
    blocks = re.findall(pattern, PAGE.read_text(encoding="utf-8"), re.DOTALL)
    assert len(blocks) == len(dict(blocks)) >= 5
    for name, code in blocks:
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).write_text(code, encoding="utf-8")
    return root


@pytest.fixture(scope="module")
def cohorts(tmp_path_factory):
    """A cohort to train on and one to deploy on, each with a table of proteins; a patient of either lacks them."""
    found = []
    for first in (0, 100):
        cohort = make_small_cohort(tmp_path_factory.mktemp("cohort"), first=first)
        generator = np.random.default_rng(first)
        cases = [f"case-{first + i}" for i in range(16)]
        table = pd.DataFrame(generator.normal(size=(16, 4)), columns=list("PQRS"), index=cases).rename_axis(
            "case_id"
        )
        table.drop(index=cases[3]).to_csv(cohort.root / "proteins.csv")
        found.append(cohort)
    return found


def run(warm, package, *words, **changes):
    """The status of a Python command and what it printed."""
    variables = {k: v for k, v in os.environ.items() if not k.startswith("MODALTUNE_")}
    variables |= {"MODALTUNE_PLUGINS": "my_lab", "PYTHONPATH": str(package), "COLUMNS": "200"} | changes
    command = [warm.bin / "python", *map(str, words)]
    done = subprocess.run(
        command, cwd=constants.REPO_ROOT, env=variables, capture_output=True, text=True, check=False
    )
    return done.returncode, done.stdout + done.stderr


def flags(cohort, output, name, config, **changes):
    path = cohort.root / f"{name}.json"
    path.write_text(json.dumps(config))
    own = {"proteins_csv": cohort.root / "proteins.csv", "mil_name": name, "model_config": path}
    return cohort.flags(output, genomics_csv_path=None, num_epochs=1, **(own | changes))


@pytest.mark.parametrize("name", ["mean_pooling", "longnetvit_proteins_adapter"])
def test_train_evaluate_deploy_and_doctor(name, call, cohorts, tmp_path):
    here, there = cohorts
    config = {"in_dim": IN_DIM, "output_dim": 6}
    if name != "mean_pooling":
        config = json.loads(here.model_config.read_text())
    words = flags(here, tmp_path / "run", name, config)
    status, table = call("-m", "utils.doctor", *words)
    assert status == 0 and re.search(r"proteins +OK .*4 proteins of 15 patients", table), table
    assert "15 of 16 patients have protein levels" in table

    status, log = call("-c", QUICK, *words)
    assert status == 0 and "1 of 8 patients are left out: 1 have no protein levels" in log, log
    results = pd.read_csv(tmp_path / "run" / "results.csv")
    assert "balanced_accuracy" in set(results.metric)

    evaluation = {"eval_only": True, "eval_weights": tmp_path / "run"}
    status, log = call("-c", QUICK, *flags(here, tmp_path / "eval", name, config, **evaluation))
    assert status == 0, log
    pd.testing.assert_frame_equal(pd.read_csv(tmp_path / "eval" / "results.csv"), results)

    status, log = call("-c", QUICK, *flags(there, tmp_path / "ood", name, config, **evaluation))
    assert status == 0 and len(pd.read_csv(tmp_path / "ood" / "results.csv")), log

    table = there.root / "proteins.csv"
    table.write_text(table.read_text().replace("P,Q,R,S", "P,Q,R,X"))
    status, log = call("-m", "utils.doctor", *flags(there, tmp_path / "no", name, config, **evaluation))
    table.write_text(table.read_text().replace("P,Q,R,X", "P,Q,R,S"))
    assert status == 1 and "the model was trained on ['P', 'Q', 'R', 'S']" in " ".join(log.split()), log


def test_the_encoder_works_with_its_own_config_and_weights(call, cohorts, tmp_path):
    """Its model config comes from its declaration, its weights from a file; the scripts know it, too."""
    cohort, script = cohorts[0], "import my_lab.small_vit as m, torch; torch.manual_seed(0)"
    script += "; torch.save(m.SmallViT(10, 24, 2, 3).state_dict(), 'PATH')".replace(
        "PATH", f"{tmp_path}/vit.pt"
    )
    status, log = call("-c", script)
    assert status == 0, log
    changes = {"model_config": None, "random_backbone": None, "backbone_weights": tmp_path / "vit.pt"}
    words = cohort.flags(tmp_path / "run", mil_name="smallvit_gene_adapter", num_epochs=1, **changes)
    status, log = call("-m", "utils.doctor", *words)
    assert status == 0 and "smallvit_gene_adapter: " in log, log
    status, log = call("train_modaltune.py", *words)
    assert status == 0, log
    arguments = json.loads((tmp_path / "run" / "config.json").read_text())["arguments"]
    assert arguments["model"]["model_config"].endswith("my_lab/small_vit.json")
    assert call("-m", "models.encoders", "small_vit", "prefix") == (0, "smallvit\n")
    status, log = call("train_modaltune.py", *cohort.flags(tmp_path / "no", mil_name="smallvit_x"))
    assert status != 0 and "unknown --mil_name 'smallvit_x'" in log


def test_without_the_plugin_nothing_of_it_is_known(package, cohorts, tmp_path, warm_python):
    words = cohorts[0].flags(tmp_path, mil_name="mean_pooling")
    status, log = run(warm_python, package, "train_modaltune.py", *words, MODALTUNE_PLUGINS="")
    assert status != 0 and "unknown --mil_name 'mean_pooling'" in log


def test_a_plugin_that_cannot_be_imported_is_named(tmp_path, warm_python):
    status, log = run(warm_python, tmp_path, "-m", "utils.doctor", "--help")
    assert status != 0 and "MODALTUNE_PLUGINS names 'my_lab', which cannot be imported" in log
