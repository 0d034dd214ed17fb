"""Config files: unknown and missing keys are errors that help."""

from dataclasses import dataclass, field

import pytest

from models.configuration import from_mapping


@dataclass(frozen=True)
class Example:
    width: int
    depth: int = 2
    parts: dict = field(default_factory=dict)


def test_defaults_fill_what_is_not_given():
    assert from_mapping(Example, {"width": 3}, "a.json") == Example(3, 2, {})
    assert from_mapping(Example, {"width": 3, "depth": 1, "parts": {"x": 1}}, "a.json") == Example(
        3, 1, {"x": 1}
    )


def test_a_misspelt_key_is_corrected():
    with pytest.raises(ValueError, match=r"a\.json: unknown key 'dept'; did you mean 'depth'\?"):
        from_mapping(Example, {"width": 3, "dept": 1}, "a.json")


def test_a_foreign_key_lists_those_there_are():
    with pytest.raises(ValueError, match=r"unknown key 'zzz'; known keys are \['depth', 'parts', 'width'\]"):
        from_mapping(Example, {"width": 3, "zzz": 1}, "a.json")


def test_required_keys_are_named():
    with pytest.raises(ValueError, match=r"a\.json: missing keys \['width'\]"):
        from_mapping(Example, {"depth": 3}, "a.json")


def test_checks_of_the_dataclass_still_run():
    @dataclass
    class Strict:
        width: int

        def __post_init__(self):
            if self.width < 1:
                raise ValueError("width")

    with pytest.raises(ValueError, match="width"):
        from_mapping(Strict, {"width": 0}, "a.json")
