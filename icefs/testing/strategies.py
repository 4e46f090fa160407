"""Strategies of hypothesis for configurations, chunks and times, under the official names."""

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from types import ModuleType
from typing import Any, Final

import hypothesis.strategies as st

import icefs
from icefs.api import ManifestSplittingConfig, Repository, RepositoryConfig, Storage

__all__ = [
    "chunk_coordinates",
    "chunk_paths",
    "chunk_slicers",
    "draw_older_than",
    "repository_configs",
    "splitting_configs",
]

_LONG_AGO: Final = datetime(2000, 1, 1, tzinfo=UTC)
_LONGER: Final = 10
_FEW_UPDATES: Final = st.integers(1, 5)


@st.composite
def splitting_configs(draw: st.DrawFn, *, arrays: Iterable[Any]) -> ManifestSplittingConfig:
    """Makes rules by which the manifests of some zarr arrays are split, by the arrays' names or paths."""
    rules: dict[Any, dict[Any, int]] = {}
    for array in arrays:
        matches = draw(st.sampled_from((icefs.ManifestSplitCondition.name_matches, _by_path)))
        condition = matches(array.path.rpartition("/")[2] if matches is not _by_path else array.path)
        names = getattr(array.metadata, "dimension_names", None) or (None,) * array.ndim
        if not array.ndim:
            continue
        for axis in draw(st.lists(st.sampled_from(range(array.ndim)), min_size=1, unique=True)):
            size = draw(st.integers(1, array.shape[axis] + _LONGER))
            kinds: list[Any] = [icefs.ManifestSplitDimCondition.Axis(axis)]
            if names[axis] is not None:
                kinds.append(icefs.ManifestSplitDimCondition.DimensionName(names[axis]))
            rules.setdefault(condition, {})[draw(st.sampled_from(kinds))] = size
    return ManifestSplittingConfig.from_dict(rules)


def _by_path(path: str) -> Any:
    return icefs.ManifestSplitCondition.path_matches(path)


@st.composite
def repository_configs(
    draw: st.DrawFn,
    num_updates_per_repo_info_file: st.SearchStrategy[int] = _FEW_UPDATES,
    inline_chunk_threshold_bytes: st.SearchStrategy[int] | None = None,
    splitting: st.SearchStrategy[ManifestSplittingConfig] | None = None,
    ic_module: ModuleType | None = None,
) -> RepositoryConfig:
    """Makes configurations of repositories.

    Args:
        draw: Hypothesis gives it.
        num_updates_per_repo_info_file: How many updates the repo info lists.
        inline_chunk_threshold_bytes: The size up to which chunks are inline; by default not set.
        splitting: How manifests are split; by default not set.
        ic_module: The library whose configuration is made; by default icefs.
    """
    ic: Any = ic_module or icefs
    config = ic.RepositoryConfig(
        inline_chunk_threshold_bytes=None
        if inline_chunk_threshold_bytes is None
        else draw(inline_chunk_threshold_bytes),
        num_updates_per_repo_info_file=draw(num_updates_per_repo_info_file),
        manifest=None if splitting is None else ic.ManifestConfig(splitting=draw(splitting)),
    )
    assert isinstance(config, ic.RepositoryConfig)
    return config  # type: ignore[no-any-return]


@st.composite
def chunk_coordinates(draw: st.DrawFn, numblocks: tuple[int, ...]) -> tuple[int, ...]:
    """Chooses a chunk of a grid; `numblocks` is the grid's shape, in chunks."""
    return draw(st.tuples(*(st.integers(0, count - 1) for count in numblocks)))


@st.composite
def chunk_slicers(draw: st.DrawFn, numblocks: tuple[int, ...], chunk_shape: tuple[int, ...]) -> tuple[slice, ...]:
    """Chooses a chunk of a regular grid, as the slices that select its values.

    Args:
        draw: Hypothesis gives it.
        numblocks: The grid's shape, in chunks.
        chunk_shape: A chunk's shape, in values.
    """
    chosen = draw(chunk_coordinates(numblocks))
    return tuple(slice(at * size, (at + 1) * size) for at, size in zip(chosen, chunk_shape, strict=True))


@st.composite
def chunk_paths(draw: st.DrawFn, numblocks: tuple[int, ...]) -> str:
    """Chooses a chunk of a grid, as the end of its key, such as `0/3`."""
    return "/".join(map(str, draw(chunk_coordinates(numblocks))))


def draw_older_than(data: st.DataObject, storage: Storage, repo: Repository) -> datetime:
    """Draws a time for `expire_snapshots` and `garbage_collect`: before all, after all, or just after a snapshot.

    Args:
        data: Hypothesis's `data()`.
        storage: Where the repository is.
        repo: The repository.
    """
    stored: dict[str, datetime] = {}
    for prefix in ("snapshots", "transactions"):
        for each in storage.list_objects_metadata(prefix=prefix):
            stored[each.key] = max(each.created_at, stored.get(each.key, _LONG_AGO))
    times: Sequence[datetime] = sorted((max(at, _flushed_at(repo, key)) for key, at in stored.items()), reverse=True)
    after_all = max(times, default=_LONG_AGO) + timedelta(days=1)
    # A number, and not one of the times: how many there are depends on what was collected before.
    number = data.draw(st.one_of(st.just(-1), st.integers(0, 255), st.just(-2)))
    if number < 0 or not times:
        return after_all if number == -1 else _LONG_AGO
    return times[number % len(times)] + timedelta(microseconds=1)


def _flushed_at(repo: Repository, snapshot_id: str) -> datetime:
    try:
        return repo.lookup_snapshot(snapshot_id).written_at
    except (icefs.SnapshotNotFoundError, icefs.InvalidInputError):
        return _LONG_AGO  # it was expired, or is none
