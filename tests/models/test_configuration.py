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


@dataclass(frozen=True)
class Sizes:
    width: int = field(metadata={"least": 1})
    rate: float = 0.0
    name: str | None = None
    flag: bool = False


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"width": 0}, "c.json: width is 0, it must be 1 at least"),
        ({"width": 1 << 31}, "c.json: width is 2147483648, it may be"),
        ({"width": 2.0}, "c.json: width is 2.0, it should be int"),
        ({"width": True}, "c.json: width is True, it should be int"),
        ({"width": 2, "rate": float("inf")}, "c.json: rate is inf"),
        ({"width": 2, "rate": float("nan")}, "c.json: rate is nan"),
        ({"width": 2, "rate": "x" * 5_000}, "c.json: rate is 'xxx"),
        ({"width": 2, "name": 3}, "c.json: name is 3, it should be str or null"),
        ({"width": 2, "flag": 1}, "c.json: flag is 1, it should be bool"),
    ],
)
def test_types_and_bounds(values: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message) as stopped:
        from_mapping(Sizes, values, "c.json")
    assert len(str(stopped.value)) < 200


def test_what_fits() -> None:
    assert from_mapping(Sizes, {"width": 2, "rate": 1, "name": None}, "c.json") == Sizes(2, 1, None)
