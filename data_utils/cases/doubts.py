"""What the splits of a cohort say together that is hardly meant: warnings of the run and of the doctor alike."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from scipy.stats import fisher_exact, mannwhitneyu

from data_utils.cases.splits import Patient
from data_utils.tables.values import odd_times
from utils.barcodes import is_normal_tissue
from utils.findings import Finding, listing, warning

# Splits drawn at random differ so much in one of a thousand cohorts.
UNLIKELY = 1e-3
# Days are 30 times as many as months, months 12 times as many as years.
OTHER_UNIT = 6.0
# A diagnosis tells the class if knowing it spares so many of the errors of guessing the largest class.
TELLING = 0.75

Splits = Mapping[str, Sequence[Patient]]


def doubts(splits: Splits) -> Iterator[Finding]:
    """Warnings about events, times and classes of one split that contradict the others, and about normal tissue."""
    yield from _normal_tissue(splits)
    yield from _barcodes(splits)
    yield from _classes(splits)
    for name in splits:
        here, others = _known(splits[name]), _known(p for s in splits if s != name for p in splits[s])
        if here and others:
            yield from _events(name, here, others)
            yield from _times(name, here, others)
    months = [p.duration for part in splits.values() for p in _known(part)]
    if odd := odd_times(months):
        yield warning(
            f"survival times of the split files: {odd}; they may be in another unit",
            "durations are months: convert them",
        )


def _known(patients: Sequence[Patient] | Iterator[Patient]) -> list[Patient]:
    return [p for p in patients if not math.isnan(p.duration)]


def _normal_tissue(splits: Splits) -> Iterator[Finding]:
    for name, patients in splits.items():
        if left_out := [slide for p in patients for slide in p.normal_slides]:
            yield warning(
                f"{name}: {len(left_out)} slides of normal tissue are not read, as their patients have others: "
                f"{listing(left_out)}",
                "remove these rows (make_dataset leaves them out)",
            )
        only = [p.case_id for p in patients if p.slide_ids and all(map(is_normal_tissue, p.slide_ids))]
        if only:
            yield warning(
                f"{name}: all slides of {len(only)} patients are of normal tissue: {listing(only)}",
                "leave these patients out, unless normal tissue is meant",
            )


def _barcodes(splits: Splits) -> Iterator[Finding]:
    for name, patients in splits.items():
        if twice := [code for code, n in Counter(p.submitter_id for p in patients).items() if n > 1]:
            yield warning(
                f"{name}: barcodes that belong to several case_id: {listing(twice)}",
                "give every patient one case_id; rows of one case_id are joined as its slides",
            )


def _classes(splits: Splits) -> Iterator[Finding]:
    """Where a diagnosis tells the class in the other splits, it should in this one."""
    for name, patients in splits.items():
        counts: dict[tuple[str, str], Counter[int]] = defaultdict(Counter)
        for p in (p for other, part in splits.items() if other != name for p in part):
            if p.diagnosis and p.label >= 0:
                counts[p.site, p.diagnosis][p.label] += 1
        usual = {key: labels.most_common(1)[0] for key, labels in counts.items()}
        everyone = sum(counts.values(), Counter())
        by_chance = everyone.total() - max(everyone.values(), default=0)
        errors = everyone.total() - sum(count for _, count in usual.values())
        if errors > (1 - TELLING) * by_chance or not by_chance:
            continue
        told = [p for p in patients if p.label >= 0 and usual.get((p.site, p.diagnosis), (0, 0))[1] > 1]
        odd = [p for p in told if usual[p.site, p.diagnosis][0] != p.label]
        if odd:
            first = odd[0]
            yield warning(
                f"{name}: {len(odd)} of {len(told)} patients are of another class than the patients of their "
                f"diagnosis in the other splits, such as {first.case_id}: {first.diagnosis} is class {first.label}, "
                f"elsewhere {usual[first.site, first.diagnosis][0]}",
                "correct primary_class or primary_diagnosis; classes have the same numbers in all split files",
            )


def _events(name: str, here: Sequence[Patient], others: Sequence[Patient]) -> Iterator[Finding]:
    dead, of_others = sum(p.event for p in here), sum(p.event for p in others)
    other_side = (of_others, len(others) - of_others)
    as_it_is = fisher_exact([(dead, len(here) - dead), other_side])[1]
    inverted = fisher_exact([(len(here) - dead, dead), other_side])[1]
    if as_it_is < UNLIKELY and inverted > as_it_is:
        yield warning(
            f"{name}: {dead} of {len(here)} patients died, {of_others} of {len(others)} in the other splits: "
            "vital_status may be inverted in one of them",
            "1 is dead, 0 is censored, in all split files",
        )


def _times(name: str, here: Sequence[Patient], others: Sequence[Patient]) -> Iterator[Finding]:
    own, rest = [p.duration for p in here], [p.duration for p in others]
    one, other = float(np.median(own)), float(np.median(rest))
    if max(one, other) < OTHER_UNIT * min(one, other) or mannwhitneyu(own, rest).pvalue >= UNLIKELY:
        return
    yield warning(
        f"{name}: half of the patients were followed for {one:.3g} months or more, in the other splits for "
        f"{other:.3g}: one of them may be in another unit",
        "durations are months, in all split files",
    )
