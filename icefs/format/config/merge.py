"""How two values of a configuration class become one."""

from copy import deepcopy
from dataclasses import fields
from typing import Any, Self

from icefs.format.config.checked import Checked


class Mergeable(Checked):
    """A dataclass whose fields are None until they are set."""

    __slots__ = ()

    _replaced: frozenset[str] = frozenset()
    """Fields that are taken as wholes, though their values could be merged."""

    def merge(self, other: Self) -> Self:
        """Returns this configuration with the fields that `other` sets."""
        values: dict[str, Any] = {}
        for item in fields(self):  # type: ignore[arg-type]  # every subclass is a dataclass
            old, new = getattr(self, item.name), getattr(other, item.name)
            if new is not None and isinstance(old, Mergeable) and item.name not in self._replaced:
                values[item.name] = old.merge(new)
            else:
                values[item.name] = deepcopy(old if new is None else new)
        return type(self)(**values)
