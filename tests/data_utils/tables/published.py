"""The published preparation of sentences and codes in a few lines, written from its description alone.

Nothing of ours is used, so that it can judge ours. Times are tested edge by edge instead of searched, texts are
shortened letter by letter, codes are positions in a sorted list.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence

REMOVED = {
    "stage": "A B b C c D d (i+) (i-) m i",
    "t": "A a B b C c D d (i+) (i-) m",
    "n": "A a B b C c D d (i+) (i-) (mol+) m i",
    "m": "A a B b C c D d (i+) (i-) m i",
}
WORDS = {
    "Stage I": "stage one",
    "Stage II": "stage two",
    "Stage III": "stage three",
    "Stage IV": "stage four",
    "Stage X": "stage cannot be determined",
    "T0": "no tumor detected",
    "T1": "tumor stage one",
    "T2": "tumor stage two",
    "T3": "tumor stage three",
    "T4": "tumor stage four",
    "TX": "tumor stage cannot be assessed",
    "N0": "cancer has not spread to lymph nodes",
    "N1": "node stage one",
    "N2": "node stage two",
    "N3": "node stage three",
    "NX": "node spread cannot be assessed",
    "M0": "no metastasis detected",
    "M1": "cancer has spread to distant organs",
    "MX": "metastasis status cannot be assessed",
}


def reduced(text: str | None, part: str) -> str:
    if text is None:
        return "Nan"
    for letters in REMOVED[part].split():
        text = text.replace(letters, "")
    if part == "t":
        text = text.replace("is", "0").replace("i", "")
    return text.strip()


def codes(texts: Sequence[str | None], part: str) -> list[int]:
    """One code a case, over all cases of the cohort."""
    short = [reduced(text, part) for text in texts]
    order = sorted(set(short), key=str.encode)
    return [order.index(text) for text in short]


def quartiles(months: Sequence[float]) -> list[float]:
    if len(months) == 1:
        return list(months) * 5
    return [min(months), *statistics.quantiles(months, n=4, method="inclusive"), max(months)]


def fate(months: float, died: bool, edges: Sequence[float]) -> str:
    words = [f"{edge:.0f}" for edge in edges]
    if months < edges[1]:
        when = f"before {words[1]} months"
    elif months < edges[2]:
        when = f"between {words[1]} and {words[2]} months"
    elif months < edges[3]:
        when = f"between {words[2]} and {words[3]} months"
    else:
        when = f"between {words[3]} and {words[4]} months"
    return "Survival status: The patient " + ("died " if died else "was censored ") + when


def sentences(
    site: str,
    diagnosis: str | None,
    spread: Sequence[str | None],
    months: float,
    died: bool,
    edges: Sequence[float],
) -> list[str]:
    """General, diagnosis, stage, survival; ``spread`` are the raw texts of stage, T, N and M."""
    labels = ("Overall stage", "Tumor stage status", "Lymph node status", "Distant metastasis status")
    where = f"Cancer location: {site};"
    what = f"Cancer diagnosis: {diagnosis};" if diagnosis else ""
    parts = [
        f"{label}: {WORDS[reduced(text, part)]};" if text else ""
        for label, text, part in zip(labels, spread, REMOVED, strict=True)
    ]
    end = fate(months, died, edges)
    stage = " ".join([where, *parts])
    return [" ".join([where, what, *parts, end]), f"{where} {what}", stage, f"{stage} {end}"]
