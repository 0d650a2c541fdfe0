"""Strict configs: every mistake is one line that names the key, the value and what was meant."""

from dataclasses import dataclass, field
from typing import Annotated, Literal

import pytest
from pydantic import Field

from sparsetrain.typed import Json, from_dict, from_json, plain, to_dict


@dataclass(frozen=True, kw_only=True)
class Square:
    kind: Literal["square"] = "square"
    side: float = 1.0


@dataclass(frozen=True, kw_only=True)
class Circle:
    kind: Literal["circle"] = "circle"
    radius: float = 1.0

    def __post_init__(self):
        if self.radius < 0:
            raise ValueError(f"radius={self.radius} must not be negative")


@dataclass(frozen=True, kw_only=True)
class Inner:
    density: float = 0.5
    betas: tuple[float, float] = (0.9, 0.95)
    mode: Literal["a", "b"] = "a"


@dataclass(frozen=True, kw_only=True)
class Outer:
    n: int | None = None
    inner: Inner = field(default_factory=Inner)
    shapes: dict[str, Annotated[Square | Circle, Field(discriminator="kind")]] = field(default_factory=dict)


def test_round_trip():
    config = Outer(inner=Inner(density=0.25), shapes={"x": Circle(radius=2.0)})
    assert from_dict(Outer, to_dict(config)) == config


@pytest.mark.parametrize(
    ("tree", "message"),
    [
        ({"inner": {"densty": 0.1}}, r"unknown config key 'inner.densty'; did you mean inner.density\?"),
        ({"inner": {"zzz": 0.1}}, r"unknown config key 'inner.zzz'; allowed under 'inner': density, betas, mode"),
        ({"inner": {"density": "much"}}, r"inner.density='much': .*number"),
        ({"inner": {"mode": "c"}}, r"inner.mode='c': .*'a' or 'b'"),
        ({"n": 1.5}, r"n=1.5: .*integer"),
        ({"inner": {"density": float("nan")}}, r"inner.density=nan is no finite number"),
        ({"inner": {"betas": [0.5, float("inf")]}}, r"inner.betas.1=inf is no finite number"),
        ({"shapes": {"x": {"kind": "blob"}}}, r"shapes.x.kind=blob: allowed: 'square', 'circle'"),
        ({"shapes": {"x": {"kind": "circle", "radius": -1}}}, r"shapes.x.circle.radius=-1.0 must not be negative"),
        ({"shapes": {"x": {"kind": "circle", "rdius": 1}}}, r"unknown config key 'shapes.x.circle.rdius'"),
    ],
)
def test_mistakes_are_named_in_one_line(tree, message):
    with pytest.raises(ValueError, match=message) as error:
        from_dict(Outer, tree)
    assert "\n" not in str(error.value)


def test_plain_data_of_any_shape_is_a_field() -> None:
    @dataclass(frozen=True, kw_only=True)
    class Entry:
        detail: dict[str, Json]

    detail = {"a": [1, 2.5, {"b": None}], "c": "x", "d": True}
    assert plain(from_dict(Entry, {"detail": detail})) == {"detail": detail}


def test_many_mistakes_are_counted():
    tree = {name: 1 for name in "abcdefgh"}
    with pytest.raises(ValueError, match=r"'e'.*; and 3 more$") as error:
        from_dict(Outer, tree)
    assert "'f'" not in str(error.value)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"n": "x"}', b"\xff\xfe", b"[" * 100_000])
def test_a_json_file_of_another_shape_is_named_in_one_line(content, tmp_path):
    (tmp_path / "file.json").write_bytes(content)
    with pytest.raises(ValueError, match=r"file\.json is damaged or of another version") as error:
        from_json(Outer, tmp_path / "file.json")
    assert "\n" not in str(error.value)
