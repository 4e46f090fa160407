"""A mounted branch whose tip moves, against a model of what the kernel keeps in its caches.

Whatever the kernel still remembers after it was notified must be what it would get if it asked; open files
stay as they were; unchanged files keep inode number and time, and changed ones get others.
"""

import itertools
import json
import os
import stat
from typing import TYPE_CHECKING, NamedTuple

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from icefs.errors import StaleError
from icefs.format.manifest.refs import InlineRef
from icefs.inode import ROOT_INO
from icefs.zarr.keys import ChunkKeyLayout
from tests.support.repo_builder import RepoBuilder, group
from tests.support.vfs_driver import Driver, mounted

if TYPE_CHECKING:
    from icefs.vfs.attrs import Attr

PATHS = ("/", "/a", "/b", "/a/x", "/a/c", "/a/c/0", "/b/0", "/b/p/q")
ENCODINGS = (("default", "/"), ("default", "."), ("v2", "/"), ("v2", "."))


class Encoding(NamedTuple):
    name: str
    separator: str


class Node(NamedTuple):
    """A node of a snapshot: `life` makes another node id, `version` other bytes in its zarr.json."""

    life: int
    version: int
    encoding: Encoding | None  # None for a group
    grid: tuple[int, ...]
    chunks: tuple[tuple[tuple[int, ...], int], ...]  # index and version of the content

    def json(self):
        if self.encoding is None:
            return json.dumps({"node_type": "group", "zarr_format": 3, "v": self.version}).encode()
        name, separator = self.encoding
        encoding = {"name": name, "configuration": {"separator": separator}}
        return json.dumps({"node_type": "array", "chunk_key_encoding": encoding, "v": self.version}).encode()


@st.composite
def nodes(draw):
    life, version = draw(st.integers(0, 1)), draw(st.integers(0, 1))
    if draw(st.booleans()):
        return Node(life, version, None, (), ())
    grid = tuple(draw(st.lists(st.integers(1, 3), max_size=2)))
    index = st.tuples(*(st.integers(0, size - 1) for size in grid))
    chunks = draw(st.dictionaries(index, st.integers(0, 1), max_size=4))
    return Node(life, version, Encoding(*draw(st.sampled_from(ENCODINGS))), grid, tuple(sorted(chunks.items())))


SNAPSHOTS = st.dictionaries(st.sampled_from(PATHS), nodes(), max_size=5)


def node_number(path, node):
    # The rank is part of a node's identity, and a group never becomes an array.
    kind = 9 if node.encoding is None else len(node.grid)
    return PATHS.index(path) * 100 + kind * 10 + node.life


def chunk_data(path, index, version):
    return f"{path}{index}v{version}".encode()


def commit(builder, snapshot):
    made = []
    for path, node in snapshot.items():
        number = node_number(path, node)
        if node.encoding is None:
            made.append(group(path, number, user_data=node.json()))
        else:
            refs = {index: InlineRef(chunk_data(path, index, version)) for index, version in node.chunks}
            made.append(builder.array(path, number, node.grid, refs, user_data=node.json()))
    return builder.commit(made, log=False)


class Kernel:
    """The kernel's caches: names, attributes, open files."""

    def __init__(self, driver: Driver) -> None:
        self.driver = driver
        self.names: dict[tuple[int, str], Attr] = {}
        self.open: dict[int, tuple[int, int, str, bytes]] = {}

    async def fill(self, ino: int, path: str) -> None:
        """Lists and looks up everything below a directory."""
        for name, attr in (await self.driver.entries(ino))[2:]:
            self.names[ino, name] = attr
            looked_up = await self.driver.fs.lookup(ino, name)
            assert looked_up == attr, (path, name)
            if stat.S_ISDIR(attr.mode):
                await self.fill(attr.ino, f"{path}/{name}")

    async def hold_open(self, every: int) -> None:
        for number, ((parent, name), attr) in enumerate(sorted(self.names.items())):
            if number % every == 0 and stat.S_ISREG(attr.mode):
                fh, _ = await self.driver.fs.open(attr.ino, os.O_RDONLY)
                self.open[fh] = attr.ino, parent, name, bytes(await self.driver.fs.read(fh, 0, 1 << 20))

    def take_notifications(self) -> None:
        notifier = self.driver.notifier
        for parent, name in notifier.entries:
            self._drop(parent, name.decode())
        for key, attr in self.names.items():
            if attr.ino in notifier.attrs:
                self.names[key] = attr._replace(attr_timeout_s=0)
        notifier.entries.clear()
        notifier.attrs.clear()

    def _drop(self, parent: int, name: str, is_named: bool = True) -> None:
        busy = {(held_parent, held_name) for _, held_parent, held_name, _ in self.open.values()}
        # Dropping a directory takes along what is below, but for what is open: the kernel leaves that where it is.
        if not is_named and (parent, name) in busy:
            return
        attr = self.names.pop((parent, name), None)
        if attr is not None and stat.S_ISDIR(attr.mode):
            for below in [key for key in self.names if key[0] == attr.ino]:
                self._drop(*below, is_named=False)

    async def check(self) -> None:
        """Asks for everything that is remembered."""
        fs = self.driver.fs
        for (parent, name), known in self.names.items():
            try:
                now = await fs.lookup(parent, name)
            except StaleError:
                # Reachable from nowhere: the directory itself must have been dropped.
                assert not any(attr.ino == parent for attr in self.names.values()), name
                continue
            assert now.ino == known.ino, name
            if known.attr_timeout_s:
                assert now == known, name
            if stat.S_ISREG(known.mode):
                assert len(await self.driver.read_ino(known.ino)) == known.size
        for fh, (ino, _, _, data) in self.open.items():
            assert await fs.read(fh, 0, 1 << 20) == data
            attr = await fs.getattr(ino)
            assert (attr.ino, attr.size) == (ino, len(data))


def above(key):
    """Yields the directories above a path, the nearest first."""
    while (key := key.rpartition("/")[0]) != "":
        yield key


def keys(snapshot):
    """Returns what identifies the content of each file of a snapshot, by its path in the mount.

    Where names clash, a node's directory wins over chunks, and the chunks of the nearest array over those of another.
    """
    node_dirs = {directory for path in snapshot for directory in (path, *above(path))}
    found, chunk_dirs = {}, set()
    for path, node in sorted(snapshot.items(), key=lambda item: -len(item[0])):
        if node.encoding is None:
            continue
        layout = ChunkKeyLayout.of(node.encoding, len(node.grid))
        own_dirs = set()
        for index, version in node.chunks:
            key = f"{path.rstrip('/')}/{layout.format(index)}"
            dirs = {directory for directory in above(key) if directory.startswith(f"{path.rstrip('/')}/")}
            own_dirs |= dirs - node_dirs
            is_hidden = key in node_dirs or key in chunk_dirs or key in found
            if not is_hidden and not any(directory in found or directory in chunk_dirs for directory in dirs):
                found[key] = ("chunk", node_number(path, node), node.encoding, chunk_data(path, index, version))
        chunk_dirs |= own_dirs
    for path, node in snapshot.items():
        found[f"{path.rstrip('/')}/zarr.json"] = ("json", node.json())
    return found


async def attributes(driver, paths):
    return {path: await driver.walk(path) for path in paths}


def is_plain(snapshots):
    """Tells whether the key spaces of arrays do not overlap; where they do, a name may change hands."""
    for snapshot in snapshots:
        for path, node in snapshot.items():
            below = [other for other in snapshot if other != path and other.startswith(f"{path.rstrip('/')}/")]
            if node.encoding is not None and below:
                return False
    return True


async def check_moves(snapshots, hold_every):
    builder = RepoBuilder()
    commit(builder, snapshots[0])
    storage = builder.publish()
    async with mounted(storage, branch="main") as driver:
        kernel = Kernel(driver)
        await kernel.fill(ROOT_INO, "")
        await kernel.hold_open(hold_every)
        for before, after in itertools.pairwise(snapshots):
            old_keys, new_keys = keys(before), keys(after)
            old = await attributes(driver, old_keys)
            tip = commit(builder, after)
            builder.publish()
            await driver.mount.follower.refresh()
            assert driver.mount.trees.single.snapshot_id == tip
            kernel.take_notifications()
            await kernel.check()
            tree = await driver.tree()
            assert {f"/{path}": data for path, data in tree.items() if data is not None} == {
                path: key[-1] for path, key in new_keys.items()
            }
            new = await attributes(driver, new_keys)
            for path in old_keys.keys() & new_keys.keys():
                if old_keys[path][-1] != new_keys[path][-1]:
                    assert old[path].ino != new[path].ino, path
                    assert old[path].mtime_ns != new[path].mtime_ns, path
                elif old_keys[path] == new_keys[path] and is_plain((before, after)):
                    assert old[path] == new[path], path
            await kernel.fill(ROOT_INO, "")
            driver.fs.space.check_invariants()


A = Node(0, 0, Encoding("default", "/"), (2, 2), (((0, 0), 0), ((1, 1), 0)))


@given(st.lists(SNAPSHOTS, min_size=2, max_size=4), st.integers(1, 4))
@example([{"/a": A}, {}, {"/a": A}], 1)
@example([{"/a": A}, {"/a": A._replace(life=1)}], 1)
@example([{"/a": A}, {"/a": A._replace(encoding=Encoding("v2", "."))}], 1)
@example([{"/a": A}, {"/a": A._replace(grid=(1, 1), chunks=(((0, 0), 0),))}], 2)
@example([{"/a": A}, {"/a": Node(0, 0, None, (), ())}], 1)
@example([{"/a": A}, {"/a": A, "/a/c": Node(0, 0, None, (), ())}, {"/a": A}], 1)
@example([{"/a": A._replace(chunks=())}, {"/a": A}, {"/a": A._replace(chunks=())}], 1)
async def test_what_the_kernel_remembers_is_true_after_every_move(snapshots, hold_every):
    await check_moves(snapshots, hold_every)


@pytest.mark.parametrize("many", [0, 1])
async def test_moves_too_large_to_tell_each_chunk(many, monkeypatch):
    monkeypatch.setattr("icefs.vfs.trees.advance.MANY", many)
    changed = A._replace(chunks=(((0, 0), 1), ((1, 0), 0), ((1, 1), 1)))
    for encoding in ENCODINGS:
        how = Encoding(*encoding)
        await check_moves([{"/a": A._replace(encoding=how)}, {"/a": changed._replace(encoding=how)}], 1)
