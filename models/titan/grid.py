"""TITAN's grid of patches: from level-0 coordinates to cells, and whether the patch size can be right."""

from __future__ import annotations

import torch
from torch import Tensor

# More patches than this share of all on cells with others: the patch size is too large.
MAX_SHARED = 0.2
# Steps in the coordinates that are shorter than the patch size by less than this are rounding. (From about
# 5 % on, more than a fifth of the patches share a cell.)
_ROUNDING = 0.05
# A grid whose patches lie further apart than stated: from this many neighbours on, and this share of them.
_LEAST_GAPS = 8
_SHARE_OF_GAPS = 0.5

_MEANING = (
    "the level-0 distance between neighbouring patches (for 512 px at 0.5 mpp, 1024 on a 40x slide and 512 "
    "on a 20x slide)"
)


def grid_cells(coords: Tensor, patch_size: int) -> Tensor:
    """Cells ``[L, 2]`` int64 of level-0 coordinates ``[L, 2]``, counted from the smallest x and y."""
    corner = coords.min(dim=0).values
    return torch.div(coords - corner, patch_size, rounding_mode="floor").long()


def scatter_to_grid(features: Tensor, coords: Tensor, patch_size: int) -> tuple[Tensor, Tensor]:
    """Lays patches out on the grid without ever building it.

    Args:
        features: ``[L, D]``.
        coords: level-0 coordinates ``[L, 2]`` (x, y); on the CPU, a GPU only has to wait once here.
        patch_size: level-0 distance between neighbouring patches.

    Returns:
        Features ``[N, D]`` and cells ``[N, 2]`` of the occupied cells, x by x and therein by y, both on the
        device of the features. Features on one cell are added up; a cell whose features are all zero is
        background and left out.
    """
    device = features.device
    keys, columns, owner = _occupied(coords, patch_size)
    wide = torch.promote_types(features.dtype, torch.float32)
    summed = features.new_zeros(len(keys), features.shape[1], dtype=wide)
    summed.index_add_(0, owner.to(device, non_blocking=True), features.to(wide))
    occupied = torch.stack([keys // columns, keys % columns], dim=1).to(device, non_blocking=True)
    keep = (summed != 0).any(dim=1)
    if keep.all():
        return summed, occupied
    return summed[keep], occupied[keep]


def _occupied(coords: Tensor, patch_size: int) -> tuple[Tensor, Tensor, Tensor]:
    """Keys of the occupied cells, sorted, the columns that a row of keys has, and the cell of every patch."""
    cells = grid_cells(coords, patch_size)
    columns = cells[:, 1].max() + 1
    keys, owner = torch.unique(cells[:, 0] * columns + cells[:, 1], return_inverse=True)
    return keys, columns, owner


def token_of_patch(features: Tensor, coords: Tensor, patch_size: int) -> Tensor:
    """Which row of :func:`scatter_to_grid` every patch is part of ``[L]``; -1 where its cell is background."""
    keys, _, owner = _occupied(coords, patch_size)
    wide = torch.promote_types(features.dtype, torch.float32)
    summed = torch.zeros(len(keys), features.shape[1], dtype=wide)
    summed.index_add_(0, owner, features.detach().cpu().to(wide))
    keep = (summed != 0).any(dim=1)
    return torch.where(keep, keep.cumsum(0) - 1, -1)[owner]


def likely_patch_size(coords: Tensor) -> int | None:
    """Distance between neighbouring patches as the coordinates ``[L, 2]`` show it, if they do.

    Files list patches along rows or columns, so it is the most frequent step from one patch to the next.
    (Gaps in the sorted coordinates would mix up the grids of slides that are stacked.)
    """
    steps = coords.diff(dim=0).abs().flatten()
    sizes, counts = torch.unique(steps[steps > 0], return_counts=True)
    return int(sizes[counts.argmax()]) if len(sizes) else None


def check_patch_size(coords: Tensor, patch_size: int | None, where: str) -> None:
    """Refuses a patch size that is missing or would collapse the grid.

    Several patches may share a cell for a good reason: slides of a patient that overlap in the stack
    of the published protocol. Their coordinates still show the right patch size; so only where these
    disagree it is an error.

    Args:
        coords: level-0 coordinates ``[L, 2]`` of one slide or of the stacked slides of a case.
        patch_size: what the file states.
        where: names the file or the case, for the message.

    Raises:
        ValueError: names the patch size and the one that the coordinates suggest.
    """
    if patch_size is None:
        likely = likely_patch_size(coords)
        hint = f"; the coordinates suggest {likely}" if likely else ""
        raise ValueError(
            f"{where}: no patch_size_level0 is stated, and TITAN's positions depend on it. Pass "
            f"--patch_size_lv0, {_MEANING}{hint}"
        )
    if patch_size < 1:
        raise ValueError(f"{where}: patch_size_level0 is {patch_size}; it should be {_MEANING}")
    counts = torch.unique(grid_cells(coords, patch_size), dim=0, return_counts=True)[1]
    shared = int(counts[counts > 1].sum())
    if shared <= MAX_SHARED * len(coords):
        return
    likely = likely_patch_size(coords)
    if likely is None:
        raise ValueError(f"{where}: all {len(coords)} patches have the same coordinates {coords[0].tolist()}")
    if likely < (1 - _ROUNDING) * patch_size:
        raise ValueError(
            f"{where}: with patch_size_level0 {patch_size}, {shared} of {len(coords)} patches share a cell of "
            f"TITAN's grid. It should be {_MEANING}; the coordinates suggest {likely}. Correct the attribute of "
            "the feature file (or --patch_size_lv0, which serves files that state none)"
        )


def check_slide_grid(coords: Tensor, patch_size: int | None, where: str) -> None:
    """Refuses a patch size of one whole slide that does not fit its coordinates ``[L, 2]``.

    Besides what :func:`check_patch_size` refuses, a size clearly smaller than the distance between neighbours, which
    makes all distances too long without a word. Slides with few neighbours are not judged.

    Raises:
        ValueError: names the patch size and the one that the coordinates suggest.
    """
    check_patch_size(coords, patch_size, where)
    gaps = _gaps(coords)
    if patch_size is None or len(gaps) < _LEAST_GAPS:
        return
    sizes, counts = torch.unique(gaps, return_counts=True)
    usual = int(sizes[counts.argmax()])
    near = (gaps >= (1 - _ROUNDING) * usual) & (gaps <= (1 + _ROUNDING) * usual)
    if usual > (1 + _ROUNDING) * patch_size and near.float().mean() >= _SHARE_OF_GAPS:
        raise ValueError(
            f"{where}: patch_size_level0 is {patch_size}, but {int(near.sum())} of {len(gaps)} neighbouring patches "
            f"are {usual} apart. It should be {_MEANING}; the coordinates suggest {usual}. Correct the attribute of "
            "the feature file (or --patch_size_lv0, which serves files that state none; slides of 20x and 40x need "
            "one of their own each, in their files)"
        )


def _gaps(coords: Tensor) -> Tensor:
    """Distances from each patch to the next one in its row, and to the next one in its column."""
    found = []
    for along, across in ((0, 1), (1, 0)):
        keys, values = coords[:, across], coords[:, along]
        order = torch.argsort(values, stable=True)
        order = order[torch.argsort(keys[order], stable=True)]
        same = keys[order].diff() == 0
        found.append(values[order].diff()[same])
    gaps = torch.cat(found)
    return gaps[gaps > 0]
