"""What a protocol decides."""

from __future__ import annotations

import math

import pytest

from utils.configuration.protocol import PROTOCOLS

LOW, HIGH, NONE = 0.5, 0.7, -math.inf


@pytest.mark.parametrize(
    ("score", "best", "published", "strict"),
    [
        ((HIGH, LOW), (LOW, HIGH), True, True),
        ((LOW, HIGH), (HIGH, LOW), False, False),
        # Equal balanced accuracy: the published code takes the later epoch and looks at nothing else.
        ((HIGH, LOW), (HIGH, HIGH), True, False),
        ((HIGH, HIGH), (HIGH, LOW), True, True),
        ((HIGH, LOW), (HIGH, LOW), True, False),
        ((HIGH,), (HIGH,), True, False),
        # Without a balanced accuracy the concordance index decides.
        ((NONE, LOW), (NONE, HIGH), False, False),
        ((NONE, HIGH), (NONE, LOW), True, True),
        ((NONE, HIGH), (NONE, HIGH), True, False),
        ((NONE, HIGH), (LOW, LOW), False, False),
    ],
)
def test_which_epoch_is_kept(
    score: tuple[float, ...], best: tuple[float, ...], published: bool, strict: bool
) -> None:
    assert PROTOCOLS["published"].better(score, best) is published
    assert PROTOCOLS["strict"].better(score, best) is strict
