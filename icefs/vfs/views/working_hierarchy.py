"""The hierarchy of a branch with uncommitted changes: its working tree over the base snapshot.

Documents are those of the moment that it was made. A chunk has the bytes that its file has when it is read, which may
be newer: each is whole or it does not decode, and both kinds fit the document. Where an array's document has changed
meanwhile, its chunks are stale.
"""

import json
import os
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import replace
from typing import Final, override

from icefs.errors import EntryNotFoundError, IsADirectoryTreeError, StaleError
from icefs.paths import ROOT_DIRECTORY, NodePath, TreePath, child, node_path, tree_path
from icefs.views.interface import Hierarchy, HierarchyFacts, LastingValue, ViewedNode
from icefs.worktree.model.nodes import NodeRef
from icefs.worktree.ops.entries import DirView
from icefs.worktree.tree import WorkTree
from icefs.zarr.keys import METADATA_NAME, ChunkIndex, ChunkKeyLayout, metadata_key, node_prefix, parse_metadata_key

_TRIES: Final = 10


class WorkingHierarchy(Hierarchy):
    """The nodes and chunks of a working tree.

    Safe to use from any thread: the working tree is, and the tables below are made by the constructor, or only ever
    gain entries that any thread would compute alike.
    """

    def __init__(self, work: WorkTree, base: Hierarchy, version: Hashable) -> None:
        """Reads all documents, so it may block.

        Args:
            work: The working tree.
            base: The snapshot that it stands on.
            version: Tells this state of the tree from all others.

        Raises:
            StorageError, FormatError: a document cannot be read.
            StaleError: the tree has another base by now, or is closed.
        """
        self._work = work
        self._base = base
        self._version = version
        self._revision = work.revision
        self._facts = replace(base.facts, is_staged=True)
        self._base_nodes = {tree_path(node.path): node for node in base.nodes()}
        found = {node.path: node for node in self._walk(ROOT_DIRECTORY, work.root_ino)}
        if not self._is_on_base():
            raise StaleError("the branch stands on another snapshot by now")
        self._nodes = tuple(found[path] for path in sorted(found))
        self._documents = {node.path: node.document for node in self._nodes}
        # The revisions of the tree at which the documents of arrays were seen to be the same.
        self._same_at: dict[NodePath, int] = {}

    @property
    @override
    def facts(self) -> HierarchyFacts:
        return self._facts

    @property
    @override
    def version(self) -> Hashable:
        return self._version

    @override
    def nodes(self) -> Sequence[ViewedNode]:
        return self._nodes

    def _is_on_base(self) -> bool:
        return self._work.base == self._base.facts.snapshot

    # Nodes.

    def _walk(self, path: TreePath, where: NodeRef) -> Iterator[ViewedNode]:
        """Yields the nodes at a directory of the tree and below it."""
        view = self._view(where)
        if not view.entries and not view.hides:
            if view.base_path is not None:
                yield from self._base_below(path, TreePath(view.base_path), frozenset())
            return
        document = self._document(where)
        kind = None if document is None else _kind_of(document)
        if document is not None and kind is not None:
            time_ns = self._newest(where, view, kind)
            known = None if view.base_path is None else self._base_nodes.get(TreePath(view.base_path))
            if known is not None:
                time_ns = max(time_ns, known.time_ns)
            yield ViewedNode(node_path(path), document, time_ns)
        if kind == "array":
            return
        for name, entry in view.entries.items():
            if entry.attr.is_dir:
                yield from self._walk(child(path, name), entry.where)
        if view.base_path is not None:
            yield from self._base_below(path, TreePath(view.base_path), view.hides)

    def _base_below(self, path: TreePath, base_path: TreePath, hides: frozenset[str]) -> Iterator[ViewedNode]:
        """Yields the base's nodes below a directory that is shown at `path`, but those in hidden entries.

        With nothing hidden the directory's own node is one of them.
        """
        start = f"{base_path}/" if base_path else ""
        for base_node, node in self._base_nodes.items():
            if base_node == base_path:
                if not hides:
                    yield replace(node, path=node_path(path))
            elif base_node.startswith(start):
                relative = base_node[len(start) :]
                if relative.partition("/")[0] not in hides:
                    yield replace(node, path=node_path(child(path, relative)))

    def _document(self, where: NodeRef) -> bytes | None:
        entry = self._work.entries.lookup(where, METADATA_NAME)
        return None if entry is None or entry.attr.is_dir else self._bytes(entry.where, 0, None)

    def _newest(self, where: NodeRef, view: DirView, kind: str) -> int:
        """Returns when the newest of the tree's own files of a node was changed, or one of them removed."""
        if kind == "group":
            entry = view.entries.get(METADATA_NAME)
            return 0 if entry is None else entry.attr.mtime_ns
        newest, waiting = self._work.entries.attr(where).mtime_ns, [view]
        for one in waiting:
            for entry in one.entries.values():
                newest = max(newest, entry.attr.mtime_ns)
                if entry.attr.is_dir:
                    waiting.append(self._view(entry.where))
        return newest

    def _view(self, where: NodeRef) -> DirView:
        return self._work.entries.view(where)

    # Keys.

    @override
    def read(self, key: str, start: int = 0, stop: int | None = None) -> bytes | None:
        document = self._documents.get(_metadata_of(key))
        if document is not None:
            return document[start:stop]
        data = self._read(TreePath(key), start, stop)
        self._check_document(key)
        return data

    def _read(self, path: TreePath, start: int, stop: int | None) -> bytes | None:
        for _ in range(_TRIES):
            where = self._work.entries.find(path)
            if where is None:
                return None
            try:
                return self._bytes(where, start, stop)
            except (EntryNotFoundError, IsADirectoryTreeError):
                return None
            except StaleError:
                continue  # it was replaced, or the base has changed
        raise StaleError(f"{path} is being replaced all the time", path=path)

    def _bytes(self, where: NodeRef, start: int, stop: int | None) -> bytes:
        """Returns bytes of a file; `start` may count from its end."""
        if isinstance(where, str) and self._is_on_base():
            data = self._base.read(where, start, stop)
            if data is None or not self._is_on_base():
                raise StaleError(f"{where} is gone", path=where)
            return data
        files = self._work.files
        number = files.open(where, os.O_RDONLY)
        try:
            size = files.getattr(number).size
            first = max(0, size + start) if start < 0 else start
            end = size if stop is None else min(stop if stop >= 0 else size + stop, size)
            return files.read(number, first, end - first) if end > first else b""
        finally:
            files.release(number)

    @override
    def lasting(self, key: str) -> LastingValue | None:
        """Returns the value of a key that the base has, whose bytes a later write to the key leaves as they are."""
        if _metadata_of(key) in self._documents:
            return None
        where = self._work.entries.find(TreePath(key))
        found = self._base.lasting(where) if isinstance(where, str) else None
        if not self._is_on_base():
            return None  # then `where` may be a path of another base
        self._check_document(key)
        return found

    @override
    def size(self, key: str) -> int | None:
        document = self._documents.get(_metadata_of(key))
        if document is not None:
            return len(document)
        where = self._work.entries.find(TreePath(key))
        if where is None:
            return None
        attr = self._work.entries.attr(where)
        return None if attr.is_dir else attr.size

    def _check_document(self, key: str) -> None:
        """Raises StaleError if the document of the array that a chunk key belongs to has changed."""
        revision = self._work.revision
        if revision == self._revision:
            return
        array = self._array_of(key)
        if array is None or self._same_at.get(array) == revision:
            return
        if self._read(TreePath(metadata_key(array)), 0, None) != self._documents[array]:
            raise StaleError(f"{key} belongs to an array that has changed since", path=key)
        self._same_at[array] = revision

    def _array_of(self, key: str) -> NodePath | None:
        path = node_path(TreePath(key))
        while path:
            path = NodePath(path.rpartition("/")[0])
            if NodePath(path or "/") in self._documents:
                return NodePath(path or "/")
        return None

    # Chunks.

    @override
    def has_chunk(self, array: NodePath, index: ChunkIndex) -> bool:
        where = self._work.entries.find(TreePath(node_prefix(array) + self._layout(array).format(index)))
        return where is not None and not self._work.entries.attr(where).is_dir

    @override
    def chunk_indices(self, array: NodePath) -> Iterator[ChunkIndex]:
        where = self._work.entries.find(tree_path(array))
        if where is None:
            raise StaleError(f"{array} is gone", path=array)
        view = self._view(where)
        if not view.entries and not view.hides and view.base_path is not None and self._is_on_base():
            yield from self._base.chunk_indices(node_path(TreePath(view.base_path)))
            return
        yield from sorted(self._indices(self._layout(array), where, 0, ()))

    def _indices(self, layout: ChunkKeyLayout, where: NodeRef, level: int, above: ChunkIndex) -> Iterator[ChunkIndex]:
        is_last = level == layout.depth - 1
        for name, entry in self._work.entries.list(where):
            part = layout.parse_component(level, name)
            if part is None or entry.attr.is_dir is is_last:
                continue
            if is_last:
                yield above + part
            else:
                yield from self._indices(layout, entry.where, level + 1, above + part)

    def _layout(self, array: NodePath) -> ChunkKeyLayout:
        document = self._documents.get(array)
        if document is None:
            raise StaleError(f"{array} is gone", path=array)
        return ChunkKeyLayout.of_metadata(document, len(json.loads(document)["shape"]))


def _metadata_of(key: str) -> NodePath:
    """Returns the path of the node whose document has a key; that of no node for other keys."""
    path = parse_metadata_key(TreePath(key))
    return NodePath("" if path is None else path)


def _kind_of(document: bytes) -> str | None:
    """Returns the node type that a document gives; None for a file that is no document, or no whole one yet."""
    try:
        members = json.loads(document)
    except ValueError:
        return None
    if not isinstance(members, dict) or members.get("zarr_format") != 3:
        return None
    kind = members.get("node_type")
    if kind == "array":
        shape = members.get("shape")
        return kind if isinstance(shape, list) else None
    return "group" if kind == "group" else None
