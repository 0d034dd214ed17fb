import re

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from lifelines import KaplanMeierFitter
from matplotlib.figure import Figure
from matplotlib.image import imread
from matplotlib.text import Text

from tests.utils.evaluation.evaluation_data import slow_auc
from utils.evaluation import calibration, plots


@pytest.fixture
def drawn(monkeypatch):
    """Collects the figures as they are saved, to look inside."""
    figures = []
    save = Figure.savefig

    def keep(self, *args, **kwargs):
        figures.append(self)
        return save(self, *args, **kwargs)

    monkeypatch.setattr(Figure, "savefig", keep)
    return figures


def texts(figure):
    return list(dict.fromkeys(t.get_text() for t in figure.findobj(Text)))


def check_file(path):
    """The file is a picture with something on it, and nothing temporary lies beside it."""
    picture = imread(path)
    assert picture.min() < 0.5 < picture.max()
    assert not list(path.parent.glob(".*"))


def test_roc_of_two_classes(tmp_path, drawn):
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, 50)
    positive = np.clip(0.3 * labels + 0.7 * rng.random(50), 0, 1)
    plots.roc(
        labels, np.c_[1 - positive, positive], tmp_path / "figures" / "roc.png", "General", ["IDC", "ILC"]
    )
    check_file(tmp_path / "figures" / "roc.png")
    assert f"ILC: AUC {slow_auc(labels == 1, positive):.3f}" in texts(drawn[0])
    assert not any("IDC" in text for text in texts(drawn[0]))


def test_roc_of_three_classes_leaves_out_absent_ones(tmp_path, drawn):
    rng = np.random.default_rng(0)
    probabilities = rng.dirichlet(np.ones(3), 30)
    plots.roc(np.arange(30) % 3, probabilities, tmp_path / "three.png")
    plots.roc(np.arange(30) % 2, probabilities, tmp_path / "two.png")
    plots.roc(np.zeros(30), probabilities, tmp_path / "one.png")
    curves = [[t for t in texts(figure) if "AUC" in t] for figure in drawn]
    assert [len(c) for c in curves] == [3, 2, 0]
    assert [c.split(":")[0] for c in curves[0]] == ["class 0", "class 1", "class 2"]


def test_confusion(tmp_path, drawn):
    counts = np.array([[7, 1, 2], [0, 0, 0], [3, 0, 9]])
    plots.confusion(counts, tmp_path / "confusion.png", "General", ["a", "b", "c"])
    check_file(tmp_path / "confusion.png")
    found = texts(drawn[0])
    for text in ("7\n70%", "2\n20%", "0\n0%", "9\n75%", "a", "b", "c", "Predicted", "True", "General"):
        assert text in found
    assert plots.class_labels(2) == ["class 0", "class 1"]


# ---------------------------------------------------------------------------- survival
def survival(n=60, seed=0):
    rng = np.random.default_rng(seed)
    high = rng.random(n) < 0.5
    death, end = rng.exponential(np.where(high, 10, 60)), rng.uniform(0, 80, n)
    return np.minimum(death, end), (death <= end).astype(int), high


def slow_logrank(durations, events, high):
    """Chi-square of the log-rank test by a loop over times of death."""
    observed = expected = variance = 0.0
    for t in sorted(set(durations[events == 1])):
        at_risk, dead = durations >= t, (durations == t) & (events == 1)
        n, n1, d = at_risk.sum(), (at_risk & high).sum(), dead.sum()
        observed += (dead & high).sum()
        expected += d * n1 / n
        if n > 1:
            variance += d * (n1 / n) * (1 - n1 / n) * (n - d) / (n - 1)
    return (observed - expected) ** 2 / variance


def test_reliability(tmp_path, drawn):
    labels = np.array([0, 1, 1, 0])
    probabilities = np.array([[0.9, 0.1], [0.15, 0.85], [0.95, 0.05], [0.55, 0.45]])
    group = calibration.reliability(labels, probabilities)
    plots.reliability({"probe": group, "trained head": group}, tmp_path / "r.png", "Title")
    check_file(tmp_path / "r.png")
    (figure,) = drawn
    curve = figure.axes[0].get_lines()[1]
    assert curve.get_xydata() == pytest.approx(np.array([[0.55, 1], [0.875, 1], [0.95, 0]]))
    assert {"probe (n = 4)", "trained head (n = 4)"} <= set(texts(figure))


def test_kaplan_meier(tmp_path, drawn):
    from scipy.stats import chi2

    durations, events, high = survival()
    durations = np.round(durations)
    p = plots.kaplan_meier(durations, events, high, tmp_path / "km.png", "General")
    check_file(tmp_path / "km.png")
    assert p == pytest.approx(chi2.sf(slow_logrank(durations, events, high), 1))
    assert p < 0.001
    found = texts(drawn[0])
    assert "log-rank p < 0.001" in found
    for name, group in (("High", high), ("Low", ~high)):
        assert f"{name} risk (n = {group.sum()}, {events[group].sum()} died)" in found

    axes, table = drawn[0].axes
    shown = {(round(t.get_position()[0]), t.get_position()[1]): int(t.get_text()) for t in table.texts}
    assert len(shown) >= 8
    for (time, row), count in shown.items():
        assert count == np.sum(durations[high if row else ~high] >= time)
    curve = next(line for line in axes.lines if len(line.get_xdata()) > 5)
    fitted = KaplanMeierFitter().fit(durations[~high], events[~high]).survival_function_
    assert np.array_equal(curve.get_ydata(), fitted.iloc[:, 0])


def test_p_is_rounded_for_people():
    assert [plots._p_text(p) for p in (0.04321, 0.00099, np.nan)] == [
        "log-rank p = 0.043",
        "log-rank p < 0.001",
        "log-rank p not evaluable",
    ]


@pytest.mark.parametrize(
    ("durations", "events", "high"),
    [
        ([5, 6, 7], [0, 1, 1], [True] * 3),
        ([5, 6, 7], [0, 1, 1], [False] * 3),
        ([5, 6, 7], [0, 0, 0], [True, False, True]),
        ([0], [1], [True]),
        ([0, 0], [1, 1], [True, False]),
    ],
)
def test_kaplan_meier_of_little(tmp_path, drawn, durations, events, high):
    p = plots.kaplan_meier(
        np.array(durations, dtype=float), np.array(events), np.array(high), tmp_path / "km.png"
    )
    check_file(tmp_path / "km.png")
    if len(durations) == 3:
        assert np.isnan(p)
        assert "log-rank p not evaluable" in texts(drawn[0])


# ---------------------------------------------------------------------------- training
def test_training_curves(tmp_path, drawn):
    history = pd.DataFrame(
        {
            "epoch": [0, 1, 2],
            "lr": [1e-5, 1e-4, 5e-5],
            "train_loss": [3.0, 2.0, 1.0],
            "val_loss": [3.0, 2.5, 2.0],
            "val_balanced_accuracy/General": [np.nan, 0.6, 0.7],
            "val_balanced_accuracy/Survival": [np.nan, 0.5, 0.55],
            "val_concordance_index/General": [np.nan] * 3,
        }
    )
    plots.training_curves(history, tmp_path / "curves.png")
    check_file(tmp_path / "curves.png")
    panels = {axes.get_title(loc="left"): axes for axes in drawn[0].axes if axes.get_visible()}
    assert list(panels) == ["Learning rate", "Loss", "Balanced accuracy"]
    assert [line.get_label() for line in panels["Loss"].lines] == ["train", "val"]
    lines = {line.get_label(): line for line in panels["Balanced accuracy"].lines}
    assert set(lines) == {"val General", "val Survival"}
    assert lines["val General"].get_xdata().tolist() == [1, 2]
    assert lines["val General"].get_ydata().tolist() == [0.6, 0.7]


def test_embedding_map_shows_every_case_once_per_panel(tmp_path, drawn):
    points = np.random.default_rng(0).normal(size=(20, 2))
    groups = {"Site": ["a", "b"] * 10, "Subtype": [f"class {i % 9}" for i in range(20)]}
    plots.embedding_map(points, groups, tmp_path / "map.png", np.array([0.5, 0.2]))
    for axes, names in zip(drawn[0].axes, groups.values(), strict=True):
        offsets = np.concatenate([c.get_offsets() for c in axes.collections if len(c.get_offsets())])
        assert sorted(map(tuple, offsets)) == sorted(map(tuple, points))
        assert len(axes.get_legend().texts) == len(set(names))
        looks = {
            (c.get_facecolor().tobytes(), c.get_paths()[0].vertices.tobytes())
            for c in axes.collections
            if len(c.get_offsets())
        }
        assert len(looks) == len(set(names))  # nine groups, seven colours
    assert drawn[0].axes[0].get_xlabel() == "PC 1 (50%)"


def test_training_curves_of_nothing(tmp_path):
    plots.training_curves(pd.DataFrame({"epoch": [0]}), tmp_path / "curves.png")
    assert (tmp_path / "curves.png").is_file()


def test_figures_leave_no_state_behind(tmp_path):
    before = dict(plt.rcParams)
    plots.confusion(np.eye(2, dtype=int), tmp_path / "confusion.png")
    assert dict(plt.rcParams) == before
    assert plt.get_fignums() == []


def test_a_failed_figure_leaves_the_old_file(tmp_path):
    path = tmp_path / "figure.png"
    path.write_text("old")
    with pytest.raises(RuntimeError, match="stop"), plots.figure(path, 2, 2) as drawing:
        drawing.subplots()
        raise RuntimeError("stop")
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["figure.png"]


def test_colours_are_distinct():
    assert len(set(plots.COLORS)) == len(plots.COLORS)
    assert all(re.fullmatch("#[0-9A-F]{6}", color) for color in plots.COLORS)
    assert plots._cycle(9)[7:] == list(plots.COLORS[:2])


def test_a_caption_names_every_figure_of_its_block(tmp_path, drawn):
    with plots.caption("BRCA · gigapath_gene_adapter · seed 0"):
        plots.confusion(np.eye(2, dtype=int), tmp_path / "confusion.png")
        plots.training_curves(pd.DataFrame({"epoch": [0], "train_loss": [1.0]}), tmp_path / "curves.png")
    plots.confusion(np.eye(2, dtype=int), tmp_path / "without.png")
    named = ["BRCA · gigapath_gene_adapter · seed 0" in " ".join(texts(f)).replace("\n", " ") for f in drawn]
    assert named == [True, True, False]
