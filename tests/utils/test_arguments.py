"""Flags: the published names, what --onco implies, and combinations that make no sense."""

from pathlib import Path

import pytest

from models.modalities import all_modalities
from utils import constants
from utils.arguments import build_parser, parse_args
from utils.configuration.run_config import RunConfig
from utils.files import write_json

FILES = ["--train_json", "a", "--val_json", "b", "--test_json", "c", "--genomics_csv_path", "g"]
COMPLETE = [*FILES, "--text_location", "t", "--output_path", "out"]
EVAL = [*FILES, "--output_path", "out", "--eval_only", "--eval_weights", "w.pt"]

# The published launch scripts use these.
PUBLISHED_FLAGS = [
    "train_json", "val_json", "test_json", "output_path", "num_folds", "fold_json", "eval_only",
    "eval_weights", "eval_name", "device", "workers", "use_amp", "model_config", "mil_name", "num_classes",
    "lr", "num_epochs", "weight_decay", "save_interval", "eval_interval", "gc", "text_location",
    "genomics_csv_path", "clinical_location", "num_tasks", "threshold", "seed", "multi_seed",
    "save_embeddings", "wandb_mode",
]  # fmt: skip


def parse(*argv):
    return parse_args("test", list(argv))


def usage_error(capsys, *argv):
    with pytest.raises(SystemExit) as stopped:
        parse(*argv)
    assert stopped.value.code == 2
    return capsys.readouterr().err


def test_the_published_flags_exist(capsys):
    with pytest.raises(SystemExit) as stopped:
        parse("--help")
    text = capsys.readouterr().out
    assert stopped.value.code == 0
    assert not [flag for flag in PUBLISHED_FLAGS if f"--{flag}" not in text]


def test_published_recipe_is_the_default():
    config = parse(*COMPLETE)
    data, model, training, output = config.data, config.model, config.training, config.output
    assert (training.lr, training.weight_decay, training.num_epochs, training.gc) == (1e-4, 5e-4, 30, 1)
    assert (training.multi_seed, training.seed, data.threshold, data.num_folds) == (1, 0, 25_000, 1)
    assert (data.protocol, data.num_classes) == ("published", (2,))
    assert model.mil_name == "longnetvit_gene_adapter" and model.num_tasks == 3 and not model.random_backbone
    assert model.model_config.is_file() and not config.compute.use_amp
    assert output.save_embeddings and output.wandb_mode == "disabled"


def test_flags_given_stay():
    data = parse(*COMPLETE, "--onco", "rcc").data
    assert (data.train_json, data.files["genes"], data.text_location) == (Path("a"), Path("g"), Path("t"))


def test_onco_finds_every_file(monkeypatch):
    monkeypatch.setattr(constants, "SPLITS_ROOT", Path("/splits"))
    monkeypatch.setattr(constants, "TABLES_ROOT", Path("/tables"))
    args = parse("--onco", "RCC", "--output_path", "out").data
    assert args.train_json == Path("/splits/tcga_rcc/train_rcc_cls_feat.json")
    assert args.val_json.name == "val_rcc_cls_feat.json" and args.test_json.name == "test_rcc_cls_feat.json"
    assert args.files["genes"] == Path("/tables/rna_rcc.csv")
    assert args.text_location == Path("/tables/text_rcc.pt")
    assert args.files["clinical"] is None and args.num_classes == (3,)
    clinical = parse(
        "--onco", "RCC", "--output_path", "out", "--mil_name", "longnetvit_gene_clinical_adapter"
    )
    files = clinical.data.files
    assert files["clinical"] == Path("/tables/clinical_rcc.csv") and files["vectors"] is None
    every = parse("--onco=RCC", "--output_path=out", "--mil_name=titan_gene_clinical_vectors_adapter")
    assert every.data.files["vectors"] == Path("/tables/vectors_rcc.pt")
    assert every.data.files["clinical"] == files["clinical"]
    assert (every.data.missing_modalities, every.training.modality_dropout) == ("drop", 0.0)


def test_evaluation_needs_no_texts():
    assert parse(*EVAL).data.text_location is None


@pytest.mark.parametrize(
    "flag", ["train_json", "val_json", "test_json", "genomics_csv_path", "text_location"]
)
def test_a_missing_file_is_named(flag, capsys):
    position = COMPLETE.index(f"--{flag}")
    error = usage_error(capsys, *COMPLETE[:position], *COMPLETE[position + 2 :])
    assert f"--{flag} is missing; give it, or --onco" in error


@pytest.mark.parametrize(
    ("modality", "flag"), [("clinical", "clinical_location"), ("vectors", "vectors_location")]
)
def test_a_model_needs_the_files_of_its_modalities(modality, flag, capsys):
    words = ["--mil_name", f"longnetvit_gene_{modality}_adapter"]
    assert f"--{flag} is missing" in usage_error(capsys, *COMPLETE, *words)
    assert parse(*COMPLETE, *words, f"--{flag}", "x").data.files[modality] == Path("x")


def test_a_cohort_that_is_evaluated_may_have_nothing_but_images(monkeypatch):
    without = [word for word in EVAL if word not in ("--genomics_csv_path", "g")]
    assert parse(*without).data.files["genes"] is None
    words = ["--onco", "RCC", "--output_path", "out", "--eval_only", "--eval_weights", "w.pt"]
    flags = ["--genomics_csv_path", "none", "--clinical_location", "none"]
    args = parse(*words, *flags, "--mil_name", "titan_gene_clinical_adapter")
    assert set(args.data.files.values()) == {None}
    assert parse(*words).data.files["genes"] == constants.gene_table("RCC")


def test_an_unknown_cohort_lists_those_there_are():
    with pytest.raises(FileNotFoundError, match="BRCA"):
        parse("--onco", "XYZ", "--output_path", "out")


@pytest.mark.parametrize(
    ("words", "seeds"),
    [
        ([], 1),
        (["--num_seeds", "1"], 1),
        (["--num_seeds", "5"], 5),
        (["--multi_seed"], 3),
        (["--multi_seed", "1"], 3),
        (["--multi_seed", "5"], 5),
    ],
)
def test_multi_seed_with_and_without_number(words, seeds):
    assert parse(*COMPLETE, *words).training.multi_seed == seeds


def test_save_embeddings_can_be_switched_off():
    assert not parse(*COMPLETE, "--no-save_embeddings").output.save_embeddings


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--eval_only"], "--eval_only needs --eval_weights"),
        (["--eval_only", "--eval_weights", "w", "--num_folds", "3"], "call it once per fold"),
        (["--eval_only", "--eval_weights", "w", "--fold_json", "f"], "call it once per fold"),
        (["--fold_json", "nowhere.json"], "nowhere.json"),
        (["--protocol", "loose"], "invalid choice: 'loose'"),
        (["--seed", "-1"], "--seed must not be negative"),
        (["--missing_modalities", "impute"], "invalid choice: 'impute'"),
        (["--modality_dropout", "0.2"], "--modality_dropout needs --missing_modalities learned"),
        (["--modality_dropout", "1", "--missing_modalities", "learned"], "must be a probability below 1"),
        (["--modality_dropout", "-0.1"], "must be a probability below 1"),
        (["--clinical_location", "none"], "--clinical_location none is for --eval_only"),
        *((["--" + name, "0"], f"--{name} must be at least 1") for name in (
            "gc", "num_epochs", "eval_interval", "save_interval", "multi_seed", "num_folds", "threshold"
        )),
    ],
)  # fmt: skip
def test_contradictions_stop_with_usage(words, message, capsys):
    assert message in usage_error(capsys, *COMPLETE, *words)


def test_all_folds_of_a_file_unless_told_otherwise(tmp_path):
    for k in range(3):
        (tmp_path / f"splits_{k}.csv").write_text(",train,val\n")
    assert parse(*COMPLETE, "--fold_json", str(tmp_path)).data.num_folds == 3
    assert parse(*COMPLETE, "--fold_json", str(tmp_path), "--num_folds", "2").data.num_folds == 2
    assert parse(*COMPLETE, "--fold_json", str(tmp_path / "splits_1.csv")).data.num_folds == 1


def test_the_output_folder_is_required(capsys):
    assert "--output_path" in usage_error(capsys, *COMPLETE[:-2])


# ---------------------------------------------------------------------------- flags of the published scripts
def test_published_spellings_go_on_working(tmp_path, monkeypatch):
    for word, meaning in (("0", False), ("1", True), ("False", False)):
        words = [*EVAL[: EVAL.index("--eval_only")], "--text_location", "t", "--eval_only", word]
        assert parse(*words, "--eval_weights", "w").output.eval_only is meaning
    assert parse(*COMPLETE, "--clinical_location", "None").data.files["clinical"] is None
    named = parse(*COMPLETE, "--model_config", "modaltune_titan_config").model.model_config
    assert named == constants.CONFIGS_ROOT / "modaltune_titan_config.json"
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own.json").write_text("{}")
    assert parse(*COMPLETE, "--model_config", "own.json").model.model_config == Path("own.json")
    assert parse(*COMPLETE, "--beta1", "0.8").training.beta1 == 0.8


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["--labelset", "2"],
            "--labelset is not supported: the classes of a cohort stand in dataset/cohorts",
        ),
        (["--eval_only", "yes"], "'yes' is neither 0 nor 1"),
        (["--beta1", "1"], "--beta1 must be at least 0 and below 1"),
    ],
)
def test_what_cannot_be_honoured_is_refused_by_name(words, message, capsys):
    assert message in " ".join(usage_error(capsys, *COMPLETE, *words).split())


# ---------------------------------------------------------------------------- the configuration of a run
def test_a_configuration_survives_its_file(tmp_path):
    words = ["--onco", "RCC", "--output_path", str(tmp_path), "--num_classes", "4", "--lr", "0.5"]
    config = parse(*words, "--pathway_table", "p.csv")
    genes = {"pathway_table": Path("p.csv"), "gene_scaling": "union"}
    assert config.data.options == {"genes": {**genes, "missing_genes": "zero", "max_missing_genes": 0.2}}
    write_json(tmp_path / "config.json", {"arguments": config.plain()})
    back = RunConfig.read(tmp_path)
    assert back.plain() == config.plain() and back.data.num_classes == (4,)
    assert (back.data.files, back.training, back.output) == (
        config.data.files,
        config.training,
        config.output,
    )
    assert (
        "device" not in config.plain(free=False)["compute"] and config.plain()["compute"]["device"] == "auto"
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda groups: groups.pop("model"), "c: the groups of a run are"),
        (lambda groups: groups["training"].update(lrr=1), r"c: training: unknown \['lrr'\]"),
        (lambda groups: groups["data"].pop("val_json"), "c: data: .*val_json"),
        (lambda groups: groups["training"].update(lr="high"), "c: training: lr is 'high'"),
        (lambda groups: groups["training"].update(seed=True), "c: training: seed is 'True'"),
        (lambda groups: groups["data"].update(val_json=float("inf")), "c: data: val_json is 'inf'"),
    ],
)
def test_a_damaged_configuration_is_refused(change, message):
    groups = parse(*COMPLETE).plain()
    change(groups)
    with pytest.raises(ValueError, match=message):
        RunConfig.from_plain(groups, "c")


def test_every_flag_has_its_group():
    config = parse(*COMPLETE)
    flags = {action.dest for action in build_parser("test")._actions} - {"help", "labelset"}
    modalities = {m.flag for m in all_modalities().values()} | {
        "pathway_table",
        "gene_scaling",
        "missing_genes",
        "max_missing_genes",
    }
    known = {name for group in config.plain().values() for name in group} - {"files", "options"}
    assert flags - modalities == known - {"sites", "stratified_cox"}


@pytest.mark.parametrize(
    ("words", "scaling"),
    [
        ((), "union"),
        (("--protocol", "strict"), "site"),
        (("--protocol", "strict", "--gene_scaling", "union"), "union"),
        (("--gene_scaling", "site"), "site"),
    ],
)
def test_the_protocol_decides_how_genes_of_several_sites_are_scaled(words, scaling):
    assert parse(*COMPLETE, *words).data.options["genes"]["gene_scaling"] == scaling


@pytest.mark.parametrize("share", ["20", "-0.1", "nan", "many"])
def test_a_share_of_missing_genes_is_from_0_to_1(share, capsys):
    words = ["--onco", "brca", "--output_path", "out", "--max_missing_genes", share]
    with pytest.raises(SystemExit):
        parse_args("test", words)
    assert f"{share!r} is no share: it should be from 0 to 1" in capsys.readouterr().err
