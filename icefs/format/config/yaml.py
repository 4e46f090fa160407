"""YAML as serde writes it: maps, lists, scalars, and variants of enumerations as tags; read within bounds.

The meaning of a plain scalar depends on the type that is asked for: `1` may be a number or a text, `no` is a text and
no boolean. So plain scalars stay texts (`Plain`) until the configuration asks, as in the official library's parser.
PyYAML only splits the text into events here: it constructs nothing.

Divergence 38: aliases are refused, since no writer of configurations makes any, and they make a tree of any size.

Source: YAML 1.2 §10.3; format notes §7.6.
"""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

import yaml

from icefs.errors import FormatError

MAX_BYTES: Final = 1 << 20
"""A configuration is some hundred bytes for each virtual chunk container."""

MAX_DEPTH: Final = 128

_INTEGER = re.compile(r"[-+]?(0|[1-9][0-9]{0,30})|0x[0-9a-fA-F]{1,30}|0o[0-7]{1,30}|0b[01]{1,70}")
# Texts that every reader takes for texts when they stand unquoted: names, paths and most URLs.
_UNQUOTED = re.compile(r"[A-Za-z_/][A-Za-z0-9_./@+-]*(://[A-Za-z0-9_./@+-]*)?")
_AMBIGUOUS = frozenset({"true", "false", "null", "yes", "no", "on", "off", "y", "n"})


class Plain(str):
    """A scalar without quotes, whose type its reader decides."""

    __slots__ = ()

    def is_null(self) -> bool:
        """Tells whether it can be null."""
        return self in ("", "~", "null", "Null", "NULL")

    def as_bool(self) -> "bool | Plain":
        """Returns the boolean that it is, or itself."""
        return {"true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False}.get(
            self, self
        )

    def as_integer(self) -> "int | Plain":
        """Returns the number that it is, or itself."""
        return int(self, 0) if _INTEGER.fullmatch(self) else self


@dataclass(frozen=True, slots=True)
class Tagged:
    """A variant of an enumeration with its content."""

    tag: str
    content: Any


class Map(dict[str, Any]):
    """A map that YAML gave; unlike one that FlexBuffers gave, it is never a variant with its content."""

    __slots__ = ()


def load_yaml(data: bytes | memoryview, *, name: str) -> Any:
    """Reads one document: `Map`s, lists, `Tagged` and texts, of which those without quotes are `Plain`.

    An empty document is an empty map.

    Raises:
        FormatError: it is no YAML, too large, too deep or has aliases (kind `config-deserialization`).
    """
    try:
        if len(data) > MAX_BYTES:
            raise _Refused(f"{len(data)} bytes are too many")
        return _Reader(bytes(data).decode()).document()
    except _Refused as error:
        raise _error(name, str(error)) from None
    except (yaml.YAMLError, ValueError, OverflowError) as error:
        # ValueError: PyYAML does not check the numbers in escapes and directives.
        raise _error(name, " ".join(str(error).split())) from None


def _error(name: str, reason: str) -> FormatError:
    return FormatError(f"{name} is malformed: {reason}", kind="config-deserialization", file=name, reason=reason)


class _Refused(ValueError):
    """YAML that is valid, but not here."""


class _Reader:
    __slots__ = ("_events",)

    def __init__(self, text: str) -> None:
        self._events: Iterator[Any] = yaml.parse(text, Loader=yaml.SafeLoader)

    def document(self) -> Any:
        next(self._events)
        if isinstance(next(self._events), yaml.StreamEndEvent):
            return Map()
        found = self._node(next(self._events), 0)
        next(self._events)
        if found == "" and isinstance(found, Plain):
            found = Map()
        if not isinstance(next(self._events), yaml.StreamEndEvent):
            raise _Refused("it has several documents")
        return found

    def _node(self, event: Any, depth: int) -> Any:
        if depth == MAX_DEPTH:
            raise _Refused(f"it nests deeper than {MAX_DEPTH}")
        if isinstance(event, yaml.AliasEvent):
            raise _Refused("it has an alias")
        if isinstance(event, yaml.ScalarEvent):
            found: Any = event.value if event.style else Plain(event.value)
        elif isinstance(event, yaml.SequenceStartEvent):
            found = [self._node(item, depth + 1) for item in self._until(yaml.SequenceEndEvent)]
        else:
            found = self._mapping(depth + 1)
        tag = event.tag
        if tag is None or not tag.startswith("!") or tag == "!":
            return found
        return Tagged(tag[1:], found)

    def _mapping(self, depth: int) -> Map:
        found = Map()
        for event in self._until(yaml.MappingEndEvent):
            key = self._node(event, depth)
            if not isinstance(key, str):
                raise _Refused("a key is no text")
            if key in found:
                raise _Refused(f"it has {key} twice")
            found[str(key)] = self._node(next(self._events), depth)
        return found

    def _until(self, end: type[Any]) -> Iterator[Any]:
        while not isinstance(event := next(self._events), end):
            yield event


def emit_yaml(tree: Any) -> str:
    """Writes a tree of dicts, lists, `Tagged`, texts, integers, booleans and None, in block style."""
    return "\n".join(_lines(tree)) + "\n"


def _lines(tree: Any) -> list[str]:
    """Returns the lines of a value; the first belongs behind its key or dash where it is not a block."""
    if isinstance(tree, Tagged):
        first, *rest = _lines(tree.content)
        return [f"!{tree.tag}", first, *rest] if _is_block(tree.content) else [f"!{tree.tag} {first}", *rest]
    if isinstance(tree, dict) and tree:
        return [line for key, value in tree.items() for line in _entry(f"{_text(key)}:", value, indent="  ")]
    if isinstance(tree, list) and tree:
        return [line for value in tree for line in _entry("-", value, indent="  ")]
    return [_text(tree)]


def _entry(mark: str, value: Any, *, indent: str) -> list[str]:
    lines = _lines(value)
    if _is_block(value):
        return [mark, *(indent + line for line in lines)]
    first, *rest = lines
    return [f"{mark} {first}", *(indent + line for line in rest)]


def _is_block(tree: Any) -> bool:
    return isinstance(tree, dict | list) and bool(tree)


def _text(value: Any) -> str:
    if isinstance(value, str) and _UNQUOTED.fullmatch(value) and value.lower() not in _AMBIGUOUS:
        return str(value)
    # JSON is YAML, but for some controls and line breaks that it does not escape.
    return re.sub("[\x7f-\x9f\u2028\u2029\ufeff\ufffe\uffff]", lambda found: f"\\u{ord(found[0]):04x}", _json(value))


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)
