"""Histories that go from repository to repository: clone, pull and push, which the official library does not have."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from icefs.api.aio import asynchronous
from icefs.engine.exchange import clone as cloning
from icefs.engine.exchange import pull as pulling
from icefs.engine.exchange.pull import Exchanged, Request
from icefs.engine.exchange.wanted import RefSpec, Wanted
from icefs.engine.write.repository import WritableRepository
from icefs.storage.base import Storage

__all__ = ["ExchangedHistories", "ExchangedRef"]

type Names = Sequence[str] | Mapping[str, str]
"""Branches or tags; a mapping gives each another name in the repository that gets it."""


@dataclass(frozen=True, slots=True)
class ExchangedRef:
    """What became of a branch or tag, or would become.

    Attributes:
        kind: `branch` or `tag`.
        name: Its name in the repository that gets it.
        source_name: Its name in the other one.
        snapshot_id: Where it leads there.
        previous_id: Where it led before in the repository that gets it; None where that had none.
        action: `created`, `forwarded` (to a descendant), `current`, `ahead` (it has all of it and more), or `refused`.
        reason: Why it was refused; else nothing.
    """

    kind: str
    name: str
    source_name: str
    snapshot_id: str
    previous_id: str | None
    action: str
    reason: str


@dataclass(frozen=True, slots=True)
class ExchangedHistories:
    """What a clone, a pull or a push did, or would do.

    Attributes:
        refs: Each branch and tag that was asked for.
        snapshots: How many snapshots are new.
        objects: How many objects they need that the newest ones do not which were there.
        copied_objects: How many were copied.
        copied_bytes: Their bytes.
        compared_objects: How many were read at both ends.
    """

    refs: list[ExchangedRef]
    snapshots: int
    objects: int
    copied_objects: int
    copied_bytes: int
    compared_objects: int

    @property
    def refused(self) -> list[ExchangedRef]:
        """The branches and tags that were left alone: they would lose commits, or move a tag."""
        return [each for each in self.refs if each.action == "refused"]


class Exchanging:
    """The part of a repository that exchanges histories with others, on stores of any kind.

    Snapshots, manifests and chunks keep their ids. A branch or tag moves when all that it needs is there. All of it is
    icefs's own.
    """

    _engine: WritableRepository

    def clone(
        self,
        storage: Storage,
        *,
        branches: Names | None = None,
        tags: Names | None = None,
        depth: int | None = None,
        verify: bool = False,
        dry_run: bool = False,
    ) -> ExchangedHistories:
        """Makes a repository of this one, with its configuration and its metadata.

        Args:
            storage: Where to; nothing is there, or what an interrupted clone has left.
            branches: Only these branches; None for all, unless tags are named.
            tags: Only these tags; None for all, unless branches are named.
            depth: How many snapshots of each history; older ones stay away as if they had expired. None for all.
            verify: Read each object at both ends, and compare.
            dry_run: Find out, and write nothing.

        Raises:
            InvalidInputError: something else is there (kind `parent-directory-not-clean`), or a name is not here.
            UnsupportedError: the store ignores the conditions of writes.
            ConflictError: an object is here no more (kind `object-gone`).
            FormatError: an object is damaged, or with `verify` not the same at both ends.
        """
        return _public(cloning.clone(self._engine, storage, _request(branches, tags, depth, verify, dry_run)))

    def pull(
        self,
        source: "Exchanging",
        *,
        branches: Names | None = None,
        tags: Names | None = None,
        depth: int | None = None,
        verify: bool = False,
        dry_run: bool = False,
    ) -> ExchangedHistories:
        """Brings branches and tags of another repository, with their histories, to this one.

        One that would lose commits is refused, and the others come all the same: see `ExchangedHistories.refused`.

        Args:
            source: The other `Repository`.
            branches: As for `clone`, and so are the others.
            tags: As for `clone`.
            depth: As for `clone`.
            verify: As for `clone`.
            dry_run: As for `clone`.

        Raises:
            InvalidInputError: a name is not there.
            UnsupportedSpecVersionError: the other one is of spec version 2, and this one of 1.
            ReadOnlyError: this one's status is not online.
            ConflictError: others changed this one every time; or a collection of it may still be deleting (kind
                `collection-at-work`); or the other one has an object no more (kind `object-gone`).
            FormatError: as `clone`.
        """
        return _public(pulling.pull(source._engine, self._engine, _request(branches, tags, depth, verify, dry_run)))

    def push(
        self,
        target: "Exchanging",
        *,
        branches: Names | None = None,
        tags: Names | None = None,
        verify: bool = False,
        dry_run: bool = False,
    ) -> ExchangedHistories:
        """Brings branches and tags of this repository to another one; arguments and errors as `pull`."""
        return _public(pulling.pull(self._engine, target._engine, _request(branches, tags, None, verify, dry_run)))

    clone_async = asynchronous(clone)
    pull_async = asynchronous(pull)
    push_async = asynchronous(push)


def _request(branches: Names | None, tags: Names | None, depth: int | None, verify: bool, dry_run: bool) -> Request:
    return Request(Wanted(_specs(branches), _specs(tags), depth), verify, dry_run)


def _specs(names: Names | None) -> tuple[RefSpec, ...] | None:
    if names is None:
        return None
    pairs = names.items() if isinstance(names, Mapping) else ((name, name) for name in names)
    return tuple(RefSpec(source, target) for source, target in pairs)


def _public(done: Exchanged) -> ExchangedHistories:
    return ExchangedHistories(
        refs=[
            ExchangedRef(
                kind=each.kind,
                name=each.spec.target,
                source_name=each.spec.source,
                snapshot_id=str(each.snapshot_id),
                previous_id=None if each.previous_id is None else str(each.previous_id),
                action=str(each.action),
                reason=each.reason,
            )
            for each in done.refs
        ],
        snapshots=done.snapshots,
        objects=done.copied.total_objects,
        copied_objects=done.copied.copied_objects,
        copied_bytes=done.copied.copied_bytes,
        compared_objects=done.copied.compared_objects,
    )
