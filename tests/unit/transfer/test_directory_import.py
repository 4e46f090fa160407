"""A directory of Zarr v3 becomes one commit: whatever is in it, interrupted anywhere, and again."""

import json
import os
import random
import threading
import time

import pytest

from icefs.bounded import Limits
from icefs.engine.history.diff import diff_snapshots
from icefs.engine.write.repository import WritableRepository
from icefs.errors import (
    AlreadyExistsError,
    EntryNotFoundError,
    InvalidInputError,
    NotFoundError,
    RebaseFailedError,
    SessionStateError,
    StorageError,
    UnsupportedError,
)
from icefs.format.ids import ChunkId
from icefs.format.layout import chunk_key
from icefs.storage.local.store import LocalStorage
from icefs.storage.memory import MemoryStorage
from icefs.transfer.chunk_files import ArrayRows, ChunkFiles
from icefs.transfer.directory_import import ImportRequest, import_directory
from icefs.transfer.ledger import KEPT_S, LIMITS, Ledger, ledger_path
from icefs.transfer.progress import Transferred
from icefs.transfer.scan import scan_directory
from icefs.zarr.reader import KeyReader
from tests.support.faulty import FaultyStorage

GROUP = b'{"zarr_format": 3, "node_type": "group"}'
LONG_AGO = 1_600_000_000_000_000_001


def array(shape, *, chunk=None, encoding=None, **more):
    document = {
        "zarr_format": 3,
        "node_type": "array",
        "shape": shape,
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": chunk or [1] * len(shape)}},
        **more,
    }
    if encoding is not None:
        name, separator = encoding
        document["chunk_key_encoding"] = {"name": name, "configuration": {"separator": separator}}
    return json.dumps(document).encode()


def sample(seed=1):
    """Keys with every kind of chunk: inline, packed, with an object of its own; and every key encoding."""
    rng = random.Random(seed)
    keys = {"zarr.json": GROUP, "g/zarr.json": GROUP, "scalar/zarr.json": array([]), "scalar/c": b"s" * 700}
    encodings = {"slash": ("default", "/"), "dot": ("default", "."), "v2slash": ("v2", "/"), "v2dot": ("v2", ".")}
    for name, encoding in encodings.items():
        keys[f"g/{name}/zarr.json"] = array([5, 4], encoding=encoding)
        prefix = "c" + encoding[1] if encoding[0] == "default" else ""
        for _ in range(8):
            where = f"{rng.randrange(5)}{encoding[1]}{rng.randrange(4)}"
            keys[f"g/{name}/{prefix}{where}"] = rng.randbytes(rng.choice([1, 40, 600, 3000]))
    keys["big/zarr.json"] = array([10])
    keys |= {f"big/c/{number}": rng.randbytes(70_000 + number) for number in range(4)}
    # An array with a node below it, and chunks of both.
    keys |= {"g/slash/inner/zarr.json": array([3]), "g/slash/inner/c/2": b"inner" * 200}
    return keys


def few():
    """Keys that take few calls of a store, but each kind of them."""
    wanted = ("zarr.json", "g/zarr.json", "g/slash/", "scalar/", "big/zarr.json", "big/c/1", "big/c/2")
    return {key: data for key, data in sample().items() if key.startswith(wanted)}


def write(root, keys, mtime_ns=LONG_AGO):
    for key, data in keys.items():
        path = root / key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        os.utime(path, ns=(mtime_ns, mtime_ns))
    return str(root)


def read(repo, branch="main"):
    reader = KeyReader(repo.readonly_session(branch))
    return {key: reader.read(key) for batch in reader.list_batches() for key in batch}


@pytest.fixture
def state(tmp_path):
    return tmp_path / "state"


@pytest.fixture(params=["memory", "local"])
def repo(request, tmp_path):
    storage = MemoryStorage() if request.param == "memory" else LocalStorage(tmp_path / "repo")
    return WritableRepository.create(storage)


def test_every_byte_is_there(repo, tmp_path, state):
    keys = sample()
    source = write(tmp_path / "z", keys)
    told = []
    done = import_directory(repo, ImportRequest(source, state), lambda d: told.append((d.files, d.bytes)))
    assert read(repo) == keys
    assert done.nodes == sum(key.endswith("zarr.json") for key in keys)
    assert done.chunks == len(keys) - done.nodes == told[-1][0]
    assert told[0] == (0, 0)
    assert told == sorted(told)
    [info, _] = repo.ancestry(branch="main")
    assert info.id == done.snapshot_id
    # Small chunks share objects.
    objects = [info.key for info in repo.storage.iter_objects("chunks/")]
    small = sum(512 < len(data) < 65536 for key, data in keys.items() if not key.endswith("zarr.json"))
    assert small > 8
    assert len(objects) < done.stored_chunks


def test_source_files_are_copied(tmp_path, state):
    """What the user writes into the directory later does not reach the repository."""
    repo = WritableRepository.create(LocalStorage(tmp_path / "repo"))
    source = tmp_path / "z"
    write(source, sample())
    import_directory(repo, ImportRequest(str(source), state))
    assert os.stat(source / "big/c/1").st_nlink == 1
    with (source / "big/c/1").open("r+b") as file:
        file.write(b"later")
    assert read(repo) == sample()


def test_a_group_of_the_repository(repo, tmp_path, state):
    source = write(tmp_path / "z", sample())
    done = import_directory(repo, ImportRequest(source, state, path="/a/b"))
    inside = {key.removeprefix("a/b/"): data for key, data in read(repo).items() if key.startswith("a/b/")}
    assert inside == sample()
    assert {key for key in read(repo) if not key.startswith("a/b/")} == {"zarr.json", "a/zarr.json"}
    # The rest stays.
    one = write(tmp_path / "one", {"zarr.json": array([4]), "c/1": b"x"})
    import_directory(repo, ImportRequest(one, state, path="/a/c"))
    assert read(repo) | {"a/c/c/1": b"x"} == read(repo)
    assert len(list(repo.ancestry(branch="main"))) == 3
    with pytest.raises(AlreadyExistsError, match="is an array"):
        import_directory(repo, ImportRequest(source, state, path="/a/c/below"))
    assert done.replaced == []


def test_what_exists_is_kept_unless_it_may_be_replaced(repo, tmp_path, state):
    keys = sample()
    root = tmp_path / "z"
    import_directory(repo, ImportRequest(write(root, keys), state))
    before = repo.lookup_branch("main")
    (root / "big/c/0").unlink()
    changed = {"big/c/1": b"other" * 20_000, "big/c/7": b"new", "g/dot/zarr.json": array([5, 4], attributes={"a": 1})}
    changed["g/dot/zarr.json"] = keys["g/dot/zarr.json"].replace(b"3", b"3 ", 1)
    write(root, changed)
    request = ImportRequest(str(root), state)
    with pytest.raises(AlreadyExistsError, match="exist") as caught:
        import_directory(repo, request)
    assert "/big" in caught.value.facts["paths"]
    assert repo.lookup_branch("main") == before
    done = import_directory(repo, ImportRequest(str(root), state, overwrite=True))
    expected = keys | changed
    del expected["big/c/0"]
    assert read(repo) == expected
    assert done.stored_chunks == 1
    assert done.replaced == ["/big", "/g/dot"]
    diff = diff_snapshots(repo.context, before, done.snapshot_id)
    assert {path: [tuple(index) for index in chunks] for path, chunks in diff.updated_chunks.items()} == {
        "/big": [(0,), (1,), (7,)]
    }
    # The same again changes nothing, and makes no commit.
    again = import_directory(repo, ImportRequest(str(root), state, overwrite=True))
    assert (again.snapshot_id, again.stored_chunks, again.replaced) == (None, 0, [])
    assert repo.lookup_branch("main") == done.snapshot_id


def test_a_node_of_another_kind_is_replaced(repo, tmp_path, state):
    import_directory(repo, ImportRequest(write(tmp_path / "1", {"zarr.json": GROUP, "a/zarr.json": GROUP}), state))
    other = {"zarr.json": GROUP, "a/zarr.json": array([2]), "a/c/1": b"x"}
    import_directory(repo, ImportRequest(write(tmp_path / "2", other), state, overwrite=True))
    assert read(repo) == other
    third = write(tmp_path / "3", {"zarr.json": GROUP, "a/zarr.json": array([3, 3])})
    import_directory(repo, ImportRequest(third, state, overwrite=True))
    assert set(read(repo)) == {"zarr.json", "a/zarr.json"}


def test_what_is_no_zarr_is_said(repo, tmp_path, state):
    bad = {
        "a/c/9/0": b"outside",
        "a/c/0/0": b"",
        "lost/c/0": b"no array",
        "broken/zarr.json": b"{",
    }
    good = {"zarr.json": GROUP, "a/zarr.json": array([2, 2]), "a/c/1/1": b"fine"}
    root = tmp_path / "z"
    source = write(root, good | bad | {"notes.txt": b"?", "a/c/1/1.tmp": b"?", ".icefs-export.json": b"{}"})
    (root / "link").symlink_to(tmp_path)
    (root / "gone").symlink_to(tmp_path / "nothing")
    (root / ".icefs").mkdir()
    (root / ".icefs/zarr.json").write_bytes(GROUP)
    with pytest.raises(InvalidInputError, match="cannot be imported") as caught:
        import_directory(repo, ImportRequest(source, state))
    assert {path for path, _ in caught.value.facts["invalid"]} == {*bad, "link", "gone", ".icefs"}
    assert len(list(repo.ancestry(branch="main"))) == 1
    done = import_directory(repo, ImportRequest(source, state, skip_invalid=True))
    assert read(repo) == good
    assert done.untracked == ["a/c/1/1.tmp", "notes.txt"]


@pytest.mark.parametrize("key", ["c/1", "zarr.json"])
def test_links_are_not_followed(repo, tmp_path, state, key):
    """The maker of the directory must not choose which of the user's files come into the repository."""
    (tmp_path / "elsewhere").write_bytes(array([2]))
    source = write(tmp_path / "z", {"zarr.json": GROUP, "a/zarr.json": array([2]), "a/c/0": b"here"})
    (tmp_path / "z/a" / key).unlink(missing_ok=True)
    (tmp_path / "z/a" / key).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(InvalidInputError, match="symbolic link"):
        import_directory(repo, ImportRequest(source, state))
    import_directory(repo, ImportRequest(source, state, skip_invalid=True))
    assert f"a/{key}" not in read(repo)


@pytest.mark.parametrize(
    ("keys", "error", "says"),
    [
        ({".zgroup": b"{}", "a/.zarray": b"{}"}, UnsupportedError, "Zarr v2"),
        ({"zarr.json": GROUP, "a/.zarray": b"{}"}, UnsupportedError, "Zarr v2"),
        ({"notes.txt": b"?"}, InvalidInputError, "no zarr.json"),
        (None, EntryNotFoundError, "no such directory"),
    ],
)
def test_what_cannot_be_imported_at_all(repo, tmp_path, state, keys, error, says):
    if keys is not None:
        write(tmp_path / "z", keys)
    with pytest.raises(error, match=says):
        import_directory(repo, ImportRequest(str(tmp_path / "z"), state))


def test_a_converted_store_keeps_its_old_metadata_to_itself(repo, tmp_path, state):
    source = write(tmp_path / "z", {"zarr.json": GROUP, ".zgroup": b"{}", ".zattrs": b"{}"})
    assert import_directory(repo, ImportRequest(source, state)).untracked == [".zattrs", ".zgroup"]


@pytest.mark.parametrize("name", [".zarray", ".zgroup", ".zattrs", ".zmetadata"])
def test_a_node_that_no_mount_could_show_is_refused(repo, tmp_path, state, name):
    root = tmp_path / "in"
    write(root, {"zarr.json": GROUP, f"g/{name}/zarr.json": GROUP, f"{name}/inner/zarr.json": GROUP})
    refused = {path for path, _ in scan_directory(str(root)).invalid}
    assert refused == {f"g/{name}", name}
    with pytest.raises(InvalidInputError, match="cannot be imported"):
        import_directory(repo, ImportRequest(str(root), state))


def test_a_dry_run_does_nothing(repo, tmp_path, state):
    source = write(tmp_path / "z", sample())
    before = [info.key for info in repo.storage.iter_objects()]
    done = import_directory(repo, ImportRequest(source, state, dry_run=True))
    assert (done.snapshot_id, done.chunks > 20) == (None, True)
    assert [info.key for info in repo.storage.iter_objects()] == before
    assert not state.exists()
    with pytest.raises(NotFoundError):
        import_directory(repo, ImportRequest(source, state, branch="none", dry_run=True))


# Interruptions.


def fresh(storage):
    return WritableRepository.create(storage)


@pytest.mark.parametrize("fault", ["fail", "lose_answer"])
def test_every_call_of_the_store_may_fail(tmp_path, fault):
    keys = few()
    source = write(tmp_path / "z", keys)
    for number in range(1, 200):
        state = tmp_path / f"state-{number}"
        inner = MemoryStorage()
        fresh(inner)
        faulty = FaultyStorage(inner)
        repo = WritableRepository.open(faulty)
        faulty.clear()
        rule = getattr(faulty, fault)(at=number)
        failed = None
        try:
            import_directory(repo, ImportRequest(source, state, pack_bytes=80_000))
        except StorageError as error:
            failed = error
        if not rule.fired:
            assert failed is None
            break
        faulty.clear()
        again = WritableRepository.open(faulty)
        is_whole = len(list(again.ancestry(branch="main"))) == 2
        assert failed is not None or is_whole
        stored = [call.key for call in faulty.calls if call.method == "put" and call.key.startswith("chunks/")]
        done = import_directory(again, ImportRequest(source, state, pack_bytes=80_000))
        assert read(again) == keys
        assert len(list(again.ancestry(branch="main"))) == 2
        assert done.is_repeated == is_whole
        stored = [call.key for call in faulty.calls if call.method == "put" and call.key.startswith("chunks/")]
        if is_whole:
            assert stored == []
    assert number > 12


def test_what_is_stored_is_not_stored_again(tmp_path, state):
    keys = sample()
    source = write(tmp_path / "z", keys)
    inner = MemoryStorage()
    faulty = FaultyStorage(fresh(inner).storage)
    repo = WritableRepository.open(faulty)
    faulty.fail(methods="put", keys="manifests/")
    with pytest.raises(StorageError):
        import_directory(repo, ImportRequest(source, state))
    before = {info.key for info in inner.iter_objects("chunks/")}
    faulty.clear()
    done = import_directory(repo, ImportRequest(source, state))
    assert (done.stored_chunks, {info.key for info in inner.iter_objects("chunks/")}) == (0, before)
    assert read(repo) == keys


class Stop(BaseException):
    pass


def test_ctrl_c_keeps_what_is_stored(repo, tmp_path, state):
    keys = {"zarr.json": array([500])} | {f"c/{number}": bytes([number % 250]) * 4000 for number in range(500)}
    source = write(tmp_path / "z", keys)

    def stop(done):
        if done.stored_files > 100:
            raise Stop

    request = ImportRequest(source, state, pack_bytes=40_000)
    with pytest.raises(Stop):
        import_directory(repo, request, stop)
    assert len(list(repo.ancestry(branch="main"))) == 1
    done = import_directory(repo, request)
    assert done.stored_chunks < 400
    assert read(repo) == keys


class Disk(MemoryStorage):
    """Knows what is durable; its first `sync` after chunks were written ends once there are more of them."""

    def __init__(self):
        super().__init__()
        self.written, self.durable = set(), set()
        self.chunks_at_first_sync = 0
        self.went_on = threading.Event()

    def put(self, key, data, **conditions):
        version = super().put(key, data, **conditions)
        self.written.add(key)
        if self.chunks_at_first_sync and self.num_chunks() > self.chunks_at_first_sync + 50:
            self.went_on.set()
        return version

    def num_chunks(self):
        return sum(key.startswith("chunks/") for key in tuple(self.written))

    def sync(self):
        covered = set(self.written)
        if not self.chunks_at_first_sync and self.num_chunks():
            self.chunks_at_first_sync = self.num_chunks()
            assert self.went_on.wait(20)
        self.durable |= covered


class CheckedLedger(Ledger):
    """Checks that all that it remembers is durable."""

    def __init__(self, path, disk):
        super().__init__(path)
        self.disk, self.remembered = disk, []

    def add(self, rows):
        rows = list(rows)
        self.remembered.append(len(rows))
        assert {chunk_key(ChunkId(row[5])) for row in rows} <= self.disk.durable
        super().add(rows)


def test_what_is_remembered_is_durable_and_copying_does_not_wait_for_it(tmp_path, state):
    disk = Disk()
    context = WritableRepository.create(disk).context
    keys = {"zarr.json": array([500])} | {f"c/{number}": bytes([number % 250]) * 4000 for number in range(500)}
    (files,) = scan_directory(write(tmp_path / "z", keys)).arrays.values()
    with CheckedLedger(state / "ledger.db", disk) as ledger:
        source = ChunkFiles(context, ledger, 8000, lambda done: None, note_bytes=20_000)
        rows = ArrayRows(files, ledger.array("/"))
        source.run([rows])
        assert sum(ledger.remembered) == 500
        assert len(ledger.remembered) > 1
        assert ledger.rows("/", 1).chunk_ids.tolist() == rows.chunk_ids.tolist()
    assert source.transferred == Transferred(500, 500, 2_000_000, 2_000_000, 500, 2_000_000)


def test_changed_files_are_stored_again(repo, tmp_path, state):
    root = tmp_path / "z"
    source = write(root, sample())
    with pytest.raises(Stop):
        import_directory(repo, ImportRequest(source, state), stop_at_end)
    write(root, {"big/c/2": b"2" * 70_002, "scalar/c": b"other" * 150})
    done = import_directory(repo, ImportRequest(source, state))
    assert done.stored_chunks == 2
    assert read(repo) == sample() | {"big/c/2": b"2" * 70_002, "scalar/c": b"other" * 150}


def stop_at_end(done):
    if done.files == done.total_files:
        raise Stop


def test_objects_that_are_gone_are_stored_again(repo, tmp_path, state):
    keys = sample()
    source = write(tmp_path / "z", keys)
    request = ImportRequest(source, state)
    with pytest.raises(Stop):
        import_directory(repo, request, stop_at_end)
    objects = [info.key for info in repo.storage.iter_objects("chunks/")]
    repo.storage.delete(objects[:2])
    done = import_directory(repo, request)
    assert 2 <= done.stored_chunks < done.chunks
    assert read(repo) == keys


def test_what_was_stored_long_ago_is_trusted_only_if_the_branch_has_it(repo, tmp_path, state):
    keys = sample()
    source = write(tmp_path / "z", keys)
    first = import_directory(repo, ImportRequest(source, state))
    with Ledger(ledger_path(state, repo.storage.url, source)) as ledger:
        ledger._db.execute("update stored set stored_at = stored_at - ?", (KEPT_S + 1,))
    assert import_directory(repo, ImportRequest(source, state, overwrite=True)).stored_chunks == 0
    elsewhere = import_directory(repo, ImportRequest(source, state, path="/elsewhere"))
    assert elsewhere.stored_chunks == first.stored_chunks


def age(path, age_s):
    os.utime(path, (time.time() - age_s,) * 2)


def test_records_of_imports_that_nobody_repeats_go(repo, tmp_path, state):
    sources = {name: write(tmp_path / name, sample()) for name in ("old", "young", "interrupted", "running", "now")}
    path_of = {name: ledger_path(state, repo.storage.url, source) for name, source in sources.items()}
    for name in ("old", "young"):
        import_directory(repo, ImportRequest(sources[name], state, path=f"/{name}"))
    with pytest.raises(Stop):
        import_directory(repo, ImportRequest(sources["interrupted"], state, path="/interrupted"), stop_at_end)
    with Ledger(path_of["running"]):
        for name in ("old", "running"):
            age(path_of[name], LIMITS.max_unused_s + 10)
        age(path_of["young"], LIMITS.max_unused_s - 1000)
        import_directory(repo, ImportRequest(sources["now"], state, path="/now"))
        there = {name for name, path in path_of.items() if path.exists()}
        assert there == {"young", "interrupted", "running", "now"}
    # The records that are left are of use: the interrupted import goes on, and a finished one has nothing to do.
    assert import_directory(repo, ImportRequest(sources["interrupted"], state, path="/interrupted")).stored_chunks == 0
    assert import_directory(repo, ImportRequest(sources["young"], state, path="/young")).is_repeated


def test_records_of_imports_are_limited_in_bytes_and_number(tmp_path):
    directory = tmp_path / "imports"
    directory.mkdir()
    for number in range(4):
        with open(directory / f"{number}.db", "wb") as file:
            file.truncate(int(LIMITS.max_bytes) // 3)  # without taking room
        (directory / f"{number}.db-wal").touch()
        age(directory / f"{number}.db", 60 * (number + 1))
    with Ledger(directory / "own.db"):
        assert {path.name for path in directory.glob("[0-9]*")} == {"0.db", "0.db-wal", "1.db", "1.db-wal"}
    with Ledger(directory / "own.db", Limits(max_files=2)):
        pass
    assert {path.name for path in directory.glob("*.db")} == {"0.db", "own.db"}


def test_a_file_that_was_just_written_is_not_remembered(repo, tmp_path, state):
    root = tmp_path / "z"
    source = write(root, {"zarr.json": array([2]), "c/1": b"x" * 1000})
    os.utime(root / "c/1")
    with pytest.raises(Stop):
        import_directory(repo, ImportRequest(source, state), stop_at_end)
    assert import_directory(repo, ImportRequest(source, state)).stored_chunks == 1


def test_a_file_that_changes_meanwhile_ends_it(repo, tmp_path, state):
    root = tmp_path / "z"
    source = write(root, {"zarr.json": array([3]), "c/1": b"x" * 1000, "c/2": b"y" * 100_000})

    def change(done):
        if not done.files:
            (root / "c/1").write_bytes(b"z" * 1001)

    with pytest.raises(SessionStateError, match="changed while") as caught:
        import_directory(repo, ImportRequest(source, state), change)
    assert caught.value.kind == "source-changed"
    import_directory(repo, ImportRequest(source, state))
    assert read(repo)["c/1"] == b"z" * 1001


def test_others_commit_meanwhile(repo, tmp_path, state):
    source = write(tmp_path / "z", sample())

    def theirs(path):
        """Returns what lets somebody else commit once, while the import is under way."""
        once = [path]

        def interfere(done):
            while once:
                session = repo.writable_session("main")
                session.nodes.put(once.pop(), GROUP)
                session.commit("theirs")

        return interfere

    import_directory(repo, ImportRequest(source, state, path="/ours"), theirs("/theirs"))
    assert {"theirs/zarr.json", "ours/big/c/1"} <= read(repo).keys()
    before = len(list(repo.ancestry(branch="main")))
    with pytest.raises(RebaseFailedError):
        import_directory(repo, ImportRequest(source, state, path="/again"), theirs("/again"))
    assert len(list(repo.ancestry(branch="main"))) == before + 1


def test_two_imports_of_the_same_do_not_mix(repo, tmp_path, state):
    source = write(tmp_path / "z", sample())
    with (
        Ledger(ledger_path(state, repo.storage.url, source)),
        pytest.raises(SessionStateError, match="another process"),
    ):
        import_directory(repo, ImportRequest(source, state))


@pytest.mark.parametrize("damage", [b"nonsense" * 1000, b""])
def test_a_damaged_ledger_is_begun_anew(repo, tmp_path, state, damage):
    source = write(tmp_path / "z", sample())
    path = ledger_path(state, repo.storage.url, source)
    with Ledger(path) as ledger:
        ledger.array("/a")
    path.write_bytes(damage)
    import_directory(repo, ImportRequest(source, state))
    assert read(repo) == sample()


def test_scanning_is_sorted_and_the_fingerprint_tells_changes(tmp_path):
    root = tmp_path / "z"
    source = write(root, sample())
    found = scan_directory(source)
    files = found.arrays["/g/dot"]
    rows = [files.index(row) for row in range(len(files))]
    assert rows == sorted(rows)
    assert found.fingerprint() == scan_directory(source).fingerprint()
    os.utime(root / "scalar/c", ns=(LONG_AGO, LONG_AGO + 1))
    assert found.fingerprint() != scan_directory(source).fingerprint()


def test_what_a_program_keeps_in_a_hidden_directory_is_untracked(tmp_path):
    """As an interrupted rsync with --partial-dir leaves it: under the name that it is to have."""
    from icefs.transfer.scan import scan_directory
    from tests.support.staging_bench import array

    partial = tmp_path / "a/c/0/.rsync-partial"
    partial.mkdir(parents=True)
    (tmp_path / "a/zarr.json").write_bytes(array((4, 4), (2, 2)))
    (tmp_path / "a/c/0/0").write_bytes(b"1234")
    (partial / "1").write_bytes(b"12")
    found = scan_directory(str(tmp_path))
    assert (found.untracked, found.invalid, found.num_chunks) == (["a/c/0/.rsync-partial/1"], [], 1)
