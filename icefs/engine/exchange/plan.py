"""What becomes of each branch and tag of the target, before anything is copied."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum

from icefs.engine.exchange.histories import Ancestry
from icefs.engine.exchange.wanted import RefSpec, Wanted
from icefs.engine.read.refs import Refs
from icefs.format.ids import SnapshotId


class Action(StrEnum):
    """What becomes of a ref."""

    CREATED = "created"
    FORWARDED = "forwarded"
    CURRENT = "current"
    AHEAD = "ahead"
    REFUSED = "refused"


@dataclass(frozen=True, slots=True)
class RefChange:
    """A branch or tag that was asked for.

    Attributes:
        kind: `branch` or `tag`.
        spec: Its names.
        snapshot_id: Where it leads in the source.
        previous_id: Where it leads in the target before; None where that has none.
        action: What becomes of it there: it is `created`; or `forwarded` to a descendant; or stays, as it is `current`,
            or `ahead` of the source; or it is `refused`.
        reason: Why it is refused; else nothing.
    """

    kind: str
    spec: RefSpec
    snapshot_id: SnapshotId
    previous_id: SnapshotId | None
    action: Action
    reason: str = ""

    @property
    def is_change(self) -> bool:
        """Whether the target has something to write."""
        return self.action in (Action.CREATED, Action.FORWARDED)


@dataclass(frozen=True, slots=True)
class TargetRefs:
    """The refs of the target.

    Attributes:
        branches: Tips by name.
        tags: Snapshots by name.
        is_deleted_tag: Tells of a name whether there was a tag that was deleted: no tag can have it again.
    """

    branches: Mapping[str, SnapshotId]
    tags: Mapping[str, SnapshotId]
    is_deleted_tag: Callable[[str], bool]


def plan_refs(wanted: Wanted, source: Refs, target: TargetRefs, theirs: Ancestry, ours: Ancestry) -> list[RefChange]:
    """Decides about each ref that is asked for.

    Args:
        wanted: What is asked for.
        source: The refs of the source.
        target: Those of the target.
        theirs: The histories of the source.
        ours: The histories of the target.

    Raises:
        InvalidInputError: as `Wanted.chosen`.
        FormatError: a ref of the source is malformed (spec 1).
        SnapshotNotFoundError, FormatError, StorageError: a history cannot be read.
    """
    if wanted.branches is None or wanted.tags is None:
        for error in (*source.broken_branches.values(), *source.broken_tags.values()):
            raise error
    changes = []
    for spec, snapshot_id in wanted.chosen("branch", source.branches):
        previous = target.branches.get(spec.target)
        action, reason = _branch(spec, snapshot_id, previous, theirs, ours)
        changes.append(RefChange("branch", spec, snapshot_id, previous, action, reason))
    for spec, snapshot_id in wanted.chosen("tag", source.tags):
        previous = target.tags.get(spec.target)
        action, reason = _tag(spec, snapshot_id, previous, target)
        changes.append(RefChange("tag", spec, snapshot_id, previous, action, reason))
    return changes


def _branch(
    spec: RefSpec, snapshot_id: SnapshotId, previous: SnapshotId | None, theirs: Ancestry, ours: Ancestry
) -> tuple[Action, str]:
    if previous is None:
        return Action.CREATED, ""
    if previous == snapshot_id:
        return Action.CURRENT, ""
    if any(each.id == previous for each in theirs(snapshot_id)):
        return Action.FORWARDED, ""
    if any(each.id == snapshot_id for each in ours(previous)):
        return Action.AHEAD, ""
    return Action.REFUSED, f"it has commits that the source's branch {spec.source} has not, and would lose them"


def _tag(spec: RefSpec, snapshot_id: SnapshotId, previous: SnapshotId | None, target: TargetRefs) -> tuple[Action, str]:
    if previous is None:
        if target.is_deleted_tag(spec.target):
            return Action.REFUSED, "there was such a tag, and the name of a deleted tag cannot be used again"
        return Action.CREATED, ""
    if previous == snapshot_id:
        return Action.CURRENT, ""
    return Action.REFUSED, f"it leads to {previous} there, and a tag does not move"
