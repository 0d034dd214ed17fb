"""``train_modaltune.py`` from flags to tables, on a generated cohort of a few patients."""

import json
import logging
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

import train_modaltune
from data_utils.tables.tasks import published
from models.compilation import check_compiler
from tests.small_cohort import MODEL_CONFIG, PATHWAYS, make_small_cohort
from tests.small_runs import save_as_published, small_model
from utils import checkpoint as weights_command
from utils import constants
from utils.configuration.run_config import RunConfig
from utils.evaluation.embeddings import Embeddings
from utils.training import checkpoint
from utils.training import run as run_module
from utils.training.jobs import find_weights
from utils.training.record import git_commit, versions
from utils.training.trainer import BEST_WEIGHTS, LAST_CHECKPOINT, Trainer

pytestmark = pytest.mark.usefixtures("quick_runs")

CLINICAL = "longnetvit_gene_clinical_adapter"


@pytest.fixture(scope="module")
def cohort(tmp_path_factory):
    return make_small_cohort(tmp_path_factory.mktemp("cohort"))


@pytest.fixture(scope="module")
def trained(cohort, tmp_path_factory, quick_runs):
    """A finished run of two epochs. Tests that change it copy it first."""
    output = tmp_path_factory.mktemp("trained") / "run"
    train_modaltune.main(cohort.flags(output))
    return output


def report(folder: Path) -> str:
    return (folder / "report.csv").read_text()


def metric(output: Path, task: str, name: str, split: str = "test") -> float:
    table = pd.read_csv(output / "results.csv")
    rows = table[
        (table.run == "mean") & (table.task == task) & (table.split == split) & (table.metric == name)
    ]
    return rows["value"].item()


def assert_same_training(one: Path, other: Path) -> None:
    """Two folders of one training hold the same numbers to the last bit."""
    assert report(one) == report(other)
    assert (one / "metrics.csv").read_text() == (other / "metrics.csv").read_text()
    for name in (BEST_WEIGHTS, LAST_CHECKPOINT):
        states = [checkpoint.load(folder / name)["model"] for folder in (one, other)]
        assert states[0].keys() == states[1].keys()
        assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])
    for split in constants.SPLITS:
        vectors = [Embeddings.load(f / "data" / f"{split}_embeddings.npz").vectors for f in (one, other)]
        assert np.array_equal(*vectors)


# ---------------------------------------------------------------------------- what a run leaves
def test_a_run_folder_holds_everything(trained):
    files = {path.relative_to(trained).as_posix() for path in trained.rglob("*") if path.is_file()}
    seed = {f"seed_0/{name}" for name in (BEST_WEIGHTS, LAST_CHECKPOINT, "metrics.csv", "report.csv")}
    assert seed | {"config.json", "results.csv", "results.md"} <= files
    for split in constants.SPLITS:
        assert {f"seed_0/data/{split}_embeddings.npz", f"seed_0/predictions/{split}.csv"} <= files
    assert not [name for name in files if "tmp" in name]


def test_the_tables_hold_every_task_and_split(trained):
    table = pd.read_csv(trained / "results.csv")
    assert set(table.run) == {"seed_0", "mean"} and set(table.split) == set(constants.SPLITS)
    assert set(table.task) == set(published().names)
    text = (trained / "results.md").read_text()
    for part in (
        "**protocol**: published",
        "**fitted_on**: all cases",
        "**gene_scaling**: union",
        "**ties**: latest",
        "**epochs**: 2",
        "**cohort**: TCGA-TEST",
        "**seeds**: 0",
        "Survival",
    ):
        assert part in text
    metrics = pd.read_csv(trained / "seed_0" / "metrics.csv")
    assert metrics.epoch.tolist() == [0, 1] and metrics.lr.tolist() == pytest.approx([5e-5, 1e-3])
    assert np.isfinite(metrics.loss).all() and "val_balanced_accuracy/General" in metrics


def test_best_weights_hold_projector_pathways_and_settings(trained):
    content = checkpoint.load_weights(trained / "seed_0" / BEST_WEIGHTS)
    run = content["run"]
    assert content["objective"]["projector.0.weight"].shape == (6, 512)
    assert run["structures"]["genes"]["names"] == list(PATHWAYS)
    assert [len(group) for group in run["structures"]["genes"]["indices"]] == [
        len(g) for g in PATHWAYS.values()
    ]
    assert run["model_config"] == MODEL_CONFIG and run["mil_name"] == "longnetvit_gene_adapter"
    assert (run["seed"], run["num_tasks"], run["protocol"]) == (0, 3, "published")
    assert run["train_cases"] == [f"case-{i}" for i in range(8)] and run["epoch"] in (0, 1)
    assert len(run["fitted"]["genes"]["all"]["mean"]) == len(run["fitted"]["genes"]["all"]["genes"])


def test_adapters_learned_and_the_slide_encoder_did_not(trained):
    state = checkpoint.load(trained / "seed_0" / LAST_CHECKPOINT)["model"]
    initial = checkpoint.trainable_state(small_model())
    assert state.keys() == initial.keys() and not any(name.startswith("backbone.") for name in state)
    unchanged = [name for name in state if torch.equal(state[name], initial[name])]
    assert not unchanged


def test_the_configuration_is_recorded(trained, cohort):
    config = json.loads((trained / "config.json").read_text())
    arguments = config["arguments"]
    assert arguments["training"]["lr"] == 1e-3
    assert arguments["data"]["train_json"] == str(cohort.split("train"))
    assert RunConfig.read(trained).plain() == arguments
    assert config["model"]["model_config"] == MODEL_CONFIG
    assert config["inputs"] == {"genes": {"cases": 16, "pathways": 4, "genes": 10, "dropped_pathways": []}}
    assert config["kernels"] == {"attention": "cpu", "copies": "strided"}
    assert config["versions"] == versions() and config["git_commit"] == git_commit()


# ---------------------------------------------------------------------------- reproduction
def test_the_same_seed_gives_the_same_numbers_whatever_the_machine_does(trained, cohort, tmp_path):
    flags = cohort.flags(tmp_path, workers=2, activation_checkpointing="on", save_interval=5)
    train_modaltune.main(flags)
    assert_same_training(trained / "seed_0", tmp_path / "seed_0")


def test_an_interrupted_run_continues_as_if_nothing_happened(trained, cohort, tmp_path, monkeypatch):
    train_epoch = Trainer._train_epoch

    def stop(self, dataset, epoch):
        if epoch == 1:
            raise KeyboardInterrupt
        return train_epoch(self, dataset, epoch)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_train_epoch", stop)
        with pytest.raises(KeyboardInterrupt):
            train_modaltune.main(cohort.flags(tmp_path))
    assert not (tmp_path / "results.csv").exists() and (tmp_path / "seed_0" / LAST_CHECKPOINT).is_file()
    epochs = []
    monkeypatch.setattr(
        Trainer,
        "_train_epoch",
        lambda self, data, epoch: epochs.append(epoch) or train_epoch(self, data, epoch),
    )
    train_modaltune.main(cohort.flags(tmp_path))
    assert epochs == [1]
    assert_same_training(trained / "seed_0", tmp_path / "seed_0")


def test_a_compiled_training_gives_the_same_numbers(cohort, tmp_path, monkeypatch):
    """Interrupted after its first epoch; --compile may come and go between two calls."""
    try:
        check_compiler("cpu")
    except RuntimeError as error:
        pytest.skip(str(error))
    config = tmp_path / "model.json"  # one stage, one extractor: every part takes seconds to compile
    config.write_text(
        json.dumps({**MODEL_CONFIG, "interaction_indexes": [[0, 1]], "use_extra_extractor": False})
    )
    plain, output = tmp_path / "plain", tmp_path / "compiled"
    train_modaltune.main(cohort.flags(plain, model_config=config))
    train_epoch, stops, epochs, built = Trainer._train_epoch, [KeyboardInterrupt], [], []

    def stop(self, dataset, epoch):
        if epoch == 1 and stops:
            raise stops.pop()
        epochs.append(epoch)
        built.append(any(module._compiled_call_impl is not None for module in self.model.modules()))
        return train_epoch(self, dataset, epoch)

    monkeypatch.setattr(Trainer, "_train_epoch", stop)
    with pytest.raises(KeyboardInterrupt):
        train_modaltune.main(cohort.flags(output, model_config=config, compile=True))
    train_modaltune.main(cohort.flags(output, model_config=config, compile=True))
    assert epochs == [0, 1] and built == [True, True]
    assert json.loads((output / "config.json").read_text())["arguments"]["compute"]["compile"] is True
    train_modaltune.main(cohort.flags(output, model_config=config))  # not another run
    assert epochs == [0, 1]

    tables = [pd.read_csv(folder / "seed_0" / "metrics.csv") for folder in (output, plain)]
    pd.testing.assert_frame_equal(*tables, rtol=1e-3)
    for split in constants.SPLITS:
        vectors = [
            Embeddings.load(folder / "seed_0" / "data" / f"{split}_embeddings.npz").vectors
            for folder in (output, plain)
        ]
        np.testing.assert_allclose(*vectors, rtol=1e-3, atol=1e-4)


def test_a_finished_run_is_not_run_again(trained, cohort, monkeypatch):
    before = {path: path.stat().st_mtime_ns for path in (trained / "seed_0").rglob("*") if path.is_file()}
    table = (trained / "results.csv").read_text()
    monkeypatch.setattr(run_module, "_run_job", lambda *args: pytest.fail("trained again"))
    train_modaltune.main(cohort.flags(trained))
    assert before == {p: p.stat().st_mtime_ns for p in (trained / "seed_0").rglob("*") if p.is_file()}
    assert (trained / "results.csv").read_text() == table


def test_a_lost_report_is_written_again_without_training(trained, cohort, tmp_path, monkeypatch):
    shutil.copytree(trained, tmp_path / "run")
    (tmp_path / "run" / "seed_0" / "report.csv").unlink()
    monkeypatch.setattr(Trainer, "_train_epoch", lambda *args: pytest.fail("trained again"))
    train_modaltune.main(cohort.flags(tmp_path / "run"))
    assert_same_training(trained / "seed_0", tmp_path / "run" / "seed_0")


@pytest.mark.parametrize(
    ("changes", "difference"),
    [
        ({"lr": 2e-3}, r"'arguments\.training\.lr': \(0\.001, 0\.002\)"),
        ({"num_epochs": 3, "gc": 2}, r"training\.gc': \(1, 2\), 'arguments\.training\.num_epochs': \(2, 3\)"),
        ({"protocol": "strict"}, r"'arguments\.data\.protocol'"),
    ],
)
def test_other_arguments_on_the_same_folder_are_refused(trained, cohort, changes, difference):
    with pytest.raises(ValueError, match=rf"holds a run with other arguments.*{difference}.*--output_path"):
        train_modaltune.main(cohort.flags(trained, **changes))


def test_another_model_config_under_the_same_name_is_refused(trained, cohort, monkeypatch):
    changed = {**MODEL_CONFIG, "output_dim": 5}
    kept = cohort.model_config.read_text()
    try:
        cohort.model_config.write_text(json.dumps(changed))
        with pytest.raises(ValueError, match=r"'model\.model_config\.output_dim': \(6, 5\)"):
            train_modaltune.main(cohort.flags(trained))
    finally:
        cohort.model_config.write_text(kept)


def test_other_data_under_the_same_name_is_refused(trained, cohort):
    kept = cohort.genes.read_bytes()
    try:
        cohort.genes.write_bytes(kept + b"\n")
        with pytest.raises(ValueError, match=r"other arguments or data.*data\.files\.genes"):
            train_modaltune.main(cohort.flags(trained))
    finally:
        cohort.genes.write_bytes(kept)


def test_a_run_can_be_started_anew(trained, cohort, tmp_path, monkeypatch):
    shutil.copytree(trained, tmp_path / "run")
    (tmp_path / "run" / "seed_0" / "report.csv").unlink()
    (tmp_path / "run" / "seed_0" / LAST_CHECKPOINT).write_bytes(b"damaged")
    with pytest.raises(ValueError, match=LAST_CHECKPOINT):
        train_modaltune.main(cohort.flags(tmp_path / "run"))
    train_modaltune.main(cohort.flags(tmp_path / "run", resume="never"))
    assert_same_training(trained / "seed_0", tmp_path / "run" / "seed_0")


# ---------------------------------------------------------------------------- seeds and folds
def test_seeds_are_added_to_a_run_that_was_moved(trained, cohort, tmp_path):
    output = tmp_path / "moved"
    shutil.copytree(trained, output)
    train_modaltune.main(cohort.flags(output, multi_seed=2))
    assert_same_training(trained / "seed_0", output / "seed_0")
    first, second = (checkpoint.load(output / f"seed_{s}" / LAST_CHECKPOINT) for s in (0, 1))
    assert not torch.equal(first["model"]["gene_pe"], second["model"]["gene_pe"])
    assert not torch.equal(
        first["objective"]["projector.0.weight"], second["objective"]["projector.0.weight"]
    )
    table = pd.read_csv(output / "results.csv")
    assert set(table.run) == {"seed_0", "seed_1", "mean"}
    rows = table[(table.task == "General") & (table.split == "test") & (table.metric == "balanced_accuracy")]
    values = rows.set_index("run").value
    assert values["mean"] == pytest.approx((values["seed_0"] + values["seed_1"]) / 2)


def test_folds_train_on_other_patients_and_test_everyone(cohort, tmp_path):
    train_modaltune.main(cohort.flags(tmp_path, num_folds=2, num_epochs=1, eval_interval=7))
    tested = []
    for k in range(2):
        folder = tmp_path / f"fold_{k}" / "seed_0"
        parts = {
            s: Embeddings.load(folder / "data" / f"{s}_embeddings.npz").case_ids for s in constants.SPLITS
        }
        everyone = [case for ids in parts.values() for case in ids]
        assert sorted(everyone) == sorted(f"case-{i}" for i in range(16))
        trained_on = checkpoint.load_weights(folder / BEST_WEIGHTS)["run"]["train_cases"]
        assert sorted(trained_on) == sorted(parts["train"])
        tested += parts["test"]
    assert sorted(tested) == sorted(f"case-{i}" for i in range(16))
    assert set(pd.read_csv(tmp_path / "results.csv").run) == {"fold_0/seed_0", "fold_1/seed_0", "mean"}
    # The split files do not know of the folds: their test patients were trained on.
    with pytest.raises(ValueError, match=r"was trained on \d+ patients of .*test\.json"):
        train_modaltune.main(cohort.flags(tmp_path / "eval", eval_only=True, eval_weights=tmp_path))


# ---------------------------------------------------------------------------- evaluation
def test_evaluating_the_run_folder_reproduces_its_numbers(trained, cohort, tmp_path, monkeypatch):
    opened = []
    load = checkpoint.load
    monkeypatch.setattr(checkpoint, "load", lambda path: opened.append(path) or load(path))
    flags = cohort.flags(
        tmp_path, eval_only=True, eval_weights=trained, eval_name="again", text_location=None
    )
    train_modaltune.main(flags)
    assert report(tmp_path / "again" / "seed_0") == report(trained / "seed_0")
    assert opened == [trained / "seed_0" / BEST_WEIGHTS]
    assert "**weights**" in (tmp_path / "again" / "results.md").read_text()
    assert not list((tmp_path / "again").rglob("*.pt"))


LORA = {"lora": {"rank": 2, "alpha": 4, "targets": ["q_proj", "v_proj"]}}


@pytest.mark.parametrize(
    ("keys", "tasks"),
    [(LORA, 3), ({"freeze_vit": False}, 3), ({"task_token": False, "prompt_dropout": 0.1}, 1)],
    ids=["lora", "whole slide encoder", "no task token"],
)
def test_ablations_train_and_are_evaluated_from_their_weights(cohort, tmp_path, keys, tasks):
    config = tmp_path / "model.json"
    config.write_text(json.dumps({**MODEL_CONFIG, **keys}))
    run, again = tmp_path / "run", tmp_path / "again"
    train_modaltune.main(cohort.flags(run, model_config=config, num_tasks=tasks, num_epochs=1))
    train_modaltune.main(cohort.flags(again, eval_only=True, eval_weights=run, num_tasks=tasks))
    assert report(again / "seed_0") == report(run / "seed_0")
    state = checkpoint.load_weights(run / "seed_0" / BEST_WEIGHTS)["model"]
    of_encoder = {name.rpartition(".")[2] for name in state if name.startswith("backbone.")}
    assert of_encoder == {"lora": {"lora_a", "lora_b"}}.get(next(iter(keys)), of_encoder)
    assert bool(of_encoder) is ("task_token" not in keys)


@pytest.mark.parametrize("converted", [False, True])
def test_a_published_checkpoint_gives_the_same_numbers(trained, cohort, tmp_path, caplog, converted):
    weights = save_as_published(trained / "seed_0" / BEST_WEIGHTS, tmp_path / "published.pt")
    if converted:
        weights_command.main(["convert", str(weights), str(tmp_path / "ours.pt")])
        weights = tmp_path / "ours.pt"
    torch.save({}, tmp_path / "candidates.pt")
    flags = {"eval_only": True, "eval_weights": weights, "candidate_location": tmp_path / "candidates.pt"}
    with caplog.at_level(logging.WARNING):
        train_modaltune.main(cohort.flags(tmp_path / "eval", seed=0, **flags))
    assert report(tmp_path / "eval" / "seed_0") == report(trained / "seed_0")
    assert f"{weights} holds no text projector: nothing is evaluated zero-shot" in caplog.text


@pytest.mark.parametrize("converted", [False, True])
def test_a_published_checkpoint_of_another_pathway_table_is_refused(trained, cohort, tmp_path, converted):
    """Two pathways of other sizes whose sum is the same: side by side, their parameters have the same shape."""
    weights = save_as_published(trained / "seed_0" / BEST_WEIGHTS, tmp_path / "published.pt")
    if converted:
        weights_command.main(["convert", str(weights), str(tmp_path / "ours.pt")])
        weights = tmp_path / "ours.pt"
    table = pd.read_csv(cohort.pathways, index_col=0)
    table.loc["G5", ["A", "B"]] = [0, 1]
    table.to_csv(tmp_path / "other.csv")
    flags = {"eval_only": True, "eval_weights": weights, "pathway_table": tmp_path / "other.csv"}
    message = r"2 pathways have another number of genes: A \(3, here 2\), B \(1, here 2\); .*gene_pathway_processed_v2"
    with pytest.raises(ValueError, match=message):
        train_modaltune.main(cohort.flags(tmp_path / "eval", **flags))


def test_a_new_cohort_is_embedded_with_the_trained_pathways(trained, tmp_path, caplog):
    other = make_small_cohort(tmp_path / "other", first=100)
    table = pd.read_csv(other.genes).rename(columns={"G4": "UNKNOWN"})
    table[table.columns[[0, *range(len(table.columns) - 1, 0, -1)]]].to_csv(other.genes, index=False)
    flags = other.flags(tmp_path / "ood", eval_only=True, eval_weights=trained, pathway_table="nowhere.csv")
    with caplog.at_level(logging.WARNING):
        train_modaltune.main(flags)
    assert "1 of 10 genes of the model are missing" in caplog.text and "G4" in caplog.text
    embedded = Embeddings.load(tmp_path / "ood" / "seed_0" / "data" / "test_embeddings.npz")
    assert embedded.case_ids == [f"case-{i}" for i in range(112, 116)]
    assert 0 <= metric(tmp_path / "ood", "General", "balanced_accuracy") <= 1


def test_patients_of_the_training_are_not_tested_on(trained, cohort, tmp_path):
    swapped = {"train_json": cohort.split("test"), "test_json": cohort.split("train")}
    with pytest.raises(ValueError, match=r"was trained on 8 patients of .*train\.json, such as \['case-0'"):
        train_modaltune.main(cohort.flags(tmp_path, eval_only=True, eval_weights=trained, **swapped))


def test_another_number_of_tasks_is_refused(trained, cohort, tmp_path):
    with pytest.raises(ValueError, match="the weights have 3 tasks, --num_tasks says 2"):
        train_modaltune.main(cohort.flags(tmp_path, eval_only=True, eval_weights=trained, num_tasks=2))


def test_another_protocol_than_that_of_the_training_is_said(trained, cohort, tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        train_modaltune.main(cohort.flags(tmp_path, eval_only=True, eval_weights=trained, protocol="strict"))
    assert "trained with --protocol published, this evaluation uses strict" in caplog.text


def test_weights_are_found_in_files_and_folders(trained, tmp_path):
    weights = trained / "seed_0" / BEST_WEIGHTS
    assert find_weights(weights) == find_weights(trained) == [weights]
    for path in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(FileNotFoundError, match=f"neither a file nor a folder with {BEST_WEIGHTS}"):
            find_weights(path)


# ---------------------------------------------------------------------------- variants
def test_weights_of_epochs_are_kept_and_evaluated(trained, cohort, tmp_path):
    train_modaltune.main(cohort.flags(tmp_path / "run", keep_checkpoints=1))
    seed = tmp_path / "run" / "seed_0"
    assert_same_training(trained / "seed_0", seed)
    kept = {path.name: checkpoint.load_weights(path)["run"]["epoch"] for path in seed.glob("weights_epoch_*")}
    assert kept == {"weights_epoch_0.pt": 0, "weights_epoch_1.pt": 1}
    best = checkpoint.load_weights(seed / BEST_WEIGHTS)["run"]["epoch"]
    flags = {"eval_only": True, "eval_weights": seed / f"weights_epoch_{best}.pt"}
    train_modaltune.main(cohort.flags(tmp_path / "again", **flags))
    assert report(tmp_path / "again" / "seed_0") == report(seed)


def test_mixed_precision_on_the_cpu(trained, cohort, tmp_path):
    train_modaltune.main(cohort.flags(tmp_path, use_amp=True))
    low, full = (
        Embeddings.load(folder / "seed_0" / "data" / "test_embeddings.npz").vectors
        for folder in (tmp_path, trained)
    )
    assert low.dtype == np.float32 and not np.array_equal(low, full)
    np.testing.assert_allclose(low, full, atol=0.15)


def test_clinical_features(cohort, tmp_path, monkeypatch):
    flags = {"mil_name": CLINICAL, "clinical_location": cohort.clinical, "num_epochs": 1}
    train_modaltune.main(cohort.flags(tmp_path / "run", **flags))
    weights = tmp_path / "run" / "seed_0" / BEST_WEIGHTS
    assert any("clinical" in name for name in checkpoint.load_weights(weights)["model"])
    # The model is that of the weights, so an evaluation without the flag needs the features too.
    with pytest.raises(ValueError, match=f"{CLINICAL} needs --clinical_location"):
        train_modaltune.main(cohort.flags(tmp_path / "eval", eval_only=True, eval_weights=weights))
    train_modaltune.main(
        cohort.flags(
            tmp_path / "eval", eval_only=True, eval_weights=weights, clinical_location=cohort.clinical
        )
    )
    assert report(tmp_path / "eval" / "seed_0") == report(tmp_path / "run" / "seed_0")


def test_one_task_and_no_saved_embeddings(cohort, tmp_path):
    flags = [*cohort.flags(tmp_path, num_tasks=1, num_epochs=1, gc=3), "--no-save_embeddings"]
    train_modaltune.main(flags)
    assert set(pd.read_csv(tmp_path / "results.csv").task) == {"General"}
    state = checkpoint.load_weights(tmp_path / "seed_0" / BEST_WEIGHTS)["model"]
    assert state["task_weight.0.weight"].shape == (24, 1)
    assert not (tmp_path / "seed_0" / "data").exists()


def test_strict_protocol_with_few_patches(cohort, tmp_path):
    flags = {"protocol": "strict", "num_epochs": 1, "threshold": 3}
    train_modaltune.main(cohort.flags(tmp_path / "run", **flags))
    run = checkpoint.load_weights(tmp_path / "run" / "seed_0" / BEST_WEIGHTS)["run"]
    table = pd.read_csv(cohort.genes, index_col=0).loc[[f"TCGA-AA-{i:04d}" for i in range(8)]]
    assert run["fitted"]["genes"]["all"]["mean"] == pytest.approx(
        table[run["fitted"]["genes"]["all"]["genes"]].mean().tolist(), rel=1e-5
    )
    evaluation = {**flags, "eval_only": True, "eval_weights": tmp_path / "run"}
    train_modaltune.main(cohort.flags(tmp_path / "eval", **evaluation))
    assert report(tmp_path / "eval" / "seed_0") == report(tmp_path / "run" / "seed_0")


@pytest.mark.parametrize("protocol", ["published", "strict"])
def test_flags_decide_how_patches_are_prepared(cohort, tmp_path, monkeypatch, protocol):
    class Enough(Exception):
        """Stops the run where its datasets would be made."""

    seen = []

    def record(self, patients, fitted, patches, modalities, trained_on):
        seen.append(patches)
        raise Enough

    monkeypatch.setattr(run_module.CohortData, "datasets", record)
    with pytest.raises(Enough):
        train_modaltune.main(cohort.flags(tmp_path, protocol=protocol, threshold=7, seed=3))
    (patches,) = seen
    assert (patches.threshold, patches.seed, patches.extent) == (7, 3, 256_000)
    assert patches.cumulative_stacking == (protocol == "strict") and not patches.resample


def test_flags_reach_the_trainer_of_every_seed(trained, cohort, tmp_path, monkeypatch):
    seen = []

    def copy_report(trainer, datasets, job, config):
        job.folder.mkdir(parents=True, exist_ok=True)
        shutil.copy(trained / "seed_0" / "report.csv", job.folder)

    monkeypatch.setattr(Trainer, "fit", lambda self, *args: seen.append(self))
    monkeypatch.setattr(run_module, "_report", copy_report)
    flags = {"seed": 4, "multi_seed": 2, "gc": 3, "eval_interval": 5, "activation_checkpointing": "on"}
    train_modaltune.main(cohort.flags(tmp_path, **flags))
    assert [trainer.options.seed for trainer in seen] == [4, 5]
    assert [trainer.output_dir.name for trainer in seen] == ["seed_4", "seed_5"]
    for trainer in seen:
        assert (trainer.options.gc, trainer.options.eval_interval, trainer.options.lr) == (3, 5, 1e-3)
        assert trainer.model.activation_checkpointing == "on"


# ---------------------------------------------------------------------------- what stops a run
def test_missing_slide_encoder_weights_are_an_error(cohort, tmp_path):
    flags = cohort.flags(tmp_path, random_backbone=None, backbone_weights=tmp_path / "slide_encoder.pth")
    with pytest.raises(FileNotFoundError, match=r"huggingface\.co/prov-gigapath"):
        train_modaltune.main(flags)


def test_official_slide_encoder_weights_are_used(trained, cohort, tmp_path):
    """The weights of the random encoder, saved in the official layout, give the same run."""
    torch.save({"model": small_model().backbone.vit.state_dict()}, tmp_path / "slide_encoder.pth")
    flags = {"random_backbone": None, "backbone_weights": tmp_path / "slide_encoder.pth"}
    train_modaltune.main(
        cohort.flags(tmp_path / "eval", eval_only=True, eval_weights=trained, seed=5, **flags)
    )
    assert report(tmp_path / "eval" / "seed_0") == report(trained / "seed_0")


def test_a_run_without_validation_patients_is_an_error(cohort, tmp_path):
    (tmp_path / "val.json").write_text('{"data": []}')
    with pytest.raises(ValueError, match=r"no patient to run on in the splits \['val'\]"):
        train_modaltune.main(cohort.flags(tmp_path / "run", val_json=tmp_path / "val.json"))


def test_a_cohort_without_test_patients_is_evaluated_on_the_others(trained, cohort, tmp_path):
    (tmp_path / "test.json").write_text('{"data": []}')
    flags = {"eval_only": True, "eval_weights": trained, "test_json": tmp_path / "test.json"}
    train_modaltune.main(cohort.flags(tmp_path / "eval", **flags))
    assert set(pd.read_csv(tmp_path / "eval" / "results.csv").split) == {"train", "val"}


def test_an_unknown_model_lists_those_there_are(cohort, tmp_path):
    with pytest.raises(ValueError, match=r"unknown --mil_name 'longnet'.*longnetvit_gene_adapter"):
        train_modaltune.main(cohort.flags(tmp_path, mil_name="longnet"))


@pytest.mark.parametrize("max_skipped", [0, 1])
def test_a_loss_that_is_not_finite_is_skipped_or_stops_the_run(cohort, tmp_path, monkeypatch, max_skipped):
    read = run_module.CohortData.datasets

    def spoil(self, *args, **options):
        parts = read(self, *args, **options)
        parts["fit"].texts = {**parts["fit"].texts, "case-2": torch.full((4, 512), float("inf"))}
        return parts

    monkeypatch.setattr(run_module.CohortData, "datasets", spoil)
    flags = cohort.flags(tmp_path, max_skipped=max_skipped, num_epochs=1)
    if max_skipped:
        train_modaltune.main(flags)
        assert pd.read_csv(tmp_path / "seed_0" / "metrics.csv").skipped.tolist() == [1]
        return
    with pytest.raises(FloatingPointError, match="loss of case case-2 is nan in epoch 0"):
        train_modaltune.main(flags)
    assert not (tmp_path / "results.csv").exists()


def test_outside_of_git_the_commit_is_unknown(monkeypatch, tmp_path):
    monkeypatch.setattr(constants, "REPO_ROOT", tmp_path / "nowhere")
    assert git_commit() == "unknown"


def test_features_in_memory_change_nothing(cohort, tmp_path):
    for cache in ("none", "ram"):
        train_modaltune.main(cohort.flags(tmp_path / cache, cache_features=cache, threshold=4, num_epochs=1))
    one, other = (
        torch.load(tmp_path / cache / "seed_0" / "best_model_weights.pt", weights_only=True)["model"]
        for cache in ("none", "ram")
    )
    assert one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)
