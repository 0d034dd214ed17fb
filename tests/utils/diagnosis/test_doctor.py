"""The doctor: silent on a sound cohort, and one test for every fault it should find."""

import json
import logging
import re
import sys
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
import torch
from safetensors.torch import save_file

from data_utils.tables.cohorts import load_cohort
from data_utils.tables.genes import PathwayGroups
from models.aggregators import DataSpec, build_aggregator
from models.encoders import slide_encoder
from tests.data_utils.slides.test_wsi import tissue_slide, write_slide
from tests.small_cohort import MODEL_CONFIG, PATHWAYS
from tests.small_runs import copied, small_model, sound_cohort
from tests.structures import structures
from tests.utils.diagnosis.doctor_faults import EVERYTHING, FAULTS, Subject
from utils import constants, doctor
from utils.diagnosis import environment
from utils.diagnosis.report import markdown_table, text_table
from utils.files import read_json
from utils.findings import Finding, listing
from utils.training import checkpoint

GENES = tuple(f"G{i}" for i in range(10))


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    """A cohort without faults, with slide-encoder weights and trained weights."""
    root = tmp_path_factory.mktemp("sound")
    cohort = sound_cohort(root, train=24, val=14, test=14)
    run = {
        "mil_name": "longnetvit_gene_adapter",
        "model_config": MODEL_CONFIG,
        "structures": {"genes": PathwayGroups(tuple(PATHWAYS), GENES, tuple(PATHWAYS.values())).to_dict()},
        "num_tasks": 3,
        "protocol": "published",
        "train_cases": ["case-0"],
    }
    checkpoint.save(
        root / "best_model_weights.pt", {"model": checkpoint.trainable_state(small_model()), "run": run}
    )
    return cohort


@pytest.fixture
def subject(sound, tmp_path):
    return Subject(*copied(sound, tmp_path / "cohort"))


@pytest.mark.parametrize("fault", FAULTS)
def test_a_planted_fault_is_found_and_the_rest_is_checked(subject, fault):
    plant, area, level, words, remedy = FAULTS[fault]
    plant(subject)
    findings = subject.findings()
    found = [f for f in findings if f.area == area and f.level in level.split("|")]
    matching = [f for f in found if re.search(words, f.what, re.DOTALL) and re.search(remedy, f.remedy)]
    assert matching, "\n".join(map(str, findings))
    assert {f.area for f in findings} >= set(doctor.CHECKS) - {"modalities"}
    others = {f.area for f in findings if f.level == "error"} - {area}
    assert not others, "one fault, one area: " + "\n".join(map(str, findings))
    assert not [f for f in findings if "the check stopped" in f.what]


def levels(findings):
    return [finding.level for finding in findings]


def test_a_sound_cohort_has_nothing_to_complain_of(subject):
    findings = subject.findings()
    assert set(levels(findings)) == {"OK"}, findings
    subject.flags |= {"eval_only": True, "eval_weights": subject.root / "best_model_weights.pt"}
    assert set(levels(subject.findings())) == {"OK"}


def test_published_weights_of_another_pathway_table_are_named(subject, sound):
    weights = subject.root / "published.pt"
    state = checkpoint.to_published(small_model().state_dict(), structures(list(PATHWAYS.values())))
    checkpoint.save(weights, state)
    subject.flags |= {"eval_only": True, "eval_weights": weights}
    assert not [f for f in subject.findings() if f.level == "error"]
    table = pd.read_csv(subject.cohort.pathways, index_col=0)
    table.loc["G5", ["A", "B"]] = [0, 1]
    table.to_csv(subject.cohort.pathways)
    (found,) = [f for f in subject.findings() if f.level == "error"]
    assert found.area == "weights" and "A (3, here 2), B (1, here 2)" in found.what
    assert "pass it with --pathway_table" in found.what


def test_a_sound_cohort_on_the_other_encoder(subject):
    subject.titan()
    subject.flags["random_backbone"] = None
    config = json.loads(subject.cohort.model_config.read_text())
    model = build_aggregator("titan_gene_adapter", config, DataSpec(structures(((0,), (0,))), 3))
    state = {f"vision_encoder.{k}": v.contiguous() for k, v in model.backbone.vit.state_dict().items()}
    save_file(state, subject.root / "model.safetensors")
    subject.flags["backbone_weights"] = subject.root / "model.safetensors"
    assert set(levels(subject.findings())) == {"OK"}


def test_foreign_features_and_folds_are_followed(subject):
    (subject.root / "features").rename(subject.root / "elsewhere")
    assert any("feature files are missing" in f.what for f in subject.findings())
    lines = [f"{i},TCGA-AA-{i:04d},{f'TCGA-AA-{40 + i:04d}' if i < 12 else ''}" for i in range(40)]
    (subject.root / "splits_0.csv").write_text("\n".join([",train,val", *lines]))
    subject.flags |= {"features_dir": subject.root / "elsewhere", "fold_json": subject.root}
    findings = subject.findings()
    assert set(levels(findings)) == {"OK"}
    assert any("1 folds, patients in train/val/test: 34/6/12" in f.what for f in findings)


def test_features_of_patients_who_do_not_run_are_not_needed(subject):
    subject.genes(lambda table: table.drop(index="TCGA-AA-0003"))
    subject.slide(3).unlink()
    findings = subject.findings()
    assert set(levels(findings)) == {"OK"}
    assert any("1 feature files of patients who are left out" in f.what for f in findings)


def test_sites_of_a_pan_cancer_run_have_their_own_classes(subject):
    """RCC has three classes, of which nobody here has the third; a gene that a whole site lacks is NaN."""

    def move(rows):
        for row in rows:
            row["project_id"] = "TCGA-KIRC" if int(row["case_id"][5:]) % 4 < 2 else "TCGA-BRCA"

    for split in constants.SPLITS:
        subject.rows(split, move)

    def name_sites(table):
        rcc = [int(name[-4:]) % 4 < 2 for name in table.index]
        table.loc[rcc, "G9"] = float("nan")
        return table.assign(site=["RCC" if there else "BRCA" for there in rcc])

    subject.genes(name_sites)
    words = [*subject.words(), "--sites", "brca", "rcc"]
    config, own = doctor.parse_args(words)
    assert config.data.num_classes == (2, 3)
    complaints = [f.what for f in doctor.examine(config, own) if f.level != "OK"]
    assert len(complaints) == 3 and all(
        f"site RCC: nobody of {load_cohort('RCC').class_names[2]}" in what for what in complaints
    )
    config = replace(config, data=replace(config.data, num_classes=(1, 2)))
    complaints = [f.what for f in doctor.examine(config, own) if f.level != "OK"]
    assert len(complaints) == 3 and all("site BRCA: classes [1], but" in what for what in complaints)
    args = doctor.parse_args([*subject.words(), "--sites", "brca", "stad"])
    (complaint,) = [f for f in doctor.examine(*args, {"splits": doctor.CHECKS["splits"]}) if f.level != "OK"]
    assert complaint.level == "error" and "TCGA-KIRC" in complaint.what and "--sites" in complaint.remedy


@pytest.mark.parametrize("flags", [{}, {"clinical_location": "clinical.pt"}])
def test_every_modality_of_a_sound_cohort(subject, flags):
    subject.flags |= {
        "mil_name": EVERYTHING,
        "clinical_location": subject.root / flags.get("clinical_location", "clinical.csv"),
        "vectors_location": subject.cohort.vectors,
    }
    findings = subject.findings()
    assert set(levels(findings)) == {"OK"}, findings
    tables = {"genes", "pathways", "clinical", "vectors"}
    assert {f.area for f in findings} == set(doctor.CHECKS) - {"modalities"} | tables


def test_with_learned_tokens_everyone_runs_and_nothing_is_left_out(subject):
    subject.genes(lambda table: table.iloc[::2])
    subject.slide(3).unlink()
    subject.flags["missing_modalities"] = "learned"
    findings = subject.findings()
    errors = [f for f in findings if f.level == "error"]
    assert len(errors) == 1 and "slide-3" in errors[0].what  # patients without RNA run, too
    assert any("26 of 52 patients have RNA" in f.what and "learned tokens" in f.what for f in findings)
    assert any("train: 24 of 24 patients run" in f.what for f in findings)


def test_a_cohort_of_nothing_but_slides(subject):
    """Applied to weights with learned tokens it is sound, to others it is not."""
    subject.evaluate()
    subject.flags["genomics_csv_path"] = "none"
    assert any(f.level == "error" and "genomics_csv_path" in f.what for f in subject.findings())
    model = small_model(missing="learned")

    def learn(content):
        content["model"] = checkpoint.trainable_state(model)
        content["run"]["missing_modalities"] = "learned"

    subject.tensors(subject.root / "best_model_weights.pt", learn)
    findings = subject.findings()
    assert set(levels(findings)) == {"OK"}, findings
    assert any("learned tokens stand for the RNA of all" in f.what for f in findings)


def test_only_a_sample_of_the_values_is_read(subject):
    for case in range(52):
        subject.change_slide(case, features=lambda values: values * 0)
    config, own = doctor.parse_args([*subject.words(), "--feature_samples", "7"])
    assert any("7 of 7 sampled files" in f.what for f in doctor.examine(config, own))
    assert set(levels(doctor.examine(config, replace(own, feature_samples=0)))) == {"OK"}


def test_an_unexpected_exception_is_a_row_and_its_traceback_is_logged(subject, monkeypatch, caplog):
    def broken(inputs):
        yield Finding("OK", "before")
        raise ZeroDivisionError("oops")

    monkeypatch.setattr(environment, "check_device", broken)
    with caplog.at_level(logging.DEBUG):
        findings = subject.findings()
    device = [f for f in findings if f.area == "device"]
    assert [f.what for f in device] == ["before", "the check stopped: ZeroDivisionError: oops"]
    assert device[1].level == "error" and "--debug" in device[1].remedy and "Traceback" in caplog.text
    assert {f.area for f in findings} >= {"packages", "features"}


def test_a_package_that_is_missing_or_too_old(subject, monkeypatch, tmp_path):
    (tmp_path / "requirements.txt").write_text("# Models\ntorch>=99  # newer\n\nnosuchpackage>=1\nnumpy\n")
    monkeypatch.setattr(constants, "REPO_ROOT", tmp_path)
    monkeypatch.setattr(environment, "TRAINING_MODULES", ("no_such_module",))
    only = {"packages": doctor.CHECKS["packages"]}
    okay, old, missing, broken = subject.findings(only)
    assert okay.level == "OK" and "1 packages as required" in okay.what
    assert old.level == missing.level == "warning" and broken.level == "error"
    assert "wanted is >=99" in old.what and "nosuchpackage is missing" in missing.what
    assert "No module named" in broken.what and "requirements.txt" in broken.remedy


def test_without_a_package_of_the_training_the_doctor_says_so(subject, monkeypatch):
    monkeypatch.setitem(sys.modules, "utils.diagnosis.inputs", None)
    (finding,) = subject.findings()
    assert finding.level == "error" and "nothing can be checked" in finding.what


@pytest.mark.parametrize(
    ("device", "amp", "flash", "level", "words"),
    [
        ("auto", None, False, "warning", "takes the CPU"),
        ("cpu", None, True, "OK", "flash-attn is for GPUs"),
        ("cuda", True, True, "OK", "flash-attn is installed, but not needed"),
        ("cuda", True, False, "OK", "flash-attn is not installed, and not needed"),
        ("cuda", None, True, "warning", "float32"),
    ],
)
def test_device_and_attention_kernel(subject, monkeypatch, device, amp, flash, level, words):
    if device == "cuda":
        properties = type("Properties", (), {"name": "a GPU", "total_memory": 80 * 2**30})
        monkeypatch.setattr(environment, "pick_device", lambda name: torch.device("cuda:0"))
        monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: properties)
    else:
        monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    monkeypatch.setattr(environment.importlib.util, "find_spec", lambda name: flash or None)
    subject.flags |= {"device": device, "use_amp": amp}
    findings = subject.findings({"device": doctor.CHECKS["device"]})
    assert any(f.level == level and words in f.what for f in findings), findings
    assert device != "cuda" or any("a GPU, 80 GiB" in f.what for f in findings)


@pytest.mark.parametrize("works", [True, False])
def test_compiler(subject, monkeypatch, works):
    def check_compiler(device):
        if not works:
            raise RuntimeError(f"--compile: no compiler for {device}")

    monkeypatch.setattr(environment, "check_compiler", check_compiler)
    subject.flags |= {"device": "cpu", "compile": True}
    finding = subject.findings({"device": doctor.CHECKS["device"]})[-1]
    assert (finding.level, finding.what) == (
        ("OK", "torch.compile works on cpu") if works else ("error", "--compile: no compiler for cpu")
    )
    del subject.flags["compile"]
    assert "compile" not in subject.findings({"device": doctor.CHECKS["device"]})[-1].what


def test_the_other_weights_are_checked_on_demand(subject, monkeypatch, tmp_path):
    for constant in ("GIGAPATH_TILE_ENCODER", "CONCH_CHECKPOINT", "CONCH_TOKENIZER"):
        monkeypatch.setattr(constants, constant, tmp_path / constant)
    torch.save({"text.token_embedding.weight": torch.zeros(3, 2)}, tmp_path / "CONCH_CHECKPOINT")
    demo = constants.CONFIGS_ROOT / "demo_conch_text.json"
    words = [*subject.words(), "--all_weights", "--conch_config", str(demo)]
    findings = doctor.examine(*doctor.parse_args(words), doctor.OTHER_WEIGHTS)
    text = " ".join(f"{f.level} {f.what}" for f in findings)
    for part in (
        "error weights of the GigaPath tile encoder not found",
        "CONCH_CHECKPOINT (demo_conch_text.json) misses",
        "token_embedding.weight is (3, 2)",
        "the tokeniser",
    ):
        assert part in text


@pytest.mark.parametrize("wrapped", [False, True])
def test_the_patch_encoder_is_read_as_extraction_reads_it(subject, monkeypatch, tmp_path, wrapped):
    encoder = slide_encoder("gigapath_flash")
    state = encoder.load("tile_builder")(read_json(encoder.demo_tile_config)).state_dict()
    torch.save({"model": state} if wrapped else state, tmp_path / "tiles.bin")
    monkeypatch.setattr(constants, encoder.tile_weights, tmp_path / "tiles.bin")
    subject.flags |= {"mil_name": "gigapath_flash_gene_adapter"}
    words = [*subject.words(), "--all_weights", "--encoder_config", str(encoder.demo_tile_config)]
    findings = doctor.examine(*doctor.parse_args(words), doctor.OTHER_WEIGHTS)
    assert findings[0].level == "OK" and f"{len(state)} tensors fit" in findings[0].what


def test_slides_are_opened_on_demand(subject, tmp_path):
    slides = tmp_path / "slides"
    write_slide(slides / "a.svs", tissue_slide(256, (0, 0, 256, 256)))
    (slides / "b.svs").write_bytes(b"")
    (slides / "c.svs").symlink_to(tmp_path / "moved.svs")
    (slides / "d.isyntax").touch()
    (slides / "again").symlink_to(slides)
    findings = doctor.examine(
        *doctor.parse_args([*subject.words(), "--slides_dir", str(slides)]), doctor.SLIDES
    )
    failed, twice, sound = findings
    assert failed.level == "error" and failed.what.startswith("3 of 5 slides cannot be used")
    for part in ("b.svs cannot be opened: the file is empty", "c.svs is a link to", "d.isyntax is of a kind"):
        assert part in failed.what
    assert twice.level == "warning" and "searched already" in twice.what
    assert sound.what == "1 slides can be opened, 0 other files"
    absent = doctor.examine(*doctor.parse_args([*subject.words(), "--slides_dir", "absent"]), doctor.SLIDES)
    assert [f.level for f in absent] == ["error"] and "there is no such folder" in absent[0].what
    (slides / "b.svs").unlink()
    assert doctor.main([*subject.words(), "--slides_dir", str(slides)]) == 1


def test_scale_of_slides(subject, tmp_path):
    image = tissue_slide(256, (0, 0, 256, 256))
    for name, mpp in (("sound", 0.25), ("bare", None), ("coarse", 1.0), ("macro", 8.0)):
        write_slide(tmp_path / f"{name}.svs", image, mpp)
    write_slide(
        tmp_path / "oblong.tif",
        image,
        downsamples=(1,),
        description="",
        resolution=(2e4, 1e4),
        resolutionunit="CENTIMETER",
    )
    words = [*subject.words(), "--slides_dir", str(tmp_path)]
    found = [(f.level, f.what) for f in doctor.examine(*doctor.parse_args(words), doctor.SLIDES)]
    for (level, what), (wanted, *parts) in zip(
        found,
        [
            (
                "error",
                "1 of 5 slides cannot be used",
                "oblong.tif its pixels are 0.5 micrometres wide and 1 high",
            ),
            ("warning", "1 slides state no resolution", "bare.svs"),
            (
                "warning",
                "2 slides are much coarser than patches at 0.5",
                "1 of them too coarse",
                "macro.svs (8)",
            ),
            ("OK", "4 slides can be opened"),
        ],
        strict=True,
    ):
        assert level == wanted and all(part in what for part in parts), what


# ---------------------------------------------------------------------------- command line
def test_exit_status_table_and_file(subject, capsys):
    words = [*subject.words(), "--output", str(subject.root / "doctor.md")]
    assert doctor.main(words) == 0
    assert "0 warnings, 0 errors" in capsys.readouterr().out
    subject.slide(3).unlink()
    assert doctor.main(words) == 1
    out = capsys.readouterr().out
    assert "-> extract them" in out and "1 error" in out
    table = (subject.root / "doctor.md").read_text()
    assert table.startswith("| area | status |") and "| features | error | 1 of 63 feature" in table


def test_warnings_alone_do_not_stop_a_run(subject):
    subject.slide(51).rename(subject.slide(51).with_suffix(".old"))
    subject.genes(lambda table: table.drop(index="TCGA-AA-0051").assign(G4=1.0))
    assert doctor.main(subject.words()) == 0


def test_the_model_config_has_a_second_name(subject):
    words = subject.words()
    position = words.index("--model_config")
    words[position] = "--config"
    assert doctor.parse_args(words)[0].model.model_config == subject.cohort.model_config
    del words[words.index("--output_path") : words.index("--output_path") + 2]
    assert doctor.parse_args(words)[0].output.output_path == Path()


@pytest.mark.parametrize(
    ("words", "message"), [(["--feature_samples", "-1"], "--feature_samples"), (["--onco", "XYZ"], "XYZ")]
)
def test_wrong_flags_stop_with_usage(words, message, capsys):
    with pytest.raises(SystemExit) as stopped:
        doctor.parse_args(words)
    assert stopped.value.code == 2 and message in capsys.readouterr().err


# ---------------------------------------------------------------------------- findings and tables
def test_findings_that_help_nobody_are_refused():
    with pytest.raises(ValueError, match="without a remedy"):
        Finding("warning", "something")
    with pytest.raises(ValueError, match="'fatal' of a finding"):
        Finding("fatal", "something", "do")


def test_the_tables_show_everything():
    findings = [
        Finding("OK", "fine", area="packages"),
        Finding("error", "word " * 40, "remedy | " * 20, area="features"),
    ]
    text = text_table(findings, 80)
    assert all(len(line) <= 80 for line in text.splitlines())
    assert text.count("word") == 40 and text.count("remedy") == 20 and "1 OK, 0 warnings, 1 error\n" in text
    rows = markdown_table(findings).splitlines()
    assert rows[2] == "| packages | OK | fine |  |" and rows[3].count("\\|") == 20


def test_long_listings_are_cut():
    assert listing("abc") == "a, b, c" and listing("abcdef", 2) == "a, b and 4 more" and listing([]) == ""


def test_a_site_without_patients_is_an_error(subject):
    def move(rows):
        for row in rows:
            row["project_id"] = "TCGA-BRCA"

    for split in constants.SPLITS:
        subject.rows(split, move)
    config, own = doctor.parse_args([*subject.words(), "--sites", "brca", "rcc"])
    (found,) = [f for f in doctor.examine(config, own) if f.level == "error" and f.area == "splits"]
    assert "no patient of the split files is of RCC" in found.what
