"""Attributions find what is planted, and nothing where nothing was learned (see tests.utils.explain.planted).

A small model that has learned the planted signal stands for a trained one, so that what it uses is known.
"""

import copy
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr
from sklearn.metrics import roc_auc_score

from tests.utils.explain.planted import (
    GROUPS,
    PATHWAYS,
    PLANTED,
    STRUCTURES,
    WIDTH,
    patients,
    trained,
    untrained,
)
from utils.explain.attribution import PATCHES, TOLERANCE, explain_case
from utils.explain.pathways import entry_table, group_sums
from utils.explain.targets import LinearTarget

TEST_PATIENTS = 8
BASELINES = {PATCHES: torch.zeros(WIDTH), "genes": torch.zeros(len(GROUPS) * len(GROUPS[0]))}


@dataclass(frozen=True)
class Explained:
    """A model, its target, test patients and their attributions."""

    model: torch.nn.Module
    target: LinearTarget
    patients: list
    found: list

    @classmethod
    def of(cls, model, target, count=TEST_PATIENTS, **options):
        stream = patients(7)
        chosen = [next(stream) for _ in range(count)]
        found = [explain_case(model, p.case, target, BASELINES, STRUCTURES, **options) for p in chosen]
        return cls(model, target, chosen, found)

    @property
    def pathways(self):
        """Attributions of pathways ``[patients, PATHWAYS]``."""
        return np.stack([group_sums(entry_table(f.inputs, f.entries)).to_numpy() for f in self.found])

    def auroc_of_pathways(self):
        """Of planted ones above the others, ranked as in the report, by mean absolute attribution."""
        return roc_auc_score(np.arange(PATHWAYS) < PLANTED, np.abs(self.pathways).mean(axis=0))

    def auroc_of_patches(self):
        """Of planted ones above background, towards what the slide says; mean over patients."""
        parts = zip(self.patients, self.found, strict=True)
        return np.mean([roc_auc_score(p.patches, np.sign(p.slide) * f.patches) for p, f in parts])

    def value(self, case):
        with torch.no_grad():
            return float(self.target(self.model(case, [0])[0]))


@pytest.fixture(scope="module")
def learned():
    return Explained.of(*trained(400))


def test_planted_pathways_come_before_all_others(learned):
    assert learned.auroc_of_pathways() >= 0.95


def test_planted_patches_come_before_the_background(learned):
    assert learned.auroc_of_patches() >= 0.9


def test_attributions_are_complete(learned):
    assert max(found.gap for found in learned.found) < TOLERANCE


def test_a_model_of_shuffled_values_finds_nothing():
    """A single model that has learned nothing prefers some direction by chance, so that several are averaged."""
    models = [Explained.of(*trained(20, seed, shuffled=True), 2, steps=8, max_steps=8) for seed in range(8)]
    assert 0.35 < np.mean([model.auroc_of_pathways() for model in models]) < 0.65
    assert 0.35 < np.mean([model.auroc_of_patches() for model in models]) < 0.65


def without(case, kind, units):
    """The case with some patches or pathways at the baseline."""
    if kind == "patches":
        features = case.features.clone()
        features[units] = BASELINES[PATCHES]
        return replace(case, features=features)
    genes = case.inputs["genes"].clone()
    genes[[gene for unit in units for gene in GROUPS[unit]]] = 0.0
    return replace(case, inputs={"genes": genes})


@pytest.mark.parametrize("kind", ["patches", "pathways"])
def test_removing_and_adding_by_attribution_beats_random_order(learned, kind):
    """Deletion: the score falls sooner when what raises it goes first; insertion: it rises sooner."""
    generator, wins = np.random.default_rng(0), []
    of_kind = [f.patches for f in learned.found] if kind == "patches" else learned.pathways
    for patient, attribution in zip(learned.patients, of_kind, strict=True):
        best, chance = np.argsort(-attribution), generator.permutation(len(attribution))
        cuts = [len(attribution) * k // 6 for k in range(1, 6)]
        for kept_last in (False, True):  # deletion, insertion
            areas = []
            for order in (best, chance):
                gone = [order[cut:] if kept_last else order[:cut] for cut in cuts]
                areas.append(np.mean([learned.value(without(patient.case, kind, units)) for units in gone]))
            wins.append(areas[0] > areas[1] if kept_last else areas[0] < areas[1])
    assert np.mean(wins) >= 0.9


def test_maps_of_a_randomised_adapter_are_others(learned):
    """What remains of a map when the adapter forgets everything would not be of the model but of the slide."""
    correlations = []
    for seed in (11, 12, 13):
        model, other = copy.deepcopy(learned.model), untrained(seed)
        with torch.no_grad():
            for mine, new in zip(model.parameters(), other.parameters(), strict=True):
                if mine.requires_grad:
                    mine.copy_(new)
        random = Explained.of(model, learned.target, 4, steps=8, max_steps=8)
        pairs = zip(learned.found, random.found, strict=False)  # the first patients
        correlations.append(np.mean([spearmanr(one.patches, two.patches).statistic for one, two in pairs]))
    assert np.mean(np.abs(correlations)) < 0.3
