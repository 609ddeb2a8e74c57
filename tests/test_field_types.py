"""Fields of a few possible values are refused by name with any other value, wherever they are."""

import dataclasses
import typing

import pytest

from lmjax.choice import Choice, members
from lmjax.field_types import check_literals
from lmjax.schedules.ramp import Ramp
from lmjax.train.config import RunConfig


@dataclasses.dataclass(frozen=True, kw_only=True)
class Example:
    kind: typing.Literal["a", "b"] = "a"
    maybe: typing.Literal[1, 2] | None = None
    several: tuple[typing.Literal["x", "y"], ...] = ()
    free: str = "anything"

    def __post_init__(self):
        check_literals(self, "example.")


def test_the_message_names_field_value_and_what_is_possible():
    Example(kind="b", maybe=2, several=("y", "x"), free="c")
    for fields, message in (
        ({"kind": "c"}, "example.kind='c': use one of a, b"),
        ({"kind": None}, "example.kind=None: use one of a, b"),
        ({"maybe": 3}, "example.maybe=3: use one of 1, 2, None"),
        ({"several": ("x", "z")}, r"example.several=\('x', 'z'\): use one of x, y"),
        ({"several": "x"}, "example.several='x': use one of x, y"),
    ):
        with pytest.raises(ValueError, match=message):
            Example(**fields)


def configurations(kind: type) -> set[type]:
    """The classes of configurations that a configuration is made of, and those of every family it may choose from."""
    found, waiting = set(), [kind]
    while waiting:
        kind = waiting.pop()
        if typing.get_args(kind):
            waiting += typing.get_args(kind)
        elif isinstance(kind, type) and issubclass(kind, Choice) and kind is kind.family:
            waiting += members(kind).values()
        elif dataclasses.is_dataclass(kind) and kind not in found:
            found.add(kind)
            hints = typing.get_type_hints(kind)
            waiting += [hints[field.name] for field in dataclasses.fields(kind)]
    return {kind for kind in found if kind.__module__.startswith("lmjax.")}


# A ramp is written as text, and names itself by that.
CHECKED = [
    (kind, field.name)
    for kind in sorted(configurations(RunConfig) - {Ramp}, key=lambda kind: (kind.__module__, kind.__name__))
    for field in dataclasses.fields(kind)
    if typing.get_origin(typing.get_type_hints(kind)[field.name]) is typing.Literal
]


@pytest.mark.parametrize(("kind", "name"), CHECKED, ids=lambda value: getattr(value, "__name__", value))
def test_every_configuration_refuses_what_its_literals_do_not_name(kind, name):
    fields = dataclasses.fields(kind)
    required = {
        field.name: "a" if field.type in (str, "str") else ()
        for field in fields
        if field.default is field.default_factory is dataclasses.MISSING
    }
    with pytest.raises(ValueError, match=rf"\.{name}='nonsense': use one of "):
        kind(**required | {name: "nonsense"})


def test_there_are_such_fields_in_all_parts_of_a_run():
    rooms = {kind.__module__.split(".")[1] for kind, _ in CHECKED}
    assert rooms >= {"models", "data", "objectives", "schedules", "train"}
