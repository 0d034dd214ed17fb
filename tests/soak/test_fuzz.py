"""Ten damaged files of every kind: none may be accepted with another meaning, none may hang."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.soak.fuzz import KINDS, fuzz


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Any]:
    """The sound files of a kind, made once for all kinds that share them."""
    made: dict[Callable[[Path], Any], Any] = {}

    def of(kind: str) -> Any:
        make = KINDS[kind].world
        if make not in made:
            made[make] = make(tmp_path_factory.mktemp(make.__name__))
        return made[make]

    return of


@pytest.mark.parametrize("kind", KINDS)
def test_damaged_files(kind: str, world: Callable[[str], Any], caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL)
    counts, faults = fuzz(kind, 10, 1, world(kind))
    assert counts.total() == 10
    assert not faults
