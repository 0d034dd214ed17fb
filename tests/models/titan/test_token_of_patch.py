"""Which token a patch became."""

import torch

from models.titan.grid import scatter_to_grid, token_of_patch


def test_every_patch_finds_its_cell_and_background_has_none():
    coords = torch.tensor([[300, 0], [0, 0], [10, 20], [0, 600], [600, 600]])
    features = torch.eye(5, 6)
    features[3] = 0
    tokens, _ = scatter_to_grid(features, coords, 300)
    found = token_of_patch(features, coords, 300)
    assert found.tolist() == [1, 0, 0, -1, 2]
    for patch, token in enumerate(found.tolist()):
        if token >= 0:
            assert tokens[token, patch] == 1
