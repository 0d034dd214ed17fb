"""Recipes of the originals: the published table, optimisers and schedules against slow versions, whole runs."""

import json
import math
from collections import Counter
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

import train_modaltune
from data_utils.cases.datasets import PatchOptions
from tests.small_cohort import IN_DIM, make_small_cohort
from utils.arguments import parse_args
from utils.configuration.run_config import TrainingConfig
from utils.evaluation.embeddings import Embeddings
from utils.training import checkpoint, trainer
from utils.training.objectives import MultiTask, SubtypeObjective, SurvivalObjective
from utils.training.optimizers import build_optimizer
from utils.training.patience import Patience, validation_loss
from utils.training.recipes import COMMON, ORIGINALS, recipe_of
from utils.training.sampling import case_order
from utils.training.schedule import build_schedule
from utils.training.trainer import BEST_WEIGHTS, LAST_CHECKPOINT

pytestmark = pytest.mark.usefixtures("quick_runs")

# As the papers' code has them: optimiser, lr, weight decay, epochs, cases of a step, patches in training, alpha,
# weighted sampling, which epoch.
PUBLISHED = """
abmil            | adam      | 2e-4   | 1e-5 | 20  | 32 | all  | 0   | yes | last
mcat             | adam      | 2e-4   | 1e-5 | 20  | 32 | all  | 0   | yes | last
survpath         | radam     | grid   | grid | 2   | 1  | 4096 | 0.5 | yes | last
snn              | radam     | 5e-4   | 1e-4 | 5   | 1  | all  | 0.5 | yes | last
mlp              | radam     | 5e-4   | 1e-4 | 5   | 1  | all  | 0.5 | yes | last
transmil         | lookahead | 2e-4   | 1e-5 | 200 | 2  | all  | 0.5 | no  | best
longnetvit_tuned | adamw     | 2.5e-4 | 0.05 | 5   | 32 | all  | 0.5 | no  | last
"""


@pytest.mark.parametrize("line", PUBLISHED.strip().splitlines())
def test_originals_are_the_published_table(line):
    name, optimizer, lr, decay, epochs, gc, patches, alpha, weighted, select = map(str.strip, line.split("|"))
    found = ORIGINALS[name]
    number = lambda text: None if text == "grid" else float(text)  # noqa: E731
    assert (found.optimizer, found.lr, found.weight_decay) == (optimizer, number(lr), number(decay))
    assert (found.num_epochs, found.gc, found.nll_alpha) == (int(epochs), int(gc), float(alpha))
    assert found.train_patches == (None if patches == "all" else int(patches)) and found.all_patches
    assert (found.weighted, found.model_select) == (weighted == "yes", select)
    assert (found.patience, found.decay_vectors) == (
        (10, False) if name == "transmil" else (None, name != "longnetvit_tuned")
    )


# ---------------------------------------------------------------------------- flags
FILES = [
    "--train_json",
    "a",
    "--val_json",
    "b",
    "--test_json",
    "c",
    "--genomics_csv_path",
    "g",
    "--text_location",
    "t",
    "--output_path",
    "o",
]


def training(mil_name, *words):
    return parse_args("test", [*FILES, "--mil_name", mil_name, *words])


def test_ours_is_one_protocol_for_all():
    for name in ("snn", "abmil", "longnetvit_gene_adapter"):
        config = training(name)
        found = config.training
        assert (found.lr, found.weight_decay, found.num_epochs, found.gc) == (1e-4, 5e-4, 30, 1)
        assert (found.nll_alpha, found.model_select, config.data.threshold) == (0.5, "best", 25_000)
        assert recipe_of(found.recipe, name) is COMMON


def test_flags_win_over_a_recipe():
    found = training("abmil", "--recipe", "original")
    assert (found.training.lr, found.training.gc, found.training.nll_alpha) == (2e-4, 32, 0.0)
    assert found.data.threshold is None and found.training.model_select == "last"
    found = training("abmil", "--recipe", "original", "--lr", "1", "--gc", "2", "--threshold", "7")
    assert (found.training.lr, found.training.gc, found.data.threshold) == (1.0, 2, 7)
    searched = ("--recipe", "original", "--lr", "5e-4", "--weight_decay", "1e-3")
    assert training("survpath", *searched).training.weight_decay == 1e-3


@pytest.mark.parametrize(
    ("name", "words", "message"),
    [
        (
            "gene_mixer",
            ["--recipe", "original"],
            "gene_mixer has no recipe of its own; there is one for abmil",
        ),
        ("longnetvit_gene_adapter", ["--recipe", "original"], "has no recipe of its own"),
        ("survpath", ["--recipe", "original"], "SurvPath searches --lr from 5e-5 to 1e-3; choose one"),
        ("survpath", ["--recipe", "original", "--lr", "1e-3"], "--weight_decay from 1e-5 to 1e-2"),
        ("snn", ["--survpath_protocol"], "--survpath_protocol needs --fold_json"),
    ],
)
def test_what_a_recipe_needs(name, words, message, capsys):
    with pytest.raises(SystemExit):
        training(name, *words)
    assert message in capsys.readouterr().err


def test_patches_are_limited_in_training_alone():
    options = PatchOptions(threshold=None, train_threshold=4096)
    assert options.for_training().threshold == 4096 and options.for_training().resample
    assert PatchOptions(threshold=100, train_threshold=4096).for_training().threshold == 100
    assert PatchOptions(threshold=100).for_training().threshold == 100
    assert PatchOptions().for_training().threshold is None


# ---------------------------------------------------------------------------- optimisers
class Slow:
    """The optimisers by their definitions, one parameter at a time."""

    def __init__(self, value, kind, lr, decay):
        self.value, self.kind, self.lr, self.decay = value.clone(), kind, lr, decay
        self.m = self.v = torch.zeros_like(value)
        self.t, self.slow = 0, None

    def step(self, gradient):
        self.t += 1
        if self.kind == "adam":
            gradient = gradient + self.decay * self.value
        else:
            self.value = self.value * (1 - self.lr * self.decay)
        self.m = 0.9 * self.m + 0.1 * gradient
        self.v = 0.999 * self.v + 0.001 * gradient**2
        mean = self.m / (1 - 0.9**self.t)
        if self.kind in ("adam", "adamw"):
            self.value = self.value - self.lr * mean / ((self.v / (1 - 0.999**self.t)).sqrt() + 1e-8)
            return
        longest = 2 / (1 - 0.999) - 1
        length = longest - 2 * self.t * 0.999**self.t / (1 - 0.999**self.t)
        if length > 5:
            scale = (length - 4) * (length - 2) * longest / ((longest - 4) * (longest - 2) * length)
            scale = math.sqrt(scale * (1 - 0.999**self.t)) / (self.v.sqrt() + 1e-8)
            self.value = self.value - self.lr * mean * scale
        else:
            self.value = self.value - self.lr * mean
        if self.kind == "lookahead" and self.t % 6 == 0:
            # The slow weights begin where the fast ones are at the first look back.
            self.slow = (
                self.value.clone() if self.slow is None else self.slow + 0.5 * (self.value - self.slow)
            )
            self.value = self.slow.clone()


@pytest.mark.parametrize("name", ["abmil", "snn", "transmil", "longnetvit_tuned"])
def test_optimisers_equal_their_definitions(name):
    recipe, torch_model = ORIGINALS[name], nn.Linear(4, 3).double()
    options = TrainingConfig(lr=1e-2, weight_decay=0.1)
    slow = {
        n: Slow(p.detach(), recipe.optimizer, 1e-2, 0.1 if recipe.decay_vectors or p.ndim > 1 else 0.0)
        for n, p in torch_model.named_parameters()
    }
    optimizer = build_optimizer(torch_model, [], options, recipe=recipe)
    torch.manual_seed(3)
    for _ in range(40):
        for n, p in torch_model.named_parameters():
            p.grad = torch.randn_like(p)
            slow[n].step(p.grad)
        optimizer.step()
        optimizer.zero_grad()
    for n, p in torch_model.named_parameters():
        torch.testing.assert_close(p.detach(), slow[n].value, rtol=1e-9, atol=1e-11)


def test_lookahead_goes_on_from_a_checkpoint():
    models = [nn.Linear(3, 2), nn.Linear(3, 2)]
    models[1].load_state_dict(models[0].state_dict())
    recipe, options = ORIGINALS["transmil"], TrainingConfig(lr=1e-2)
    optimizers = [build_optimizer(model, [], options, recipe=recipe) for model in models]

    def steps(k, first, last):
        for i in range(first, last):
            torch.manual_seed(i)
            for p in models[k].parameters():
                p.grad = torch.randn_like(p)
            optimizers[k].step()

    steps(0, 0, 20)
    steps(1, 0, 11)
    stored = optimizers[1].state_dict()
    optimizers[1] = build_optimizer(models[1], [], options, recipe=recipe)
    optimizers[1].load_state_dict(stored)
    steps(1, 11, 20)
    assert torch.equal(models[0].weight, models[1].weight)


# ---------------------------------------------------------------------------- schedules
def rates(kind, num_epochs, cases, lr=1e-3, gc=1):
    optimizer = torch.optim.SGD([{"params": [nn.Parameter(torch.zeros(1))], "scale": 0.5}], lr=lr)
    schedule = build_schedule(kind, optimizer, lr, num_epochs, gc, 0)
    found = []
    for epoch in range(num_epochs):
        for done in range(cases):
            schedule.before_case(epoch, done, cases)
            assert optimizer.param_groups[0]["lr"] == pytest.approx(0.5 * schedule.lr)
            found.append(schedule.lr)
        schedule.step()
    return found


def test_the_schedule_of_survpath_changes_with_every_case():
    cases, epochs = 7, 4
    expected = [1e-3 * step / cases for step in range(cases)]
    for step in range(cases, cases * epochs):
        progress = (step - cases) / (cases * epochs - cases)
        expected.append(1e-3 * 0.5 * (1 + math.cos(math.pi * progress)))
    assert rates("cases", epochs, cases) == pytest.approx(expected)


def test_the_schedule_of_prov_gigapath_changes_with_every_step():
    cases, epochs, gc = 8, 3, 4
    expected = []
    for epoch in range(epochs):
        for case in range(cases):
            e = epoch + (case // gc * gc) / cases
            low = 1e-6 + (1e-3 - 1e-6) / 2 * (1 + math.cos(math.pi * (e - 1) / (epochs - 1)))
            expected.append(1e-3 * e if e < 1 else low)
    found = rates("steps", epochs, cases, gc=gc)
    assert found == pytest.approx(expected) and found[:gc] == [0] * gc


def test_no_schedule_and_a_run_of_one_epoch():
    assert rates("constant", 2, 3) == [1e-3] * 6
    assert rates("cases", 1, 4) == pytest.approx([0, 2.5e-4, 5e-4, 7.5e-4])


# ---------------------------------------------------------------------------- order of the cases
def test_every_kind_of_patient_is_drawn_as_often():
    kinds = ["0/1"] * 60 + ["0/0"] * 30 + ["3/1"] * 9 + [None]
    drawn = Counter(kinds[i] for epoch in range(80) for i in case_order([], kinds, 0, epoch, "natural"))
    assert drawn.total() == 8000
    assert all(abs(count - 2000) < 160 for count in drawn.values())  # four standard deviations
    assert case_order([], kinds, 0, 3, "natural") == case_order([], kinds, 0, 3, "natural")
    unknown = case_order(["a"] * 5, [None] * 5, 0, 0, "natural")
    assert sorted(unknown) == list(range(5))


def test_kinds_are_pairs_of_interval_and_censoring(bins, make_case):
    survival = SurvivalObjective(3, bins)
    multitask = MultiTask({"subtype": SubtypeObjective(3, 2), "survival": survival})
    for duration, event in ((5.0, 1), (5.0, 0), (200.0, 1)):
        case = make_case(duration=duration, event=event)
        kind = f"{bins.index(duration)}/{event}"
        assert survival.kind_of(case) == multitask.kind_of(case) == kind
    assert multitask.kind_of(make_case(duration=math.nan)) is None
    assert SubtypeObjective(3, 2).kind_of(make_case()) is None


# ---------------------------------------------------------------------------- patience
def test_patience_ends_after_so_many_validations_without_a_smaller_loss():
    patience, lasted = Patience(2), []
    for loss in (1.0, 0.8, 0.9, 0.7, 0.7, math.nan, 0.1):
        if not patience.lasts():
            break
        patience.see(loss)
        lasted.append(loss)
    assert lasted[-1] != 0.1 and len(lasted) == 6 and patience.best == 0.7
    other = Patience(2)
    other.restore(patience.state())
    assert not other.lasts() and Patience(None).lasts()


def test_the_validation_loss_is_that_of_the_objective(bins, make_case):
    torch.manual_seed(0)
    objective = MultiTask({"subtype": SubtypeObjective(3, 2), "survival": SurvivalObjective(3, bins)})
    cases = [make_case(seed=k) for k in range(4)] + [make_case(seed=5, label=-1, duration=math.nan)]
    vectors = [np.random.default_rng(k).normal(size=(1, 3)).astype(np.float32) for k in range(5)]
    expected = np.mean(
        [objective(torch.from_numpy(v), case).item() for v, case in zip(vectors[:4], cases[:4], strict=True)]
    )
    found = validation_loss(objective, Embeddings.of(vectors, cases), torch.device("cpu"))
    assert found == pytest.approx(expected)


@pytest.fixture
def bins():
    from data_utils.tables.survival_bins import SurvivalBins

    return SurvivalBins.fit(list(range(1, 41)), [1] * 40, "test", open_ended=True)


# ---------------------------------------------------------------------------- whole runs
@pytest.fixture(scope="module")
def cohort(tmp_path_factory):
    cohort = make_small_cohort(tmp_path_factory.mktemp("cohort"), train=12, val=6, test=6)
    for split in ("train", "val", "test"):
        rows = json.loads(cohort.split(split).read_text())["data"]
        for row in rows:
            number = int(row["case_id"].removeprefix("case-"))
            row["durations"], row["vital_status"] = 3.0 + 2 * number, int(number % 3 > 0)
        cohort.split(split).write_text(json.dumps({"data": rows}))
    return cohort


def flags(cohort, output, name, config, **changes):
    path = cohort.root / f"{name}.json"
    path.write_text(json.dumps(config))
    own = {"mil_name": name, "model_config": path, "lr": None, "num_epochs": None, "recipe": "original"}
    return cohort.flags(output, **({"text_location": None} | own | changes))


def test_a_recipe_is_recorded_and_its_leftover_cases_wait_for_the_next_epoch(cohort, tmp_path):
    config = {"feature_dim": IN_DIM, "hidden_dim": 8, "attention_dim": 8, "output_dim": 8}
    run = flags(cohort, tmp_path / "run", "abmil", config, gc=5, num_epochs=2)
    train_modaltune.main(run)
    recorded = json.loads((tmp_path / "run" / "config.json").read_text())["recipe"]
    assert recorded["optimizer"] == "adam" and recorded["source"] == "MCAT" and recorded["lr"] == 2e-4
    assert recorded["gc"] == 5 and recorded["num_epochs"] == 2 and recorded["weighted"] is True
    last = checkpoint.load(tmp_path / "run" / "seed_0" / LAST_CHECKPOINT)
    # Twelve cases make two steps an epoch, two are left over: four steps, and gradients that wait.
    assert {int(state["step"]) for state in last["optimizer"]["state"].values()} == {4}
    assert any(g is not None and g.abs().sum() > 0 for g in last["processes"][0]["gradients"])
    assert checkpoint.load(tmp_path / "run" / "seed_0" / BEST_WEIGHTS)["run"]["epoch"] == 1
    page = (tmp_path / "run" / "results.md").read_text()
    assert "- **recipe**: original (MCAT)" in page and "- **scored**: the last epoch" in page
    with pytest.raises(ValueError, match="12 training cases make no step of 32 cases"):
        train_modaltune.main(flags(cohort, tmp_path / "none", "abmil", config))


def test_a_run_ends_where_the_validation_loss_no_longer_falls(cohort, tmp_path, monkeypatch):
    monkeypatch.setitem(ORIGINALS, "transmil", replace(ORIGINALS["transmil"], patience=2))
    losses = iter([0.9, 0.5, 0.6, 0.5, 0.1])
    monkeypatch.setattr(trainer, "validation_loss", lambda *about: next(losses))
    config = {"feature_dim": IN_DIM, "dim": 16, "heads": 2, "landmarks": 4}
    words = flags(cohort, tmp_path, "transmil", config, num_epochs=9, objective="subtype")
    train_modaltune.main(words)
    seen = pd.read_csv(tmp_path / "seed_0" / "metrics.csv").val_loss.tolist()
    assert seen == [0.9, 0.5, 0.6, 0.5]
    (tmp_path / "seed_0" / "report.csv").unlink()
    train_modaltune.main(words)  # the checkpoint knows that it has ended
    assert pd.read_csv(tmp_path / "seed_0" / "metrics.csv").val_loss.tolist() == seen


@pytest.mark.parametrize("select", ["best", "last"])
def test_which_epoch_is_evaluated(cohort, tmp_path, select):
    words = flags(
        cohort, tmp_path, "snn", {"widths": [4, 4]}, recipe="ours", num_epochs=6, model_select=select, lr=0.05
    )
    train_modaltune.main([*words, "--objective", "survival"])
    metrics = pd.read_csv(tmp_path / "seed_0" / "metrics.csv")
    kept = checkpoint.load(tmp_path / "seed_0" / BEST_WEIGHTS)["run"]["epoch"]
    scores = metrics["val_head_concordance_index/General"]
    assert kept == (5 if select == "last" else scores[scores == scores.max()].index[-1])


# ---------------------------------------------------------------------------- SurvPath's protocol
def test_folds_as_survpath_reports_them(cohort, tmp_path):
    everyone = [f"TCGA-AA-{case:04d}" for case in range(24)]
    folder = tmp_path / "folds"
    folder.mkdir()
    for k in range(2):
        val = everyone[k::4]
        train = [case for case in everyone if case not in val]
        rows = pd.DataFrame({"train": pd.Series(train), "val": pd.Series(val)})
        rows.to_csv(folder / f"splits_{k}.csv")
    words = flags(
        cohort, tmp_path / "run", "snn", {"widths": [4, 4]}, fold_json=folder, survpath_protocol=True
    )
    train_modaltune.main(words)
    table = pd.read_csv(tmp_path / "run" / "results.csv")
    assert sorted(table.run.unique()) == ["fold_0/seed_0", "fold_1/seed_0", "mean"]
    assert set(table.split) == {"train", "test"}
    rows = table[(table.split == "test") & (table.metric == "head_concordance_index")]
    assert rows[rows.run != "mean"].n.tolist() == [6, 6] and rows["std"].notna().sum() == 1
    for k in range(2):
        seed = tmp_path / "run" / f"fold_{k}" / "seed_0"
        weights = checkpoint.load(seed / BEST_WEIGHTS)["run"]
        assert weights["epoch"] == 4 and len(weights["train_cases"]) == 18  # the whole column
        tested = pd.read_csv(seed / "predictions" / "test.csv").case_id
        assert sorted(tested) == sorted(f"case-{case}" for case in range(k, 24, 4))
        assert not [c for c in pd.read_csv(seed / "metrics.csv") if c.startswith("val_")]
    assert "SurvPath's protocol" in (tmp_path / "run" / "results.md").read_text()


def test_survpath_protocol_refuses_other_folds(cohort, tmp_path, capsys):
    pd.DataFrame({"train": ["TCGA-AA-0001"], "val": ["TCGA-AA-0002"], "test": ["TCGA-AA-0003"]}).to_csv(
        tmp_path / "splits_0.csv"
    )
    own = {"fold_json": tmp_path / "splits_0.csv", "survpath_protocol": True}
    with pytest.raises(ValueError, match="has a test column; --survpath_protocol is for train and val alone"):
        train_modaltune.main(flags(cohort, tmp_path / "a", "snn", {}, **own))
    (tmp_path / "folds.json").write_text('[{"train": [], "val": [], "test": []}]')
    with pytest.raises(ValueError, match=r"--survpath_protocol reads SurvPath's splits_<k>\.csv"):
        train_modaltune.main(
            flags(cohort, tmp_path / "b", "snn", {}, **own | {"fold_json": tmp_path / "folds.json"})
        )
    with pytest.raises(SystemExit):
        train_modaltune.main(flags(cohort, tmp_path / "c", "snn", {}, **own, model_select="best"))
    assert "--survpath_protocol validates nothing" in capsys.readouterr().err
