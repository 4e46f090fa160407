"""Writable sessions against dictionaries: two sessions on one branch, random changes, commits, rebases and resets."""

import json
from dataclasses import dataclass, field, replace
from itertools import product

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from icefs.engine.read.boxes import Boxes
from icefs.engine.read.session import Session
from icefs.engine.write.conflicts import BasicConflictSolver, ConflictDetector, VersionSelection
from icefs.engine.write.repository import WritableRepository
from icefs.engine.write.session import WritableSession
from icefs.errors import (
    AlreadyExistsError,
    BranchMovedError,
    IcefsError,
    InvalidInputError,
    NodeNotFoundError,
    NothingToCommitError,
    RebaseFailedError,
)
from icefs.format.chunk_indices import ChunkIndices
from icefs.format.config.manifest import (
    ManifestConfig,
    ManifestSplitCondition,
    ManifestSplitDimCondition,
    ManifestSplittingConfig,
)
from icefs.format.config.values import RepositoryConfig
from icefs.format.manifest.refs import ArrayRefs
from icefs.storage.memory import MemoryStorage

type Index = tuple[int, ...]

PATHS = st.sampled_from(["/", "/a", "/g", "/g/a", "/g/b", "/g/b/c"])
WHICH = st.integers(0, 1)
GRIDS = [(5,), (2,), (12,), (3, 2), (1, 4), ()]
GRID = st.sampled_from(GRIDS)
NOTES = st.integers(0, 2)
CHOICE = st.integers(0, 5)
SPLITS = st.sampled_from([0, 1, 3, 5])
DATA = st.sampled_from([b"a", b"bb", b"c" * 512, b"n" * 513, b"m" * 600])
POSITIONS = st.lists(st.integers(0, 11), min_size=1, max_size=4)


def group_json(note: int) -> bytes:
    return json.dumps({"zarr_format": 3, "node_type": "group", "attributes": {"note": note}}).encode()


def array_json(grid: Index, note: int) -> bytes:
    return json.dumps(
        {
            "zarr_format": 3,
            "node_type": "array",
            "shape": list(grid),
            "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [1] * len(grid)}},
            "attributes": {"note": note},
        }
    ).encode()


def indices(grid: Index) -> list[Index]:
    return list(product(*map(range, grid)))


def pick(grid: Index, positions: list[int]) -> list[Index]:
    """Some of the indices of a grid; none if it has none."""
    known = indices(grid)
    return list(dict.fromkeys(known[position % len(known)] for position in positions)) if known else []


@dataclass(frozen=True)
class Node:
    """A node of the model; `grid` is None for a group."""

    id: int
    data: bytes
    grid: Index | None = None
    chunks: dict[Index, bytes] = field(default_factory=dict)


type Tree = dict[str, Node]

NOTHING = Node(0, b"", (0,))


@dataclass
class Edits:
    """What one session of the model has changed: what `ChangeSet` holds, as dictionaries."""

    new: Tree = field(default_factory=dict)
    updated: dict[int, Node] = field(default_factory=dict)
    deleted: dict[str, int] = field(default_factory=dict)
    chunks: dict[int, dict[Index, bytes | None]] = field(default_factory=dict)
    given_up: bool = False

    def is_empty(self) -> bool:
        return not (self.new or self.updated or self.deleted or any(self.chunks.values()) or self.given_up)

    def paths(self, base: Tree) -> set[str]:
        """All paths that something was done at."""
        names = {node.id: path for path, node in (base | self.new).items()}
        return {*self.new, *self.deleted} | {names[each] for each in (*self.updated, *self.chunks) if each in names}

    def apply(self, base: Tree) -> Tree:
        tree: Tree = {}
        for path, node in base.items():
            if self.deleted.get(path) != node.id:
                now = self.updated.get(node.id, node)
                same = now.grid is not None and node.grid is not None and len(now.grid) == len(node.grid)
                tree[path] = replace(now, chunks=self._chunks(now, node.chunks if same else {}))
        for path, node in self.new.items():
            tree[path] = replace(node, chunks=self._chunks(node, {}))
        return tree

    def _chunks(self, node: Node, chunks: dict[Index, bytes]) -> dict[Index, bytes]:
        if node.grid is None:
            return {}
        merged = chunks | self.chunks.get(node.id, {})
        inside = set(indices(node.grid))
        return {index: data for index, data in merged.items() if data is not None and index in inside}


def read(session: Session) -> Tree:
    """Reads a session in the model's words, but for ids; listings are checked against lookups on the way."""
    tree: Tree = {}
    for node in session.list_nodes():
        if node.array is None:
            tree[node.path] = Node(0, node.user_data)
            continue
        grid = tuple(dimension.num_chunks for dimension in node.array.shape)
        chunks = session.array_chunks(node.path)
        found = {
            tuple(row): batch.ref(position)
            for batch in chunks.iter_batches(3)
            for position, row in enumerate(batch.indices().tolist())
        }
        assert chunks.num_chunks == len(found)
        asked = [*indices(grid), *found]
        is_there, lengths = chunks.lengths(np.array(asked, np.uint32).reshape(len(asked), len(grid)))
        assert is_there.tolist() == [index in found for index in asked]
        assert lengths[is_there].tolist() == [found[index].length_bytes for index in asked if index in found]
        for index in indices(grid):
            assert chunks.find(index) == found.get(index)
            assert chunks.length(index) == (found[index].length_bytes if index in found else None)
            assert chunks.has_prefix(index[:1]) == any(each[:1] == index[:1] for each in found)
        if grid:
            assert chunks.children(()).tolist() == sorted({index[0] for index in found})
        data = {index: session.read_chunk(ref) for index, ref in found.items()}
        tree[node.path] = Node(0, node.user_data, grid, data)
    return tree


def plain(tree: Tree) -> Tree:
    return {path: replace(node, id=0) for path, node in tree.items()}


def configuration(split: int) -> RepositoryConfig:
    if not split:
        return RepositoryConfig()
    rule = (ManifestSplitCondition.AnyArray(), [(ManifestSplitDimCondition.Any(), split)])
    return RepositoryConfig(manifest=ManifestConfig(splitting=ManifestSplittingConfig([rule])))


@dataclass
class Side:
    """A session, and what the model says of it."""

    session: WritableSession
    base: Tree
    edits: Edits = field(default_factory=Edits)
    checked: int = -1

    @property
    def tree(self) -> Tree:
        return self.edits.apply(self.base)


class SessionMachine(RuleBasedStateMachine):
    """`trees` are the snapshots of the model, `log` the paths that each commit changed."""

    @initialize(spec_version=st.sampled_from([1, 2]), split=SPLITS)
    def begin(self, spec_version, split):
        self.repo = WritableRepository.create(
            MemoryStorage(), configuration(split) if split else None, spec_version=spec_version
        )
        self.next_id = 1
        self.tip = self.repo.lookup_branch("main")
        self.trees = {self.tip: {}}
        self.parents = {self.tip: None}
        self.checked = None
        self.sides = [self.opened()]
        self.put(self.sides[0], "/g", group_json(0), None)
        for path, grid in (("/a", (12,)), ("/g/a", (3, 2))):
            self.put(self.sides[0], path, array_json(grid, 0), grid)
        for choice in range(2):
            self.set_chunks_one_by_one(0, choice, list(range(12)), b"old")
        self.commit(0)
        self.sides.append(self.opened())

    def opened(self) -> Side:
        return Side(self.repo.writable_session("main"), self.trees[self.tip])

    def array(self, side: Side, choice: int) -> tuple[str, Node] | None:
        """One of the session's arrays, if it has any."""
        arrays = [(path, node) for path, node in sorted(side.tree.items()) if node.grid is not None]
        return arrays[choice % len(arrays)] if arrays else None

    # Changes.

    def put(self, side: Side, path: str, data: bytes, grid: Index | None):
        tree, edits = side.tree, side.edits
        there = tree.get(path)
        try:
            side.session.nodes.put(path, data)
        except AlreadyExistsError:
            assert there is not None
            assert (there.grid is None) != (grid is None)
            return
        assert there is None or (there.grid is None) == (grid is None)
        if there is None:
            edits.new[path] = Node(self.next_id, data, grid)
            self.next_id += 1
        elif there.data != data:
            node = Node(there.id, data, grid)
            if path in edits.new:
                edits.new[path] = node
            else:
                edits.updated[there.id] = node
            if grid is not None and there.grid is not None and len(grid) != len(there.grid):
                edits.chunks.pop(there.id, None)

    @rule(which=WHICH, path=PATHS, note=NOTES)
    def set_group(self, which, path, note):
        self.put(self.sides[which], path, group_json(note), None)

    @rule(which=WHICH, path=PATHS, grid=GRID, note=NOTES)
    def set_array(self, which, path, grid, note):
        self.put(self.sides[which], path, array_json(grid, note), grid)

    @rule(which=WHICH, path=PATHS)
    def delete_node(self, which, path):
        side = self.sides[which]
        side.session.nodes.delete(path)
        edits = side.edits
        for found, node in side.tree.items():
            if found == path or found.startswith(path.rstrip("/") + "/"):
                edits.chunks.pop(node.id, None)
                edits.updated.pop(node.id, None)
                if edits.new.pop(found, None) is None:
                    edits.deleted[found] = node.id

    @rule(which=WHICH, path=PATHS, data=DATA)
    def set_a_chunk_where_no_array_is(self, which, path, data):
        node = self.sides[which].tree.get(path)
        if node is None or node.grid is None:
            with pytest.raises((NodeNotFoundError, InvalidInputError)):
                self.sides[which].session.chunks.set(path, (0,), data)

    @rule(which=WHICH, choice=CHOICE, positions=POSITIONS, data=DATA)
    def set_chunks_one_by_one(self, which, choice, positions, data):
        side = self.sides[which]
        path, node = self.array(side, choice) or ("", NOTHING)
        for index in pick(node.grid, positions):
            side.session.chunks.set(path, index, data)
            side.edits.chunks.setdefault(node.id, {})[index] = data

    @rule(which=WHICH, choice=CHOICE, positions=POSITIONS, data=DATA)
    def set_chunks_at_once(self, which, choice, positions, data):
        side = self.sides[which]
        path, node = self.array(side, choice) or ("", NOTHING)
        chosen = pick(node.grid, positions)
        if not chosen:
            return
        refs = [(index, side.session.chunks.store(data + bytes([number]))) for number, index in enumerate(chosen)]
        there = side.session.node(path)
        side.session.chunks.set_refs(path, ArrayRefs.from_refs(there.id, len(node.grid), refs))
        for number, index in enumerate(chosen):
            side.edits.chunks.setdefault(node.id, {})[index] = data + bytes([number])

    @rule(which=WHICH, choice=CHOICE, positions=POSITIONS, at_once=st.booleans())
    def delete_chunks(self, which, choice, positions, at_once):
        side = self.sides[which]
        path, node = self.array(side, choice) or ("", NOTHING)
        chosen = pick(node.grid, positions)
        if at_once and chosen:
            side.session.chunks.delete(path, ChunkIndices.from_indices(len(node.grid), chosen))
        else:
            for index in chosen:
                side.session.chunks.set_ref(path, index, None)
        for index in chosen:
            side.edits.chunks.setdefault(node.id, {})[index] = None

    @rule(which=WHICH, choice=CHOICE, first=st.integers(0, 3))
    def delete_chunks_below(self, which, choice, first):
        side = self.sides[which]
        path, node = self.array(side, choice) or ("", NOTHING)
        if not path:
            return
        prefix = (first,) if node.grid else ()
        side.session.chunks.delete_below(path, prefix)
        for index in node.chunks:
            if index[: len(prefix)] == prefix:
                side.edits.chunks.setdefault(node.id, {})[index] = None

    @rule(which=WHICH, choice=CHOICE, grid=st.sampled_from([(2,), (12,), (2, 2), (4, 3)]), note=NOTES)
    def resize(self, which, choice, grid, note):
        side = self.sides[which]
        path, _ = self.array(side, choice) or ("", NOTHING)
        if path:
            self.put(side, path, array_json(grid, note), grid)

    @rule(which=WHICH)
    def discard(self, which):
        side = self.sides[which]
        side.session.draft.discard()
        side.edits = Edits()

    @rule(split=SPLITS)
    def configure(self, split):
        """The next sessions split manifests in another way."""
        self.repo = self.repo.reopen(configuration(split))

    @precondition(lambda self: any(side.edits.is_empty() for side in self.sides))
    @rule()
    def reopen(self):
        self.sides = [self.opened() if side.edits.is_empty() else side for side in self.sides]

    # Commits.

    def published(self, which: int, snapshot_id, *, parent):
        side = self.sides[which]
        assert side.session.read_only
        self.trees[snapshot_id] = side.tree
        self.parents[snapshot_id] = parent
        self.tip = snapshot_id
        assert plain(read(side.session)) == plain(side.tree)
        self.sides[which] = self.opened()

    @rule(which=WHICH)
    def commit(self, which):
        side = self.sides[which]
        try:
            found = side.session.commit("a commit")
        except NothingToCommitError:
            assert side.edits.is_empty()
        except BranchMovedError:
            assert side.session.snapshot_id != self.tip
        else:
            assert side.session.snapshot_id == found
            self.published(which, found, parent=self.tip)

    @rule(which=WHICH)
    def amend(self, which):
        side = self.sides[which]
        refused = None
        try:
            found = side.session.amend("amended")
        except BranchMovedError:
            assert side.session.snapshot_id != self.tip
        except IcefsError as error:
            refused = error.kind
        else:
            self.published(which, found, parent=self.parents[self.tip])
        assert refused in (
            None, "no-changes-to-commit", "no-amend-for-initial-commit", "unsupported-spec-version"
        )  # fmt: skip

    @precondition(lambda self: any(self.is_behind(side) for side in self.sides))
    @rule(solver=st.sampled_from([None, *VersionSelection]), is_committed=st.booleans())
    def rebase(self, solver, is_committed):
        which = next(number for number, side in enumerate(self.sides) if self.is_behind(side))
        self.rebase_one(which, solver)
        if is_committed:
            self.commit(which)

    def is_behind(self, side: Side) -> bool:
        return side.session.snapshot_id != self.tip and not side.edits.is_empty()

    def rebase_one(self, which, solver):
        side = self.sides[which]
        before, stood_on, theirs = side.tree, side.session.snapshot_id, self.trees[self.tip]
        in_common = self.overlaps(side, self.trees[stood_on], theirs)
        conflicts = []
        try:
            side.session.rebase(ConflictDetector() if solver is None else BasicConflictSolver(solver))
        except RebaseFailedError as error:
            conflicts = error.facts["conflicts"]
        assert in_common or not conflicts
        if conflicts:
            # It stands on the last commit that did not conflict, with what was solved until then.
            assert side.session.has_uncommitted_changes
            if side.session.snapshot_id == stood_on:
                assert plain(read(side.session)) == plain(before)
            self.sides[which] = self.opened()
            return
        assert side.session.snapshot_id == self.tip
        side.base = theirs
        if solver is VersionSelection.UseTheirs and in_common:
            self.give_up_chunks(side)

    def give_up_chunks(self, side: Side):
        """Forgets chunks that are theirs now; which those are the session knows, and it must be some that changed."""
        changes = side.session.draft.changes.chunks
        for path, node in side.tree.items():
            for index in list(side.edits.chunks.get(node.id, ())):
                if changes[side.session.node(path).id].touched().find(index) < 0:
                    assert index in self.ever_changed(node.id, path)
                    del side.edits.chunks[node.id][index]
                    side.edits.given_up = True

    def overlaps(self, side: Side, old: Tree, new: Tree) -> bool:
        """Tells whether both sides did something at one path, or one above the other."""
        ours = side.edits.paths(side.base)
        return any(
            one == other or one.startswith(other.rstrip("/") + "/") or other.startswith(one.rstrip("/") + "/")
            for one in ours
            for other in self.changed(old, new)
        )

    def changed(self, old: Tree, new: Tree) -> set[str]:
        """Paths that may differ; restored values count too, so the trees in between are looked at."""
        trees = [old, new, *self.trees.values()]
        return {
            path
            for path in set().union(*trees)
            if len({repr(tree.get(path)) for tree in trees}) > 1
        }  # fmt: skip

    def ever_changed(self, node_id: int, path: str) -> set[Index]:
        """The chunks of an array that are not the same in all snapshots."""
        arrays = [tree[path].chunks for tree in self.trees.values() if path in tree and tree[path].id == node_id]
        every = set().union(*arrays)
        return {index for index in every if len({chunks.get(index) for chunks in arrays}) > 1}

    @rule(choice=CHOICE, positions=POSITIONS, data=DATA, note=st.integers(-9, 2))
    def somebody_else_commits(self, choice, positions, data, note):
        self.sides.append(self.opened())
        self.set_chunks_one_by_one(-1, choice, positions, data)
        path, node = self.array(self.sides[-1], choice) or ("", NOTHING)
        if path and note >= 0:
            self.put(self.sides[-1], path, array_json(node.grid, note), node.grid)
        self.commit(-1)
        self.sides.pop()

    @precondition(lambda self: len(self.trees) > 4)
    @rule(choice=st.integers(0, 20))
    def reset_the_branch(self, choice):
        ids = list(self.trees)
        self.tip = ids[choice % len(ids)]
        self.repo.reset_branch("main", self.tip)

    # What must hold.

    @invariant()
    def sessions_show_the_model(self):
        for side in self.sides:
            assert side.session.has_uncommitted_changes == (not side.edits.is_empty())
            if side.checked != side.session.draft.revision:
                assert plain(read(side.session)) == plain(side.tree)
                side.checked = side.session.draft.revision

    @invariant()
    def the_branch_shows_its_tip(self):
        if self.checked == self.tip:
            return
        self.checked = self.tip
        session = self.repo.readonly_session("main")
        assert session.snapshot_id == self.tip
        assert plain(read(session)) == plain(self.trees[self.tip])
        self.check_manifests(session)

    def check_manifests(self, session: Session):
        """They do not overlap, reach as far as their chunks and no farther than the grid, and are all listed."""
        used = set()
        for node in session.list_nodes():
            if node.array is None:
                continue
            grid = tuple(dimension.num_chunks for dimension in node.array.shape)
            boxes = Boxes(grid, [ref.extents for ref in node.array.manifests], name=node.path)
            assert not boxes.overlaps
            for ref in node.array.manifests:
                refs = self.repo.assets.fetch_manifest(ref.manifest_id).arrays[node.id]
                assert refs.bounding_box() == ref.extents
                assert all(np.all(column < size) for column, size in zip(refs.coords, grid, strict=True))
                used.add(ref.manifest_id)
        assert used == set(session.snapshot.manifest_files)


TestSessionMachine = SessionMachine.TestCase
TestSessionMachine.settings = settings(
    max_examples=max(10, settings.default.max_examples * 2 // 5), stateful_step_count=40
)
