"""The groups and arrays of a session that writes: made, rewritten, deleted and moved in its draft.

Source: spec 2.1 "Snapshot Files"; upstream icechunk/src/session.rs.
"""

from collections.abc import Iterable, Mapping

from icefs.engine.write.changeset import with_manifests_of
from icefs.engine.write.draft import Draft
from icefs.engine.write.moves import check_path, planned_move, planned_moves
from icefs.errors import AlreadyExistsError, InvalidMetadataError
from icefs.format.ids import NodeId
from icefs.format.snapshot.encoding import MAX_U32
from icefs.format.snapshot.nodes import ArrayData, NodeSnapshot, NodeType
from icefs.format.zarr_json import ZarrMetadata, parse_zarr_json
from icefs.paths import NodePath


class NodeEditor:
    """Changes the nodes of a draft.

    Concurrency: safe to use from several threads; each call holds the draft's gate, and waits while the draft is
    committed or rebased.
    """

    def __init__(self, draft: Draft, spec_version: int) -> None:
        """Takes the draft, and the version of the specification that the repository follows."""
        self._draft = draft
        self._spec_version = spec_version

    def put(self, path: NodePath, data: bytes, *, overwrite: bool = True) -> NodeSnapshot:
        """Makes a group or array, or rewrites its zarr.json; the bytes are kept as they are.

        Args:
            path: The node's.
            data: What its zarr.json holds.
            overwrite: Also where a node is at the path already; otherwise that one stays as it is.

        Raises:
            InvalidInputError: the path is none (kind `invalid-path`).
            InvalidMetadataError: `data` is no metadata of a Zarr v3 node that Icechunk can hold.
            AlreadyExistsError: an array is to replace a group, or the reverse.
            ReadOnlyError, SessionStateError: the session does not write.
        """
        check_path(path)
        name = f"{path.rstrip('/')}/zarr.json"
        metadata = parse_zarr_json(data, name=name, spec_version=self._spec_version)
        array = array_data(metadata, name)
        draft = self._draft
        with draft.gate:
            draft.check_edits()
            existing = draft.get_node(path)
            if existing is not None and not overwrite:
                return existing
            if existing is not None and existing.node_type is not metadata.node_type:
                raise AlreadyExistsError(
                    f"{path} is {_article(existing)} and cannot become another kind of node",
                    path=path,
                    hint="delete the node first",
                )
            if existing is not None and existing.user_data == data:
                return existing
            node_id = NodeId.random() if existing is None else existing.id
            base = None if existing is None else draft.snapshot.node_by_id(node_id)
            node = with_manifests_of(NodeSnapshot(node_id, path, bytes(data), array), base)
            draft.changes.put_node(node, base)
            draft.nodes_changed()
            return node

    def delete(self, path: NodePath) -> None:
        """Deletes a node and all below it; nothing happens where there is none.

        Raises:
            ReadOnlyError, SessionStateError: the session does not write.
        """
        with self._draft.gate:
            self._draft.check_edits()
            self._delete(self._draft.nodes_below(path))

    def delete_each(self, paths: Iterable[NodePath]) -> None:
        """Deletes exactly the nodes at some paths, not those below them: Icechunk holds nodes without parents.

        Raises:
            ReadOnlyError, SessionStateError: the session does not write.
        """
        with self._draft.gate:
            self._draft.check_edits()
            self._delete(node for path in paths if (node := self._draft.get_node(path)) is not None)

    def _delete(self, nodes: Iterable[NodeSnapshot]) -> None:
        for node in nodes:
            self._draft.changes.delete_node(node, self._draft.snapshot.node_by_id(node.id))
        self._draft.nodes_changed()

    def move(self, from_path: NodePath, to_path: NodePath) -> None:
        """Moves a node with all below it (rearrange sessions of spec 2 only).

        Raises:
            SessionStateError: the session is no rearrange session; or the target lies below the source, or its
                parent is missing or no group.
            NodeNotFoundError: nothing is at `from_path`.
            AlreadyExistsError: something is at `to_path`.
        """
        with self._draft.gate:
            self._draft.check_rearranges()
            self._draft.changes.move_nodes(planned_move(self._draft, from_path, to_path))
            self._draft.nodes_changed()

    def move_each(self, moves: Mapping[NodePath, NodePath]) -> None:
        """Moves nodes one by one and at once, each without what is below it (rearrange sessions of spec 2 only).

        So two nodes can change places, which a sequence of `move` can do only by way of a third path.

        Args:
            moves: The new path of each node, by the path that it has.

        Raises:
            SessionStateError: the session is no rearrange session; or a node would be left without a group above it.
            NodeNotFoundError: nothing is at one of the paths.
            AlreadyExistsError: something is at a new path, and stays there.
        """
        with self._draft.gate:
            self._draft.check_rearranges()
            self._draft.changes.move_nodes(planned_moves(self._draft, moves))
            self._draft.nodes_changed()


def array_data(metadata: ZarrMetadata, name: str) -> ArrayData | None:
    """Turns parsed metadata into what a snapshot says of an array, but for manifests; None for a group.

    Raises:
        InvalidMetadataError: more chunks along an axis than a chunk index can count.
    """
    if metadata.node_type is NodeType.GROUP:
        return None
    most = max(metadata.grid_shape, default=0)
    if most > MAX_U32:
        reason = f"{most} chunks along one dimension are too many"
        raise InvalidMetadataError(f"{name}: {reason}", file=name, reason=reason)
    return ArrayData(metadata.dimensions(), metadata.dimension_names, ())


def _article(node: NodeSnapshot) -> str:
    return "a group" if node.array is None else "an array"
