"""Tissue on generated slides: pale, beside pen, on tinted glass; the published rule; what was not scanned."""

from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image
from skimage.color import rgb2lab

from data_utils.slides import tissue, wsi
from data_utils.slides.opening import SlideError, open_slide
from data_utils.slides.tile_reading import TileRecipe, plan_slide
from data_utils.slides.tissue import TissueMaskParams, TissueRule, published_mask, tissue_mask
from tests.data_utils.slides.test_wsi import GLASS, tissue_slide, write_slide

STRONG = ((205, 120, 170), (90, 60, 140))
PALE = ((232, 222, 232), (225, 212, 228))
BOX = np.zeros((128, 128), bool)
BOX[32:64, 32:64] = True


def scene(glass=GLASS, stain=STRONG, beside=None, box=(32, 64), seed=0):
    """An overview at 8 mpp of one square of tissue with nuclei, and of something else beside it."""
    rng = np.random.default_rng(seed)
    image = np.tile(np.array(glass, float), (512, 512, 1))
    first, last = box[0] * 4, box[1] * 4
    image[first:last, first:last] = stain[0]
    nuclei = rng.random((256, 256)).repeat(2, 0).repeat(2, 1) < 0.3
    nuclei[:first] = nuclei[last:] = nuclei[:, :first] = nuclei[:, last:] = False
    image[nuclei] = stain[1]
    if beside is not None:
        image[40:480, 340:420] = beside
    image += rng.normal(0, 6, image.shape)
    return np.array(Image.fromarray(image.clip(0, 255).astype(np.uint8)).reduce(4))


def overlap(mask, wanted=BOX):
    return (mask & wanted).sum() / (mask | wanted).sum()


# ---------------------------------------------------------------------------- what else lies on the slide
@pytest.mark.parametrize(
    "beside", [(30, 50, 150), (40, 130, 70), (120, 70, 40), (170, 60, 130), (255, 240, 60), (20, 20, 20)]
)
@pytest.mark.parametrize("stain", [STRONG, PALE])
def test_tissue_does_not_depend_on_what_lies_beside(stain, beside):
    alone, together = (
        tissue_mask(scene(stain=stain), 8.0),
        tissue_mask(scene(stain=stain, beside=beside), 8.0),
    )
    assert overlap(alone) > 0.75
    assert np.array_equal(alone[:, :75], together[:, :75])


@pytest.mark.parametrize(
    "glass", [(255, 255, 255), (238, 228, 204), (240, 215, 228), (240, 228, 190), (215, 220, 232)]
)
def test_tinted_glass_is_glass(glass):
    assert overlap(tissue_mask(scene(glass), 8.0)) > 0.8
    assert not tissue_mask(scene(glass, (glass, glass)), 8.0).any()


def test_pale_tissue_that_covers_most_of_the_slide():
    wanted = np.zeros((128, 128), bool)
    wanted[8:120, 8:120] = True
    assert overlap(tissue_mask(scene(stain=PALE, box=(8, 120)), 8.0), wanted) > 0.9


def test_noisy_glass_raises_the_threshold():
    params = TissueMaskParams()
    values = np.abs(np.random.default_rng(0).normal(0, [[0.1], [1.5], [9.0]], (3, 5000))) + 1
    assert [tissue.chroma_threshold(row, params) for row in values] == [
        5.0,
        pytest.approx(np.median(values[1]) + 14.826 * np.median(np.abs(values[1] - np.median(values[1])))),
        12.0,
    ]
    assert tissue.chroma_threshold(np.array([]), params) == 5.0


def test_what_was_not_scanned_is_no_glass():
    """Half of the overview was filled up with white, which is brighter than the cream glass of the scan."""
    overview = scene((238, 228, 204))
    scanned = np.ones(overview.shape[:2], bool)
    scanned[:, 70:] = False
    overview[:, 70:] = 255
    mask = tissue_mask(overview, 8.0, scanned=scanned)
    assert overlap(mask) > 0.75 and not mask[:, 72:].any()


def test_scanned_part_of_a_slide():
    alpha = np.zeros((40, 60), np.uint8)
    alpha[:, :30] = 255
    picture = Image.fromarray(np.dstack([np.zeros((40, 60, 3), np.uint8), alpha]))
    slide = SimpleNamespace(
        level_count=2, level_dimensions=[(600, 400), (60, 40)], read_region=lambda *_: picture
    )
    scanned = tissue.scanned_part(slide, (20, 30))
    assert scanned[:, :15].all() and not scanned[:, 15:].any()
    huge = SimpleNamespace(level_count=1, level_dimensions=[(100_000, 100_000)])
    assert tissue.scanned_part(huge, (20, 30)).all()


# ---------------------------------------------------------------------------- rules
def test_published_rule():
    """Against loops over pixels: a* above 1.1 x its mean, then the largest within 9 x 9, then the smallest."""
    overview = scene()[:60, :60]
    red = rgb2lab(overview)[..., 1]
    mask = red > 1.1 * red.mean()
    for choose in (np.any, np.all):
        out = np.zeros_like(mask)
        for y in range(60):
            for x in range(60):
                out[y, x] = choose(mask[max(0, y - 4) : y + 5, max(0, x - 4) : x + 5])
        mask = out
    assert np.array_equal(published_mask(overview), mask)


def test_rules_of_a_slide(tmp_path):
    image = np.full((2048, 2048, 3), GLASS, np.uint8)
    image[512:1024, 512:1024] = (205, 120, 170)
    path = write_slide(tmp_path / "a.svs", image, 0.5, (1, 4))
    recipe = TileRecipe("colours", 256, 0.5, 224, (0.0,) * 3, (1.0,) * 3)
    wanted = [[512, 512], [768, 512], [512, 768], [768, 768]]
    # Its smaller level is of 512 px, too small for the published rule.
    for name, shape in (("auto", (128, 128)), ("published", (2048, 2048))):
        rule = TissueRule.of(name)
        with open_slide(path) as slide:
            overview, mask = rule.look(slide, 0.5)
        assert overview.shape[:2] == mask.shape == shape
        assert plan_slide(path, recipe, rule).grid.coords.tolist() == wanted
    assert TissueRule.of("published").min_tissue == 0.95 and TissueRule.of("published", 0.2).min_tissue == 0.2
    assert len({TissueRule.of(name).record for name in tissue.MIN_TISSUE}) == 2


# ---------------------------------------------------------------------------- plain slides
def test_mask_finds_the_tissue(tmp_path):
    path = write_slide(tmp_path / "a.svs", tissue_slide())
    with open_slide(path) as slide:
        mask = tissue_mask(wsi.read_overview(slide, 0.5, 8.0), 8.0)
    wanted = np.zeros((64, 64), bool)
    wanted[16:32, 16:48] = True
    overlap = (mask & wanted).sum() / (mask | wanted).sum()
    assert overlap > 0.8  # smoothing adds half a pixel around


@pytest.mark.parametrize("background", [GLASS, (255, 255, 255), (228, 226, 224), (120, 120, 120)])
def test_blank_slide_has_an_empty_mask(background):
    noise = np.random.default_rng(0).normal(0, 4, (200, 300, 3))
    overview = (np.array(background) + noise).clip(0, 255).astype(np.uint8)
    assert not tissue_mask(overview, 8.0).any()
    with pytest.raises(SlideError, match=r"no tissue: none of 16 tiles .*the most is 0\.0%"):
        wsi.tile_grid(np.zeros((200, 300), bool), (1024, 1024), 0.5, 256, 0.5, 0.1)


def test_constant_overview_is_blank():
    assert not tissue_mask(np.full((50, 50, 3), 255, np.uint8), 8.0).any()


def test_slide_full_of_tissue_is_all_tissue():
    assert tissue_mask(tissue_slide(512, (0, 0, 512, 512)), 2.0).all()


def test_specks_go_and_small_holes_are_filled():
    overview = np.full((200, 200, 3), 245, np.uint8)
    overview[50:150, 50:150] = (200, 110, 170)
    overview[95:105, 95:105] = 245  # a hole of 80 um
    overview[10:14, 10:14] = (200, 110, 170)  # a speck of 32 um
    mask = tissue_mask(overview, 8.0)
    assert mask[100, 100] and not mask[12, 12] and mask[60, 60] and not mask[170, 170]
    lenient = TissueMaskParams(min_object_um2=0, max_hole_um2=0, closing_um=8)
    mask = tissue_mask(overview, 8.0, lenient)
    assert not mask[100, 100] and mask[12, 12]
