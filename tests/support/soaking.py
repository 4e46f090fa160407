"""A client of the soak test: a process that does on a mount what programs do in a day, and knows what must be there.

Each client works in a part of the shared branch `main` that is its own, and in a branch of its own, which others
(the official library, in this process) commit to and reset. It keeps a model of both: what each file holds now, and
what the branch's snapshot holds. Every answer of the mount is compared with the model.

    python -m tests.support.soaking '{"mount": …, "number": 0, "operations": 1000, …}'

Before each operation the client writes the time and a word into a file of fixed size that the watchdog reads.
"""

import json
import mmap
import os
import random
import struct
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import icechunk

from icefs.storage.local.beneath import Beneath
from icefs.storage.local.lock import exclusive
from tests.conformance.official import GROUP, loose_array_json, put_all

BEAT = struct.Struct("d d 48s")
"""The heartbeat: when the operation began (monotonic; 0 between two), how many there were, and its name."""

GRID = 4
ARRAY = loose_array_json((GRID, GRID), (1, 1))
ARRAYS = ("temperature", "wind", "rain")
_SIZES = (1, 7, 100, 600, 4096, 5000, 20_000)


@dataclass(frozen=True, slots=True)
class Task:
    """What one client does.

    Attributes:
        mount: The mountpoint of the whole repository.
        repository: The repository's directory, for what others do.
        number: Which client this is.
        operations: How many operations it does, after `warmup`.
        warmup: How many it does before it waits for a word on stdin: the daemon's memory is looked at then.
        beat: The heartbeat's file.
        seed: Of all randomness.
    """

    mount: str
    repository: str
    number: int
    operations: int
    warmup: int
    beat: str
    seed: int


class Area(NamedTuple):
    """A place that no other client changes.

    Attributes:
        branch: The branch it is in.
        top: The directory in the branch, empty for all of it.
        files: What must be there, by path below `top`.
        is_own: Whether the branch is the client's alone, so that it can say what is committed.
    """

    branch: str
    top: str
    files: dict[str, bytes]
    is_own: bool


@dataclass
class Known:
    """What a client knows of its own branch.

    Attributes:
        committed: What the snapshot that the tree stands on holds.
        theirs: What others have committed on top, which a rebase brings.
        old: Some snapshots, and what they hold.
    """

    committed: dict[str, bytes] = field(default_factory=dict)
    theirs: dict[str, bytes] | None = None
    old: dict[str, dict[str, bytes]] = field(default_factory=dict)


class Client:
    """One client; see the module."""

    def __init__(self, task: Task) -> None:
        self.task = task
        self.root = task.mount
        self.random = random.Random(task.seed * 1000 + task.number)
        self.official = icechunk.Repository.open(icechunk.local_filesystem_storage(task.repository))
        with open(task.beat, "r+b") as file:
            self._beat = mmap.mmap(file.fileno(), BEAT.size)
        self.done = 0
        self.told: dict[str, int] = {}
        self.slowest: tuple[float, str] = (0.0, "")
        self.shared = Area("main", f"w{task.number}", {}, is_own=False)
        self.own = Area(f"own{task.number}", "", {}, is_own=True)
        self.known = Known()
        self.others = 0
        self.refs = 0
        self.place = ""
        self.trail: deque[str] = deque(maxlen=3000)

    # Counting, and the watchdog.

    def step[R](self, name: str, action: Callable[[], R]) -> R:
        """Does one operation, under the eyes of the watchdog."""
        started = time.monotonic()
        BEAT.pack_into(self._beat, 0, started, self.done, name.encode())
        try:
            result = action()
            self.trail.append(f"{name} {self.place}{told(result)}")
            return result
        finally:
            took = time.monotonic() - started
            self.done += 1
            BEAT.pack_into(self._beat, 0, 0.0, self.done, name.encode())
            self.told[name] = self.told.get(name, 0) + 1
            self.slowest = max(self.slowest, (took, name))

    def officially[R](self, name: str, action: Callable[[], R]) -> R:
        """Has the official library change the repository.

        It honours no lock on a local directory, and would lose what others do at the same moment, so it gets
        icefs's.
        """

        def locked() -> R:
            with Beneath(self.task.repository) as files, exclusive(files, timeout_s=30):
                return action()

        return self.step(name, locked)

    # Paths.

    def at(self, area: Area, path: str = "") -> str:
        self.place = f"{area.branch}/{path}"
        return os.path.normpath(f"{self.root}/branches/{area.branch}/{area.top}/{path}")

    def tree(self, branch: str) -> str:
        return f"{self.root}/branches/{branch}"

    def control(self, branch: str, name: str) -> Any:
        return json.loads(Path(self.tree(branch), ".icefs", name).read_text())

    def rpc(self, branch: str, **request: Any) -> dict[str, Any]:
        self.place = branch
        fd = os.open(f"{self.tree(branch)}/.icefs/rpc", os.O_RDWR)
        try:
            os.write(fd, json.dumps(request).encode())
            parts = []
            while part := os.read(fd, 1 << 16):
                parts.append(part)
        finally:
            os.close(fd)
        answer: dict[str, Any] = json.loads(b"".join(parts).splitlines()[-1])
        return answer

    # A day's work.

    def prepare(self) -> None:
        for area in (self.shared, self.own):
            if area.top:
                self.write(area, "zarr.json", GROUP)
            for name in ARRAYS:
                self.write(area, f"{name}/zarr.json", ARRAY)
        self.known.committed = {"zarr.json": GROUP}
        self.own.files["zarr.json"] = GROUP

    def run(self, operations: int) -> None:
        """Works until so many operations are done."""
        goal = self.done + operations
        daily: list[Callable[[Area], None]] = [
            *[self.write_chunk] * 8, *[self.write_by_rename] * 4, *[self.read_chunk] * 12, *[self.stat_missing] * 4,
            *[self.list_one] * 4, *[self.remove_chunk] * 3, self.write_by_link, self.append, self.truncate,
            self.map_and_read, self.unlink_open, self.untracked, self.rename_array, self.remove_array, self.attributes,
        ]  # fmt: skip
        seldom: list[Callable[[], None]] = [
            self.poll_status, self.poll_status, self.look_back, self.look_back, self.commit_shared, self.commit_own,
            self.commit_own, self.discard, self.others_commit, self.reset, self.branches_come_and_go, self.refresh,
            self.meet_conflict,
        ]  # fmt: skip
        while self.done < goal:
            for _ in range(40):
                area = self.shared if self.random.random() < 0.6 else self.own
                self.random.choice(daily)(area)
            self.random.choice(seldom)()

    def chunk(self) -> str:
        return f"{self.random.choice(ARRAYS)}/c/{self.random.randrange(GRID)}/{self.random.randrange(GRID)}"

    def data(self) -> bytes:
        return self.random.randbytes(self.random.choice(_SIZES))

    def write(self, area: Area, path: str, data: bytes) -> None:
        target = self.at(area, path)
        self.step("mkdir", lambda: os.makedirs(os.path.dirname(target), exist_ok=True))

        def write() -> str:
            fd = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)
            try:
                os.write(fd, data)
                if self.random.random() < 0.02:
                    os.fsync(fd)
                return f"{len(data)} bytes, inode {os.fstat(fd).st_ino}"
            finally:
                os.close(fd)

        self.step("write", write)
        area.files[path] = data

    def has_array(self, area: Area, path: str) -> bool:
        return f"{path.partition('/')[0]}/zarr.json" in area.files

    def write_chunk(self, area: Area) -> None:
        path = self.chunk()
        if not self.has_array(area, path):
            self.write(area, f"{path.partition('/')[0]}/zarr.json", ARRAY)
        self.write(area, path, self.data())

    def write_by_rename(self, area: Area) -> None:
        path = self.chunk()
        if not self.has_array(area, path):
            return
        self.write(area, f"{path}.partial", self.data())
        self.step("rename", lambda: os.rename(self.at(area, f"{path}.partial"), self.at(area, path)))
        area.files[path] = area.files.pop(f"{path}.partial")

    def write_by_link(self, area: Area) -> None:
        path = self.chunk()
        if not self.has_array(area, path) or path in area.files:
            return
        self.write(area, f"{path}.partial", self.data())
        self.step("link", lambda: os.link(self.at(area, f"{path}.partial"), self.at(area, path)))
        self.step("unlink", lambda: os.unlink(self.at(area, f"{path}.partial")))
        area.files[path] = area.files.pop(f"{path}.partial")

    def some(self, area: Area) -> str | None:
        chunks = [path for path in area.files if "/c/" in path]
        return self.random.choice(chunks) if chunks else None

    def read_chunk(self, area: Area) -> None:
        path = self.some(area)
        if path is not None:
            found = self.step("read", lambda: Path(self.at(area, path)).read_bytes())
            assert found == area.files[path], self.explain(area, path, found)
            told = self.step("stat", lambda: os.stat(self.at(area, path)))
            assert told.st_size == len(found), path
            self.trail[-1] += f": inode {told.st_ino}"

    def explain(self, area: Area, path: str, found: bytes) -> str:
        """Describes the bytes that were found instead of those written, and the bytes that are found now."""
        place = self.at(area, path)
        known = {"now": area.files}
        if area.is_own:
            known |= {"committed": self.known.committed, **self.known.old}
        same = [f"{other} ({when})" for when, files in known.items() for other, data in files.items() if data == found]
        again = Path(place).read_bytes() if os.path.lexists(place) else b""
        return (
            f"{place}: {len(found)} bytes where {len(area.files[path])} were written; these are of {same[:5]};"
            f" inode {os.stat(place).st_ino if again else 0}; read again: {len(again)} bytes,"
            f" {'the right ones' if again == area.files[path] else 'wrong'}"
        )

    def stat_missing(self, area: Area) -> None:
        path = self.chunk()
        is_there = self.step("stat", lambda: os.path.lexists(self.at(area, path)))
        assert is_there == (path in area.files), path

    def list_one(self, area: Area) -> None:
        name = self.random.choice(ARRAYS)
        expected = {rest.split("/")[0] for path in area.files if (rest := path.removeprefix(f"{name}/")) != path}
        where = self.at(area, name)
        try:
            found = self.step("readdir", lambda: os.listdir(where))
        except FileNotFoundError:
            found = []
        # A directory without files may stay, where a plain one would.
        assert expected <= set(found) <= expected | {"c"}, (where, found, expected)

    def remove_chunk(self, area: Area) -> None:
        path = self.some(area)
        if path is not None:
            self.step("unlink", lambda: os.unlink(self.at(area, path)))
            del area.files[path]

    def append(self, area: Area) -> None:
        path = self.some(area)
        if path is not None and len(area.files[path]) < 50_000:
            more = self.data()

            def append() -> str:
                with open(self.at(area, path), "ab") as file:
                    file.write(more)
                    return f"{len(more)} bytes, inode {os.fstat(file.fileno()).st_ino}"

            self.step("append", append)
            area.files[path] += more

    def truncate(self, area: Area) -> None:
        path = self.some(area)
        if path is not None:
            size = self.random.randrange(1, len(area.files[path]) + 100)
            self.step("truncate", lambda: os.truncate(self.at(area, path), size))
            area.files[path] = area.files[path][:size].ljust(size, b"\0")

    def map_and_read(self, area: Area) -> None:
        path = self.some(area)
        if path is not None:

            def read() -> bytes:
                with (
                    open(self.at(area, path), "rb") as file,
                    mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as mapped,
                ):
                    return mapped[:]

            found = self.step("mmap", read)
            assert found == area.files[path], self.explain(area, path, found)

    def unlink_open(self, area: Area) -> None:
        path = self.some(area)
        if path is not None:

            def read() -> bytes:
                with open(self.at(area, path), "rb") as file:
                    os.unlink(self.at(area, path))
                    return file.read()

            found = self.step("unlink open", read)
            assert found == area.files[path], self.explain(area, path, found)
            del area.files[path]

    def untracked(self, area: Area) -> None:
        """Writes what is no Zarr key, and removes it."""
        self.write(area, "notes/today.txt", self.data())
        self.step("unlink", lambda: os.unlink(self.at(area, "notes/today.txt")))
        self.step("rmdir", lambda: os.rmdir(self.at(area, "notes")))
        del area.files["notes/today.txt"]

    def rename_array(self, area: Area) -> None:
        source, target = self.random.sample(ARRAYS, 2)
        if f"{source}/zarr.json" in area.files and not os.path.lexists(self.at(area, target)):
            self.step("rename tree", lambda: os.rename(self.at(area, source), self.at(area, target)))
            for path in [path for path in area.files if path.startswith(f"{source}/")]:
                area.files[target + path.removeprefix(source)] = area.files.pop(path)

    def remove_array(self, area: Area) -> None:
        if self.random.random() > 0.2:
            return
        name = self.random.choice(ARRAYS)
        for above, _, names in os.walk(self.at(area, name), topdown=False):
            for one in names:
                self.step("unlink", lambda above=above, one=one: os.unlink(f"{above}/{one}"))
            self.step("rmdir", lambda above=above: os.rmdir(above))
        for path in [path for path in area.files if path.startswith(f"{name}/")]:
            del area.files[path]

    def attributes(self, area: Area) -> None:
        path = self.some(area)
        if path is not None:
            target = self.at(area, path)
            self.step("utimens", lambda: os.utime(target, ns=(10**18, 10**18 + self.random.randrange(10**9))))
            self.step("chmod", lambda: os.chmod(target, 0o640))
            self.step("listxattr", lambda: os.listxattr(target))
            self.step("statfs", lambda: os.statvfs(target))

    # Once in a while.

    def poll_status(self) -> None:
        for name in ("status.json", "diff.json", "log.json"):
            self.step(name, lambda name=name: self.control(self.random.choice(["main", self.own.branch]), name))
        for name in ("stats.json", "metrics", "info.json"):
            self.step(name, lambda name=name: Path(self.root, ".icefs", name).read_bytes())

    def refresh(self) -> None:
        answer = self.step("refresh", lambda: self.rpc(self.own.branch, op="refresh"))
        assert answer["type"] == "result", answer

    def commit_shared(self) -> None:
        answer = self.step("commit", lambda: self.rpc("main", op="commit", message="shared", skip_invalid=True))
        kinds = {"no-changes-to-commit", "commit-not-allowed"}  # another client commits, or just did
        assert answer["type"] == "result" or answer["kind"] in kinds, answer

    def valid(self) -> dict[str, bytes]:
        """Returns what a commit takes of the client's own branch."""
        files = self.own.files
        return {
            path: data for path, data in files.items() if path.endswith("zarr.json") or self.has_array(self.own, path)
        }

    def commit_own(self) -> None:
        request = {"op": "commit", "message": f"day {self.done}", "skip_invalid": True}
        if self.known.theirs is not None:
            if self.random.random() < 0.5:
                answer = self.step("rebase", lambda: self.rpc(self.own.branch, op="rebase", how="fail"))
                assert answer["type"] == "result", answer
                self.rebased()
            else:
                request["rebase"] = "fail"
        answer = self.step("commit", lambda: self.rpc(self.own.branch, **request))
        if answer["type"] == "error":
            assert answer["kind"] == "no-changes-to-commit", answer
            return
        if self.known.theirs is not None:
            self.rebased()
        self.known.committed = self.valid()
        self.remember(answer["snapshot"])

    def rebased(self) -> None:
        theirs = self.known.theirs
        assert theirs is not None
        self.own.files.update(theirs)
        self.known.committed |= theirs
        self.known.theirs = None

    def remember(self, snapshot: str) -> None:
        self.known.old[snapshot] = dict(self.known.committed)
        if len(self.known.old) > 20:
            self.known.old.pop(next(iter(self.known.old)))

    def look_back(self) -> None:
        """Reads a file of an old snapshot."""
        if self.known.old:
            snapshot, files = self.random.choice(list(self.known.old.items()))
            path, data = self.random.choice(list(files.items()))
            found = self.step("look back", lambda: Path(self.root, "snapshots", snapshot, path).read_bytes())
            assert found == data, (snapshot, path)

    def discard(self) -> None:
        """Drops everything that is not committed in the client's own branch."""
        if self.known.theirs is not None:
            return  # then the tree would follow the others' commit
        answer = self.step("discard", lambda: self.rpc(self.own.branch, op="discard"))
        assert answer["type"] == "result", answer
        self.own.files.clear()
        self.own.files.update(self.known.committed)

    def others_commit(self) -> None:
        """Somebody else commits to the client's branch, where the client does not work."""
        if self.known.theirs is not None:
            return
        self.others += 1
        items = {"others/zarr.json": GROUP + b" " * (self.others % 50)}

        def commit() -> None:
            session = self.official.writable_session(self.own.branch)
            put_all(session.store, items)
            session.commit(f"theirs {self.others}")

        self.officially("others", commit)
        self.refresh()
        # Is it clean? Then it has followed.
        found = self.step("status.json", lambda: self.control(self.own.branch, "status.json"))
        self.known.theirs = items
        if not found["tip_moved"]:
            self.rebased()

    def meet_conflict(self) -> None:
        """Commits what others changed, too: refused, until a side is chosen."""
        if self.known.theirs is not None or "others/zarr.json" not in self.known.committed:
            return
        self.write(self.own, "others/zarr.json", GROUP + b"\n" * self.random.randrange(1, 50))
        mine = self.own.files["others/zarr.json"]
        self.others_commit()
        assert self.known.theirs is not None
        request = {"op": "commit", "message": "conflict", "skip_invalid": True}
        answer = self.step("commit", lambda: self.rpc(self.own.branch, **request))
        assert answer["kind"] == "commit-conflict", answer
        if self.random.random() < 0.5:
            answer = self.step("discard", lambda: self.rpc(self.own.branch, op="discard", path="others"))
            assert answer["type"] == "result", answer
            self.own.files["others/zarr.json"] = self.known.committed["others/zarr.json"]
            return
        answer = self.step("rebase", lambda: self.rpc(self.own.branch, op="rebase", how="fail"))
        assert answer["kind"] == "rebase-failed", answer
        answer = self.step("rebase", lambda: self.rpc(self.own.branch, op="rebase", how="ours"))
        if answer["type"] == "error":  # of metadata there is no side to choose
            assert answer["kind"] == "rebase-failed", answer
            answer = self.step("discard", lambda: self.rpc(self.own.branch, op="discard", path="others"))
            self.own.files["others/zarr.json"] = self.known.committed["others/zarr.json"]
        else:
            self.rebased()
            self.own.files["others/zarr.json"] = mine

    def reset(self) -> None:
        """Somebody else resets the client's branch, which has no changes, to an older snapshot."""
        if self.known.theirs is not None or not self.known.old:
            return
        self.discard()
        snapshot, files = self.random.choice(list(self.known.old.items()))
        self.officially("reset", lambda: self.official.reset_branch(self.own.branch, snapshot))
        # A file that was just closed is perhaps not released yet, which keeps the tree where it is for a moment.
        for _ in range(1000):
            self.refresh()
            head = self.step("readlink", lambda: os.readlink(f"{self.tree(self.own.branch)}/.icefs/head"))
            if head.endswith(snapshot):
                break
        else:
            raise AssertionError(f"{self.own.branch} does not follow to {snapshot}")
        self.known.committed = dict(files)
        self.own.files.clear()
        self.own.files.update(files)

    def branches_come_and_go(self) -> None:
        """A branch and a tag are made, written to, and deleted by others."""
        self.refs += 1
        name = f"short{self.task.number}-{self.refs}"
        tip = self.official.lookup_branch(self.own.branch)
        self.officially("new branch", lambda: self.official.create_branch(name, tip))
        self.officially("new tag", lambda: self.official.create_tag(name, tip))
        self.refresh()
        self.step("write", lambda: Path(self.tree(name), "draft.txt").write_bytes(b"a draft"))
        found = self.step("read", lambda: Path(self.root, "tags", name, "zarr.json").read_bytes())
        assert found == GROUP
        answer = self.step("discard", lambda: self.rpc(name, op="discard"))
        assert answer["type"] == "result", answer
        self.officially("delete branch", lambda: self.official.delete_branch(name))
        self.officially("delete tag", lambda: self.official.delete_tag(name))
        self.refresh()
        assert not os.path.lexists(self.tree(name)), name

    # The end.

    def check_all(self) -> None:
        """Compares every file with the model."""
        for area in (self.shared, self.own):
            found = dict(walk(self.at(area)))
            assert found.keys() == area.files.keys(), (area.branch, found.keys() ^ area.files.keys())
            wrong = [path for path, data in area.files.items() if found[path] != data]
            assert not wrong, wrong


def told(result: Any) -> str:
    """Returns what an operation told, for the trail."""
    if isinstance(result, bytes):
        return f": {len(result)} bytes"
    if isinstance(result, dict) and "type" in result:
        return ": " + json.dumps({name: value for name, value in result.items() if name != "paths"})
    return f": {result}" if isinstance(result, str | bool) else ""


def walk(top: str) -> Iterator[tuple[str, bytes]]:
    """Yields every file below a directory, by path."""
    for above, _, names in os.walk(top):
        for name in names:
            path = os.path.join(above, name)
            yield os.path.relpath(path, top), Path(path).read_bytes()


def main() -> None:
    """Is the client: warms up, waits for a word, works, and says what it left."""
    client = Client(Task(**json.loads(sys.argv[1])))
    client.prepare()
    client.run(client.task.warmup)
    print("warm", flush=True)
    sys.stdin.readline()
    try:
        client.run(client.task.operations)
    except BaseException:
        print(*client.trail, sep="\n", file=sys.stderr)
        raise
    while client.known.theirs is not None:
        client.commit_own()
    client.commit_own()
    client.check_all()
    print(
        json.dumps(
            {
                "operations": client.done,
                "told": client.told,
                "slowest": client.slowest,
                "shared": {path: data.hex() for path, data in client.shared.files.items()},
                "own": {path: data.hex() for path, data in client.own.files.items()},
            }
        ),
        flush=True,
    )


if __name__ == "__main__":
    main()
