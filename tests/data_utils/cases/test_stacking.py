"""Stacked slides: the published shifts to the letter, and ours without overlap."""

import logging

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_utils.cases.stacking import GAP, fits, repack_slides, stack_slides


def grid(columns, rows, patch_size, origin=(0, 0)):
    """A full rectangle of patches."""
    x, y = np.meshgrid(np.arange(columns), np.arange(rows))
    return np.stack([x.ravel(), y.ravel()], axis=1) * patch_size + np.array(origin)


def slides(max_slides=6):
    """Patch size and slides of any number of patches, each on a grid of its own."""
    cell = st.tuples(st.integers(0, 60), st.integers(0, 60))
    corners = st.tuples(st.integers(0, 900), st.integers(0, 900))
    slide = st.tuples(st.lists(cell, min_size=1, max_size=12, unique=True), corners)

    def build(values):
        patch_size, parts = values
        return patch_size, [np.array(cells) * patch_size + np.array(corner) for cells, corner in parts]

    sizes = st.sampled_from([128, 256, 333, 512, 1024, 2048])
    return st.tuples(sizes, st.lists(slide, min_size=1, max_size=max_slides)).map(build)


def boxes_overlap(one, other, patch_size):
    apart = (one.min(0) >= other.max(0) + patch_size) | (other.min(0) >= one.max(0) + patch_size)
    return not apart.any()


# ---------------------------------------------------------------------------- as published
def test_published_shift_is_the_height_of_the_slide_before_and_nothing_more():
    heights = [10_240, 2_560, 20_480, 512]
    coords = [np.array([[0, 0], [512, height]]) for height in heights]
    stacked = stack_slides(coords, 256, cumulative=False)
    shifts = [0, 10_240 + 1500, 2_560 + 1500, 20_480 + 1500]
    for before, after, shift in zip(coords, stacked, shifts, strict=True):
        assert after.tolist() == (before + np.array([0, shift])).tolist()
    # The third slide (from 4,060 on) lies on the first (up to 10,240) and on the second (from 11,740 on).
    assert boxes_overlap(stacked[0], stacked[2], 256) and boxes_overlap(stacked[1], stacked[2], 256)
    assert not boxes_overlap(stacked[0], stacked[1], 256)


@settings(max_examples=50, deadline=None)
@given(slides())
def test_published_shifts_written_as_a_loop(values):
    patch_size, coords = values
    shift = 0
    for k, after in enumerate(stack_slides(coords, patch_size, cumulative=False)):
        assert np.array_equal(after, coords[k] + np.array([0, shift]))
        shift = max(y for _, y in coords[k].tolist()) + 1500


# ---------------------------------------------------------------------------- cumulative
@settings(max_examples=80, deadline=None)
@given(slides())
def test_cumulative_slides_never_overlap_and_keep_their_grid(values):
    patch_size, coords = values
    stacked = stack_slides(coords, patch_size, cumulative=True)
    for before, after in zip(coords, stacked, strict=True):
        moved = after - before
        assert (moved[:, 0] == 0).all() and len(set(moved[:, 1])) == 1
        assert moved[0, 1] % patch_size == 0
    for below, above in zip(stacked[1:], stacked, strict=False):
        assert below[:, 1].min() >= above[:, 1].max() + max(GAP, patch_size)


@settings(max_examples=50, deadline=None)
@given(slides(max_slides=2))
def test_one_or_two_slides_agree_up_to_the_rounding(values):
    patch_size, coords = values
    published = stack_slides(coords, patch_size, cumulative=False)
    ours = stack_slides(coords, patch_size, cumulative=True)
    assert np.array_equal(published[0], ours[0])
    if patch_size <= GAP:
        assert all(((b - a >= 0) & (b - a < patch_size)).all() for a, b in zip(published, ours, strict=True))


@pytest.mark.parametrize("cumulative", [False, True])
def test_slides_given_stay_as_they_are(cumulative):
    coords = [grid(2, 3, 256), grid(3, 2, 256)]
    copies = [part.copy() for part in coords]
    stacked = stack_slides(coords, 256, cumulative)
    stacked[0][:] = -1
    assert all(np.array_equal(a, b) for a, b in zip(coords, copies, strict=True))


# ---------------------------------------------------------------------------- re-packing
@settings(max_examples=80, deadline=None)
@given(slides(), st.integers(40, 800))
def test_repacked_slides_keep_their_shape_and_stay_apart(values, cells):
    patch_size, coords = values
    extent = cells * patch_size
    with pytest.MonkeyPatch.context() as patch:
        warnings = []
        patch.setattr("data_utils.cases.stacking.logger.warning", lambda *words: warnings.append(words))
        packed = repack_slides(coords, patch_size, extent, "case-7")
    for before, after in zip(coords, packed, strict=True):
        moved = after - before
        assert (moved == moved[0]).all() and (moved[0] % patch_size == 0).all()
    for i, one in enumerate(packed):
        assert one.min() >= 0
        for other in packed[:i]:
            assert not boxes_overlap(one, other, patch_size)
    for before, after in zip(coords, packed, strict=True):
        corner = before.min(axis=0) // patch_size * patch_size
        if (before - corner)[:, 1].max() + patch_size <= extent:  # columns are no higher than the grid
            assert after[:, 1].max() + patch_size <= extent
    assert bool(warnings) == (not fits(packed, extent))


def test_a_stack_too_high_is_repacked_into_columns():
    """17 slides of 40,000 x 30,000 pixels: 535,000 pixels high as a stack, yet they fit side by side."""
    coords = [grid(156, 117, 256, origin=(60_000, 90_000)) for _ in range(17)]
    extent = 256_000
    assert not fits(stack_slides(coords, 256, cumulative=True), extent)
    assert fits(repack_slides(coords, 256, extent, "case"), extent)


def test_one_slide_far_out_moves_to_the_corner():
    packed = repack_slides([grid(4, 4, 256, origin=(300_037, 900_000))], 256, 256_000, "case")
    assert packed[0].min(axis=0).tolist() == [300_037 % 256, 900_000 % 256]


def test_what_does_not_fit_at_all_is_said_with_the_name_of_the_case(caplog):
    with caplog.at_level(logging.WARNING):
        repack_slides([grid(10, 10, 256)] * 3, 256, 2_560, "case-9")
    assert "case-9" in caplog.text and "3 slides" in caplog.text


@pytest.mark.parametrize(("extent", "said"), [(1_024, True), (1_025, False)])
def test_the_last_pixel_of_the_grid_still_fits(extent, said, caplog):
    repack_slides([np.array([[0, 0], [1_024, 0]])], 256, extent, "case")
    assert bool(caplog.text) == said


def test_fits_counts_corners_inside_the_grid():
    assert fits([np.array([[0, 0], [999, 5]])], 1000)
    assert not fits([np.array([[0, 0], [1000, 5]])], 1000)
    assert not fits([np.array([[5, 5]]), np.array([[-1, 5]])], 1000)
