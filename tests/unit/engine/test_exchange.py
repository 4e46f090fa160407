"""Clone and pull: what comes, what is refused, what is left where they end, and what another collection takes."""

from dataclasses import replace

import pytest

from icefs.engine.exchange.clone import clone
from icefs.engine.exchange.plan import Action
from icefs.engine.exchange.pull import Request, pull
from icefs.engine.exchange.wanted import RefSpec, Wanted
from icefs.engine.repository import Repository
from icefs.engine.upkeep.expiration import ExpirationRequest, expire
from icefs.engine.upkeep.garbage import collect_garbage
from icefs.engine.write.repository import WritableRepository
from icefs.errors import (
    ConflictError,
    FormatError,
    InvalidInputError,
    StorageError,
    UnsupportedSpecVersionError,
)
from icefs.format.config.storage import StorageSettings
from icefs.format.config.values import RepositoryConfig
from icefs.storage.local.store import LocalStorage
from icefs.storage.memory import MemoryStorage
from tests.support.exchanging import content, copied, is_whole, make, seen, write
from tests.support.faulty import FaultyStorage, each_call_in_turn


@pytest.fixture(params=[2, 1], ids=["v2", "v1"])
def spec_version(request):
    return request.param


@pytest.fixture
def source(spec_version):
    with make(MemoryStorage(), spec_version) as made:
        yield made


def wanted(*branches, tags=None, depth=None):
    specs = tuple(RefSpec.parse(each) for each in branches) or None
    return Request(Wanted(specs, None if tags is None else tuple(map(RefSpec.parse, tags)), depth))


def actions(done):
    return {(each.kind, each.spec.target): each.action for each in done.refs}


@pytest.fixture(params=["memory", "local"])
def target(request, tmp_path):
    return MemoryStorage() if request.param == "memory" else LocalStorage(tmp_path / "clone")


def test_a_clone_has_the_same_histories_under_the_same_ids(source, target):
    done = clone(source, target, replace(wanted(), verify=True))
    assert seen(target) == seen(source.storage)
    assert is_whole(target)
    assert done.copied.compared_objects == done.copied.objects == done.copied.total_objects
    assert done.copied.copied_bytes == sum(
        info.size_bytes for info in target.iter_objects() if info.key.partition("/")[0] not in ("repo", "refs")
    )
    with WritableRepository.open(target) as opened:
        write(opened, "main", 9)
    with pytest.raises(InvalidInputError, match="is not empty"):
        clone(source, target, wanted())


def test_files_of_a_local_repository_are_copied(tmp_path, spec_version):
    with make(LocalStorage(tmp_path / "a"), spec_version) as source:
        clone(source, LocalStorage(tmp_path / "b"), replace(wanted(), verify=True))
        assert seen(LocalStorage(tmp_path / "b")) == seen(source.storage)
    names = [[path.name for path in sorted((tmp_path / each / "chunks").iterdir())] for each in "ab"]
    assert names[0] == names[1]
    inodes = {path.stat().st_ino for path in (tmp_path / "a" / "chunks").iterdir()}
    assert inodes.isdisjoint(path.stat().st_ino for path in (tmp_path / "b" / "chunks").iterdir())


def test_a_link_among_the_objects_leads_nowhere(tmp_path):
    (tmp_path / "secret").write_bytes(b"x" * 5000)
    with make(LocalStorage(tmp_path / "a")) as source:
        chunk = max((tmp_path / "a" / "chunks").iterdir(), key=lambda path: path.stat().st_size)
        chunk.unlink()
        chunk.symlink_to(tmp_path / "secret")
        with pytest.raises(StorageError):
            clone(source, LocalStorage(tmp_path / "b"), wanted())
    assert not Repository.exists(LocalStorage(tmp_path / "b"))


def test_a_part_of_a_repository(source, target):
    clone(source, target, wanted("dev:work", tags=["v1"]))
    theirs, ours = seen(source.storage), seen(target)
    assert ours.pop(("branch", "main"))[-1][1] == "Repository initialized"
    assert ours == {("branch", "work"): theirs["branch", "dev"], ("tag", "v1"): theirs["tag", "v1"]}
    assert is_whole(target)


@pytest.mark.parametrize("depth", [1, 2, 3, 9])
def test_a_history_that_is_cut(source, target, depth):
    theirs = seen(source.storage)
    clone(source, target, wanted(depth=depth))
    ours = seen(target)
    assert ours.keys() == theirs.keys()
    reached = {each[0] for history in theirs.values() for each in history[:depth]}
    for ref, history in theirs.items():
        assert ours[ref] == [each for each in history[:-1] if each[0] in reached] + history[-1:]
    assert is_whole(target)
    with WritableRepository.open(target) as opened:
        write(opened, "main", 9)
        if depth == 1 and source.spec_version == 2:
            info = opened.assets.fetch_repo_info()[0]
            tip = info.snapshots[source.lookup_branch("main")]
            # As after an expiration, the oldest one stands for the changes of those that are not there.
            expired = [each.id for each in list(source.ancestry(branch="main"))[1:-1]]
            assert list(tip.pruned_ancestor_tx_logs) == expired[::-1]
        write(source, "main", 10)
        done = pull(source, opened, wanted("main"))
    assert actions(done)["branch", "main"] is Action.REFUSED


def test_a_pull_brings_what_is_new(source, target):
    clone(source, target, wanted("main"))
    tip = write(source, "main", 6)
    tip = write(source, "main", 7)
    source.create_tag("v2", tip)
    with WritableRepository.open(target) as opened:
        dry = pull(source, opened, replace(wanted(), dry_run=True))
        assert actions(dry)["branch", "main"] is Action.FORWARDED
        assert opened.list_branches() == {"main"}
        done = pull(source, opened, wanted())
        assert actions(done) == {
            ("branch", "main"): Action.FORWARDED,
            ("branch", "dev"): Action.CREATED,
            ("tag", "v1"): Action.CREATED,
            ("tag", "v2"): Action.CREATED,
        }
        assert (done.snapshots, done.copied.total_objects) == (dry.snapshots, dry.copied.total_objects)
        again = pull(source, opened, wanted())
        assert (again.snapshots, again.copied.total_objects) == (0, 0)
        assert set(actions(again).values()) == {Action.CURRENT}
    assert seen(target) == seen(source.storage)
    assert is_whole(target)


def test_a_small_commit_asks_for_little(source, target):
    clone(source, target, wanted("main"))
    session = source.writable_session("main")
    session.chunks.set("/a", (2, 2), b"y" * 900)
    session.commit("one chunk")
    with WritableRepository.open(target) as opened:
        done = pull(source, opened, wanted("main"))
    assert (done.copied.total_objects, done.copied.copied_objects) == (4, 4)  # chunk, manifest, log, snapshot


def test_a_ref_that_would_lose_commits_is_refused_and_the_others_come(source, target):
    clone(source, target, wanted("main", "dev", tags=["v1"]))
    with WritableRepository.open(target) as opened:
        own = write(opened, "main", 20)
        write(opened, "dev", 21)
        theirs = write(source, "main", 22)
        source.create_tag("v2", theirs)
        done = pull(source, opened, wanted())
        assert actions(done) == {
            ("branch", "main"): Action.REFUSED,
            ("branch", "dev"): Action.AHEAD,
            ("tag", "v1"): Action.CURRENT,
            ("tag", "v2"): Action.CREATED,
        }
        assert [each.spec.target for each in done.refused] == ["main"]
        assert opened.lookup_branch("main") == own
        # Under another name they come, and can be merged.
        assert actions(pull(source, opened, wanted("main:theirs"))) == {("branch", "theirs"): Action.CREATED}
        assert opened.lookup_branch("theirs") == theirs
        # The other way round it is a push.
        assert actions(pull(opened, source, wanted("dev"))) == {("branch", "dev"): Action.FORWARDED}
    assert is_whole(target)
    assert is_whole(source.storage)


def test_tags_do_not_move_and_do_not_come_back(source, target):
    clone(source, target, wanted())
    with WritableRepository.open(target) as opened:
        opened.delete_tag("v1")
        opened.create_tag("v2", opened.lookup_branch("main"))
        source.create_tag("v2", source.lookup_branch("dev"))
        done = pull(source, opened, wanted())
        assert [(each.spec.target, each.action) for each in done.refused] == [
            ("v1", Action.REFUSED),
            ("v2", Action.REFUSED),
        ]
        assert opened.list_tags() == {"v2"}


def test_refs_that_are_not_there(source, target):
    with pytest.raises(InvalidInputError, match="no branch main2") as caught:
        clone(source, target, wanted("main2"))
    assert "dev" in caught.value.hint
    with pytest.raises(InvalidInputError, match="are the same"):
        clone(source, target, wanted("main", "dev:main"))
    for text in ("", ":x", "x:"):
        with pytest.raises(InvalidInputError, match="names no ref"):
            RefSpec.parse(text)
    with pytest.raises(InvalidInputError, match="depth of 0"):
        Wanted(depth=0)
    assert next(iter(target.list_dir()), None) is None


def test_versions_of_the_format():
    first, second = make(MemoryStorage(), 1), make(MemoryStorage(), 2)
    with pytest.raises(UnsupportedSpecVersionError, match="spec version 1"):
        pull(second, first, wanted())
    empty = WritableRepository.create(MemoryStorage(), spec_version=2)
    done = pull(first, empty, wanted())
    assert actions(done)["branch", "main"] is Action.FORWARDED
    theirs, ours = seen(first.storage), seen(empty.storage)
    assert ours == theirs
    assert is_whole(empty.storage)


def test_the_configuration_comes_and_settings_of_a_store_stay_with_its_kind(tmp_path):
    config = RepositoryConfig(inline_chunk_threshold_bytes=7, storage=StorageSettings(storage_class="GLACIER"))
    source = WritableRepository.create(MemoryStorage(), config)
    source.set_metadata({"title": "ours"})
    for target, storage in ((MemoryStorage(), config.storage), (LocalStorage(tmp_path / "clone"), None)):
        clone(source, target, wanted())
        saved = Repository.fetch_config(target)
        assert (saved.inline_chunk_threshold_bytes, saved.storage) == (7, storage)
        with Repository.open(target) as opened:
            metadata = opened.assets.fetch_repo_info()[0].metadata
        assert metadata == {"title": "ours"}


# Ends.


def prepared(spec_version):
    """Returns a source, and the store of a clone of it that lacks two commits and a tag."""
    source = make(MemoryStorage(), spec_version)
    behind = MemoryStorage()
    clone(source, behind, wanted("main"))
    write(source, "main", 6)
    source.create_tag("v2", write(source, "main", 7))
    return source, behind


@pytest.mark.parametrize("lost", [False, True], ids=["fails", "answer-lost"])
def test_a_clone_that_ends_at_any_request_is_no_repository_or_a_whole_one_and_goes_on(spec_version, lost):
    source = make(MemoryStorage(), spec_version)
    expected = seen(source.storage)

    def plan(faulty, number):
        return faulty.lose_answer(at=number, times=None) if lost else faulty.fail(at=number, times=None)

    ends = 0
    for number, faulty, _ in each_call_in_turn(MemoryStorage, lambda store: clone(source, store, wanted()), plan):
        if Repository.exists(faulty):
            assert seen(faulty) == expected, number
        else:
            assert clone(source, faulty, wanted())
        assert seen(faulty) == expected, number
        assert is_whole(faulty), number
        ends += 1
    assert ends > 20


@pytest.mark.parametrize("lost", [False, True], ids=["fails", "answer-lost"])
def test_a_pull_that_ends_at_any_request_leaves_each_ref_as_it_was_or_whole_and_goes_on(spec_version, lost):
    source, behind = prepared(spec_version)
    expected, before = seen(source.storage), seen(behind)

    def operate(store):
        with WritableRepository.open(store) as opened:
            pull(source, opened, wanted())

    def plan(faulty, number):
        return faulty.lose_answer(at=number, times=None) if lost else faulty.fail(at=number, times=None)

    ends = 0
    for number, faulty, _ in each_call_in_turn(lambda: copied(behind), operate, plan):
        assert is_whole(faulty), number
        for ref, history in seen(faulty).items():
            assert history in (before.get(ref), expected[ref]), number
        operate(faulty)
        assert seen(faulty) == expected, number
        ends += 1
    assert ends > 20


def test_objects_that_are_there_are_not_copied_again_and_short_ones_are(source):
    target = MemoryStorage()
    for info in source.storage.iter_objects("chunks/"):
        target.put(info.key, source.storage.get(info.key).data)
    short = next(iter(target.iter_objects("chunks/"))).key
    target.put(short, b"short")
    done = clone(source, target, wanted())
    there = sum(1 for _ in source.storage.iter_objects("chunks/")) - 1
    assert done.copied.objects - done.copied.copied_objects == there
    assert is_whole(target)
    assert seen(target) == seen(source.storage)


def test_a_comparison_finds_other_bytes(source):
    target = MemoryStorage()
    key = next(iter(source.storage.iter_objects("chunks/"))).key
    data = bytearray(source.storage.get(key).data)
    data[5] ^= 1
    target.put(key, bytes(data))
    with pytest.raises(FormatError, match="is not the same") as caught:
        clone(source, target, replace(wanted(), verify=True))
    assert key in caught.value.message
    assert not Repository.exists(target)


def test_an_object_that_is_too_short_is_not_copied(source):
    key = max(source.storage.iter_objects("chunks/"), key=lambda info: info.size_bytes).key
    source.storage.put(key, b"short")
    target = MemoryStorage()
    with pytest.raises(FormatError, match="has 5 bytes, and at least 700 are referred to"):
        clone(source, target, wanted())
    assert not Repository.exists(target)


def test_an_object_that_the_source_has_no_more(source):
    target = MemoryStorage()
    faulty = FaultyStorage(source.storage)
    key = next(iter(source.storage.iter_objects("chunks/"))).key
    with Repository.open(faulty) as opened:
        faulty.interfere(lambda: source.storage.delete([key]), methods="head", keys="chunks/", at=1)
        with pytest.raises(ConflictError, match="is not in") as caught:
            clone(opened, target, wanted())
    assert caught.value.facts["file"] == key
    assert not Repository.exists(target)


# Others at the same moment.


def test_a_branch_that_moves_meanwhile_is_looked_at_again():
    source, behind = prepared(2)
    faulty = FaultyStorage(behind)
    with WritableRepository.open(faulty) as opened, WritableRepository.open(behind) as other:
        faulty.interfere(lambda: write(other, "main", 30), methods="put", keys="repo", at=1)
        done = pull(source, opened, wanted())
        assert actions(done)["branch", "main"] is Action.REFUSED
        assert actions(done)["tag", "v2"] in (Action.CREATED, Action.CURRENT)
    assert is_whole(behind)


@pytest.mark.parametrize(
    ("method", "keys"), [("put", "chunks/"), ("put", "snapshots/"), ("put", "repo"), ("copy", "repo")]
)
def test_a_collection_meanwhile_takes_nothing_that_a_ref_needs(method, keys):
    source, behind = prepared(2)
    faulty = FaultyStorage(behind)
    with WritableRepository.open(faulty) as opened, WritableRepository.open(behind) as collecting:
        cutoff = collecting.context.clock() + 10_000_000
        rule = faulty.interfere(lambda: collect_garbage(collecting, cutoff), methods=method, keys=keys, at=1)
        clock = opened.context.clock
        # What an earlier try left may go, for an hour.
        opened.context.clock = lambda: clock() + 3_700_000_000 * rule.fired
        pull(source, opened, wanted())
    assert rule.fired
    assert is_whole(behind)
    assert seen(behind) == seen(source.storage)


def test_what_an_interrupted_pull_left_is_not_counted_on_while_a_collection_may_delete():
    source, behind = prepared(2)
    left = [info.key for info in source.storage.iter_objects("chunks/")]
    with WritableRepository.open(behind) as opened:
        collect_garbage(opened, 1)
        for key in left:
            behind.put(key, source.storage.get(key).data)
        with pytest.raises(ConflictError, match="may still delete") as caught:
            pull(source, opened, wanted())
        assert caught.value.kind == "collection-at-work"
        clock = opened.context.clock
        opened.context.clock = lambda: clock() + 3_700_000_000
        pull(source, opened, wanted())
    assert seen(behind) == seen(source.storage)


def test_a_clone_of_a_history_that_expired_in_part_is_whole(source, target):
    expire(source, ExpirationRequest(source.lookup_snapshot(source.lookup_branch("main")).flushed_at))
    clone(source, target, wanted())
    assert seen(target) == seen(source.storage)
    assert is_whole(target)
    with WritableRepository.open(target) as opened:
        summary = collect_garbage(opened, opened.context.clock() + 10_000_000)
    assert (summary.chunks_deleted, summary.manifests_deleted, summary.snapshots_deleted) == (0, 0, 0)
    assert summary.transaction_logs_deleted == 0
    assert content(source, source.lookup_branch("main")) == seen(target)["branch", "main"][0][2]
