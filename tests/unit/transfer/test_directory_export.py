"""A version becomes plain files: complete, with the times of its commits, interrupted anywhere, and again."""

import json
import os
import shutil
import subprocess
import time
from pathlib import Path

import pytest

from icefs.bounded import Limits
from icefs.engine.history.key_times import KeyTimes
from icefs.engine.history.lineage import Lineages
from icefs.engine.write.repository import WritableRepository
from icefs.errors import NodeNotFoundError, NotADirectoryTreeError, NotEmptyError, SessionStateError, StorageError
from icefs.format.ids import ChunkId
from icefs.format.layout import chunk_key
from icefs.format.manifest.refs import NativeRef
from icefs.storage.local.store import LocalStorage
from icefs.storage.memory import MemoryStorage
from icefs.transfer.directory_export import ExportRequest, export_session
from icefs.transfer.directory_import import ImportRequest, import_directory
from icefs.transfer.marker import STAGING_NAME, Marker, Record
from icefs.transfer.scan import MARKER_NAME
from tests.support.faulty import FaultyStorage
from tests.support.repo_builder import RepoBuilder, group
from tests.unit.transfer.test_directory_import import GROUP, Stop, array, few, read, sample, write


def export(repo, target, progress=lambda done: None, ref="main", **options):
    session = repo.session_at(repo.resolve_ref(str(ref)))
    times = KeyTimes(Lineages(repo.context), session.snapshot_id, session.snapshot.flushed_at)
    options = {"state_dir": target.parent / "state"} | options
    return export_session(session, times, ExportRequest(str(target), **options), progress)


def files(root):
    found = {}
    for directory, _, inside in os.walk(root):
        for name in inside:
            path = os.path.join(directory, name)
            found[os.path.relpath(path, root)] = Path(path).read_bytes()
    return found


def times(root):
    return {path: os.stat(os.path.join(root, path)).st_mtime_ns for path in files(root)}


@pytest.fixture(params=["memory", "local"])
def repo(request, tmp_path):
    storage = MemoryStorage() if request.param == "memory" else LocalStorage(tmp_path / "repo")
    repo = WritableRepository.create(storage)
    import_directory(repo, ImportRequest(write(tmp_path / "source", sample()), tmp_path / "state"))
    return repo


def change(repo):
    """Commits a second version: a chunk rewritten, one deleted, a new one, an array with other metadata, one gone."""
    session = repo.writable_session("main")
    session.chunks.set("/big", (1,), b"second" * 20_000)
    session.chunks.set_ref("/big", (2,), None)
    session.chunks.set("/big", (9,), b"ninth")
    session.nodes.delete("/g/v2dot")
    session.nodes.put("/g/dot", sample()["g/dot/zarr.json"].replace(b"3", b"3 ", 1))
    return session.commit("second")


def test_every_byte_and_time_is_there(repo, tmp_path):
    target = tmp_path / "out"
    told = []
    done = export(repo, target, lambda d: told.append(d.files))
    assert files(target) == sample()
    assert (done.files, done.written_files, done.failed) == (len(sample()), len(sample()), [])
    assert done.bytes == done.written_bytes == sum(map(len, sample().values()))
    assert told[-1] == done.files
    [info, _] = repo.ancestry(branch="main")
    assert set(times(target).values()) == {info.flushed_at * 1000}
    assert not (target / STAGING_NAME).exists()
    # The same again writes nothing.
    inodes = {path: os.stat(target / path).st_ino for path in files(target)}
    assert export(repo, target).written_files == 0
    assert inodes == {path: os.stat(target / path).st_ino for path in files(target)}


def test_a_part_of_it(repo, tmp_path):
    export(repo, tmp_path / "out", node="/g/slash")
    expected = {k.removeprefix("g/slash/"): v for k, v in sample().items() if k.startswith("g/slash/")}
    assert files(tmp_path / "out") == expected
    with pytest.raises(NodeNotFoundError):
        export(repo, tmp_path / "other", node="/nothing")
    with pytest.raises(NotEmptyError, match="an export of"):
        export(repo, tmp_path / "out")
    assert not (tmp_path / "other").exists()


def test_another_version_writes_what_differs(repo, tmp_path):
    target = tmp_path / "out"
    first = repo.lookup_branch("main")
    export(repo, target)
    second = change(repo)
    before = times(target)
    done = export(repo, target)
    expected = read(repo)
    gone = sorted(sample().keys() - expected.keys())
    assert len(gone) > 3
    assert done.left == gone
    assert files(target) == {key: sample()[key] for key in gone} | expected
    assert done.written_files == 3  # what was taken away and brought back does not count
    after = times(target)
    changed = {"big/c/1", "big/c/9", "g/dot/zarr.json"}
    assert {path for path in after if after[path] != before.get(path)} == changed
    assert {after[path] for path in changed} == {repo.lookup_snapshot(second).flushed_at * 1000}
    # Removed files stay known as such, until they are deleted.
    assert export(repo, target).left == gone
    done = export(repo, target, delete=True, dry_run=True)
    assert (done.deleted, len(files(target))) == (gone, len(expected) + len(gone))
    done = export(repo, target, delete=True)
    assert (done.deleted, done.left, done.written_files) == (gone, [], 0)
    assert files(target) == expected
    assert not (target / "g/v2dot").exists()
    # And back again.
    export(repo, target, ref=first, delete=True)
    assert files(target) == sample()
    assert times(target) == before


def test_only_keys_are_deleted(repo, tmp_path):
    target = tmp_path / "out"
    export(repo, target)
    (target / "big/notes.txt").write_text("mine")
    change(repo)
    export(repo, target, delete=True)
    assert (target / "big/notes.txt").read_text() == "mine"


def test_foreign_directories_are_refused(repo, tmp_path):
    target = tmp_path / "out"
    write(target, {"notes.txt": b"mine", "big/c/8": b"somebody's", "big/c/0": sample()["big/c/0"]})
    with pytest.raises(NotEmptyError, match="has files in it"):
        export(repo, target)
    assert set(files(target)) == {"notes.txt", "big/c/8", "big/c/0"}
    done = export(repo, target, force=True)
    assert done.left == ["big/c/8"]
    assert files(target) == sample() | {"notes.txt": b"mine", "big/c/8": b"somebody's"}
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(NotADirectoryTreeError):
        export(repo, tmp_path / "file")
    (tmp_path / "empty").mkdir()
    export(repo, tmp_path / "empty")


def test_a_dry_run_does_nothing(repo, tmp_path):
    done = export(repo, tmp_path / "out", dry_run=True)
    assert done.written_files == done.files == len(sample())
    assert not (tmp_path / "out").exists()


def test_an_interrupted_export_goes_on(repo, tmp_path):
    target = tmp_path / "out"

    def stop(done):
        if done.stored_files > 5:
            raise Stop

    with pytest.raises(Stop):
        export(repo, target, stop)
    some = len(files(target))
    assert some > 5
    assert not (target / STAGING_NAME).exists()
    done = export(repo, target)
    assert done.written_files == len(sample()) - some
    assert done.left == []
    assert files(target) == sample()


def test_an_interrupted_export_of_another_version_leaves_no_mixture(repo, tmp_path):
    target = tmp_path / "out"
    first = repo.lookup_branch("main")
    change(repo)

    def stop(done):
        raise Stop

    with pytest.raises(Stop):
        export(repo, target, stop, ref=first)
    export(repo, target, ref=first)
    with pytest.raises(Stop):
        export(repo, target, stop)
    # Gone on with as the first version: what the second one has more is known to be too much.
    done = export(repo, target, ref=first, delete=True)
    assert done.left == []
    assert files(target) == sample()


@pytest.mark.parametrize("is_local", [False, True])
def test_directories_that_are_written_piece_by_piece(is_local, tmp_path):
    """An array in the directory of the export itself; one in more files than are moved at a time; nodes between."""
    repo = WritableRepository.create(LocalStorage(tmp_path / "repo") if is_local else MemoryStorage())
    flat = {"zarr.json": array([200], encoding=("default", "."))} | {f"c.{n}": b"%d" % n * 600 for n in range(200)}
    deep = {"zarr.json": GROUP, "a/zarr.json": array([200])} | {f"a/c/{n}": b"%d" % n * 600 for n in range(200)}
    deep |= {"b/zarr.json": array([3, 70])} | {f"b/c/{i}/{j}": b"%d" % j * 600 for i in range(3) for j in range(70)}
    for name, keys in {"flat": flat, "deep": deep}.items():
        repo.create_branch(name, repo.lookup_branch("main"))
        source = write(tmp_path / f"{name}-source", keys)
        import_directory(repo, ImportRequest(source, tmp_path / "state", branch=name))
        target = tmp_path / name
        done = export(repo, target, ref=name)
        assert (done.written_files, done.failed) == (len(keys), [])
        assert files(target) == keys
        assert not (target / STAGING_NAME).exists()
        (target / next(reversed(keys))).unlink()
        assert export(repo, target, ref=name).written_files == 1
        assert files(target) == keys


def test_files_cut_short_or_changed_are_written_again(repo, tmp_path):
    target = tmp_path / "out"
    export(repo, target)
    with (target / "big/c/1").open("r+b") as file:
        file.truncate(7)
    (target / "big/c/0").write_bytes(b"x" * len(sample()["big/c/0"]))
    (target / "scalar/c").unlink()
    assert export(repo, target).written_files == 3
    assert files(target) == sample()


def test_what_a_killed_export_left_is_cleared_away(repo, tmp_path):
    target = tmp_path / "out"
    write(target / STAGING_NAME, {"17": b"half", "pid": b"999999999"})
    write(tmp_path / ".out.icefs-export", {"17": b"half", "pid": b"999999999"})
    export(repo, target, force=True)
    assert {path.name for path in tmp_path.iterdir()} - {"repo", "source"} == {"out", "state"}
    assert files(target) == sample()
    for staging in (target / STAGING_NAME, tmp_path / ".out.icefs-export"):
        write(staging, {"pid": b"1"})
        with pytest.raises(SessionStateError, match="process 1 is exporting"):
            export(repo, target)
        started = Path("/proc/1/stat").read_text().rpartition(")")[2].split()[19]
        write(staging, {"pid": f"1 {started}".encode()})
        with pytest.raises(SessionStateError, match="process 1 is exporting"):
            export(repo, target)
        # Another process has the number of the dead one.
        write(staging, {"pid": f"1 {int(started) + 1}".encode()})
        export(repo, target)
        assert not staging.exists()


def test_every_call_of_the_store_may_fail(tmp_path):
    inner = WritableRepository.create(MemoryStorage()).storage
    import_directory(
        WritableRepository.open(inner), ImportRequest(write(tmp_path / "source", few()), tmp_path / "state")
    )
    for number in range(1, 200):
        target = tmp_path / f"out-{number}"
        faulty = FaultyStorage(inner)
        repo = WritableRepository.open(faulty)
        faulty.clear()
        rule = faulty.fail(at=number)
        failed = None
        try:
            done = export(repo, target)
        except StorageError as error:
            failed = error
        if not rule.fired:
            break
        # What there is is whole.
        assert all(data == few()[path] for path, data in files(target).items())
        if failed is None:  # the fault met what was asked for ahead, or stood for files that are gone
            assert {problem.path for problem in done.failed} | files(target).keys() >= few().keys()
        faulty.clear()
        done = export(repo, target)
        assert done.failed == []
        assert files(target) == few()
        shutil.rmtree(target)
    assert number > 6


def natives(repo):
    """Returns the native references by key."""
    session = repo.readonly_session("main")
    found = {}
    for number in range(4):
        found[f"big/c/{number}"] = session.chunk_ref("/big", (number,))
    found["scalar/c"] = session.chunk_ref("/scalar", ())
    assert all(isinstance(ref, NativeRef) for ref in found.values())
    return found


@pytest.mark.parametrize("repo", ["local"], indirect=True)
def test_damaged_chunks_are_listed_and_the_others_exported(repo, tmp_path):
    refs = natives(repo)
    repo.storage.delete([chunk_key(refs["big/c/1"].chunk_id)])
    key = chunk_key(refs["big/c/2"].chunk_id)
    repo.storage.put(key, repo.storage.get(key).data[:-1])
    packed = chunk_key(refs["scalar/c"].chunk_id)
    whole = repo.storage.get(packed).data
    shared = {path for path, data in sample().items() if 512 < len(data) < 65536 and whole.find(data) >= 0}
    assert len(shared) > 5
    last = max(shared, key=lambda path: whole.find(sample()[path]))
    repo.storage.put(packed, whole[:-1])
    target = tmp_path / "out"
    done = export(repo, target)
    bad = {"big/c/1", "big/c/2", last}
    assert {problem.path for problem in done.failed} == bad
    assert files(target) == {path: data for path, data in sample().items() if path not in bad}
    # Once they are mended, they are exported too.
    repo.storage.put(packed, whole)
    for path in ("big/c/1", "big/c/2"):
        repo.storage.put(chunk_key(refs[path].chunk_id), sample()[path])
    assert export(repo, target).written_files == 3
    assert files(target) == sample()


def test_no_other_version_stands_in_for_a_damaged_chunk(repo, tmp_path):
    target = tmp_path / "out"
    export(repo, target)
    change(repo)
    ref = repo.readonly_session("main").chunk_ref("/big", (1,))
    repo.storage.delete([chunk_key(ref.chunk_id)])
    done = export(repo, target)
    assert [problem.path for problem in done.failed] == ["big/c/1"]
    assert not (target / "big/c/1").exists()


def test_a_damaged_manifest_concerns_its_array(repo, tmp_path):
    session = repo.readonly_session("main")
    broken = session.node("/big").array.manifests[0].manifest_id
    mine = {
        node.path
        for node in session.list_nodes()
        if node.array and broken in [m.manifest_id for m in node.array.manifests]
    }
    repo.storage.put(f"manifests/{broken}", b"garbage")
    done = export(WritableRepository.open(repo.storage), tmp_path / "out")
    assert {f"/{problem.path}".rstrip("/") for problem in done.failed} == mine
    got = files(tmp_path / "out")
    assert {key for key in sample() if key.endswith("zarr.json")} <= got.keys()


def test_names_that_no_directory_here_can_have(tmp_path):
    builder = RepoBuilder()
    paths = ["/", "/" + "x" * 300, "/" + MARKER_NAME, f"/{STAGING_NAME}/deep", "/fine", "/fine/zarr.json"]
    builder.commit([group(path, number) for number, path in enumerate(paths, 1)])
    repo = WritableRepository.open(builder.publish())
    done = export(repo, tmp_path / "deep/out")
    assert set(files(tmp_path / "deep/out")) == {"zarr.json", "fine/zarr.json"}
    assert len(done.failed) == 4
    assert os.listdir(tmp_path) == ["deep"]
    assert set(os.listdir(tmp_path / "deep")) == {"out", "state"}


def test_what_is_in_the_way_is_listed(repo, tmp_path):
    target = tmp_path / "out"
    write(target, {"big/c/1/x": b"a directory", "g": b"a file"})
    done = export(repo, target, force=True)
    bad = {path for path in sample() if path.startswith("g/")} | {"big/c/1"}
    assert {problem.path for problem in done.failed} == bad
    assert files(target) == {k: v for k, v in sample().items() if k not in bad} | {
        "big/c/1/x": b"a directory",
        "g": b"a file",
    }


def test_windows_of_large_chunks(tmp_path):
    repo = WritableRepository.create(MemoryStorage())
    keys = {"zarr.json": array([2]), "c/0": bytes(range(256)) * 300, "c/1": b"\1" * 999}
    import_directory(repo, ImportRequest(write(tmp_path / "s", keys), tmp_path / "state"))
    export(repo, tmp_path / "out", window_bytes=1000)
    assert files(tmp_path / "out") == keys


def test_the_export_is_imported_alike(repo, tmp_path):
    export(repo, tmp_path / "out")
    other = WritableRepository.create(MemoryStorage())
    done = import_directory(other, ImportRequest(str(tmp_path / "out"), tmp_path / "state2"))
    assert read(other) == sample()
    assert (done.untracked, done.invalid) == ([], [])
    assert GROUP in read(other).values()
    assert isinstance(natives(other)["scalar/c"].chunk_id, ChunkId)


# What is known of a directory.


def record(state):
    [path] = (state / "exports").iterdir()
    return path


def test_the_record_is_of_this_directory_and_no_other(repo, tmp_path):
    target, state = tmp_path / "out", tmp_path / "state"
    export(repo, target)
    assert "memory" in record(state).read_text() or "repo" in record(state).read_text()
    target.rename(tmp_path / "keeps the inode")
    write(target, {"notes.txt": b"mine"})
    with pytest.raises(NotEmptyError, match="has files in it"):
        export(repo, target)
    # Nor is it if the number of the old one is given to it.
    facts = json.loads(record(state).read_text())
    record(state).write_text(json.dumps({**facts, "inode": target.stat().st_ino}))
    with pytest.raises(NotEmptyError, match="has files in it"):
        export(repo, target)
    # Through a link it is the same directory.
    export(repo, target, force=True)
    (tmp_path / "link").symlink_to("out")
    assert export(repo, tmp_path / "link").written_files == 0
    record(state).write_text("{")
    with pytest.raises(NotEmptyError, match="has files in it"):
        export(repo, target)
    # Records of what is gone go with the next one.
    export(repo, tmp_path / "other", force=True)
    shutil.rmtree(tmp_path / "other")
    export(repo, target, force=True)
    assert record(state)


def test_records_are_limited_in_number_and_those_that_were_never_finished_go(tmp_path):
    records = tmp_path / "state/exports"

    def keep(number):
        (tmp_path / f"out{number}").mkdir(exist_ok=True)
        Record(str(tmp_path / f"out{number}"), tmp_path / "state", Limits(max_files=3)).write(Marker("r", "/", "s"))

    for number in range(5):
        keep(number)
        for path in records.glob("*.json"):
            os.utime(path, (path.stat().st_mtime - 60,) * 2)
    directories = {json.loads(path.read_text())["directory"] for path in records.iterdir()}
    assert directories == {str(tmp_path / f"out{number}") for number in (2, 3, 4)}
    dead, alive = records / "x.json.1", records / "y.json.2"
    for path in (dead, alive):
        path.touch()
    os.utime(dead, (time.time() - 2 * 86400,) * 2)
    keep(4)
    assert (dead.exists(), alive.exists()) == (False, True)


def test_without_a_place_for_records_an_export_works_once(repo, tmp_path, caplog):
    (tmp_path / "file").write_bytes(b"")
    for state in (None, tmp_path / "file"):
        target = tmp_path / f"out-{state is None}"
        export(repo, target, state_dir=state)
        assert files(target) == sample()
        with pytest.raises(NotEmptyError):
            export(repo, target, state_dir=state)
        export(repo, target, state_dir=state, force=True)
    assert "cannot keep a record" in caplog.text


def test_an_export_of_an_earlier_version_of_icefs_is_gone_on_with(repo, tmp_path):
    target = tmp_path / "out"
    export(repo, target, state_dir=None)
    marker = {
        "repository": repo.storage.url,
        "node": "/",
        "snapshot": str(repo.lookup_branch("main")),
        "is_complete": False,
        "is_mixed": False,
        "version": 1,
    }
    (target / MARKER_NAME).write_text(json.dumps(marker))
    assert export(repo, target).written_files == 0
    assert files(target) == sample()
    assert export(repo, target).written_files == 0


def test_where_nothing_can_be_moved_from_beside_files_wait_inside(repo, tmp_path):
    target = tmp_path / "disk"
    target.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "none", target], check=True)
    try:
        seen = set()
        export(repo, target, lambda done: seen.update(os.listdir(target)))
        assert STAGING_NAME in seen
        assert files(target) == sample()
        assert files(tmp_path / "state" / "exports")
    finally:
        subprocess.run(["umount", target], check=True)


# Metadata last.


def test_metadata_come_last_and_those_of_the_topmost_group_last_of_all(repo, tmp_path):
    target = tmp_path / "out"
    order = []

    def look(done):
        order.extend(sorted(files(target).keys() - set(order)))

    export(repo, target, look)
    look(None)
    kinds = ["array" if node.array else "group" for node in repo.readonly_session("main").list_nodes()]
    last = order[-1]
    assert last == "zarr.json"
    assert kinds.count("group") > 1


def test_an_array_that_changes_is_none_until_it_is_whole(repo, tmp_path):
    target = tmp_path / "out"
    export(repo, target)
    change(repo)
    seen = []

    def look(done):
        there = files(target)
        if any(there.get(path) != data for path, data in read(repo).items() if path.startswith("big/c/")):
            seen.append("big/zarr.json" in there and "big/c/1" in there)

    for delete in (False, True):
        with pytest.raises(Stop):
            export(repo, target, lambda done: (_ for _ in ()).throw(Stop), delete=delete)
        export(repo, target, look, delete=delete)
    assert files(target) == read(repo)


@pytest.mark.parametrize("separator", ["/../", "\n", "", "-"])
def test_an_array_whose_chunk_keys_nobody_knows_is_left_out_by_name(separator, tmp_path):
    repo = WritableRepository.create(MemoryStorage())
    session = repo.writable_session("main")
    for path, encoding in (("/bad", ("default", separator)), ("/good", ("default", "/"))):
        session.nodes.put(path, array([2], encoding=encoding))
        session.chunks.set(path, (0,), b"x" * 600)
    session.commit("x")
    done = export(repo, tmp_path / "out")
    assert [problem.path for problem in done.failed] == ["bad/"]
    assert set(files(tmp_path / "out")) == {"good/zarr.json", "good/c/0"}


@pytest.mark.parametrize("force", [False, True], ids=["again", "forced"])
def test_an_export_writes_through_no_link_of_its_target(repo, tmp_path, force):
    """Each file that a link keeps out is named; the link stays, and its target is as it was."""
    target, outside = tmp_path / "out", tmp_path / "outside"
    if not force:
        export(repo, target)
        (target / "g").rename(outside)
    else:
        target.mkdir()
        outside.mkdir()
    (target / "g").symlink_to("../outside")
    if not force:  # another version, which takes metadata away while chunks change
        change(repo)
    before = {path: path.read_bytes() for path in outside.rglob("*") if path.is_file()}
    done = export(repo, target, force=force)
    assert {path: path.read_bytes() for path in outside.rglob("*") if path.is_file()} == before
    assert {problem.path for problem in done.failed} == {path for path in read(repo) if path.startswith("g/")}
    assert all("a symbolic link" in problem.reason for problem in done.failed)
    assert (target / "g").is_symlink()
