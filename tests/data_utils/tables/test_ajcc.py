"""What raw AJCC texts are reduced to; the published categories are in test_published_tables."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_utils.tables.ajcc import AJCC_COLUMNS, STAGE, M, N, T, is_category, reduce_text


@pytest.mark.parametrize(
    ("column", "raw", "text"),
    [
        (STAGE, "Stage IIA", "Stage II"),
        (STAGE, "Stage IB2", "Stage I"),
        (STAGE, "stage iiia", "Stage III"),
        (STAGE, "IV", "Stage IV"),
        (STAGE, "Stage 0", "Stage 0"),
        (STAGE, "Stage 0a", "Stage 0"),
        (STAGE, "Stage 0is", "Stage 0"),
        (T, "T1c", "T1"),
        (T, "Tis", "T0"),
        (T, "Tis (DCIS)", "T0"),
        (T, "pT2", "T2"),
        (T, "T1a1", "T1"),
        (T, "Ta", "Ta"),
        (N, "N1mi", "N1"),
        (N, "N0 (i-)", "N0"),
        (N, "N0 (mol+)", "N0"),
        (N, "N0 (sn)", "N0"),
        (M, "cM0 (i+)", "M0"),
        (M, "M1b", "M1"),
    ],
)
def test_categories(column: str, raw: str, text: str) -> None:
    assert reduce_text(raw, column) == text and is_category(text, column)


@pytest.mark.parametrize(
    ("column", "raw"),
    [
        (STAGE, "Stage IS"),
        (STAGE, "Stage"),
        (T, "T5"),
        (T, "T12"),
        (T, "Total"),
        (N, "N4"),
        (M, "T1"),
        (M, "?"),
    ],
)
def test_a_text_that_names_no_category_stays_as_it_is(column: str, raw: str) -> None:
    assert reduce_text(raw, column) == raw and not is_category(raw, column)


@settings(deadline=None)
@given(st.text(max_size=12), st.sampled_from(AJCC_COLUMNS))
def test_reductions_never_fail_and_are_final(text: str, column: str) -> None:
    once = reduce_text(text, column)
    if is_category(once, column):
        assert reduce_text(once, column) == once
    else:
        assert once == text.strip()
