"""The demo over four cancer sites: sites are told apart, and small ones learn from the others."""

import pytest

import train_modaltune
from tests.demo_runs import CONFIG, metric_of, run_demo
from utils import constants

pytestmark = pytest.mark.slow

EPOCHS = "8"
SMALL_SITES = ("GBMLGG", "NSCLC", "RCC")


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    """A demo folder after one run."""
    root = tmp_path_factory.mktemp("demo")
    run_demo(root, PANCANCER="1", NUM_EPOCHS=EPOCHS)
    return root


@pytest.fixture(scope="module")
def pancancer(demo):
    """The run folder of one model over four sites."""
    return demo / "runs" / "modaltune_gigapath_gene" / "PANCANCER"


def test_one_model_over_four_sites(pancancer):
    assert metric_of(pancancer, "site_accuracy", "overall") >= 0.95
    assert metric_of(pancancer, "balanced_accuracy", "overall") >= 0.65
    assert metric_of(pancancer, "concordance_index", "overall") >= 0.65
    assert metric_of(pancancer / "ood_BLCA", "balanced_accuracy") >= 0.7
    assert metric_of(pancancer, "zero_shot_balanced_accuracy", "BRCA") >= 0.7
    assert metric_of(pancancer, "zero_shot_concordance_index", "BRCA") >= 0.6
    assert 0.0 <= metric_of(pancancer / "ood_BLCA", "zero_shot_balanced_accuracy") <= 1.0


def test_sites_learn_from_each_other(pancancer, demo, tmp_path):
    """Aggressiveness shows alike in all sites, so a small one gains from the others."""
    gains = {}
    for site in SMALL_SITES:
        monkey = pytest.MonkeyPatch()
        with monkey.context() as patch:
            patch.setattr(constants, "FEATURES_ROOT", demo / "data/TCGA-extractedfeatures")
            patch.setattr(constants, "TABLES_ROOT", demo / "data/TCGA-tables")
            patch.setattr(constants, "SPLITS_ROOT", demo / "splits")
            train_modaltune.main(
                [
                    f"--onco={site}",
                    f"--pathway_table={demo / 'pathways.csv'}",
                    f"--backbone_weights={demo / 'weights/prov-gigapath/slide_encoder.pth'}",
                    f"--model_config={CONFIG}",
                    f"--output_path={tmp_path / site}",
                    f"--num_epochs={EPOCHS}",
                    "--lr=1e-3",
                    "--device=cpu",
                ]
            )
        alone = metric_of(tmp_path / site, "concordance_index")
        gains[site] = metric_of(pancancer, "concordance_index", site) - alone
    assert max(gains.values()) >= 0, gains
