"""Merges of random histories on two branches, against a dictionary of keys for each version."""

import json
from collections.abc import Mapping

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from icefs.engine.merge.operations import Brought, Way, merge
from icefs.engine.read.session import Session
from icefs.engine.write.conflicts import Conflict, ConflictType, VersionSelection
from icefs.engine.write.repository import WritableRepository
from icefs.engine.write.session import WritableSession
from icefs.errors import RebaseFailedError
from icefs.format.ids import SnapshotId
from icefs.paths import NodePath
from icefs.storage.memory import MemoryStorage

type Key = tuple[str, tuple[int, ...] | None]
"""A node's path and None, for its metadata; or an array's path and the index of a chunk."""

type Model = dict[Key, bytes]

_ARRAYS = ("/a", "/g/c", "/g/h/d")
_GROUPS = ("/g", "/g/h", "/n")
_WAYS = {
    VersionSelection.Fail: Way("main"),
    VersionSelection.UseOurs: Way("main", VersionSelection.UseOurs),
    VersionSelection.UseTheirs: Way("main", VersionSelection.UseTheirs),
}

ops = st.one_of(
    st.tuples(st.just("set"), st.sampled_from(_ARRAYS), st.integers(0, 3), st.sampled_from([b"x", b"y", b"z"])),
    st.tuples(st.just("unset"), st.sampled_from(_ARRAYS), st.integers(0, 3)),
    st.tuples(st.just("array"), st.sampled_from(_ARRAYS), st.sampled_from([2, 4, 6]), st.integers(0, 2)),
    st.tuples(st.just("group"), st.sampled_from(_GROUPS), st.integers(0, 2)),
    st.tuples(st.just("delete"), st.sampled_from(_ARRAYS + _GROUPS)),
    st.tuples(st.just("commit")),
)
histories = st.lists(ops, max_size=6)


def group(number: int) -> bytes:
    return json.dumps({"zarr_format": 3, "node_type": "group", "attributes": {"n": number}}).encode()


def array(size: int, number: int) -> bytes:
    grid = {"name": "regular", "configuration": {"chunk_shape": [1]}}
    attributes = {"n": number}
    document = {"zarr_format": 3, "node_type": "array", "shape": [size], "chunk_grid": grid, "attributes": attributes}
    return json.dumps(document).encode()


def size_of(model: Model, path: str) -> int | None:
    """Returns an array's length; None where there is none."""
    data = model.get((path, None))
    return None if data is None else json.loads(data)["shape"][0]


def apply(session: WritableSession, model: Model, op: tuple[object, ...]) -> None:
    """Makes one change to a session and to the dictionary, where it is possible."""
    match op:
        case ("set", str(path), int(at), bytes(data)):
            if (size_of(model, path) or 0) > at:
                session.chunks.set(NodePath(path), (at,), data)
                model[path, (at,)] = data
        case ("unset", str(path), int(at)):
            if (size_of(model, path) or 0) > at:
                session.chunks.set_ref(NodePath(path), (at,), None)
                model.pop((path, (at,)), None)
        case ("array", str(path), int(size), int(number)):
            if (parent(path), None) in model and size >= (size_of(model, path) or 0):
                session.nodes.put(NodePath(path), array(size, number))
                model[path, None] = array(size, number)
        case ("group", str(path), int(number)):
            if (parent(path), None) in model:
                session.nodes.put(NodePath(path), group(number))
                model[path, None] = group(number)
        case ("delete", str(path)):
            session.nodes.delete(NodePath(path))
            for key in [key for key in model if key[0] == path or key[0].startswith(f"{path}/")]:
                del model[key]


def parent(path: str) -> str:
    return path.rpartition("/")[0] or "/"


def grow(repo: WritableRepository, branch: str, model: Model, history: list[tuple[object, ...]]) -> None:
    """Makes the commits of a history."""
    session = repo.writable_session(branch)
    for op in [*history, ("commit",)]:
        if op != ("commit",):
            apply(session, model, op)
        elif session.has_uncommitted_changes:
            session.commit("step")
            session = repo.writable_session(branch)


def content(session: Session) -> Model:
    found: Model = {}
    for node in session.list_nodes(NodePath("/")):
        found[node.path, None] = node.user_data
        if node.array is not None:
            for batch in session.array_chunks(node).iter_batches():
                for row, index in enumerate(batch.indices().tolist()):
                    found[node.path, tuple(index)] = session.read_chunk(batch.ref(row))
    return found


def changed(old: Mapping[Key, bytes], new: Mapping[Key, bytes]) -> set[Key]:
    return {key for key in old.keys() | new.keys() if old.get(key) != new.get(key)}


def three_way(base: Model, target: Model, incoming: Model, remade: set[str]) -> tuple[Model, set[Key]]:
    """Merges dictionaries; returns the result, and the keys that both sides changed, not equally.

    A node that one side deleted, and the other one too, but to make another in its place, is that other one.
    """
    result, mine = dict(target), changed(base, target)
    double = set()
    for key in changed(base, incoming):
        if key in mine and target.get(key) != incoming.get(key):
            double.add(key)
        elif key in incoming:
            result[key] = incoming[key]
        else:
            result.pop(key, None)
    for path in remade:
        is_there = [(path, None) in side for side in (target, incoming)]
        if all(is_there) or not any(is_there):
            continue
        kept = target if is_there[0] else incoming
        result = {key: data for key, data in result.items() if key[0] != path}
        result |= {key: data for key, data in kept.items() if key[0] == path}
        double = {key for key in double if key[0] != path}
    return result, double


def is_named(key: Key, conflicts: list[Conflict]) -> bool:
    """Tells whether a conflict is about a key, or about something above it."""
    path, index = key
    for conflict in conflicts:
        if conflict.conflict_type is ConflictType.ChunkDoubleUpdate:
            assert conflict.chunks is not None
            if path == conflict.path and index in conflict.chunks:
                return True
        elif path == conflict.path or path.startswith(f"{conflict.path.removesuffix('/')}/"):
            return True
    return False


def remade(repo: WritableRepository, base_id: SnapshotId) -> set[str]:
    """Returns the paths at which a branch has another node than the base."""
    base = repo.session_at(base_id)
    tips = [repo.readonly_session(branch) for branch in ("main", "dev")]
    nodes = [(before, tip.get_node(before.path)) for before in base.list_nodes(NodePath("/")) for tip in tips]
    return {before.path for before, now in nodes if now is not None and now.id != before.id}


def check_merge(
    repo: WritableRepository, models: dict[str, Model], base: Model, base_id: SnapshotId, side: VersionSelection
) -> bool:
    """Merges dev into main, and holds the outcome to the dictionaries; returns whether it was merged."""
    target, incoming = models["main"], models["dev"]
    expected, double = three_way(base, target, incoming, remade(repo, base_id))
    dry = merge(repo, "dev", Way("main", side, dry_run=True))
    assert content(repo.readonly_session("main")) == target
    if dry.conflicts:
        with pytest.raises(RebaseFailedError) as caught:
            merge(repo, "dev", _WAYS[side])
        assert [str(one) for one in caught.value.conflicts] == [str(one) for one in dry.conflicts]
        about = {path for path, _ in changed(base, target) | changed(base, incoming)} | remade(repo, base_id)
        for conflict in dry.conflicts:
            below = f"{conflict.path}/"
            assert any(path == conflict.path or path.startswith(below) for path in about), conflict
        if side is VersionSelection.Fail:
            assert all(is_named(key, dry.conflicts) for key in double)
        assert content(repo.readonly_session("main")) == target
        return False
    done = merge(repo, "dev", _WAYS[side])
    result = content(repo.readonly_session("main"))
    check_result(result, done, side, expected, double, models)
    models["main"] = result
    again = merge(repo, "dev", _WAYS[side])
    assert not again.is_new
    assert again.snapshot_id is None
    return True


def check_result(
    result: Model,
    done: Brought,
    side: VersionSelection,
    expected: Model,
    double: set[Key],
    models: dict[str, Model],
) -> None:
    if not done.settled:
        assert not double
        assert result == expected
        return
    chosen = models["main" if side is VersionSelection.UseOurs else "dev"]
    settled = {conflict.path for conflict in done.settled}
    for key in expected.keys() | result.keys() | double:
        if is_near(key[0], settled):
            assert result.get(key) in (models["main"].get(key), models["dev"].get(key))
            chunks = [one.chunks for one in done.settled if one.path == key[0]]
            if chunks and None not in chunks:
                assert result.get(key) == (chosen if key in double else expected).get(key)
        else:
            assert result.get(key) == expected.get(key)
    for path, index in result:
        assert path == "/" or (parent(path), None) in result
        assert index is None or index[0] < (size_of(result, path) or 0)


def is_near(path: str, settled: set[NodePath]) -> bool:
    return any(path == one or path.startswith(f"{one}/") or one.startswith(f"{path}/") for one in settled)


def made(spec_version: int, start: list[tuple[object, ...]]) -> tuple[WritableRepository, Model, SnapshotId]:
    repo = WritableRepository.create(MemoryStorage(), spec_version=spec_version)
    model: Model = {}
    session = repo.writable_session("main")
    session.nodes.put(NodePath("/"), group(0))
    model["/", None] = group(0)
    for op in [
        ("group", "/g", 0),
        ("array", "/a", 4, 0),
        ("array", "/g/c", 4, 0),
        ("set", "/a", 0, b"x"),
        ("set", "/g/c", 1, b"x"),
        *start,
    ]:
        if op != ("commit",):
            apply(session, model, op)
    tip = session.commit("start")
    repo.create_branch("dev", tip)
    return repo, model, tip


@pytest.mark.parametrize(
    ("spec_version", "side"),
    [(version, side) for version in (2, 1) for side in _WAYS],
)
@settings(max_examples=max(4, settings().max_examples // 4))
@given(start=histories, mine=st.tuples(histories, histories), theirs=st.tuples(histories, histories))
def test_merges_do_what_a_dictionary_of_keys_would(
    spec_version: int,
    side: VersionSelection,
    start: list[tuple[object, ...]],
    mine: tuple[list[tuple[object, ...]], list[tuple[object, ...]]],
    theirs: tuple[list[tuple[object, ...]], list[tuple[object, ...]]],
) -> None:
    repo, base, base_id = made(spec_version, start)
    models = {"main": dict(base), "dev": dict(base)}
    for ours, others in zip(mine, theirs, strict=True):
        grow(repo, "main", models["main"], ours)
        grow(repo, "dev", models["dev"], others)
        for branch, model in models.items():
            assert content(repo.readonly_session(branch)) == model
        if repo.lookup_branch("dev") == repo.lookup_branch("main"):
            continue
        tip = repo.lookup_branch("dev")
        if tip != base_id and check_merge(repo, models, base, base_id, side):
            base, base_id = dict(models["dev"]), tip
