"""Random histories of sessions, forks, merges, rebases and commits on two branches, against plain dictionaries.

The model has, of each snapshot, its content, its parent and what its commit touched. From that it says which merge,
rebase or commit must be refused: one whose changes touch what somebody has committed since the snapshot that they know
of. Everything else must go through, and lead to the content that the model has. So nobody's commit is ever undone
without a conflict (Divergence 76), and nothing is refused for no reason.
"""

import json
import pickle
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from icefs.engine.read.session import Session
from icefs.engine.write import forks
from icefs.engine.write.conflicts import ConflictDetector
from icefs.engine.write.pickling import restore_session, session_state
from icefs.engine.write.repository import WritableRepository
from icefs.engine.write.session import WritableSession
from icefs.errors import BranchMovedError, NothingToCommitError, RebaseFailedError, SessionStateError
from icefs.format.config.values import RepositoryConfig
from icefs.format.ids import SnapshotId
from icefs.storage.memory import MemoryStorage
from tests.support.soak import depth

_SIZE = 3
_BRANCHES = ("main", "other")
_METADATA = -1
"""The key that stands for the array's zarr.json; the others are the indices of its chunks."""

type Content = dict[int, bytes]
type Changes = dict[int, bytes | None]

NUMBERS = st.integers(0, 11)
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("open"), st.integers(0, 1)),
        st.tuples(st.just("write"), NUMBERS, st.integers(_METADATA, _SIZE - 1)),
        st.tuples(st.just("delete"), NUMBERS, st.integers(0, _SIZE - 1)),
        st.tuples(st.just("fork"), NUMBERS, st.booleans()),
        st.tuples(st.just("merge"), NUMBERS, st.lists(NUMBERS, min_size=1, max_size=2)),
        st.tuples(st.just("rebase"), NUMBERS),
        st.tuples(st.just("commit"), NUMBERS, st.booleans()),
        st.tuples(st.just("reset"), st.integers(0, 1), NUMBERS),
    ),
    min_size=8,
    max_size=40,
)


def metadata(number: int) -> bytes:
    grid = {"name": "regular", "configuration": {"chunk_shape": [1]}}
    document = {"zarr_format": 3, "node_type": "array", "shape": [_SIZE], "chunk_grid": grid}
    return json.dumps(document | {"attributes": {"number": number}}).encode()


@dataclass(frozen=True)
class Version:
    """One snapshot, as it should be."""

    content: Content
    parent: SnapshotId | None
    touched: frozenset[int]


@dataclass
class Writer:
    """A session that writes, and what it should hold.

    Attributes:
        session: The session.
        known: The published snapshot that its changes know of.
        below: What it shows where it has no changes.
        changes: Its changes; None for a chunk that it deleted.
    """

    session: WritableSession
    known: SnapshotId
    below: Content
    changes: Changes = field(default_factory=dict)

    @property
    def content(self) -> Content:
        return applied(self.below, self.changes)


def applied(content: Content, changes: Changes) -> Content:
    return {key: value for key, value in (content | changes).items() if value is not None}


def conflicts(changes: Changes, touched: frozenset[int]) -> bool:
    return bool(touched & changes.keys()) or (_METADATA in touched and bool(changes))


def read(session: Session) -> Content:
    chunks = session.array_chunks("/a")
    return {_METADATA: session.node("/a").user_data} | {
        index[0]: session.read_chunk(batch.ref(row))
        for batch in chunks.iter_batches()
        for row, index in enumerate(batch.indices().tolist())
    }


class History:
    """A repository, the sessions that write to it, and the model of both."""

    def __init__(self, spec_version: int) -> None:
        config = RepositoryConfig(inline_chunk_threshold_bytes=100)
        self.repo = WritableRepository.create(MemoryStorage(), config, spec_version=spec_version)
        session = self.repo.writable_session("main")
        session.nodes.put("/a", metadata(0))
        session.chunks.set("/a", (0,), b"base")
        first = session.commit("base")
        self.repo.create_branch("other", first)
        self.versions = {first: Version({_METADATA: metadata(0), 0: b"base"}, None, frozenset())}
        self.tips = dict.fromkeys(_BRANCHES, first)
        self.writers: list[Writer] = []
        self.numbers = 0

    def do(self, kind: str, *arguments: object) -> None:
        match kind, *arguments:
            case "open", int(branch):
                self.open(_BRANCHES[branch])
            case "reset", int(branch), int(number):
                self.reset(_BRANCHES[branch], number)
            case _, int(number), *rest:
                if self.writers:
                    self.act(kind, self.writers[number % len(self.writers)], rest)

    def act(self, kind: str, writer: Writer, rest: list[object]) -> None:
        match kind, rest:
            case "write", [int(key)]:
                self.write(writer, key)
            case "delete", [int(key)]:
                writer.session.chunks.set_ref("/a", (key,), None)
                writer.changes[key] = None
            case "fork", [bool(is_sent)]:
                self.fork(writer, is_sent=is_sent)
            case "merge", [list(numbers)]:
                self.merge(writer, [self.writers[number % len(self.writers)] for number in numbers])
            case "rebase", []:
                self.rebase(writer)
            case "commit", [bool(is_rebased)]:
                self.commit(writer, is_rebased=is_rebased)
        if writer in self.writers:
            assert read(writer.session) == writer.content

    def open(self, branch: str) -> None:
        tip = self.tips[branch]
        self.writers.append(Writer(self.repo.writable_session(branch), tip, self.versions[tip].content))

    def write(self, writer: Writer, key: int) -> None:
        self.numbers += 1
        if key == _METADATA:
            data = metadata(self.numbers)
            writer.session.nodes.put("/a", data)
        else:
            data = b"%d" % self.numbers
            writer.session.chunks.set("/a", (key,), data)
        writer.changes[key] = data

    def fork(self, writer: Writer, *, is_sent: bool) -> None:
        session = forks.fork(writer.session)
        if is_sent:
            restored = restore_session(*pickle.loads(pickle.dumps(session_state(session))))
            assert isinstance(restored, WritableSession)
            # Not the repository as it was opened again, which is another one in memory.
            session = WritableSession(self.repo.context, session.snapshot, None, origin_id=restored.draft.origin_id)
        self.writers.append(Writer(session, writer.known, writer.content))

    def merge(self, into: Writer, others: list[Writer]) -> None:
        others = [other for other in others if other is not into]
        if into.session.draft.is_fork and any(not other.session.draft.is_fork for other in others):
            kind = "merge-not-allowed"
        else:
            kind = "merge-failed" if self.excludes(into, others) else ""
        sessions = [other.session for other in others]
        if kind:
            with pytest.raises(SessionStateError) as caught:
                forks.merge(into.session, sessions)
            assert caught.value.kind == kind
            return
        forks.merge(into.session, sessions)
        for other in others:
            into.changes |= other.changes

    def excludes(self, into: Writer, others: list[Writer]) -> bool:
        own = dict(into.changes)
        for other in others:
            if conflicts(other.changes, self.between(other.known, into.known)):
                return True
            present = own.get(_METADATA, into.below[_METADATA])
            # A fork of another session may have rewritten metadata that this one does not have.
            is_other = _METADATA in own or other.below[_METADATA] != present
            if _METADATA in other.changes and is_other and present != other.changes[_METADATA]:
                return True
            own |= other.changes
        return False

    def between(self, known: SnapshotId, newer: SnapshotId) -> frozenset[int]:
        """Returns what was touched from one snapshot to another; what differs, where they are of two lines."""
        lineage = self.lineage(known, newer)
        if lineage is not None:
            return frozenset().union(*(self.versions[each].touched for each in lineage))
        one, two = self.versions[known].content, self.versions[newer].content
        return frozenset(key for key in one.keys() | two.keys() if one.get(key) != two.get(key))

    def lineage(self, known: SnapshotId, newer: SnapshotId) -> list[SnapshotId] | None:
        """Returns the snapshots after one up to a descendant, the oldest first; None if it does not descend from it."""
        found: list[SnapshotId] = []
        each: SnapshotId | None = newer
        while each is not None and each != known:
            found.insert(0, each)
            each = self.versions[each].parent
        return None if each is None else found

    def rebase(self, writer: Writer) -> None:
        branch = writer.session.branch
        if branch is None:
            with pytest.raises(SessionStateError):
                writer.session.rebase(ConflictDetector())
            return
        if self.moved(writer, branch):
            writer.session.rebase(ConflictDetector())
        else:
            with pytest.raises(RebaseFailedError):
                writer.session.rebase(ConflictDetector())
        assert writer.session.snapshot_id == writer.known

    def moved(self, writer: Writer, branch: str) -> bool:
        """Puts the model of a session where a rebase leads; False if that ends in a conflict."""
        tip = self.tips[branch]
        lineage = self.lineage(writer.known, tip)
        if lineage is None:
            if conflicts(writer.changes, self.between(writer.known, tip)):
                return False
            lineage = [tip]
        elif any(conflicts(writer.changes, self.versions[each].touched) for each in lineage):
            first = next(each for each in lineage if conflicts(writer.changes, self.versions[each].touched))
            lineage = lineage[: lineage.index(first)]
            self.put_on(writer, lineage)
            return False
        self.put_on(writer, lineage)
        return True

    def put_on(self, writer: Writer, lineage: list[SnapshotId]) -> None:
        if lineage:
            writer.known, writer.below = lineage[-1], self.versions[lineage[-1]].content

    def commit(self, writer: Writer, *, is_rebased: bool) -> None:
        branch = writer.session.branch
        solver = ConflictDetector() if is_rebased else None
        if branch is None or not writer.changes:
            with pytest.raises(SessionStateError if branch is None else NothingToCommitError):
                writer.session.commit("x", rebase_with=solver)
            return
        if self.tips[branch] != writer.known:
            expected = BranchMovedError if solver is None else RebaseFailedError
            if solver is None or not self.moved(writer, branch):
                with pytest.raises(expected):
                    writer.session.commit("x", rebase_with=solver)
                return
        parent = self.tips[branch]
        new = writer.session.commit("x", rebase_with=solver)
        self.versions[new] = Version(writer.content, parent, frozenset(writer.changes))
        self.tips[branch] = new
        self.writers.remove(writer)
        self.check(branch)

    def reset(self, branch: str, number: int) -> None:
        target = list(self.versions)[number % len(self.versions)]
        self.repo.reset_branch(branch, target)
        self.tips[branch] = target

    def check(self, branch: str) -> None:
        assert read(self.repo.readonly_session(branch)) == self.versions[self.tips[branch]].content


@pytest.mark.parametrize("spec_version", [2, 1], ids=["v2", "v1"])
@given(steps=STEPS)
@settings(max_examples=depth(settings.default.max_examples, 4000))
def test_no_commit_is_undone_without_a_conflict(spec_version: int, steps: list[tuple[object, ...]]):
    history = History(spec_version)
    for branch in (0, 0, 1):
        history.do("open", branch)
    for kind, *arguments in steps:
        assert isinstance(kind, str)
        history.do(kind, *arguments)
    for branch in _BRANCHES:
        history.check(branch)
