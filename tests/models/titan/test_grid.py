"""TITAN's grid: scattered patches against a dictionary, and patch sizes that cannot be right."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from data_utils.cases.stacking import stack_slides
from models.titan.grid import (
    MAX_SHARED,
    check_patch_size,
    check_slide_grid,
    grid_cells,
    likely_patch_size,
    scatter_to_grid,
)
from tests import oracle

PATCH = 1024


def rectangle(columns, rows, patch_size=PATCH, origin=(0, 0)):
    """Patches in the order an extraction writes them, along x first."""
    y, x = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
    return torch.stack([x.flatten(), y.flatten()], dim=1) * patch_size + torch.tensor(origin)


def features_for(coords, width=4, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(len(coords), width, generator=generator, dtype=torch.float64)


# ---------------------------------------------------------------------------- scatter
@settings(max_examples=60, deadline=None)
@given(
    cells=st.lists(st.tuples(st.integers(-9, 9), st.integers(-9, 9)), min_size=1, max_size=40),
    patch_size=st.integers(1, 300),
    jitter=st.integers(0, 10_000),
    background=st.integers(0, 39),
)
def test_equals_a_dictionary_of_cells(cells, patch_size, jitter, background):
    """Duplicates, empty cells, negative coordinates and background, in any order."""
    offsets = np.random.default_rng(jitter).integers(0, patch_size, (len(cells), 2))
    coords = torch.tensor(cells) * patch_size + torch.from_numpy(offsets)
    features = features_for(coords)
    features[background % len(cells)] = 0
    if not features.any():
        summed, found = scatter_to_grid(features, coords, patch_size)
        assert summed.shape == (0, 4) and found.shape == (0, 2)
        return
    expected_cells, expected = oracle.titan_grid(features, coords, patch_size)
    summed, found = scatter_to_grid(features, coords, patch_size)
    assert found.tolist() == [list(cell) for cell in expected_cells]
    torch.testing.assert_close(summed, expected)


def test_order_is_x_by_x():
    coords = rectangle(3, 2)
    features = torch.arange(1.0, 7.0).unsqueeze(1)
    summed, cells = scatter_to_grid(features, coords, PATCH)
    assert cells.tolist() == [[0, 0], [0, 1], [1, 0], [1, 1], [2, 0], [2, 1]]
    assert summed[:, 0].tolist() == [1, 4, 2, 5, 3, 6]


def test_features_on_one_cell_are_added():
    coords = torch.tensor([[0, 0], [1500, 40], [1024, 0], [2047, 1023]])
    features = torch.eye(4)
    summed, cells = scatter_to_grid(features, coords, PATCH)
    assert cells.tolist() == [[0, 0], [1, 0]]
    assert summed.tolist() == [[1, 0, 0, 0], [0, 1, 1, 1]]


def test_cells_that_are_or_become_zero_are_background():
    coords = rectangle(4, 1)
    coords = torch.cat([coords, coords[3:]])
    features = torch.tensor([[1.0, 0], [0, 0], [0, -1], [2, 3], [-2, -3]])
    summed, cells = scatter_to_grid(features, coords, PATCH)
    assert cells.tolist() == [[0, 0], [2, 0]] and summed.tolist() == [[1, 0], [0, -1]]


@pytest.mark.parametrize("origin", [(0, 0), (-3 * PATCH - 5, 17), (123_456, -9)])
def test_the_grid_starts_at_the_smallest_coordinates(origin):
    assert grid_cells(rectangle(3, 2, origin=origin), PATCH).tolist() == rectangle(3, 2, 1).tolist()


@pytest.mark.parametrize("shape", [(1, 1), (7, 1), (1, 7)])
def test_a_single_patch_and_patches_in_a_row(shape):
    coords = rectangle(*shape, origin=(-50, 1_000_000))
    summed, cells = scatter_to_grid(features_for(coords), coords, PATCH)
    assert cells.tolist() == rectangle(*shape, 1).tolist()
    torch.testing.assert_close(summed, features_for(coords))


def test_half_precision_is_added_in_single():
    coords = torch.zeros(3, 2, dtype=torch.int64)
    features = torch.tensor([[2048.0], [1.0], [1.0]], dtype=torch.float16)
    summed, _ = scatter_to_grid(features, coords, PATCH)
    assert summed.dtype == torch.float32 and summed.item() == 2050


def test_a_huge_slide_needs_no_dense_grid():
    coords = torch.tensor([[0, 0], [2**28, 2**28]])  # the full grid would have 2 ** 56 cells
    summed, cells = scatter_to_grid(torch.ones(2, 1), coords, 1)
    assert cells.tolist() == coords.tolist() and summed.tolist() == [[1], [1]]


# ---------------------------------------------------------------------------- likely patch size
@pytest.mark.parametrize("keep", [1.0, 0.5, 0.2])
def test_the_step_of_a_grid_is_found(keep):
    coords = rectangle(40, 30, 1013, origin=(77, -3))
    kept = torch.rand(len(coords), generator=torch.Generator().manual_seed(0)) < keep
    assert likely_patch_size(coords[kept]) == 1013


def test_the_step_of_stacked_slides_with_shifted_grids_is_found():
    slides = [rectangle(9, 8, origin=(shift, 2 * shift)).numpy() for shift in (0, 300, 700)]
    assert likely_patch_size(torch.from_numpy(np.concatenate(stack_slides(slides, PATCH, False)))) == PATCH


def test_no_step_where_all_patches_lie_on_one_point():
    assert likely_patch_size(torch.zeros(3, 2, dtype=torch.int64)) is None
    assert likely_patch_size(torch.tensor([[5, 6]])) is None


# ---------------------------------------------------------------------------- legal patch sizes
@pytest.mark.parametrize(
    "coords",
    [
        rectangle(1, 1),
        rectangle(5, 1),
        rectangle(1, 5),
        rectangle(6, 7, origin=(-5000, -1)),
        rectangle(6, 7, origin=(511, 513)),
        rectangle(6, 7, patch_size=3 * PATCH),
    ],
)
def test_grids_that_fit_are_accepted(coords):
    check_patch_size(coords, PATCH, "x")


def test_slides_that_overlap_in_the_published_stack_are_accepted():
    """From the third slide on they lie on the second; every cell is shared."""
    slides = [rectangle(6, 5, origin=(0, 0)).numpy(), *(rectangle(6, 5).numpy() for _ in range(5))]
    stacked = torch.from_numpy(np.concatenate(stack_slides(slides, PATCH, cumulative=False)))
    cells = grid_cells(stacked, PATCH)
    assert len(cells.unique(dim=0)) < (1 - MAX_SHARED) * len(cells)
    check_patch_size(stacked, PATCH, "x")


def test_steps_rounded_to_whole_pixels_are_accepted_where_slides_overlap():
    """512 px at 0.5 mpp are 1013.86 px of a slide at 0.2525 mpp; its file states 1014."""
    exact = rectangle(9, 8, 1).double() * 1013.86
    slides = [exact.floor().long().numpy()] * 6
    stacked = torch.from_numpy(np.concatenate(stack_slides(slides, 1014, cumulative=False)))
    check_patch_size(stacked, 1014, "x")
    with pytest.raises(ValueError, match=r"suggest 101[34]"):
        check_patch_size(stacked, 1200, "x")


def test_a_few_patches_may_share_a_cell():
    coords = rectangle(8, 1)
    two_of_ten = torch.cat([coords, coords[7:] + 3, coords[:1] - PATCH])
    assert len(two_of_ten) == 10
    check_patch_size(two_of_ten, PATCH, "x")


# ---------------------------------------------------------------------------- refused patch sizes
@pytest.mark.parametrize("factor", [2, 4, 1000])
def test_a_patch_size_that_collapses_the_grid_is_refused(factor):
    coords = rectangle(8, 6, origin=(13, -900))
    with pytest.raises(ValueError) as caught:
        check_patch_size(coords, factor * PATCH, "feature file a.h5")
    for part in (
        "feature file a.h5: ",
        f"patch_size_level0 {factor * PATCH}, 48 of 48 patches share a cell",
        "the coordinates suggest 1024",
        "--patch_size_lv0",
    ):
        assert part in str(caught.value)


def test_two_patches_on_one_cell_are_refused():
    with pytest.raises(ValueError, match=r"2 of 2 patches.*suggest 1024"):
        check_patch_size(rectangle(2, 1), 4 * PATCH, "x")


def test_a_subset_of_a_collapsed_grid_is_refused():
    coords = rectangle(60, 50, 512)
    subset = coords[torch.rand(len(coords), generator=torch.Generator().manual_seed(1)) < 0.25]
    with pytest.raises(ValueError, match="suggest 512"):
        check_patch_size(subset, PATCH, "x")


def test_patches_on_one_point_are_refused():
    with pytest.raises(ValueError, match=r"case c: all 3 patches have the same coordinates \[7, 7\]"):
        check_patch_size(torch.full((3, 2), 7), PATCH, "case c")


def test_a_missing_patch_size_names_the_flag_and_the_likely_one():
    with pytest.raises(ValueError, match=r"case c: no patch_size_level0.*--patch_size_lv0.*suggest 1024"):
        check_patch_size(rectangle(3, 3), None, "case c")
    with pytest.raises(ValueError, match=r"on a 20x slide\)$"):
        check_patch_size(rectangle(1, 1), None, "case c")


@pytest.mark.parametrize("patch_size", [0, -256])
def test_a_patch_size_below_one_is_refused(patch_size):
    with pytest.raises(ValueError, match=f"x: patch_size_level0 is {patch_size}"):
        check_patch_size(rectangle(3, 3), patch_size, "x")


@pytest.mark.parametrize("step", [1024, 1013, 2048])
@pytest.mark.parametrize("stated", [224, 256, 512])
def test_a_patch_size_smaller_than_the_distance_is_refused(step, stated):
    coords = rectangle(6, 5, step, origin=(13, -900))
    with pytest.raises(
        ValueError, match=rf"a\.h5: patch_size_level0 is {stated}.*suggest {step}.*--patch_size_lv0"
    ):
        check_slide_grid(coords, stated, "feature file a.h5")
    check_slide_grid(coords, step, "x")


@settings(max_examples=60, deadline=None)
@given(density=st.floats(0.05, 1.0), seed=st.integers(0, 10_000))
def test_a_right_patch_size_is_accepted_however_ragged_the_tissue(density, seed):
    grid = rectangle(30, 24, PATCH, origin=(7, 11))
    kept = torch.rand(len(grid), generator=torch.Generator().manual_seed(seed)) < density
    if kept.any():
        check_slide_grid(grid[kept], PATCH, "x")


def test_few_neighbours_are_not_judged():
    check_slide_grid(rectangle(3, 1, 3 * PATCH), PATCH, "x")
