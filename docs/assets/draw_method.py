"""Draws docs/assets/method.png, the picture of the method in the README: ``python -m docs.assets.draw_method``."""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import Ellipse, FancyArrowPatch, FancyBboxPatch, Polygon, Rectangle

from utils.evaluation.plots import figure

OUTPUT = Path(__file__).with_name("method.png")
WIDTH, HEIGHT = 28.6, 13.2  # units of the drawing; two of them are an inch

LINE_PITCH = 1.35 * 2 / 72  # units per point of font size

INK, LINE = "#222222", "#5A5A5A"
FROZEN, FROZEN_EDGE = "#DCE8F3", "#4F7FAE"
TRAINED, TRAINED_EDGE = "#FCE3CC", "#D07A2D"
DATA, DATA_EDGE = "#FFFFFF", "#9A9A9A"
IMAGE, TASK, GENE, CLINICAL = "#4F7FAE", "#C9524A", "#3F9A76", "#8866B5"
STYLES = {
    "frozen": {"facecolor": FROZEN, "edgecolor": FROZEN_EDGE},
    "trained": {"facecolor": TRAINED, "edgecolor": TRAINED_EDGE},
    "data": {"facecolor": DATA, "edgecolor": DATA_EDGE},
}


class Canvas:
    """Boxes, arrows and tokens on one pair of axes."""

    def __init__(self, axes: Axes) -> None:
        self.axes = axes
        axes.set(xlim=(0, WIDTH), ylim=(0, HEIGHT), aspect="equal")
        axes.axis("off")

    def box(
        self, x: float, y: float, width: float, height: float, text: str, kind: str, size: float = 11
    ) -> None:
        """A rounded box with its lower left corner at (x, y)."""
        shape = FancyBboxPatch(
            (x, y), width, height, boxstyle="round,pad=0,rounding_size=0.18", linewidth=1.3, **STYLES[kind]
        )
        self.axes.add_patch(shape)
        self.text(x + width / 2, y + height / 2, text, size)

    def text(self, x: float, y: float, text: str, size: float = 11, **style) -> None:
        """Lines of text centred at (x, y) unless the style says otherwise."""
        style = {"ha": "center", "va": "center_baseline", "color": INK, **style}
        lines = text.split("\n")
        pitch = size * LINE_PITCH
        for i, line in enumerate(lines):
            self.axes.text(x, y + ((len(lines) - 1) / 2 - i) * pitch, line, fontsize=size, **style)

    def arrow(
        self, *points: tuple[float, float], color: str = LINE, width: float = 1.6, head: bool = True
    ) -> None:
        """A line through the points with a head at the last one."""
        for start, end in itertools.pairwise(points[:-1]):
            self.axes.plot(
                *zip(start, end, strict=True), color=color, linewidth=width, solid_capstyle="round"
            )
        style = "-|>,head_length=5,head_width=2.6" if head else "-"
        arrow = FancyArrowPatch(
            points[-2], points[-1], arrowstyle=style, color=color, linewidth=width, shrinkA=0, shrinkB=0
        )
        self.axes.add_patch(arrow)

    def tokens(self, x: float, y: float, colors: Sequence[str], size: float = 0.42) -> float:
        """A row of tokens whose lower left corner is (x, y); returns where it ends."""
        for i, color in enumerate(colors):
            square = Rectangle(
                (x + i * size * 1.12, y), size, size, facecolor=color, edgecolor="white", linewidth=0.8
            )
            self.axes.add_patch(square)
        return x + len(colors) * size * 1.12


def draw_slide(canvas: Canvas, x: float, y: float) -> None:
    """A slide with tissue, and the patches cut from it."""
    rng = np.random.default_rng(4)
    canvas.axes.add_patch(Rectangle((x, y), 3.0, 2.6, facecolor="white", edgecolor=DATA_EDGE, linewidth=1.3))
    angle = np.linspace(0, 2 * np.pi, 40, endpoint=False)
    radius = 1 + 0.12 * np.sin(3 * angle + 1) + 0.07 * np.sin(5 * angle)
    outline = np.c_[x + 1.5 + 1.2 * radius * np.cos(angle), y + 1.3 + 0.98 * radius * np.sin(angle)]
    tissue = Polygon(outline, facecolor="#EBB6CE", edgecolor="#C77FA3", linewidth=1)
    canvas.axes.add_patch(tissue)
    for _ in range(70):
        reach, direction = np.sqrt(rng.uniform(0, 0.75)), rng.uniform(0, 2 * np.pi)
        place = (x + 1.5 + 1.1 * reach * np.cos(direction), y + 1.3 + 0.85 * reach * np.sin(direction))
        nucleus = Ellipse(place, 0.13, 0.09, angle=rng.uniform(0, 180), color="#7C4D96", alpha=0.75)
        canvas.axes.add_patch(nucleus)
    for line in np.arange(0.5, 2.6, 0.5):
        canvas.axes.plot([x + 0.25, x + 2.75], [y + line - 0.2] * 2, color="white", linewidth=0.9)
    for line in np.arange(0.5, 2.6, 0.5):
        canvas.axes.plot([x + line] * 2, [y + 0.2, y + 2.4], color="white", linewidth=0.9)


def draw_inputs(canvas: Canvas) -> None:
    """Left: what goes in, and the encoders that turn it into tokens."""
    draw_slide(canvas, 0.4, 9.6)
    canvas.text(1.9, 12.55, "Whole-slide image", 12, weight="bold")
    canvas.arrow((3.5, 10.9), (4.2, 10.9))
    canvas.box(4.2, 10.0, 2.6, 1.8, "Patch encoder\n256-px patches", "frozen", 10.5)
    canvas.arrow((6.8, 10.9), (7.5, 10.9))
    canvas.tokens(7.6, 10.69, ["#222222"] + [IMAGE] * 3)
    canvas.text(8.55, 11.6, "CLS, patches", 9.5, color=LINE)

    rows = [
        (7.0, "Clinical data\nage, stage, TNM", "MLP", [CLINICAL]),
        (5.35, "Task\none-hot", "Linear, norm", [TASK]),
        (3.7, "RNA-seq\n331 pathways", "Gene Mixer", [GENE] * 4),
    ]
    for y, data, encoder, colors in rows:
        canvas.box(0.4, y, 3.1, 1.25, data, "data")
        canvas.arrow((3.5, y + 0.62), (4.2, y + 0.62))
        canvas.box(4.2, y, 2.6, 1.25, encoder, "trained")
        end = canvas.tokens(7.1, y + 0.41, colors)
        canvas.arrow((6.8, y + 0.62), (7.1, y + 0.62), head=False)
        canvas.arrow((end, y + 0.62), (9.35, y + 0.62), (9.35, 5.98), (9.75, 5.98), color=LINE)
    canvas.text(7.1, 8.0, "optional", 9.5, color=LINE, ha="left", style="italic")


def draw_stages(canvas: Canvas) -> None:
    """Middle: the frozen slide encoder and the Modal Adapter stages around its blocks."""
    left, right, top_lane, low_lane = 9.75, 21.3, 10.9, 5.98
    frame = FancyBboxPatch(
        (left - 0.1, 4.6),
        right - left + 0.2,
        8.2,
        boxstyle="round,pad=0,rounding_size=0.25",
        facecolor="#FAFAFA",
        edgecolor="#CFCFCF",
        linewidth=1.2,
        zorder=0,
    )
    canvas.axes.add_patch(frame)
    canvas.text((left + right) / 2, 12.35, "Slide encoder with Modal Adapter", 12, weight="bold")
    canvas.arrow((9.5, top_lane), (right + 0.55, top_lane), width=2.4, color=IMAGE)
    canvas.arrow((left, low_lane), (right + 0.55, low_lane), width=2.4, color=GENE)
    for stage, blocks in enumerate(("Blocks\n1–4", "Blocks\n5–8", "Blocks\n9–12")):
        x = left + 0.1 + 3.87 * stage
        inject, extract = x + 0.75, x + 2.95
        if stage:
            canvas.box(x - 0.65, 5.28, 1.0, 1.4, "self-\nattn", "trained", 10)
        canvas.arrow((inject, low_lane), (inject, 7.65), color=TRAINED_EDGE)
        canvas.box(inject - 0.62, 7.65, 1.24, 0.95, "inject", "trained", 10.5)
        canvas.arrow((inject, 8.6), (inject, top_lane - 0.05), color=TRAINED_EDGE)
        canvas.box(x + 1.15, 10.05, 1.4, 1.7, blocks, "frozen", 10.5)
        canvas.arrow((extract, top_lane), (extract, 8.6), color=TRAINED_EDGE)
        label = "extract" if stage < 2 else "extract\n× 3"
        canvas.box(extract - 0.65, 7.65, 1.3, 0.95, label, "trained", 10.5)
        canvas.arrow((extract, 7.65), (extract, low_lane + 0.05), color=TRAINED_EDGE)
    canvas.text(left + 0.1, 5.0, "modality tokens", 9.5, color=GENE, ha="left")
    canvas.text(left + 0.1, 12.0, "image tokens", 9.5, color=IMAGE, ha="left")


def draw_output(canvas: Canvas) -> None:
    """Right: aggregation, output and probes."""
    parts = "Aggregate\n\nimage\ntask\ngene mean\nclinical\n\nnorm,\nlinear"
    canvas.box(21.85, 5.1, 1.9, 6.7, parts, "trained", 10.5)
    canvas.arrow((23.75, 8.45), (24.3, 8.45))
    for i, name in enumerate(("General", "Diagnosis", "Survival")):
        y = 9.1 - i * 1.2
        color = ("#C9524A", "#DA8079", "#EBB1AC")[i]
        canvas.axes.add_patch(Rectangle((24.4, y), 1.2, 0.5, facecolor=color, edgecolor="white"))
        canvas.text(25.0, y - 0.28, name, 9, color=LINE)
    canvas.text(25.0, 10.35, "256-d output\nper task", 10.5)
    canvas.arrow((25.7, 8.45), (26.05, 8.45), (26.05, 9.7), (26.4, 9.7))
    canvas.arrow((25.7, 8.45), (26.05, 8.45), (26.05, 7.2), (26.4, 7.2))
    canvas.text(27.35, 11.15, "Probes", 12, weight="bold")
    canvas.box(26.4, 8.75, 1.9, 1.9, "Logistic\nregression:\nsubtype", "data", 10)
    canvas.box(26.4, 6.25, 1.9, 1.9, "Cox\nmodel:\nsurvival", "data", 10)


def draw_texts(canvas: Canvas) -> None:
    """Bottom: label sentences and the distillation loss."""
    y, middle = 0.5, 1.3
    canvas.text(0.4, 2.6, "Training target", 12, weight="bold", ha="left")
    sentence = (
        "“Cancer location: breast; Cancer diagnosis: …;\nSurvival status: The patient died before 16 months”"
    )
    canvas.box(0.4, y, 8.4, 1.6, sentence, "data", 10.5)
    canvas.arrow((8.8, middle), (9.65, middle))
    canvas.box(9.65, y, 3.4, 1.6, "CONCH\ntext tower", "frozen")
    canvas.arrow((13.05, middle), (13.9, middle))
    canvas.box(13.9, y, 3.4, 1.6, "Random projector\n512 → 256", "frozen")
    canvas.arrow((17.3, middle), (21.85, middle))
    canvas.box(21.85, y, 6.3, 1.6, "Distillation loss\nKL(text ‖ output), summed over tasks", "data", 10.5)
    canvas.arrow((25.0, 6.1), (25.0, y + 1.6))


def draw_legend(canvas: Canvas) -> None:
    """What the colours of boxes mean."""
    for i, (kind, text) in enumerate(
        (("frozen", "frozen"), ("trained", "trained"), ("data", "data, evaluation"))
    ):
        x = 9.7 + 2.5 * i
        canvas.box(x, 3.3, 0.6, 0.45, "", kind)
        canvas.text(x + 0.75, 3.52, text, 10.5, ha="left")


def draw(path: Path) -> None:
    """Writes the picture."""
    with figure(path, WIDTH / 2, HEIGHT / 2) as drawing:
        drawing.set_layout_engine("none")
        canvas = Canvas(drawing.add_axes((0, 0, 1, 1)))
        for part in (draw_stages, draw_inputs, draw_output, draw_texts, draw_legend):
            part(canvas)


def main(argv: Sequence[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=OUTPUT, help="where the picture goes")
    draw(parser.parse_args(argv).output)


if __name__ == "__main__":
    raise SystemExit(main())
