"""Config files: unknown and missing keys are errors that help."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import pytest

from models.configuration import construct, from_mapping


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


@dataclass(frozen=True)
class Nested:
    encoder: dict
    blocks: list = field(default_factory=list)


@pytest.mark.parametrize(
    ("encoder", "message"),
    [
        ({"depth": 2**31}, "c.json: encoder: depth is 2147483648, it may be 1,000 at most"),
        ({"width": 2**31}, "encoder: width is 2147483648, it may be 16,777,216"),
        (
            {"parts": {"drop_path_rate": -0.1}},
            "encoder: parts: drop_path_rate is -0.1, it must be 0 at least",
        ),
        ({"attention_dropout": 1.5}, "encoder: attention_dropout is 1.5, it may be 1 at most"),
        ({"lengths": [8, True]}, r"encoder: lengths is \[8, True\], its entries are of different types"),
        ({"lengths": [8, float("inf")]}, "encoder: lengths is inf"),
    ],
)
def test_bounds_of_nested_numbers(encoder: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        from_mapping(Nested, {"encoder": encoder}, "c.json")


def test_nested_numbers_that_fit() -> None:
    values = {
        "encoder": {"depth": 12, "flags": [True, False], "drop_path_rate": 0.1},
        "blocks": [[0, 5], [6, 11]],
    }
    assert from_mapping(Nested, values, "c.json") == Nested(**values)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"width": 2, "rate": -0.5}, "c.json: rate is -0.5, it must be 0 at least"),
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


class Network:
    def __init__(self, genes: int, width: int, lengths: Sequence[int] = (8,), rate: float = 0.1) -> None:
        self.all = genes, width, lengths, rate


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"width": True}, "c.json: width is True, it should be int"),
        ({"width": 0}, "c.json: width is 0, it must be 1 at least"),
        ({"width": 3, "lengths": [8, 0]}, "c.json: lengths is 0, it must be 1 at least"),
        ({"width": 3, "lengths": [True]}, "c.json: lengths is True, it should be int"),
        ({"width": 3, "lengths": "8"}, "c.json: lengths is '8', it should be a list"),
        ({"width": 3, "wdth": 3}, "c.json: unknown key 'wdth'; did you mean 'width'"),
        ({"width": 3, "genes": 3}, "c.json: unknown key 'genes'"),
        ({"rate": 0.5}, r"c.json: missing keys \['width'\]"),
    ],
)
def test_arguments_of_a_network_are_checked_against_its_annotations(values: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        construct(Network, values, "c.json", genes=5)


def test_arguments_of_a_network_that_fit() -> None:
    values = {"width": 3, "lengths": [8, 16], "rate": 0}
    assert construct(Network, values, "c.json", genes=5).all == (5, 3, [8, 16], 0)
