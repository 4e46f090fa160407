"""Notes about consolidated metadata that does not agree with the nodes below its group.

A group's `zarr.json` may hold a copy of the metadata of all nodes below it. Readers trust the copy: `xr.open_zarr` does
not find an array that it lacks. Nothing updates the copy when nodes change. Only groups that have a copy, and below
which something changed, are looked at.

Two documents of a node are the same to a reader if they differ in members that are empty or null, or in how an
extension without a configuration is written: zarr-python writes nodes of other programs into the copy in its own words.
"""

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from icefs.engine.history.changes import Changes
from icefs.engine.read.session import Session
from icefs.engine.write.consolidated import CONSOLIDATED
from icefs.errors import FormatError, StorageError
from icefs.paths import NodePath, node_and_ancestors
from icefs.words import some
from icefs.worktree.stage.staged import Staged

_MARK: Final = CONSOLIDATED.encode()
_SHOWN: Final = 3
_MAX_NOTES: Final = 20
_MAX_COMPARED: Final = 10_000
"""Of more nodes below one group only the names are compared."""

type _Document = dict[str, Any]


@dataclass(frozen=True, slots=True, eq=False)
class Nodes:
    """The nodes of a snapshot, with the staged changes over it.

    Attributes:
        base: The snapshot.
        staged: What is staged, if anything is.
    """

    base: Session
    staged: Staged | None = None

    def __eq__(self, other: object) -> bool:
        """Tells whether these are the same nodes; staged changes are replaced, never edited."""
        return isinstance(other, Nodes) and self.base is other.base and self.staged is other.staged

    __hash__ = None  # type: ignore[assignment]

    def changed(self) -> Iterator[str]:
        """Yields the paths of the nodes that are staged."""
        if self.staged is not None:
            yield from self.staged.nodes
            yield from self.staged.gone

    def get(self, path: str) -> bytes | None:
        """Returns a node's zarr.json; None where there is no node."""
        if self.staged is not None:
            own = self.staged.nodes.get(NodePath(path))
            if own is not None or path in self.staged.gone:
                return own
        node = self.base.get_node(NodePath(path))
        return None if node is None else node.user_data

    def below(self, path: str) -> dict[str, bytes]:
        """Returns the zarr.json of the nodes below a path, by path."""
        found: dict[str, bytes] = {node.path: node.user_data for node in self.base.list_nodes(NodePath(path))}
        if self.staged is not None:
            for gone in self.staged.gone:
                found.pop(gone, None)
            stem = path.removesuffix("/") + "/"
            found |= {own: data for own, data in self.staged.nodes.items() if own.startswith(stem)}
        found.pop(path, None)
        return found


def groups_concerned(nodes: Nodes, changed: Iterable[str]) -> set[str]:
    """Returns the groups with consolidated metadata at and above the paths of changed nodes."""
    above = {group for path in changed for group in node_and_ancestors(NodePath(path))}
    return {group for group in above if _MARK in (_get(nodes, group) or b"")}


def groups_changed(session: Session, changes: Changes) -> set[str]:
    """Returns the groups with consolidated metadata below which the changes that led to a snapshot are."""
    return groups_concerned(Nodes(session), changes.new | changes.deleted | changes.updated)


def _get(nodes: Nodes, path: str) -> bytes | None:
    try:
        return nodes.get(path)
    except FormatError:
        return None  # a node that cannot be read has other troubles, which reading it tells


def consolidated_notes(nodes: Nodes, groups: Iterable[str]) -> dict[str, str]:
    """Returns a line for each of the first few groups whose consolidated metadata disagrees with the nodes below."""
    notes: dict[str, str] = {}
    for group in sorted(groups):
        try:
            faults = list(_faults(nodes, group))
        except (FormatError, StorageError):
            continue  # a note is not worth a failure; reading the node reports the fault
        if faults:
            notes[group] = f"consolidated metadata of {group} {', '.join(faults)}; run zarr.consolidate_metadata"
        if len(notes) == _MAX_NOTES:
            break
    return notes


def _faults(nodes: Nodes, group: str) -> Iterator[str]:
    data = nodes.get(group)
    if data is None or _MARK not in data:
        return
    listed = _listed(_document(data), group)
    if listed is None:
        return
    there = nodes.below(group)
    missing = sorted(there.keys() - listed.keys())
    implicit = {above for path in there for above in node_and_ancestors(NodePath(path))}
    gone = sorted(listed.keys() - there.keys() - implicit)
    if missing:
        yield f"does not list {some(missing, _SHOWN)}"
    if gone:
        yield f"lists {some(gone, _SHOWN)} which {'is' if len(gone) == 1 else 'are'} gone"
    both = sorted(there.keys() & listed.keys())
    if len(both) <= _MAX_COMPARED:
        other = [path for path in both if not _is_same(_document(there[path]), listed[path])]
        if other:
            yield f"has other metadata for {some(other, _SHOWN)}"


def _document(data: bytes) -> Any:
    try:
        return json.loads(data, parse_int=_whole_number)
    except (ValueError, RecursionError):
        return None


def _whole_number(digits: str) -> int | str:
    return int(digits) if len(digits) <= 20 else digits


def _listed(document: Any, group: str) -> dict[str, _Document] | None:
    """Returns what the copy lists, by path, in any of the ways to nest it; None where it is no copy."""
    found: dict[str, _Document] = {}
    waiting = [(group, document)]
    for above, one in waiting:
        copy = one.get(CONSOLIDATED) if isinstance(one, dict) else None
        listed = copy.get("metadata") if isinstance(copy, dict) else None
        if not isinstance(listed, dict):
            if above == group:
                return None
            continue
        for name, inner in listed.items():
            path = f"{above.rstrip('/')}/{name.strip('/')}"
            if isinstance(inner, dict):
                found[path] = inner
                waiting.append((path, inner))
    return found


def _is_same(there: Any, listed: _Document) -> bool:
    if not isinstance(there, dict):
        return True  # what cannot be read cannot be compared
    one, other = _plain(there), _plain(listed)
    is_same = "codecs" not in one or "codecs" not in other or _are_same_codecs(one.pop("codecs"), other.pop("codecs"))
    return is_same and one == other


def _plain(document: _Document) -> _Document:
    """Returns a node's document without its own copy, and without members that say nothing."""
    return {
        key: _extension(value) if key != "attributes" else value
        for key, value in document.items()
        if key != CONSOLIDATED and value not in (None, {}, [])
    }


def _extension(value: Any) -> Any:
    """Returns the short form of an extension without a configuration."""
    if isinstance(value, dict) and not value.get("configuration") and set(value) <= {"name", "configuration"}:
        return value.get("name")
    return value


def _are_same_codecs(one: Any, other: Any) -> bool:
    """Compares codecs by name, and by those settings that both name: the others are defaults."""
    if not (isinstance(one, list) and isinstance(other, list)) or len(one) != len(other):
        return bool(one == other)
    pairs = zip(map(_named, one), map(_named, other), strict=True)
    return all(
        names == others and all(settings[key] == rest[key] for key in settings.keys() & rest.keys())
        for (names, settings), (others, rest) in pairs
    )


def _named(codec: Any) -> tuple[Any, Mapping[str, Any]]:
    if not isinstance(codec, dict):
        return codec, {}
    settings = codec.get("configuration")
    # What a sharded array has inside of a shard is codecs again.
    return codec.get("name"), {
        key: value for key, value in (settings if isinstance(settings, dict) else {}).items() if key not in _INNER
    }


_INNER: Final = frozenset({"codecs", "index_codecs"})
