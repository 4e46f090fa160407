"""What an exchange is asked for: branches and tags, perhaps under other names, and how much of their histories."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

from icefs.errors import InvalidInputError
from icefs.format.ids import SnapshotId
from icefs.words import known_names, quoted


@dataclass(frozen=True, slots=True)
class RefSpec:
    """A branch or tag of the source, and its name in the target.

    Attributes:
        source: The name that it has.
        target: The name that it gets.
    """

    source: str
    target: str

    @classmethod
    def parse(cls, text: str) -> Self:
        """Reads `NAME`, or `SOURCE:TARGET`.

        Raises:
            InvalidInputError: a name is empty.
        """
        source, colon, target = text.partition(":")
        if not source or (colon and not target):
            raise InvalidInputError(f"{quoted(text)} names no ref", hint="write NAME, or SOURCE:TARGET")
        return cls(source, target or source)


@dataclass(frozen=True, slots=True)
class Wanted:
    """The part of a repository that is asked for.

    Attributes:
        branches: Branches; None for all, unless tags are named.
        tags: Tags; None for all, unless branches are named.
        depth: How many snapshots of each history; None for all.
    """

    branches: tuple[RefSpec, ...] | None = None
    tags: tuple[RefSpec, ...] | None = None
    depth: int | None = None

    def __post_init__(self) -> None:
        """Raises InvalidInputError for a depth that is none."""
        if self.depth is not None and self.depth < 1:
            raise InvalidInputError(f"a depth of {self.depth} is less than one snapshot")

    def chosen(self, kind: str, refs: Mapping[str, SnapshotId]) -> list[tuple[RefSpec, SnapshotId]]:
        """Returns what is asked for of the branches, or of the tags, in the order of names.

        Args:
            kind: `branch` or `tag`.
            refs: Those of the source.

        Raises:
            InvalidInputError: one that was named is not there, or two get one name.
        """
        specs, others = (self.branches, self.tags) if kind == "branch" else (self.tags, self.branches)
        if specs is None:
            specs = () if others is not None else tuple(RefSpec(name, name) for name in refs)
        for spec in specs:
            if spec.source not in refs:
                raise InvalidInputError(
                    f"the source has no {kind} {quoted(spec.source)}", hint=known_names(kind, refs), name=spec.source
                )
        names = [spec.target for spec in specs]
        if len(set(names)) < len(names):
            raise InvalidInputError(f"two of the {kind} names that were asked for are the same")
        return sorted(((spec, refs[spec.source]) for spec in specs), key=lambda one: one[0].target)
