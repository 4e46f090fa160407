import itertools

import pytest

from icefs.engine.history.changes import compare
from icefs.engine.repository import Repository
from icefs.errors import SnapshotNotFoundError
from icefs.format.ids import INITIAL_SNAPSHOT_ID, NodeId
from icefs.format.layout import manifest_key, transaction_log_key
from icefs.format.manifest.refs import ArrayRefs, InlineRef, VirtualRef
from icefs.format.snapshot.nodes import ManifestRef
from tests.support.repo_builder import RepoBuilder, group, inline, node_id, snapshot_id


def changes(builder, old, new, *, without_logs=False):
    if without_logs:
        builder.storage.delete([transaction_log_key(found) for found in builder.infos])
    repository = Repository.open(builder.publish())
    return compare(repository.session_at(old), repository.session_at(new))


def coords(changed):
    return {path: None if indices is None else list(indices) for path, indices in changed.chunks.items()}


GRID = list(itertools.product(range(4), range(4)))


@pytest.mark.parametrize("without_logs", [False, True])
def test_chunks_that_were_set_replaced_and_removed(without_logs):
    builder = RepoBuilder()
    before = inline(*GRID[:8])
    after = {**before, (0, 1): InlineRef(b"new"), (3, 3): InlineRef(b"set")}
    del after[(1, 0)]
    old = builder.commit([group("/", 1), builder.array("/a", 2, (4, 4), before)])
    new = builder.commit([group("/", 1), builder.array("/a", 2, (4, 4), after)], chunks={2: [(0, 1), (3, 3), (1, 0)]})
    found = changes(builder, old, new, without_logs=without_logs)
    assert coords(found) == {"/a": [(0, 1), (1, 0), (3, 3)]}
    assert not found.new | found.deleted | found.updated
    assert found.moved == ()
    backwards = changes(builder, new, old)
    assert coords(backwards) == {"/a": [(0, 1), (1, 0), (3, 3)]}


def test_the_same_snapshot_has_no_changes():
    builder = RepoBuilder()
    only = builder.commit([builder.array("/a", 2, (4, 4), inline(*GRID))])
    assert changes(builder, only, only).is_empty()


@pytest.mark.parametrize("without_logs", [False, True])
def test_nodes(without_logs):
    builder = RepoBuilder()
    kept = builder.array("/kept", 4, (2,), inline((0,)))
    moved = builder.array("/from", 5, (2,), inline((0,)))
    old = builder.commit([group("/", 1), group("/gone", 2), group("/same", 3, user_data=b"{}"), kept, moved])
    new = builder.commit(
        [
            group("/", 1, user_data=b'{"attributes":{}}'),
            group("/same", 3, user_data=b"{}"),
            group("/fresh", 6),
            kept,
            builder.array_of("/to", 5, (2,), moved.array.manifests),
        ],
        updated_groups=[1],
    )
    found = changes(builder, old, new, without_logs=without_logs)
    assert found.new == {"/fresh", "/to"}
    assert found.deleted == {"/gone", "/from"}
    assert found.updated == {"/"}
    assert found.moved == (("/from", "/to"),)
    assert coords(found) == {}


def test_a_path_that_became_another_node():
    builder = RepoBuilder()
    old = builder.commit([builder.array("/a", 1, (2,), inline((0,))), builder.array("/b", 2, (2,)), group("/c", 3)])
    new = builder.commit(
        [
            builder.array("/a", 4, (2,), inline((0,))),
            group("/b", 5),
            builder.array("/c", 6, (2, 2), inline((0, 0))),
        ]
    )
    found = changes(builder, old, new)
    assert coords(found) == {"/a": None, "/b": None, "/c": None}
    assert found.updated == {"/b", "/c"}, "the zarr.json of /a has the same bytes as before"


@pytest.mark.parametrize("without_logs", [False, True])
def test_chunks_that_a_smaller_grid_hides_and_a_larger_one_shows_again(without_logs):
    builder = RepoBuilder()
    whole = builder.array("/a", 1, (6,), inline(*((n,) for n in range(6))))
    large = builder.commit([whole])
    small = builder.commit([builder.array_of("/a", 1, (2,), whole.array.manifests)], updated_arrays=[1])
    found = changes(builder, large, small, without_logs=without_logs)
    assert coords(found) == {"/a": [(2,), (3,), (4,), (5,)]}, "no log mentions them"
    assert coords(changes(builder, small, large)) == {"/a": [(2,), (3,), (4,), (5,)]}


def test_appending_reads_no_manifests():
    builder = RepoBuilder()
    first = {(n,): InlineRef(b"1") for n in range(5)}
    before = builder.array("/a", 1, (5,), first)
    old = builder.commit([before])
    new = builder.commit(
        [builder.array("/a", 1, (6,), {**first, (5,): InlineRef(b"2")}, user_data=b"{}")],
        chunks={1: [(5,)]},
        updated_arrays=[1],
    )
    repository = Repository.open(builder.publish())
    assert coords(compare(repository.session_at(old), repository.session_at(new))) == {"/a": [(5,)]}
    assert len(repository.assets.manifests) == 0


def test_changes_over_several_commits_are_joined():
    builder = RepoBuilder()
    refs = inline((0,), (1,), (2,))
    old = builder.commit([builder.array("/a", 1, (4,), refs)])
    refs[(1,)] = InlineRef(b"x")
    builder.commit([builder.array("/a", 1, (4,), refs)], chunks={1: [(1,)]})
    refs[(3,)] = InlineRef(b"y")
    new = builder.commit([builder.array("/a", 1, (4,), refs)], chunks={1: [(3,)]})
    assert coords(changes(builder, old, new)) == {"/a": [(1,), (3,)]}


def test_logs_of_pruned_ancestors_count_and_must_be_there():
    builder = RepoBuilder()
    refs = inline((0,), (1,))
    root = builder.commit([builder.array("/a", 1, (4,), refs)])
    refs[(1,)] = InlineRef(b"x")
    pruned = builder.commit([builder.array("/a", 1, (4,), refs)], chunks={1: [(1,)]})
    refs[(2,)] = InlineRef(b"y")
    new = builder.commit([builder.array("/a", 1, (4,), refs)], parent=root, pruned=(pruned,), chunks={1: [(2,)]})
    repository = Repository.open(builder.publish())
    assert coords(compare(repository.session_at(root), repository.session_at(new))) == {"/a": [(1,), (2,)]}
    assert len(repository.assets.manifests) == 0
    builder.storage.delete([transaction_log_key(pruned)])
    repository = Repository.open(builder.publish())
    assert coords(compare(repository.session_at(root), repository.session_at(new))) == {"/a": [(1,), (2,)]}
    assert len(repository.assets.manifests) == 2, "what the missing log said is found by comparing"


def test_siblings_are_compared_by_the_manifests_that_differ():
    builder = RepoBuilder()
    boxes = [((row, row + 1), (0, 4)) for row in range(4)]
    base = builder.array("/a", 1, (4, 4), inline(*GRID), boxes=boxes)
    root = builder.commit([base])
    changed = {**inline(*GRID), (2, 1): InlineRef(b"left")}
    own = builder.array("/a", 1, (4, 4), changed, boxes=boxes[2:3]).array.manifests
    left = builder.commit(
        [builder.array_of("/a", 1, (4, 4), [*base.array.manifests[:2], *own, base.array.manifests[3]])]
    )
    right = builder.commit([base], branch="other", parent=root)
    repository = Repository.open(builder.publish())
    assert coords(compare(repository.session_at(left), repository.session_at(right))) == {"/a": [(2, 1)]}
    assert len(repository.assets.manifests) == 2
    # The same, where all that differs is how the chunks are split.
    merged = builder.commit([builder.array("/a", 1, (4, 4), changed)], branch="other")
    assert coords(changes(builder, left, merged, without_logs=True)) == {}


def test_references_are_compared_by_all_that_they_say():
    builder = RepoBuilder()
    native = builder.chunk(b"0123")
    virtual = VirtualRef("s3://b/k", 1, 2, None, 5)
    kinds = {
        (n,): ref for n, ref in enumerate([native, native, InlineRef(b"abcd"), virtual, virtual, virtual, virtual])
    }
    kinds[(7,)] = VirtualRef("s3://b/k", 1, 2, "e", 0)
    others = {
        (0,): native,
        (1,): builder.chunk(b"0123"),
        (2,): InlineRef(b"abcx"),
        (3,): virtual,
        (4,): VirtualRef("s3://b/l", 1, 2, None, 5),
        (5,): VirtualRef("s3://b/k", 1, 2, None, 6),
        (6,): VirtualRef("s3://b/k", 1, 2, "", 5),
        (7,): VirtualRef("s3://b/k", 1, 2, "f", 0),
    }
    old = builder.commit([builder.array("/a", 1, (9,), kinds)])
    new = builder.commit([builder.array("/a", 1, (9,), others)])
    found = changes(builder, old, new, without_logs=True)
    assert coords(found) == {"/a": [(1,), (2,), (4,), (5,), (6,), (7,)]}


@pytest.mark.parametrize("without_logs", [False, True])
def test_scalars(without_logs):
    builder = RepoBuilder()
    same = InlineRef(b"1")
    old = builder.commit([builder.array("/s", 1, (), {(): same}), builder.array("/t", 2, (), {(): same})])
    new = builder.commit(
        [builder.array("/s", 1, (), {(): InlineRef(b"2")}), builder.array("/t", 2, (), {(): same})], chunks={1: [()]}
    )
    assert coords(changes(builder, old, new, without_logs=without_logs)) == {"/s": [()]}


def test_an_array_that_cannot_be_compared_may_differ_anywhere_and_others_are_not_touched():
    builder = RepoBuilder()
    old = builder.commit(
        [builder.array("/a", 1, (4,), inline((0,))), builder.array("/b", 2, (4,), inline((0,)))], log=False
    )
    broken = builder.array("/a", 1, (4,), inline((1,)))
    new = builder.commit([broken, builder.array("/b", 2, (4,), inline((1,)))], log=False)
    builder.storage.put(manifest_key(broken.array.manifests[0].manifest_id), b"nonsense")
    assert coords(changes(builder, old, new)) == {"/a": None, "/b": [(0,), (1,)]}


def test_another_number_of_dimensions_may_change_anything():
    builder = RepoBuilder()
    old = builder.commit([builder.array("/a", 1, (4,), inline((0,)))])
    new = builder.commit([builder.array("/a", 1, (4, 4), inline((0, 0)))], chunks={1: [(0, 0)]})
    assert coords(changes(builder, old, new)) == {"/a": None}


def test_overlapping_extents_are_compared_by_what_is_visible():
    builder = RepoBuilder()
    one = builder.manifest(ArrayRefs.from_refs(node_id(1), 1, inline((0,), (1,), tag="one").items()))
    two = builder.manifest(ArrayRefs.from_refs(node_id(1), 1, inline((1,), (2,), tag="two").items()))
    first, second = ManifestRef(one, ((0, 2),)), ManifestRef(two, ((1, 3),))
    old = builder.commit([builder.array_of("/a", 1, (3,), [first, second])])
    new = builder.commit([builder.array_of("/a", 1, (3,), [second, first])])
    assert coords(changes(builder, old, new, without_logs=True)) == {"/a": [(1,)]}


def test_everything_is_new_after_the_first_snapshot():
    builder = RepoBuilder()
    new = builder.commit([group("/", 1), builder.array("/a", 2, (4,), inline((0,)))])
    found = changes(builder, INITIAL_SNAPSHOT_ID, new)
    assert found.new == {"/", "/a"}
    assert coords(found) == {}


def test_a_snapshot_that_does_not_exist():
    builder = RepoBuilder()
    with pytest.raises(SnapshotNotFoundError):
        changes(builder, INITIAL_SNAPSHOT_ID, snapshot_id(77))


def test_node_ids_do_not_matter_for_groups():
    builder = RepoBuilder()
    old = builder.commit([group("/g", 1)])
    new = builder.commit([group("/g", 2)])
    assert NodeId(b"node\0\0\0\2") == node_id(2)
    assert changes(builder, old, new).is_empty()
