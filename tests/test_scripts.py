"""The submit scripts with a stand-in for Python: what they call, and what they do with signals."""

import os
import re
import shutil
import signal
import subprocess
import time

import pytest

from data_utils.tables.cohorts import load_cohort
from utils import constants

SCRIPTS = constants.REPO_ROOT / "scripts"
NASTY = "BRCA;touch${IFS}executed $(touch${IFS}executed) `touch${IFS}executed` ../../x a|b"

PER_COHORT = (
    "submit_extract_patches",
    "submit_get_dataset",
    "submit_modaltune",
    "submit_modaltune_ddp",
    "submit_baselines",
)
ON_A_CLUSTER = (*PER_COHORT, "submit_modaltune_pancancer", "deploy_OOD_modaltune", "predict_modaltune")

OF_PREDICTION = {"RUNS": "run", "FEATURES_DIR": "features"}


@pytest.fixture
def call(tmp_path):
    """Starts a script whose ``python``, ``torchrun``, ``srun`` and ``scontrol`` are the shell texts given."""

    def start(script, python, **variables):
        programs = tmp_path / "bin"
        programs.mkdir()
        note = f'printf "%s\\n" "$(basename "$0") $*" >>"{tmp_path}/calls"\n'
        for name, body in {"python": python, "torchrun": python, "srun": "", "scontrol": ""}.items():
            (programs / name).write_text(f"#!/usr/bin/env bash\n{note}{body}\n")
            (programs / name).chmod(0o755)
        environment = {k: v for k, v in os.environ.items() if not k.startswith("SLURM")}
        environment |= {
            "PATH": f"{programs}:{environment['PATH']}",
            "MODALTUNE_SKIP_SETUP": "1",
            "MODELS": "snn",
            **OF_PREDICTION,
        }
        environment |= variables
        return subprocess.Popen(
            ["bash", str(SCRIPTS / script)],
            cwd=constants.REPO_ROOT,
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=(tmp_path / "stderr").open("w"),
            # A shell cannot trap a signal that was ignored when it began, as under nohup.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )

    return start


def calls(tmp_path, word):
    lines = (tmp_path / "calls").read_text().splitlines() if (tmp_path / "calls").exists() else []
    return [line for line in lines if word in line]


def wait_for(condition):
    until = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < until, "it never came to that"
        time.sleep(0.01)


def training(tmp_path, status):
    """A training that ends with ``status`` on a signal; else it would take a minute."""
    return (
        f'[[ "$*" == *train_modaltune* ]] || exit 0\ntrap \'echo $1 >>"{tmp_path}/heard"; exit {status}\' USR1 TERM\n'
        f'touch "{tmp_path}/started"\nfor _ in $(seq 600); do sleep 0.1; done'
    )


@pytest.mark.parametrize("script", [*PER_COHORT, "deploy_OOD_modaltune"])
def test_cohort_names_are_never_executed(call, tmp_path, script):
    process = call(f"{script}.sh", "", COHORTS=NASTY, EXTRA_ARGS="", MODALTUNE_OUTPUT_ROOT=str(tmp_path))
    assert process.wait(60) == 0
    assert not (constants.REPO_ROOT / "executed").exists()
    for name in NASTY.split():
        assert calls(tmp_path, f"--onco {name}")
        if name != "BRCA":
            with pytest.raises(ValueError, match="is no name of a cohort"):
                load_cohort(name)


@pytest.mark.parametrize("script", ON_A_CLUSTER)
def test_the_copy_that_slurm_runs_finds_the_repository(call, tmp_path, script):
    copy = tmp_path / "spool" / "job4711" / "slurm_script"
    copy.parent.mkdir(parents=True)
    shutil.copy(SCRIPTS / f"{script}.sh", copy)
    assert call(copy, "").wait(60) != 0
    assert "submit from the repository root" in (tmp_path / "stderr").read_text()
    shutil.rmtree(tmp_path / "bin")
    process = call(copy, f'pwd >>"{tmp_path}/folders"', SLURM_SUBMIT_DIR=str(constants.REPO_ROOT))
    assert process.wait(60) == 0
    assert set((tmp_path / "folders").read_text().splitlines()) == {str(constants.REPO_ROOT)}


@pytest.mark.parametrize("script", ON_A_CLUSTER)
def test_an_unknown_encoder_stops_before_anything_is_called(call, tmp_path, script):
    assert call(f"{script}.sh", "", ENCODER="uni").wait(60) == 2
    assert (
        "unknown slide encoder 'uni'; there are gigapath, gigapath_flash, titan"
        in (tmp_path / "stderr").read_text()
    )
    assert not calls(tmp_path, "")


@pytest.mark.parametrize("recipe", ["ours", "original"])
def test_the_recipe_of_an_original_decides_rate_and_epochs(call, tmp_path, recipe):
    runs = {"COHORTS": "BRCA", "MODELS": "snn mlp", "COMPARE_WITH": "one two", "LR": "0.5"}
    assert call("submit_baselines.sh", "", RECIPE=recipe, **runs).wait(60) == 0
    trained = calls(tmp_path, "train_modaltune.py")
    assert [line.split("--mil_name ")[1].split()[0] for line in trained] == ["snn", "mlp"]
    for line in trained:
        assert f"--recipe {recipe}" in line and ("--lr 0.5" in line) == (recipe == "ours")
        assert ("--num_epochs" in line) == (recipe == "ours")
    (table,) = calls(tmp_path, "utils.evaluation.tables")
    assert " one two --heads --output" in table


@pytest.mark.parametrize("script", PER_COHORT)
@pytest.mark.parametrize(("task", "cohort"), [("0", "BRCA"), ("1", "RCC"), ("2", None)])
def test_an_array_task_takes_its_cohort(call, tmp_path, script, task, cohort):
    process = call(f"{script}.sh", "", COHORTS="BRCA RCC", SLURM_ARRAY_TASK_ID=task)
    assert process.wait(60) == 0
    named = {line.split("--onco ")[1].split()[0] for line in calls(tmp_path, "--onco")}
    assert named == ({cohort} if cohort else set())


@pytest.mark.parametrize(
    ("variables", "name", "mil_name"),
    [
        ({}, "modaltune_gigapath_gene", "longnetvit_gene_adapter"),
        (
            {"ENCODER": "titan", "TYPE": "gene_clinical", "MISSING": "learned"},
            "modaltune_titan_gene_clinical_learned",
            "titan_gene_clinical_adapter",
        ),
        ({"RUN_NAME": "mine"}, "mine", "longnetvit_gene_adapter"),
    ],
)
@pytest.mark.parametrize(
    ("script", "suffix"),
    [
        ("submit_modaltune", ""),
        ("submit_modaltune_ddp", "_ddp"),
        ("submit_modaltune_pancancer", ""),
        ("deploy_OOD_modaltune", ""),
    ],
)
def test_runs_are_named_after_their_model(call, tmp_path, script, suffix, variables, name, mil_name):
    same = {"COHORTS": "BRCA", "NAME": "BRCA", "EXTRA_ARGS": "--lr 7"}
    process = call(f"{script}.sh", '[[ "$1" != -c ]] || echo /runs', **same, **variables)
    assert process.wait(60) == 0
    checked, run = calls(tmp_path, "--onco")
    folder = f"/runs/{name if name == 'mine' else name + suffix}/BRCA"
    for line in (checked, run):
        assert f" --output_path {folder} " in line and f" --mil_name {mil_name} " in line
        assert line.endswith(" --lr 7")  # the user's flags win, because they come last
    assert "utils.doctor" in checked and "train_modaltune" in run


def test_a_job_at_its_time_limit_saves_and_requeues_itself(call, tmp_path):
    process = call("submit_modaltune.sh", training(tmp_path, 75), COHORTS="BRCA RCC", SLURM_JOB_ID="4711")
    wait_for((tmp_path / "started").exists)
    process.send_signal(signal.SIGUSR1)
    assert process.wait(60) == 75
    assert calls(tmp_path, "scontrol") == ["scontrol requeue 4711"]
    assert len(calls(tmp_path, "train_modaltune.py")) == 1  # no further cohort is begun


@pytest.mark.parametrize(
    ("number", "status"), [(signal.SIGTERM, 75), (signal.SIGINT, 75), (signal.SIGTERM, 143)]
)
def test_other_requests_save_and_do_not_requeue(call, tmp_path, number, status):
    process = call("submit_modaltune.sh", training(tmp_path, status), COHORTS="BRCA RCC", SLURM_JOB_ID="4711")
    wait_for((tmp_path / "started").exists)
    process.send_signal(number)
    assert process.wait(60) == 75 and not calls(tmp_path, "scontrol")
    assert len((tmp_path / "heard").read_text().splitlines()) == 1


def test_outside_of_slurm_nothing_is_requeued(call, tmp_path):
    process = call("submit_modaltune.sh", training(tmp_path, 75), COHORTS="BRCA")
    wait_for((tmp_path / "started").exists)
    process.send_signal(signal.SIGUSR1)
    assert process.wait(60) == 75 and not calls(tmp_path, "scontrol")


@pytest.mark.parametrize("status", [0, 1, 2])
def test_the_status_of_a_training_is_that_of_the_script(call, tmp_path, status):
    process = call("submit_modaltune.sh", f"exit {status}" if status else "", COHORTS="BRCA", EXTRA_ARGS="")
    assert process.wait(60) == status


def test_several_processes_are_launched_by_torchrun_and_told_directly(call, tmp_path):
    """torchrun would die of the signal; its processes hear it instead."""
    launcher = f'[[ "$0" == *torchrun ]] || exit 0\n({training(tmp_path, 75)}) & wait $! || true; exit 1'
    process = call("submit_modaltune_ddp.sh", launcher, COHORTS="BRCA", PROCESSES="3", GC="2")
    wait_for((tmp_path / "started").exists)
    process.send_signal(signal.SIGUSR1)
    assert process.wait(60) == 75
    (line,) = calls(tmp_path, "torchrun")
    assert (
        line.startswith("torchrun --standalone --nproc-per-node 3 train_modaltune.py --onco BRCA")
        and "--gc 2" in line
    )


def test_under_slurm_srun_launches_one_process_per_task(call, tmp_path):
    process = call(
        "submit_modaltune_ddp.sh",
        "",
        COHORTS="BRCA",
        SLURM_JOB_ID="4711",
        SLURM_JOB_NODELIST="n[1-2]",
        EXTRA_ARGS="",
    )
    assert process.wait(60) == 0
    assert calls(tmp_path, "scontrol") == ["scontrol show hostnames n[1-2]"]
    (line,) = calls(tmp_path, "srun")
    assert "RANK=$SLURM_PROCID" in line and "train_modaltune.py --onco BRCA" in line


def test_an_empty_extra_args_adds_no_flag(call, tmp_path):
    process = call("submit_modaltune.sh", "", COHORTS="BRCA", EXTRA_ARGS="", DOCTOR="0")
    assert process.wait(60) == 0
    (command,) = calls(tmp_path, "train_modaltune")
    assert "--use_amp" not in command


@pytest.mark.parametrize(
    ("variables", "lr"),
    [({}, "1e-4"), ({"BALANCED": "1"}, "3e-4"), ({"BALANCED": "1", "LR": "1e-3"}, "1e-3")],
)
def test_a_balanced_training_has_its_own_learning_rate(call, tmp_path, variables, lr):
    process = call("submit_modaltune.sh", "", COHORTS="BRCA", DOCTOR="0", **variables)
    assert process.wait(60) == 0
    (command,) = calls(tmp_path, "train_modaltune")
    assert f"--lr {lr} " in f"{command} "


def test_a_setting_has_one_place():
    """A variable of scripts/settings.sh is given another default by a script only where it differs."""
    shared = dict(re.findall(r'^: "\$\{(\w+):=(.*?)\}"', (SCRIPTS / "settings.sh").read_text(), re.MULTILINE))
    assert shared["ENCODER"] == "gigapath" and len(shared) > 10
    for script in ON_A_CLUSTER:
        own = re.findall(r'^(\w+)="\$\{\1:-(.*?)\}"', (SCRIPTS / f"{script}.sh").read_text(), re.MULTILINE)
        assert not [name for name, value in own if shared.get(name) == value], script


def test_predictions_extract_first_where_slides_are_given(call, tmp_path):
    process = call(
        "predict_modaltune.sh", "", SLIDES_DIR="/slides", FEATURES_DIR="", RUNS="one two", GENES="rna.csv"
    )
    assert process.wait(60) == 0
    extraction, prediction = calls(tmp_path, "/slides")
    assert "TCGA_extract_feats_GIGAPATH" in extraction and "--output_dir /slides/features" in extraction
    assert "utils.prediction one two --features_dir /slides/features" in prediction
    assert "--genomics_csv_path rna.csv" in prediction and "--clinical_location" not in prediction


@pytest.mark.parametrize("missing", ["RUNS", "FEATURES_DIR"])
def test_predictions_need_runs_and_patients(call, tmp_path, missing):
    assert call("predict_modaltune.sh", "", **{missing: ""}).wait(60) == 2
    assert "set RUNS to run folders" in (tmp_path / "stderr").read_text() and not calls(tmp_path, "")
