"""Configuration of manifests: how they are split, which are fetched early, how virtual locations are compressed.

Source: format notes §4; upstream icechunk/src/config.rs.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

from icefs.arguments import I32, U16, U32, checked_integer
from icefs.format.config.checked import Limits
from icefs.format.config.merge import Mergeable


@dataclass(frozen=True, slots=True)
class ManifestSplitCondition:
    """Which arrays a rule about splitting manifests is for; made by its static methods.

    Attributes:
        kind: The property that is compared.
        regex: For `path_matches` (the whole path) and `name_matches` (its last segment).
        conditions: For `or` and `and`.
    """

    kind: Literal["or", "and", "path_matches", "name_matches", "any_array"]
    regex: str = ""
    conditions: tuple["ManifestSplitCondition", ...] = ()

    @staticmethod
    def or_conditions(conditions: Sequence["ManifestSplitCondition"]) -> "ManifestSplitCondition":
        """Arrays for which one of the conditions holds."""
        return ManifestSplitCondition("or", conditions=tuple(conditions))

    @staticmethod
    def and_conditions(conditions: Sequence["ManifestSplitCondition"]) -> "ManifestSplitCondition":
        """Arrays for which all of the conditions hold."""
        return ManifestSplitCondition("and", conditions=tuple(conditions))

    @staticmethod
    def path_matches(regex: str) -> "ManifestSplitCondition":
        """Arrays in whose path the expression is found."""
        return ManifestSplitCondition("path_matches", regex)

    @staticmethod
    def name_matches(regex: str) -> "ManifestSplitCondition":
        """Arrays in whose name the expression is found."""
        return ManifestSplitCondition("name_matches", regex)

    # The official library's classes of conditions, as far as they make some.
    Or = or_conditions
    And = and_conditions
    PathMatches = path_matches
    NameMatches = name_matches

    @staticmethod
    def AnyArray() -> "ManifestSplitCondition":
        """All arrays."""
        return ManifestSplitCondition("any_array")

    def __or__(self, other: "ManifestSplitCondition") -> "ManifestSplitCondition":
        return self.or_conditions([self, other])

    def __and__(self, other: "ManifestSplitCondition") -> "ManifestSplitCondition":
        return self.and_conditions([self, other])


class ManifestSplitDimCondition:
    """Which dimension of an array is split: one of the nested classes."""

    __slots__ = ()

    Axis: type["SplitAxis"]
    DimensionName: type["SplitDimensionName"]
    Any: type["SplitAny"]


@dataclass(frozen=True, slots=True)
class SplitAxis(ManifestSplitDimCondition):
    """The dimension of that number."""

    axis: int


@dataclass(frozen=True, slots=True)
class SplitDimensionName(ManifestSplitDimCondition):
    """Dimensions in whose name the expression is found."""

    regex: str


@dataclass(frozen=True, slots=True)
class SplitAny(ManifestSplitDimCondition):
    """Every dimension."""


ManifestSplitDimCondition.Axis = SplitAxis
ManifestSplitDimCondition.DimensionName = SplitDimensionName
ManifestSplitDimCondition.Any = SplitAny

type SplitSizes = Sequence[tuple[ManifestSplitCondition, Sequence[tuple[ManifestSplitDimCondition, int]]]]


@dataclass(slots=True)
class ManifestSplittingConfig:
    """How an array's chunk references are divided among manifests.

    Attributes:
        split_sizes: Rules, tried in their order: for arrays that a condition is for, per dimension the number of
            chunks that one manifest covers.
    """

    split_sizes: SplitSizes | None = None

    @staticmethod
    def from_dict(
        split_sizes: Mapping[ManifestSplitCondition, Mapping[ManifestSplitDimCondition, int]],
    ) -> "ManifestSplittingConfig":
        """Makes it of the rules as a mapping, in its order."""
        return ManifestSplittingConfig(
            [
                (condition, [(axis, checked_integer(size, U32, "a split size")) for axis, size in sizes.items()])
                for condition, sizes in split_sizes.items()
            ]
        )

    def to_dict(self) -> dict[ManifestSplitCondition, dict[ManifestSplitDimCondition, int]]:
        """Returns the rules as a mapping."""
        return {condition: dict(sizes) for condition, sizes in self.split_sizes or ()}


@dataclass(frozen=True, slots=True)
class ManifestPreloadCondition:
    """Which arrays' manifests are fetched when a session opens; made by its static methods.

    Attributes:
        kind: The property that is compared.
        regex: For `path_matches` (the whole path) and `name_matches` (its last segment).
        conditions: For `or` and `and`.
        from_refs: For `num_refs`: the smallest number of chunk references, as ("included" or "excluded", number).
        to_refs: For `num_refs`: the largest.
    """

    kind: Literal["or", "and", "path_matches", "name_matches", "num_refs", "true", "false"]
    regex: str = ""
    conditions: tuple["ManifestPreloadCondition", ...] = ()
    from_refs: tuple[Literal["included", "excluded"], int] | None = None
    to_refs: tuple[Literal["included", "excluded"], int] | None = None

    @staticmethod
    def or_conditions(conditions: Sequence["ManifestPreloadCondition"]) -> "ManifestPreloadCondition":
        """Arrays for which one of the conditions holds."""
        return ManifestPreloadCondition("or", conditions=tuple(conditions))

    @staticmethod
    def and_conditions(conditions: Sequence["ManifestPreloadCondition"]) -> "ManifestPreloadCondition":
        """Arrays for which all of the conditions hold."""
        return ManifestPreloadCondition("and", conditions=tuple(conditions))

    @staticmethod
    def path_matches(regex: str) -> "ManifestPreloadCondition":
        """Arrays in whose path the expression is found."""
        return ManifestPreloadCondition("path_matches", regex)

    @staticmethod
    def name_matches(regex: str) -> "ManifestPreloadCondition":
        """Arrays in whose name the expression is found."""
        return ManifestPreloadCondition("name_matches", regex)

    # As above.
    Or = or_conditions
    And = and_conditions
    PathMatches = path_matches
    NameMatches = name_matches

    @staticmethod
    def num_refs(from_refs: int | None, to_refs: int | None) -> "ManifestPreloadCondition":
        """Arrays whose number of chunk references is in `[from_refs, to_refs)`; None is no limit."""
        return ManifestPreloadCondition(
            "num_refs",
            from_refs=None if from_refs is None else ("included", checked_integer(from_refs, U32, "from_refs")),
            to_refs=None if to_refs is None else ("excluded", checked_integer(to_refs, U32, "to_refs")),
        )

    @staticmethod
    def true() -> "ManifestPreloadCondition":
        """All arrays."""
        return ManifestPreloadCondition("true")

    @staticmethod
    def false() -> "ManifestPreloadCondition":
        """No arrays."""
        return ManifestPreloadCondition("false")

    def __or__(self, other: "ManifestPreloadCondition") -> "ManifestPreloadCondition":
        return self.or_conditions([self, other])

    def __and__(self, other: "ManifestPreloadCondition") -> "ManifestPreloadCondition":
        return self.and_conditions([self, other])


@dataclass(slots=True)
class ManifestPreloadConfig(Mergeable):
    """Which manifests are fetched when a session opens."""

    _limits: ClassVar[Limits] = {"max_total_refs": U32, "max_arrays_to_scan": U32}

    max_total_refs: int | None = None
    preload_if: ManifestPreloadCondition | None = None
    max_arrays_to_scan: int | None = None


@dataclass(slots=True)
class ManifestVirtualChunkLocationCompressionConfig(Mergeable):
    """When and how the locations of virtual chunks are compressed with a dictionary."""

    _limits: ClassVar[Limits] = {
        "min_num_chunks": U16,
        "dictionary_max_training_samples": U16,
        "dictionary_max_size_bytes": U32,
        "compression_level": I32,
    }

    min_num_chunks: int | None = None
    dictionary_max_training_samples: int | None = None
    dictionary_max_size_bytes: int | None = None
    compression_level: int | None = None


@dataclass(slots=True)
class ManifestConfig(Mergeable):
    """Everything about manifests."""

    _replaced = frozenset({"preload", "splitting"})

    _limits: ClassVar[Limits] = {"max_concurrent_manifest_fetches_during_commit": U16}

    preload: ManifestPreloadConfig | None = None
    splitting: ManifestSplittingConfig | None = None
    virtual_chunk_location_compression: ManifestVirtualChunkLocationCompressionConfig | None = None
    max_concurrent_manifest_fetches_during_commit: int | None = None
