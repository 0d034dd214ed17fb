"""Extraction by the name of a slide encoder."""

from __future__ import annotations

import pytest
import torch

from data_utils import TCGA_extract_feats_GIGAPATH as gigapath
from data_utils.demo import checkpoints
from data_utils.extract_features import main, parse_args
from data_utils.features.store import read_features
from models.encoders import slide_encoder, slide_encoders
from tests.data_utils.slides.test_wsi import tissue_slide, write_slide
from utils import constants
from utils.tensor_files import write_tensors


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A slide, and the demo's patch encoders of GigaPath and GigaPath-Flash."""
    root = tmp_path_factory.mktemp("extraction")
    write_slide(root / "slides" / "a.svs", tissue_slide(1088, (0, 0, 1088, 1088)), 0.5, (1,))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("data_utils.demo.weights.CALIBRATION_TILES", 4)  # for speed
        for name in ("gigapath", "gigapath_flash"):
            write_tensors(root / f"{name}.bin", checkpoints.tile_encoder_state(0, name))
    return root


def extract(command, folder, out, name, checkpoint=None):
    words = {
        "--onco": "TEST",
        "--slides_dir": folder / "slides",
        "--output_dir": out,
        "--encoder_config": slide_encoder(name).demo_tile_config,
        "--checkpoint": checkpoint or folder / f"{name}.bin",
        "--workers": 0,
        "--device": "cpu",
    }
    return command([str(word) for item in words.items() for word in item])


def flash(words):
    return main(["--encoder", "gigapath_flash", *words])


def test_the_encoder_decides_config_weights_and_folder():
    for name, encoder in slide_encoders().items():
        args = parse_args(["--encoder", name, "--onco", "BRCA"])
        assert (args.encoder, args.encoder_config) == (name, encoder.tile_config)
        assert args.checkpoint == getattr(constants, encoder.tile_weights)
    assert parse_args(["--onco", "BRCA"]).encoder == "gigapath"


def test_every_declared_extraction_makes_features_of_that_encoder():
    """What the script runs: the module of a declaration with its own flags."""
    for name, encoder in slide_encoders().items():
        module, *flags = encoder.extraction.split()
        namespace = __import__(module, fromlist=["parse_args"]).parse_args([*flags, "--onco", "BRCA"])
        assert namespace.encoder == name and namespace.encoder_config == encoder.tile_config


def test_flash_features_have_its_width_and_both_layouts_of_its_file_work(folder, tmp_path):
    assert extract(flash, folder, tmp_path / "plain", "gigapath_flash") == 0
    state = torch.load(folder / "gigapath_flash.bin", weights_only=True)
    torch.save({"model": state}, tmp_path / "wrapped.bin")
    assert extract(flash, folder, tmp_path / "wrapped", "gigapath_flash", tmp_path / "wrapped.bin") == 0
    plain, wrapped = (read_features(tmp_path / kind / "a.h5") for kind in ("plain", "wrapped"))
    assert plain.features.shape[1] == 48 and len(plain.features) > 4 and plain.patch_size_level0 == 256
    assert (plain.features == wrapped.features).all() and plain.features.std() > 0.1


def test_by_name_gigapath_gives_what_its_own_command_gives(folder, tmp_path):
    assert extract(main, folder, tmp_path / "named", "gigapath") == 0
    assert extract(gigapath.main, folder, tmp_path / "own", "gigapath") == 0
    named, own = (read_features(tmp_path / kind / "a.h5") for kind in ("named", "own"))
    assert (named.features == own.features).all() and (named.coords == own.coords).all()


def test_weights_of_another_encoder_stop_before_extraction(folder, tmp_path, caplog):
    assert extract(flash, folder, tmp_path / "out", "gigapath_flash", folder / "gigapath.bin") == 2
    assert "gigapath.bin does not fit the patch encoder of gigapath_flash" in caplog.text
    assert not (tmp_path / "out").exists()


def test_unknown_encoders_are_refused(capsys):
    with pytest.raises(SystemExit) as left:
        parse_args(["--encoder", "uni", "--onco", "BRCA"])
    assert left.value.code == 2 and "invalid choice: 'uni'" in capsys.readouterr().err
