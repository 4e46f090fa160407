"""Values that check their fields when these are set: by the types that they are declared with, and by limits.

A wrong value is an error where the program sets it, as in the official library, and not where the configuration is
written later.
"""

import types
from collections.abc import Mapping
from enum import Enum
from typing import Any, ClassVar, Final, Union, get_args, get_origin, get_type_hints

from icefs.arguments import U64, check_instance, checked_integer


class NumberedEnum(Enum):
    """Members that are their numbers to programs: `int` gives it, and they are equal to it, as official members are."""

    def __int__(self) -> int:
        return int(self.value)

    def __eq__(self, other: object) -> bool:
        if isinstance(other, int) and not isinstance(other, bool):
            return int(self.value) == other
        return self is other

    def __hash__(self) -> int:
        return hash(self.value)


type Limits = Mapping[str, tuple[int, int]]
"""The least and the greatest number of fields."""


class Checked:
    """A dataclass that is not frozen, whose fields are checked when they are set.

    Attributes:
        _limits: The least and the greatest number of fields that are integers; of others, what 64 bits hold.
    """

    __slots__ = ()

    _limits: ClassVar[Limits] = {}

    def __setattr__(self, name: str, value: Any) -> None:
        """Sets a field.

        Raises:
            TypeError: the value has another type.
            OverflowError, ValueError: a number does not lie within its limits.
        """
        cls = type(self)
        if cls not in _known:
            _known[cls] = _classes(cls)
        wanted = _known[cls].get(name, ())
        if wanted and not (value is None and types.NoneType in wanted):
            if int in wanted:
                value = checked_integer(value, self._limits.get(name, U64), name)
            else:
                check_instance(value, *wanted)
        object.__setattr__(self, name, value)


_known: Final[dict[type, Mapping[str, tuple[type, ...]]]] = {}


def _classes(cls: type) -> Mapping[str, tuple[type, ...]]:
    """Returns the classes that a value of each field may have."""
    return {name: _alternatives(hint) for name, hint in get_type_hints(cls).items() if get_origin(hint) is not ClassVar}


def _alternatives(hint: Any) -> tuple[type, ...]:
    if get_origin(hint) in (Union, types.UnionType):
        return tuple(each for part in get_args(hint) for each in _alternatives(part))
    plain = get_origin(hint) or hint
    return (plain,) if isinstance(plain, type) else (object,)
