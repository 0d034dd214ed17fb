"""Ten damaged files of every kind: none may be accepted with another meaning, none may hang."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from tests.soak.fuzz import KINDS, fuzz


@pytest.mark.parametrize("kind", KINDS)
def test_damaged_files(kind: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL)
    counts, faults = fuzz(kind, 10, 1, tmp_path)
    assert counts.total() == 10
    assert not faults
