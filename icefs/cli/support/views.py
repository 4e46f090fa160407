"""Opens views of versions without a mount: for exports and listings."""

from collections.abc import Iterator
from contextlib import contextmanager

from icefs.engine.history.lineage import Lineages
from icefs.engine.read.session import Session
from icefs.engine.repository import Repository
from icefs.errors import IcefsError
from icefs.format.ids import SnapshotId
from icefs.paths import ROOT_NODE, NodePath
from icefs.transfer.directory_export import check_node
from icefs.views.decoder import Decoding, ZarrDecoder
from icefs.views.formats import FormatChoice
from icefs.views.hierarchy import NodeTimes, SessionHierarchy, times_of_history
from icefs.views.interface import Hierarchy, HierarchyFacts, ViewDirectory
from icefs.views.parts import PartHierarchy


def branch_of(repository: Repository, ref: str) -> str:
    """Returns a version's name if it is that of a branch, else nothing: files of a view name the branch they show."""
    return ref if ref in repository.list_branches() else ""


@contextmanager
def opened_view(
    session: Session, branch: str, choice: FormatChoice, node: NodePath, times: NodeTimes | None = None
) -> Iterator[tuple[ViewDirectory, HierarchyFacts]]:
    """Yields the view of a version, with the bytes that a mount's has, and where it comes from.

    Args:
        session: The version.
        branch: The branch whose tip it is; empty for a tag or snapshot.
        choice: The format.
        node: The group or array that the view begins with.
        times: When each node changed last; without, the time of the snapshot holds for all.

    Raises:
        NodeNotFoundError: there is no such group or array.
        UnsupportedError: a library that the format needs is not installed (kind `no-library`).
        StorageError, FormatError: the nodes cannot be read.
    """
    with _views(choice, node) as views:
        yield views.of(session, branch, times)


@contextmanager
def views_of_versions(
    repository: Repository, choice: FormatChoice, node: NodePath, lineages: Lineages
) -> Iterator["VersionViews"]:
    """Yields what opens views of a repository's versions, one after the other; with one cache of decoded chunks."""
    with _views(choice, node) as views:
        yield VersionViews(repository, lineages, views)


class _Views:
    """Opens views of one format, of one node."""

    def __init__(self, choice: FormatChoice, node: NodePath, decoding: Decoding) -> None:
        self._choice = choice
        self._node = node
        self._decoding = decoding

    def of(self, session: Session, branch: str, times: NodeTimes | None) -> tuple[ViewDirectory, HierarchyFacts]:
        """Opens that of a version; arguments and errors as `opened_view`."""
        hierarchy: Hierarchy = SessionHierarchy(session, branch=branch, times=times)
        if self._node != ROOT_NODE:
            check_node(session, self._node)
            hierarchy = PartHierarchy(hierarchy, self._node)
        return self._choice.make().root(hierarchy, ZarrDecoder(hierarchy, self._decoding)), hierarchy.facts


@contextmanager
def _views(choice: FormatChoice, node: NodePath) -> Iterator[_Views]:
    decoding = Decoding()
    try:
        yield _Views(choice, node, decoding)
    finally:
        decoding.close()


class VersionViews:
    """Opens views of a repository's versions, with the times that their history tells."""

    def __init__(self, repository: Repository, lineages: Lineages, views: _Views) -> None:
        self._repository = repository
        self._lineages = lineages
        self._views = views

    def open(self, session: Session, branch: str) -> tuple[ViewDirectory, HierarchyFacts]:
        """Opens that of a version; arguments and errors as `opened_view`."""
        return self._views.of(session, branch, times_of_history(self._lineages, session))

    def open_earlier(self, snapshot: str, branch: str) -> ViewDirectory | None:
        """Opens that of a snapshot that there was once; None if it, or the node, is not in the repository now."""
        try:
            session = self._repository.session_at(self._repository.lookup_snapshot(SnapshotId.parse(snapshot)).id)
            return self.open(session, branch)[0]
        except IcefsError:
            return None
