"""What a raw AJCC text says: its category without the subdivision.

The clinical codes and the label sentences both begin with the reduction of the published preparation: certain
letters and brackets are removed from the text, one after the other (:data:`_REMOVED`). "Stage IIA" becomes
"Stage II", "T1c" "T1", "Tis" "T0", "cM0 (i+)" "M0".

A text of which the removals leave no published category is read by its pattern instead ("pT2" is "T2", "T1a1"
is "T1"). That yields two categories of our own, "Stage 0" and "Ta". A text that fits no pattern stays as it is.
"""

from __future__ import annotations

import re

AJCC_COLUMNS = (
    "ajcc_pathologic_stage",
    "ajcc_pathologic_t",
    "ajcc_pathologic_n",
    "ajcc_pathologic_m",
)
STAGE, T, N, M = AJCC_COLUMNS

# In this order: "(i-)" has to go as a whole before the "i" does, and "is" before "i".
_BRACKETS = ("(i+)", "(i-)")
_REMOVED = {
    STAGE: (*"ABbCcDd", *_BRACKETS, "m", "i"),
    T: (*"AaBbCcDd", *_BRACKETS, "m"),
    N: (*"AaBbCcDd", *_BRACKETS, "(mol+)", "m", "i"),
    M: (*"AaBbCcDd", *_BRACKETS, "m", "i"),
}
PUBLISHED_CATEGORIES = {
    STAGE: tuple(f"Stage {number}" for number in ("I", "II", "III", "IV", "X")),
    T: tuple(f"T{number}" for number in "01234X"),
    N: tuple(f"N{number}" for number in "0123X"),
    M: tuple(f"M{number}" for number in "01X"),
}
OWN_CATEGORIES = {STAGE: ("Stage 0",), T: ("Ta",), N: (), M: ()}
_PATTERNS = {
    STAGE: re.compile(r"(?:stage\s*)?(?P<number>IV|III|II|I|X|0)(?:[abcd]\d?|is)?", re.IGNORECASE),
    T: re.compile(r"[cpyra]*T(?P<number>is|a(?!\w)|[0-4X])(?!\d)", re.IGNORECASE),
    N: re.compile(r"[cpyra]*N(?P<number>[0-3X])(?!\d)", re.IGNORECASE),
    M: re.compile(r"[cpyra]*M(?P<number>[01X])(?!\d)", re.IGNORECASE),
}


def reduce_text(raw: str, column: str) -> str:
    """The category of a text of one of ``AJCC_COLUMNS``, or the text itself where it names none."""
    text = raw
    for letters in _REMOVED[column]:
        text = text.replace(letters, "")
    if column == T:
        text = text.replace("is", "0").replace("i", "")
    text = text.strip()
    return text if text in PUBLISHED_CATEGORIES[column] else _by_pattern(raw.strip(), column)


def is_category(text: str, column: str) -> bool:
    """Whether a reduced text is a category that the label sentences have words for."""
    return text in PUBLISHED_CATEGORIES[column] or text in OWN_CATEGORIES[column]


def _by_pattern(text: str, column: str) -> str:
    # A stage may be followed by its subdivision and nothing else; T, N and M by remarks such as "(sn)".
    pattern = _PATTERNS[column]
    match = pattern.fullmatch(text) if column == STAGE else pattern.match(text)
    if match is None:
        return text
    number = match["number"]
    if column == STAGE:
        # "Stage 0is" is the in-situ stage of bladder cancer; "Stage IS" of testis is no stage I.
        return text if number != "0" and text.lower().endswith("is") else f"Stage {number.upper()}"
    letter = column[-1].upper()
    return {"IS": "T0", "A": "Ta"}.get(number.upper(), f"{letter}{number.upper()}")
