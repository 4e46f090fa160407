"""Histories of one repository come to another, with the ids that they have; nothing but refs is ever changed.

    read the refs of both ──► decide about each ──► find the snapshots that are missing, and the objects that they need
      ──► copy those ──► publish each ref

A ref is published when all that it needs is there, so an exchange that ends anywhere has either published a ref or
left objects that nothing refers to; the next one finds them, and goes on. A garbage collection of the target may take
them meanwhile. Its entry in the ops log says so, at the latest to the publishing write, and the exchange begins again:

    no collection since the target was looked at    all objects are there
    one that came later                             begin again
    one that may still be deleting                  objects that nothing in the target refers to may go: refuse

Spec version 1 has no log: there a collection at the same moment can take objects (`engine/CONCURRENCY.md`).
"""

from collections.abc import Iterable, Iterator
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field, replace
from typing import Final

from icefs.engine.exchange.copying import Copied, Copier, Progress
from icefs.engine.exchange.histories import Ancestry, NewHistory, new_history, write_cut_v1
from icefs.engine.exchange.needs import Needs
from icefs.engine.exchange.plan import Action, RefChange, TargetRefs, plan_refs
from icefs.engine.exchange.wanted import Wanted
from icefs.engine.history.ancestry import walk, walk_v1
from icefs.engine.repository import Repository
from icefs.engine.write import publish
from icefs.engine.write.collection_log import may_delete, may_have_run, newest_update
from icefs.engine.write.repository import WritableRepository
from icefs.errors import (
    AlreadyExistsError,
    ConflictError,
    ObjectNotFoundError,
    UnsupportedSpecVersionError,
)
from icefs.format.ids import SnapshotId
from icefs.format.repo import update as edits
from icefs.format.repo.info import RepoInfo
from icefs.format.repo.refs_v1 import tombstone_key
from icefs.format.repo.snapshot_table import SnapshotInfo
from icefs.format.repo.update import Stamp

_MAX_TRIES: Final = 10


@dataclass(frozen=True, slots=True)
class Exchanged:
    """What an exchange did, or with a dry run would do.

    Attributes:
        refs: What became of each ref.
        snapshots: How many snapshots the target got.
        copied: The objects.
        is_dry_run: Whether nothing was written.
    """

    refs: list[RefChange]
    snapshots: int
    copied: Copied
    is_dry_run: bool

    @property
    def refused(self) -> list[RefChange]:
        """The refs that were left alone."""
        return [each for each in self.refs if each.action is Action.REFUSED]


@dataclass(frozen=True, slots=True)
class Request:
    """How to exchange.

    Attributes:
        wanted: Which branches and tags, and how deep.
        verify: Read each object at both ends, and compare.
        dry_run: Write nothing.
        progress: See `copying.Progress`.
    """

    wanted: Wanted = field(default_factory=Wanted)
    verify: bool = False
    dry_run: bool = False
    progress: Progress = lambda done: None


class _Moved(Exception):
    """The target changed in a way that makes the preparations worthless."""


def pull(source: Repository, target: WritableRepository, request: Request) -> Exchanged:
    """Brings branches and tags of one repository, with all that they need, to another.

    A branch of the target is created, or moved to a descendant of its tip; one that has commits of its own is refused,
    and so is a tag that leads elsewhere. The others are brought all the same.

    Args:
        source: Where they are.
        target: Where they come to.
        request: See `Request`.

    Raises:
        InvalidInputError: a ref that was named is not there.
        UnsupportedSpecVersionError: the source is of spec version 2, and the target of 1.
        ReadOnlyError: the target's status is not online.
        ConflictError: others changed the target every time; or a collection of it may still be deleting (kind
            `collection-at-work`); or the source has an object no more (kind `object-gone`).
        FormatError: with `verify`: an object is not the same at both ends.
        StorageError: something cannot be read or written. Refs that were published stay, the others are as before.
    """
    if target.spec_version < source.spec_version:
        raise UnsupportedSpecVersionError(
            f"{target.storage.url} is of spec version {target.spec_version}, and {source.storage.url} of "
            f"{source.spec_version}",
            hint="bring the former to version 2 with 'icefs upgrade'",
        )
    if not request.dry_run:
        target.context.check_online()
    for _ in range(_MAX_TRIES):
        try:
            return _Pull(source, target, request).run()
        except _Moved:
            continue
    raise ConflictError(
        f"{target.storage.url} is being changed by others faster than this can be brought to it",
        kind="repo-info-updated",
        hint="run the command again when it is quieter; it goes on where it was",
    )


class _Pull:
    """One try: the state of the target is looked at once."""

    def __init__(self, source: Repository, target: WritableRepository, request: Request) -> None:
        self._source = source
        self._target = target
        self._request = request
        self._info: RepoInfo | None = None
        if target.spec_version == 2:
            self._info = target.assets.fetch_repo_info()[0]
        self._seen = 0 if self._info is None else newest_update(self._info)

    def run(self) -> Exchanged:
        source, target, request = self._source, self._target, self._request
        theirs, ours = _ancestry(source), _ancestry(target)
        plan = plan_refs(request.wanted, source.refs(), self._target_refs(), theirs, ours)
        changes = [each for each in plan if each.is_change]
        known = self._known()
        history = new_history(
            theirs,
            [each.snapshot_id for each in changes],
            known,
            request.wanted.depth,
            spec_version=target.spec_version,
        )
        needs = Needs.of(source.assets, history, target.assets, known)
        there = needs.present(target.storage, target.assets.workers)
        self._check_collections(there, known)
        copier = Copier(source.storage, target.storage, target.assets.workers, request.progress)
        copier.begin(len(needs), len(there))
        if not request.dry_run:
            cut = history.cut if target.spec_version == 1 else ()
            copier.copy(needs, there, cut=cut, verify=request.verify)
            if cut:
                write_cut_v1(source.assets, target.storage, history)
            target.storage.sync()
        for change in changes if not request.dry_run else ():
            self._publish(change, history)
        return Exchanged(plan, len(history.snapshots), copier.done, request.dry_run)

    def _target_refs(self) -> TargetRefs:
        refs, info = self._target.refs(), self._info
        if info is not None:
            deleted: AbstractSet[str] = info.deleted_tags
            return TargetRefs(info.branches, info.tags, deleted.__contains__)
        storage = self._target.storage

        def is_deleted(name: str) -> bool:
            try:
                storage.head(tombstone_key(name))
            except ObjectNotFoundError:
                return False
            return True

        return TargetRefs(refs.branches, refs.tags, is_deleted)

    def _known(self) -> AbstractSet[SnapshotId]:
        """Returns the snapshots of the target that refs lead to: a collection keeps all that these need."""
        known: set[SnapshotId] = set()
        refs = self._target.refs() if self._info is None else self._info
        for tip in {*refs.branches.values(), *refs.tags.values()}:
            for each in self._ids(tip):
                if each in known:
                    break
                known.add(each)
        return known

    def _ids(self, tip: SnapshotId) -> Iterator[SnapshotId]:
        if self._info is not None:
            return self._info.ancestry_ids(tip)
        return (each.id for each in walk_v1(self._target.assets, tip))

    # Publishing.

    def _publish(self, change: RefChange, history: NewHistory) -> None:
        name, snapshot_id = change.spec.target, change.snapshot_id
        context = self._target.context
        if self._info is not None:
            publish.update_repo_info(context, self._updater(change, history.leading_to(snapshot_id)), is_known=True)
            return
        try:
            if change.kind == "tag":
                publish.create_tag(context, name, snapshot_id)
            elif change.previous_id is None:
                publish.create_branch(context, name, snapshot_id)
            else:
                publish.reset_branch(context, name, snapshot_id, expected=change.previous_id)
        except (AlreadyExistsError, ConflictError) as error:
            raise _Moved from error

    def _updater(self, change: RefChange, chain: list[SnapshotInfo]) -> publish.Change:
        name = change.spec.target

        def update(info: RepoInfo, stamp: Stamp) -> RepoInfo:
            if may_have_run(info, self._seen):
                raise _Moved
            refs = info.branches if change.kind == "branch" else info.tags
            if refs.get(name) == change.snapshot_id:
                return info
            if refs.get(name) != change.previous_id:
                raise _Moved
            added = [each for each in chain if each.id not in info.snapshots]
            if change.kind == "tag":
                publish.check_flag(info, publish.CREATE_TAG, "create_tag")
                return edits.add_tag(_with(info, added), name, change.snapshot_id, stamp)
            if change.previous_id is None:
                return edits.add_branch(_with(info, added), name, change.snapshot_id, stamp)
            return edits.update_branch(_with(info, added), name, change.snapshot_id, stamp, expected=change.previous_id)

        return update

    def _check_collections(self, there: Needs, known: AbstractSet[SnapshotId]) -> None:
        """Refuses to count on objects that a collection may be deleting.

        Raises:
            ConflictError: there are some (kind `collection-at-work`).
        """
        target, info = self._target, self._info
        if info is None or not len(there) or not may_delete(info, 0, target.context.clock()):
            return
        if len(there.unused(target.assets, known)):
            raise ConflictError(
                f"a garbage collection of {target.storage.url} began less than an hour ago, and may still delete "
                "objects that an interrupted copy left there",
                kind="collection-at-work",
                hint="run the command again an hour after the collection began",
            )


def _with(info: RepoInfo, added: Iterable[SnapshotInfo]) -> RepoInfo:
    return replace(info, snapshots=info.snapshots.rewritten(add=added))


def _ancestry(repository: Repository) -> Ancestry:
    return lambda snapshot_id: walk(repository.context, snapshot_id)
