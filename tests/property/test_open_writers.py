"""Commits while programs write: a file is committed whole or not at all, whatever its writer is in the middle of.

A few writers open, fill, append to, rename, replace and remove files of every kind (zarr.json, chunks of the base, new
chunks, chunks of arrays that are made or moved meanwhile, files that are no keys), and commits come in between. After
each of them

1.  the tree shows what it showed before;
2.  at each path the snapshot has what it had before, or what a writer finished;
3.  what nobody writes to, and what depends on no such file, is committed;
4.  what was left out because of a writer is named, and fails nothing.

When all writers have closed their files, the next commit takes all of it.
"""

import json
import os
import tempfile
import threading
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

from hypothesis import example, given
from hypothesis import strategies as st

from icefs.errors import NothingToCommitError
from icefs.paths import ancestors
from icefs.storage.memory import MemoryStorage
from icefs.zarr.keys import is_zarr_key
from tests.support.staging_bench import PERM, Bench, group

CHUNK_BYTES = 8
NUMBERS = count(1)


def array() -> bytes:
    """An array of four chunks of a size of their own, another one each time."""
    document = {
        "zarr_format": 3,
        "node_type": "array",
        "shape": [4 * CHUNK_BYTES],
        "data_type": "uint8",
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [CHUNK_BYTES]}},
        "chunk_key_encoding": {"name": "default"},
        "fill_value": 0,
        "codecs": [{"name": "bytes"}],
        "attributes": {"n": next(NUMBERS)},
    }
    return json.dumps(document).encode()


def whole(path: str) -> bytes:
    """Returns something that a writer may leave at a path, never the same."""
    if path.endswith("zarr.json"):
        return json.dumps(json.loads(group()) | {"n": next(NUMBERS)}).encode() if path in GROUPS else array()
    return next(NUMBERS).to_bytes(CHUNK_BYTES, "little")


GROUPS = ["zarr.json", "g/zarr.json"]
ARRAYS = ["a/zarr.json", "g/b/zarr.json", "n/zarr.json", "m/zarr.json"]
CHUNKS = [f"{above}/c/{i}" for above in ("a", "g/b", "n", "m") for i in (0, 1, 3)]
OTHERS = ["a/notes.txt", "n/.partial", "readme"]
BASE = [*GROUPS, "a/zarr.json", "g/b/zarr.json", "a/c/0", "a/c/1", "g/b/c/0"]
KINDS = [GROUPS, ARRAYS, CHUNKS, OTHERS]
PATHS = [path for kind in KINDS for path in kind]
TREES = ["a", "g/b", "n", "m", "a/c", "n/c", "g"]

writers = st.integers(0, 2)
CHANGES = st.one_of(
    st.tuples(st.just("truncate"), writers, st.sampled_from(PATHS)),
    st.tuples(st.just("open"), writers, st.sampled_from(PATHS)),
    st.tuples(st.just("write"), writers),
    st.tuples(st.just("append"), writers),
    st.tuples(st.just("cut"), writers),
    st.tuples(st.just("finish"), writers),
    st.tuples(st.just("close"), writers),
    st.tuples(st.just("close slowly"), writers),
    st.tuples(st.just("rename"), writers, st.integers(0, 20)),
    st.tuples(st.just("unlink"), writers),
    st.tuples(st.just("put"), st.just(0), st.sampled_from(PATHS)),
    st.tuples(st.just("put array"), st.just(0), st.sampled_from(["a", "g/b", "n", "m"])),
    st.tuples(st.just("remove"), st.just(0), st.sampled_from(TREES)),
    st.tuples(st.just("move"), st.just(0), st.sampled_from(TREES), st.sampled_from(TREES)),
)
COMMITS = st.tuples(st.just("commit"), st.just(0), st.sampled_from(["", "include_open", "amend", "rebase"]))
STEPS = st.one_of(CHANGES, COMMITS)


@dataclass
class Writer:
    """A program with one open file.

    Attributes:
        handle: Its handle.
        ino: The file.
        kind: Paths of files that may hold the same.
        is_dirty: Whether it has changed the file since it was opened, so that nobody knows whether it is done.
        needs_end: Whether the file is not one of those that a writer may leave.
    """

    handle: int
    ino: int
    kind: list[str]
    is_dirty: bool
    needs_end: bool


class Writers:
    """A working tree, and the programs that write to it."""

    def __init__(self, directory: Path) -> None:
        self.bench = Bench(directory, MemoryStorage())
        self.bench.write_all({path: whole(path) for path in BASE})
        self.bench.commit("first")
        self.open: dict[int, Writer] = {}
        self.closing: list[tuple[threading.Timer, threading.Event, bool]] = []
        self.moved = False

    def do(self, step: tuple[Any, ...]) -> None:
        what, number, *rest = step
        if what == "commit":
            self.commit(*rest)
        elif what in ("truncate", "open"):
            self.begin(number, *rest, truncates=what == "truncate")
        elif what in ("put", "put array", "remove", "move"):
            getattr(self, what.replace(" ", "_"))(*rest)
        elif number in self.open:
            getattr(self, what.replace(" ", "_"))(self.open[number], *rest)
            if what.startswith("close"):
                del self.open[number]
        self.bench.work.check_invariants()

    # Programs.

    def begin(self, number: int, path: str, *, truncates: bool) -> None:
        if number in self.open or any(self.path(one) == path for one in self.open.values()):
            return
        above = path.rpartition("/")[0]
        if not self.can_make(above):
            return
        if above:
            self.bench.mkdir(above)
        there = self.bench.work.entries.find(path) is not None
        flags = os.O_RDWR | os.O_CREAT | (os.O_TRUNC if truncates else 0)
        entry, handle = self.bench.work.names.create(*self.bench._split(path), PERM, flags)
        kind = next(kind for kind in KINDS if path in kind)
        is_dirty = truncates or not there
        self.open[number] = Writer(handle, entry.attr.ino, kind, is_dirty, is_dirty)

    def can_make(self, directory: str) -> bool:
        while directory:
            where = self.bench.work.entries.find(directory)
            if where is not None and not self.bench.work.entries.attr(where).is_dir:
                return False
            directory = directory.rpartition("/")[0]
        return True

    def path(self, writer: Writer) -> str | None:
        attr = self.bench.work.files.getattr(writer.handle)
        return self.bench.work.entries.path_of(attr.ino) if attr.nlink else None

    def size(self, writer: Writer) -> int:
        return self.bench.work.files.getattr(writer.handle).size

    def write(self, writer: Writer) -> None:
        self.bench.work.files.write(writer.handle, 0, b"torn")
        writer.is_dirty = writer.needs_end = True

    def append(self, writer: Writer) -> None:
        self.bench.work.files.write(writer.handle, self.size(writer), b"more")
        writer.is_dirty = writer.needs_end = True

    def cut(self, writer: Writer) -> None:
        self.bench.work.files.truncate(writer.handle, 3)
        writer.is_dirty = writer.needs_end = True

    def finish(self, writer: Writer) -> None:
        data = whole(self.path(writer) or writer.kind[0])
        self.bench.work.files.truncate(writer.handle, 0)
        self.bench.work.files.write(writer.handle, 0, data)
        writer.is_dirty, writer.needs_end = True, False

    def close(self, writer: Writer) -> None:
        if writer.needs_end:
            self.finish(writer)
        self.bench.work.files.flush(writer.handle)
        self.bench.work.files.release(writer.handle)

    def close_slowly(self, writer: Writer) -> None:
        """Closes a file as the kernel tells it: the release comes when `close` has long returned."""
        if writer.needs_end:
            self.finish(writer)
        self.bench.work.files.flush(writer.handle)
        fired = threading.Event()

        def release() -> None:
            fired.set()  # before: a commit that waits for the release may end while this thread still runs
            self.bench.work.files.release(writer.handle)

        timer = threading.Timer(0.02, release)
        timer.start()
        self.closing.append((timer, fired, writer.is_dirty))

    def rename(self, writer: Writer, choice: int) -> None:
        path = self.path(writer)
        target = writer.kind[choice % len(writer.kind)]
        if path in (None, target) or any(self.path(one) == target for one in self.open.values()):
            return
        above = target.rpartition("/")[0]
        if self.can_make(above):
            if above:
                self.bench.mkdir(above)
            self.bench.rename(str(path), target)

    def unlink(self, writer: Writer) -> None:
        path = self.path(writer)
        if path is not None:
            self.bench.remove(path)

    # Programs that write and close at once.

    def put(self, path: str) -> None:
        above = path.rpartition("/")[0]
        if self.can_make(above) and not any(self.path(one) == path for one in self.open.values()):
            self.bench.write(path, whole(path))

    def put_array(self, path: str) -> None:
        """Writes an array as Zarr does: whatever is there is removed before."""
        self.remove(path)
        for name in ("zarr.json", "c/0", "c/1"):
            self.put(f"{path}/{name}")

    def remove(self, path: str) -> None:
        if self.bench.work.entries.find(path) is not None:
            self.bench.remove(path)
            self.moved = True

    def move(self, old: str, new: str) -> None:
        work = self.bench.work
        if (
            old.startswith(new)
            or new.startswith(old)
            or work.entries.find(old) is None
            or work.entries.find(new) is not None
        ):
            return
        above = new.rpartition("/")[0]
        if self.can_make(above):
            if above:
                self.bench.mkdir(above)
            self.bench.rename(old, new)
            self.moved = True

    # Commits.

    def tree(self) -> dict[str, bytes]:
        return {path: data for path, data in self.bench.tree().items() if not path.startswith("theirs/")}

    def committed(self) -> dict[str, bytes]:
        return {path: data for path, data in self.bench.committed().items() if not path.startswith("theirs/")}

    def commit(self, how: str) -> None:
        bench = self.bench
        dirty = {path for one in self.open.values() if one.is_dirty and (path := self.path(one)) is not None}
        keys = {path for path in dirty if is_zarr_key(path)}
        tree, before, ids = self.tree(), self.committed(), bench.ids()
        options: dict[str, Any] = {"skip_invalid": True}
        if how == "rebase":
            bench.theirs({"theirs/zarr.json": whole("a/zarr.json"), "theirs/c/0": whole("theirs/c/0")})
            options["rebase"] = "fail"
        elif how:
            options[how] = True
        try:
            facts = bench.commit(**options).facts
        except NothingToCommitError as error:
            invalid_files = [{"path": path} for path, _ in error.facts.get("invalid", [])]
            facts = {"open": error.facts.get("open", []), "invalid": invalid_files}
            if how == "rebase":
                bench.rebase("fail")
        after = self.committed()
        assert self.tree() == tree
        if how != "include_open":  # all that is staged now was left out
            told = {one["path"] for one in facts["open"]}  # of a renamed directory in one piece
            assert all(told & {one.path, *ancestors(one.path)} for one in bench.staged().open)
        changed = [fired for _, fired, is_dirty in self.closing if is_dirty]
        assert all(fired.is_set() for fired in changed), "a commit waits for the release of a changed file"
        left = set() if how == "include_open" else keys
        named = {one["path"] for one in facts["open"]}
        invalid = {one["path"] for one in facts["invalid"]}
        assert left <= named | {path for path in left if before.get(path) == tree[path]}
        stays = named | invalid
        assert not invalid & left
        assert how != "include_open" or not named
        held = {path.removesuffix("zarr.json") for path in left if path.endswith("zarr.json")}
        for path in before.keys() | tree.keys() | after.keys():
            was, now, got = before.get(path), tree.get(path), after.get(path)
            if path not in tree and not is_zarr_key(path):
                continue
            waits = any(path.startswith(above) for above in held if above in named_above(named, above))
            if path in left:
                array_of = "/" + path.partition("/c/")[0]
                is_remade = ids.get(array_of) != bench.ids().get(array_of)
                assert got == was or (got is None and is_remade), path
            elif not is_zarr_key(path):
                assert got is None, path
            elif path in stays or (held and now is None):
                assert got in (was, None), path
            elif any(path.startswith(f"{one}/") for one in stays):
                assert got in (was, None, now), path  # an array may lie in a renamed directory of chunks that has none
            elif waits:
                assert got in (was, now), path
            else:
                assert got == now, path

    def commit_meanwhile(self, how: str, steps: list[tuple[Any, ...]]) -> None:
        """Commits, while programs go on after the tree was frozen; the tree then shows what they left."""
        shown = self.tree()

        def go_on() -> None:
            nonlocal shown
            for step in steps:
                self.do(step)
            shown = self.tree()

        if how == "rebase":
            self.bench.theirs({"theirs/zarr.json": whole("a/zarr.json"), "theirs/c/0": whole("theirs/c/0")})
        options: dict[str, Any] = {"rebase": "fail"} if how == "rebase" else {how: True} if how else {}
        try:
            self.bench.commit(skip_invalid=True, before_publish=go_on, **options)
        except NothingToCommitError:
            if how == "rebase":
                self.bench.rebase("fail")
        assert self.tree() == shown

    def end(self) -> None:
        for number in list(self.open):
            self.close(self.open.pop(number))
        for timer, *_ in self.closing:
            timer.join()
        tree, before = self.tree(), self.committed()
        try:
            facts = self.bench.commit(skip_invalid=True).facts
            named, invalid = facts["open"], {one["path"] for one in facts["invalid"]}
        except NothingToCommitError as error:
            named, invalid = error.facts.get("open", []), {path for path, _ in error.facts.get("invalid", [])}
        assert not named
        assert self.tree() == tree
        after = self.committed()
        # An array whose zarr.json went away without its chunks stays, and is named.
        stays = {path: before[path] for path in invalid if path.endswith("zarr.json") and path not in tree}
        assert all(any(is_stray(path, tree) for path in tree if path.startswith(above(one))) for one in stays)
        stray = {path for path in tree if not is_zarr_key(path) or is_stray(path, tree)}
        keys = {path: data for path, data in tree.items() if path not in stray}
        assert {path: data for path, data in after.items() if path not in stray} == keys | stays


def named_above(named: set[str], above: str) -> set[str]:
    return {above} if f"{above}zarr.json" in named else set()


def above(path: str) -> str:
    return path.removesuffix("zarr.json")


def is_stray(path: str, tree: dict[str, bytes]) -> bool:
    """Tells whether a file is named as a chunk and has no array."""
    above, _, _ = path.rpartition("/c/")
    return "zarr.json" not in path and f"{above}/zarr.json" not in tree


@example(steps=[("move", 0, "a/c", "n"), ("move", 0, "a", "n/c")])
@example(steps=[("open", 0, "a/zarr.json"), ("rename", 0, 1), ("close", 0)])
@example(steps=[("open", 0, "g/b/c/0"), ("close slowly", 0), ("put", 0, "a/c/0"), ("commit", 0, "")])
@given(st.lists(STEPS, min_size=3, max_size=16))
def test_commits_take_files_whole_or_not_at_all(steps: list[tuple[Any, ...]]) -> None:
    with tempfile.TemporaryDirectory() as directory:
        writers = Writers(Path(directory) / "tree")
        try:
            for step in steps:
                writers.do(step)
            writers.do(("commit", 0, ""))
            writers.end()
        finally:
            for timer, *_ in writers.closing:
                timer.join()
            writers.bench.work.close()


@example(
    steps=[("remove", 0, "a"), ("truncate", 0, "a/zarr.json"), ("put", 0, "g/b/c/1")],
    meanwhile=[("close", 0), ("put", 0, "a/c/3")],
    how="",
)
@example(
    steps=[("remove", 0, "a"), ("truncate", 0, "a/zarr.json"), ("put", 0, "g/b/c/1")],
    meanwhile=[("close", 0), ("remove", 0, "a"), ("put array", 0, "a")],
    how="rebase",
)
@given(
    steps=st.lists(CHANGES, min_size=1, max_size=10),
    meanwhile=st.lists(CHANGES, min_size=1, max_size=8),
    how=st.sampled_from(["", "include_open", "amend", "rebase"]),
)
def test_a_commit_changes_nothing_of_what_programs_do_meanwhile(
    steps: list[tuple[Any, ...]], meanwhile: list[tuple[Any, ...]], how: str
) -> None:
    with tempfile.TemporaryDirectory() as directory:
        writers = Writers(Path(directory) / "tree")
        try:
            for step in steps:
                writers.do(step)
            writers.commit_meanwhile(how, meanwhile)
            writers.do(("commit", 0, ""))
            writers.end()
        finally:
            for timer, *_ in writers.closing:
                timer.join()
            writers.bench.work.close()
