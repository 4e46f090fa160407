"""A working tree over a repository, without a kernel: files are written, renamed, committed and read back."""

import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from icefs.engine.read.session import Session
from icefs.engine.write.repository import WritableRepository
from icefs.format.ids import SnapshotId
from icefs.inode import Invalidations
from icefs.storage.base import Storage
from icefs.vfs.branches.session_base import Guarded, SessionBase
from icefs.vfs.commit.committer import Committer
from icefs.vfs.commit.rebaser import rebase_tree
from icefs.vfs.commit.request import CommitRequest, Committed
from icefs.vfs.inodes.table import InodeSpace
from icefs.vfs.inodes.tree_inodes import TreeInodes
from icefs.vfs.trees.advance import Advanced
from icefs.vfs.trees.finder import open_session
from icefs.worktree.base import BaseAttr
from icefs.worktree.model.nodes import Perm
from icefs.worktree.stage.staged import Staged
from icefs.worktree.stage.stager import stage
from icefs.worktree.tree import TreeOptions, WorkTree
from icefs.worktree.upload.options import UploadOptions
from icefs.zarr.reader import KeyReader
from icefs.zarr.writer import KeyWriter, MetadataTarget

PERM = Perm(0o644, 0, 0)
NO_TREE: Any = SimpleNamespace()


def group() -> bytes:
    """Returns the `zarr.json` of a group."""
    return json.dumps({"zarr_format": 3, "node_type": "group", "attributes": {}}).encode()


def array(shape: tuple[int, ...], chunks: tuple[int, ...], *, encoding: str = "default", separator: str = "/") -> bytes:
    """Returns the `zarr.json` of an array of bytes with a shape, a chunk shape and a chunk key encoding."""
    return json.dumps(
        {
            "zarr_format": 3,
            "node_type": "array",
            "shape": shape,
            "data_type": "uint8",
            "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": chunks}},
            "chunk_key_encoding": {"name": encoding, "configuration": {"separator": separator}},
            "fill_value": 0,
            # What this one makes of a chunk may have any size.
            "codecs": [{"name": "bytes"}, {"name": "numcodecs.zlib", "configuration": {"level": 1}}],
            "attributes": {},
        }
    ).encode()


class NumberedBase(SessionBase):
    """Gives each path a number of its own."""

    def __init__(self, numbers: dict[str, int], session: Session) -> None:
        super().__init__(SimpleNamespace(session=None), Guarded(), session)  # type: ignore[arg-type]
        self._numbers = numbers

    def stat(self, path: str) -> BaseAttr | None:
        attr = super().stat(path)
        return None if attr is None else self._numbered(path, attr)

    def stat_many(self, paths: Sequence[str]) -> list[BaseAttr | None]:
        found = zip(paths, super().stat_many(paths), strict=True)
        return [None if attr is None else self._numbered(path, attr) for path, attr in found]

    def _numbered(self, path: str, attr: BaseAttr) -> BaseAttr:
        return attr._replace(ino=self._numbers.setdefault(path, len(self._numbers) + 1), mtime_ns=1)

    def list(self, path: str) -> Any:
        for name, attr in super().list(path):
            yield name, self._numbered(f"{path}/{name}" if path else name, attr)


class Bench:
    """A branch's working tree and what commits it."""

    def __init__(self, directory: Path, storage: Storage, *, spec_version: int = 2, **tree_options: Any) -> None:
        self._tree_options = tree_options
        self.repository = WritableRepository.create(storage, spec_version=spec_version)
        self.name = "main"
        self.label = "main"
        self.settings = SimpleNamespace(repository=self.repository, uploads=UploadOptions())
        tip = self.repository.lookup_branch("main")
        self.inodes = TreeInodes(InodeSpace(), NO_TREE, None, tip, 0, is_root=False, may_grow=True)
        self.inodes_lock = Guarded().lock
        self._numbers: dict[str, int] = {}
        self._next = 1 << 40
        self._directory = directory
        self.open()

    def open(self) -> None:
        self.work = WorkTree(
            self._directory,
            TreeOptions(
                base_for=lambda snapshot_id: NumberedBase(self._numbers, self.open_base(snapshot_id)),
                allocate_ino=self._allocate,
                repository="bench",
                branch="main",
                base=str(self.repository.lookup_branch("main")),
                file=PERM,
                directory=PERM,
                **self._tree_options,
            ),
        )

    def open_base(self, snapshot_id: str) -> Session:
        return open_session(self.repository, SnapshotId.parse(snapshot_id))

    def _allocate(self) -> int:
        self._next += 1
        return self._next

    # What `committing` asks of a branch.

    @property
    def next_number(self) -> int:
        return self._next

    @property
    def session(self) -> Session:
        return self.open_base(self.work.base)

    def advance(self, advance: Any, open_inos: Any, renaming: Any = None) -> Advanced:
        return Advanced(Invalidations())

    def commit(
        self, message: str = "a commit", *, before_publish: Callable[[], None] = lambda: None, **options: Any
    ) -> Committed:
        ignore: Any = lambda _: None  # noqa: E731
        committer = Committer(self, self.work, self.repository, UploadOptions(), (), ignore)  # type: ignore[arg-type]
        done = committer.commit(CommitRequest(message, **options), ignore, before_publish)
        self.work.check_invariants()
        return done

    def translated(self, changed: Invalidations) -> Invalidations:
        return changed

    def rebase(self, how: str) -> SnapshotId:
        rebased = rebase_tree(self, self.work, self.repository, how, (), lambda _: None)  # type: ignore[arg-type]
        self.work.check_invariants()
        return rebased.tip

    def theirs(self, changes: Mapping[str, bytes | None], message: str = "theirs") -> None:
        """Commits behind the working tree's back: keys and their values, None to delete."""
        session = self.repository.writable_session("main")
        writer = KeyWriter(session, KeyReader(session))
        for key, data in changes.items():
            target = writer.target(key)
            if data is None:
                writer.delete(key)
            elif isinstance(target, MetadataTarget):
                session.nodes.put(target.path, data)
            else:
                session.chunks.set(target.path, target.index, data)
        session.commit(message)

    # Files.

    def where(self, path: str) -> Any:
        found = self.work.entries.find(path)
        assert found is not None, path
        return found

    def _split(self, path: str) -> tuple[Any, str]:
        above, _, name = path.rpartition("/")
        return self.where(above), name

    def mkdir(self, path: str) -> None:
        above = ""
        for name in path.split("/"):
            below = f"{above}/{name}" if above else name
            if self.work.entries.find(below) is None:
                self.work.names.mkdir(self.where(above), name, PERM)
            above = below

    def write(self, path: str, data: bytes) -> None:
        above = path.rpartition("/")[0]
        if above:
            self.mkdir(above)
        _, handle = self.work.names.create(*self._split(path), PERM, os.O_WRONLY | os.O_TRUNC | os.O_CREAT)
        self.work.files.write(handle, 0, data)
        self.work.files.flush(handle)
        self.work.files.release(handle)

    def write_all(self, files: Mapping[str, bytes]) -> None:
        for path, data in files.items():
            self.write(path, data)

    def remove(self, path: str) -> None:
        """Removes a file, or a directory with what is in it."""
        if not self.work.entries.attr(self.where(path)).is_dir:
            self.work.names.unlink(*self._split(path))
            return
        for name, _ in list(self.work.entries.list(self.where(path))):
            self.remove(f"{path}/{name}")
        self.work.names.rmdir(*self._split(path))

    def rename(self, old: str, new: str, flags: int = 0) -> None:
        self.work.names.rename(*self._split(old), *self._split(new), flags)

    def link(self, old: str, new: str) -> None:
        self.work.names.link(self.where(old), *self._split(new))

    def read(self, path: str) -> bytes:
        where = self.where(path)
        handle = self.work.files.open(where, os.O_RDONLY)
        try:
            return self.work.files.read(handle, 0, self.work.entries.attr(where).size)
        finally:
            self.work.files.release(handle)

    def tree(self, path: str = "") -> dict[str, bytes]:
        """Returns all files of the tree."""
        found: dict[str, bytes] = {}
        for name, entry in list(self.work.entries.list(self.where(path))):
            below = f"{path}/{name}" if path else name
            found |= self.tree(below) if entry.attr.is_dir else {below: self.read(below)}
        return found

    # What is staged and committed.

    def staged(self) -> Staged:
        view = self.work.view()
        try:
            return stage(view, self.session)
        finally:
            self.work.release_view(view)

    def committed(self) -> dict[str, bytes]:
        """Returns all keys of the branch's tip."""
        reader = KeyReader(self.open_base(str(self.repository.lookup_branch("main"))))
        keys = [key for batch in reader.list_batches() for key in batch]
        return {key: bytes(reader.read(key) or b"") for key in keys}

    def ids(self) -> dict[str, str]:
        """Returns the ids of the nodes at the branch's tip."""
        return {
            node.path: str(node.id) for node in self.open_base(str(self.repository.lookup_branch("main"))).list_nodes()
        }
