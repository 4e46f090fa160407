"""The types of configuration fields, as pairs of functions that read and write them.

Reading takes what FlexBuffers or YAML gave, writing what a configuration object holds; both check, and say where in
the configuration a value is wrong.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from enum import Enum
from functools import partial
from typing import Any, NamedTuple

from icefs.format.config.yaml import Plain, Tagged


class Invalid(ValueError):
    """A value that does not fit; its text says where and why."""


def invalid(where: str, wanted: str, found: Any) -> Invalid:
    """Makes the error for a value that is not what is wanted; the caller raises it."""
    return Invalid(f"{where or 'it'} must be {wanted}, not {str(found)[:80]!r}")


class FieldType(NamedTuple):
    """A type of field: both functions take the value and where it stands."""

    read: Callable[[Any, str], Any]
    write: Callable[[Any, str], Any]


def _untagged(value: Any) -> Any:
    # A YAML tag on anything but a variant says nothing; the official parser ignores it.
    return value.content if isinstance(value, Tagged) else value


def _scalar(check: Callable[[Any, str], Any]) -> FieldType:
    return FieldType(lambda value, where: check(_untagged(value), where), check)


def integer(low: int, high: int) -> FieldType:
    """A number within bounds, both included."""

    def check(value: Any, where: str) -> int:
        if isinstance(value, Plain):
            value = value.as_integer()
        if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
            raise invalid(where, f"a number from {low} to {high}", value)
        return int(value)

    return _scalar(check)


def _check_bool(value: Any, where: str) -> bool:
    if isinstance(value, Plain):
        value = value.as_bool()
    if not isinstance(value, bool):
        raise invalid(where, "true or false", value)
    return value


def check_text(value: Any, where: str) -> str:
    """Returns a text as plain `str`."""
    if not isinstance(value, str):
        raise invalid(where, "a string", value)
    return str(value)


U8, U16, U32, U64 = (integer(0, 2**bits - 1) for bits in (8, 16, 32, 64))
U16_POSITIVE, U64_POSITIVE = integer(1, 2**16 - 1), integer(1, 2**64 - 1)
I32 = integer(-(2**31), 2**31 - 1)
BOOL, TEXT = _scalar(_check_bool), _scalar(check_text)


def _is_null(value: Any) -> bool:
    return value is None or (isinstance(value, Plain) and value.is_null())


def optional(inner: FieldType) -> FieldType:
    """A value or null."""
    return FieldType(
        lambda value, where: None if _is_null(value) else inner.read(value, where),
        lambda value, where: None if value is None else inner.write(value, where),
    )


def list_of(inner: FieldType) -> FieldType:
    """A list; any sequence when it is written."""

    def read(value: Any, where: str) -> list[Any]:
        value = _untagged(value)
        if not isinstance(value, list):
            raise invalid(where, "a list", value)
        return [inner.read(item, f"{where}[{row}]") for row, item in enumerate(value)]

    def write(value: Any, where: str) -> list[Any]:
        if not isinstance(value, Iterable) or isinstance(value, str | Mapping):
            raise invalid(where, "a sequence", value)
        return [inner.write(item, f"{where}[{row}]") for row, item in enumerate(value)]

    return FieldType(read, write)


def _by_key(entry: tuple[Any, Any]) -> str:
    return str(entry[0])


def map_of(inner: FieldType) -> FieldType:
    """A map from texts, written in their order."""

    def convert(function: Callable[[Any, str], Any], value: Any, where: str) -> dict[str, Any]:
        value = _untagged(value)
        if not isinstance(value, Mapping):
            raise invalid(where, "a map", value)
        return {
            check_text(key, where): function(item, f"{where}.{key}") for key, item in sorted(value.items(), key=_by_key)
        }

    return FieldType(partial(convert, inner.read), partial(convert, inner.write))


@dataclass(frozen=True, slots=True)
class Field:
    """A field of a class; one without default must be there."""

    name: str
    type: FieldType
    default: Any = None
    is_required: bool = False


def record(cls: type[Any], *table: Field) -> FieldType:
    """An object of a class, as a map of its fields; further entries of the map are ignored."""

    def read(value: Any, where: str) -> Any:
        value = _untagged(value)
        if not isinstance(value, dict):
            raise invalid(where, "a map", value)
        values = {}
        for item in table:
            if item.name in value:
                values[item.name] = item.type.read(value[item.name], f"{where}.{item.name}".lstrip("."))
            elif item.is_required:
                raise Invalid(f"{where or 'it'} has no {item.name}")
            else:
                values[item.name] = item.default
        return cls(**values)

    def write(value: Any, where: str) -> dict[str, Any]:
        if not isinstance(value, cls):
            raise invalid(where, f"a {cls.__name__}", value)
        return {
            item.name: item.type.write(getattr(value, item.name), f"{where}.{item.name}".lstrip(".")) for item in table
        }

    return FieldType(read, write)


def optionals(inner: FieldType, *names: str) -> list[Field]:
    """Returns fields of one type that may be null."""
    return [Field(name, optional(inner)) for name in names]


def split_variant(value: Any, where: str) -> tuple[str, Any]:
    """Takes a variant apart: its tag, and its content or None."""
    if isinstance(value, str):
        return str(value), None
    if isinstance(value, Tagged):
        return value.tag, value.content
    if type(value) is dict and len(value) == 1:
        [(tag, content)] = value.items()
        return tag, content
    raise invalid(where, "a variant", value)


def enum_of(members: Mapping[str, Any]) -> FieldType:
    """Variants without content, by their tags."""
    names = {member: tag for tag, member in members.items()}

    def read(value: Any, where: str) -> Any:
        tag, _ = split_variant(value, where)
        if tag not in members:
            raise invalid(where, f"one of {', '.join(members)}", tag)
        return members[tag]

    def write(value: Any, where: str) -> str:
        if not isinstance(value, Enum) or value not in names:
            raise invalid(where, f"one of {', '.join(map(str, names))}", value)
        return names[value]

    return FieldType(read, write)


def variants(cls: type[Any], table: Mapping[str, tuple[type[Any], str | None, FieldType | None]]) -> FieldType:
    """Variants that are classes: by tag the class, the field that is the content (None: all of it), and its type."""
    tags = {member: tag for tag, (member, _, _) in table.items()}

    def read(value: Any, where: str) -> Any:
        tag, content = split_variant(value, where)
        if tag not in table:
            raise invalid(where, f"one of {', '.join(table)}", tag)
        member, attribute, inner = table[tag]
        if inner is None:
            return member()
        found = inner.read(content, f"{where}.{tag}")
        return found if attribute is None else member(found)

    def write(value: Any, where: str) -> Any:
        tag = tags.get(type(value))
        if tag is None:
            raise invalid(where, f"a {cls.__name__}", value)
        _, attribute, inner = table[tag]
        if inner is None:
            return tag
        return Tagged(tag, inner.write(value if attribute is None else getattr(value, attribute), f"{where}.{tag}"))

    return FieldType(read, write)
