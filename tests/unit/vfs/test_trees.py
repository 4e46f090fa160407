"""Trees over repositories in memory: which names there are, what is in them, and what the kernel may remember."""

import json
import os
import stat

import pytest

from icefs.errors import (
    FormatError,
    IsADirectoryTreeError,
    NotADirectoryTreeError,
    ReadOnlyError,
    StaleError,
)
from icefs.format.layout import manifest_key
from icefs.format.manifest.refs import InlineRef, VirtualRef
from icefs.format.snapshot.nodes import ManifestRef
from icefs.inode import ROOT_INO
from icefs.vfs.attrs import ABSENT, ABSENT_FOREVER, FOREVER_S
from tests.support.repo_builder import SECOND, START, RepoBuilder, group, inline
from tests.support.vfs_driver import OWNERSHIP, mounted


def array_json(name="default", separator="/", **more):
    encoding = {"name": name, "configuration": {"separator": separator}}
    return json.dumps({"zarr_format": 3, "node_type": "array", "chunk_key_encoding": encoding, **more}).encode()


def built(*make_nodes, spec_version=2):
    """Commits nodes made by functions of the builder to `main`, and tags the commit `v1`."""
    builder = RepoBuilder(spec_version=spec_version)
    tip = builder.commit([make(builder) for make in make_nodes])
    builder.tags["v1"] = tip
    return builder


def array(path, number, grid, *indices, boxes=None, **encoding):
    user_data = array_json(**encoding)
    return lambda builder: builder.array(
        path, number, grid, inline(*indices, tag=path), boxes=boxes, user_data=user_data
    )


def just(node):
    return lambda builder: node


def files(tree):
    return {path: data for path, data in tree.items() if data is not None}


def dirs(tree):
    return {path for path, data in tree.items() if data is None}


async def test_an_empty_repository_is_an_empty_directory():
    async with mounted(RepoBuilder().publish(), branch="main") as driver:
        assert await driver.listdir() == []


@pytest.mark.parametrize("spec_version", [1, 2])
async def test_a_tree_holds_exactly_the_keys(spec_version):
    builder = built(
        just(group("/", 1, user_data=b'{"node_type":"group",  "zarr_format":3}\n')),
        just(group("/g", 2)),
        array("/g/a", 3, (3, 2), (0, 1), (2, 0)),
        array("/p/q/implicit", 4, (1,), (0,)),
        array("/no_chunks", 5, (4, 4)),
        spec_version=spec_version,
    )
    async with mounted(builder.publish(), branch="main") as driver:
        tree = await driver.tree()
    group_json = b'{"node_type":"group","zarr_format":3}'
    assert files(tree) == {
        "zarr.json": b'{"node_type":"group",  "zarr_format":3}\n',
        "g/zarr.json": group_json,
        "g/a/zarr.json": array_json(),
        "g/a/c/0/1": b"/g/a(0, 1)",
        "g/a/c/2/0": b"/g/a(2, 0)",
        "p/q/implicit/zarr.json": array_json(),
        "p/q/implicit/c/0": b"/p/q/implicit(0,)",
        "no_chunks/zarr.json": array_json(),
    }
    expected = {"g", "g/a", "g/a/c", "g/a/c/0", "g/a/c/2", "p", "p/q", "p/q/implicit", "p/q/implicit/c", "no_chunks"}
    assert dirs(tree) == expected


@pytest.mark.parametrize(
    ("encoding", "scalar", "one", "two"),
    [
        (("default", "/"), "c", "c/7", "c/1/20"),
        (("default", "."), "c", "c.7", "c.1.20"),
        (("v2", "/"), "0", "7", "1/20"),
        (("v2", "."), "0", "7", "1.20"),
    ],
)
async def test_chunk_key_encodings(encoding, scalar, one, two):
    how = {"name": encoding[0], "separator": encoding[1]}
    builder = built(
        array("/s", 1, (), (), **how), array("/o", 2, (9,), (7,), **how), array("/t", 3, (3, 30), (1, 20), **how)
    )
    async with mounted(builder.publish(), tag="v1") as driver:
        found = files(await driver.tree())
        assert {path for path in found if not path.endswith("zarr.json")} == {f"s/{scalar}", f"o/{one}", f"t/{two}"}
        assert found[f"t/{two}"] == b"/t(1, 20)"
        assert found[f"s/{scalar}"] == b"/s()"


@pytest.mark.parametrize(
    "name",
    [
        "c/00/1",
        "c/0/01",
        "c/+0/1",
        "c/0",
        "c/0/1/0",
        "c/٠/1",
        "c/9/0",
        "c/0/2",
        "c/0/0",
        "c0",
        "C",
        "c/",
        "c/4294967296/0",
    ],
)
async def test_names_that_are_no_keys(name):
    builder = built(array("/a", 1, (3, 2), (0, 1)))
    async with mounted(builder.publish(), branch="main") as driver:
        last = name.rstrip("/").rpartition("/")[2]
        if name in ("c/0", "c/"):
            assert stat.S_ISDIR((await driver.walk(f"a/{name}")).mode)
            return
        try:
            assert not await driver.exists(f"a/{name}"), last
        except NotADirectoryTreeError:
            assert name == "c/0/1/0"


async def test_missing_names_are_remembered_where_nothing_can_change():
    builder = built(just(group("/", 1)), array("/a", 2, (3,), (0,)))
    storage = builder.publish()
    async with mounted(storage, tag="v1") as driver:
        root = ROOT_INO
        a = await driver.walk("a")
        c = await driver.walk("a/c")
        for parent, name in ((root, ".zgroup"), (a.ino, ".zarray"), (c.ino, "1"), (c.ino, "x")):
            assert await driver.fs.lookup(parent, name) == ABSENT_FOREVER
    async with mounted(storage, branch="main") as driver:
        assert await driver.fs.lookup(ROOT_INO, ".zgroup") == ABSENT


async def test_attributes_of_immutable_trees_and_branches():
    builder = built(just(group("/", 1)), array("/a", 2, (3,), (0,)))
    storage = builder.publish()
    flushed_ns = (START + SECOND) * 1000
    for how, modes in (({"tag": "v1"}, (0o555, 0o444)), ({"branch": "main"}, (0o555, 0o444))):
        async with mounted(storage, **how) as driver:
            for path, is_dir in (("", True), ("a", True), ("a/c", True), ("a/zarr.json", False), ("a/c/0", False)):
                attr = await driver.walk(path)
                assert attr.is_dir == is_dir
                assert stat.S_IMODE(attr.mode) == modes[0 if is_dir else 1]
                assert (attr.uid, attr.gid) == (OWNERSHIP.uid, OWNERSHIP.gid)
                assert attr.nlink == (2 if is_dir else 1)
                assert attr.mtime_ns == attr.ctime_ns == attr.atime_ns == flushed_ns
                assert (attr.entry_timeout_s, attr.attr_timeout_s) == (FOREVER_S, FOREVER_S)
                assert await driver.fs.getattr(attr.ino) == attr


async def test_inode_numbers_are_distinct_and_stay():
    builder = built(just(group("/", 1)), array("/a", 2, (30, 2), *((i, j) for i in range(30) for j in range(2))))
    async with mounted(builder.publish(), branch="main") as driver:
        paths = list(await driver.tree())
        first = {path: (await driver.walk(path)).ino for path in paths}
        assert len(set(first.values())) == len(paths)
        assert {path: (await driver.walk(path)).ino for path in paths} == first
        driver.fs.space.check_invariants()


async def test_a_million_chunks_leave_nothing_behind():
    builder = built(array("/a", 2, (1000, 20), *((i, j) for i in range(1000) for j in range(0, 20, 7))))
    async with mounted(builder.publish(), branch="main") as driver:
        await driver.walk("a/c/0/7")
        nodes = driver.mount.trees.single.tree.inodes.nodes
        before = len(driver.fs.space), len(nodes)
        tree = await driver.entries((await driver.walk("a/c")).ino)
        assert len(tree) == 1002
        for name, attr in tree[2:50]:
            assert len(await driver.entries(attr.ino)) == 5, name
        assert (len(driver.fs.space), len(nodes)) == before


@pytest.mark.parametrize("step", [1, 2, 3, 1000])
async def test_listing_in_steps_neither_repeats_nor_skips(step):
    indices = [(i,) for i in range(0, 3000, 1)] if step == 1000 else [(i,) for i in range(50)]
    builder = built(array("/a", 2, (3000,), *indices, name="v2"), just(group("/a/z", 3)), just(group("/a/y", 4)))
    async with mounted(builder.publish(), branch="main") as driver:
        names = await driver.listdir("a", step)
        assert names == sorted(["zarr.json", "y", "z", *(str(i) for (i,) in indices)])


async def test_an_open_listing_may_be_read_again_and_at_any_position():
    builder = built(array("/a", 2, (9,), *((i,) for i in range(9))))
    async with mounted(builder.publish(), branch="main") as driver:
        fh = await driver.fs.opendir((await driver.walk("a/c")).ino)
        names = (await driver.fs.readdir(fh, 0)).names + (await driver.fs.readdir(fh, 2)).names
        run = await driver.fs.readdir(fh, 5)
        assert run.names[5 - run.start] == names[5]
        assert await driver.fs.readdir(fh, 11) is None
        assert (await driver.fs.readdir(fh, 0)).names == [b".", b".."]


async def test_dots_lead_to_the_directory_and_its_parent():
    builder = built(
        array("/a", 2, (2, 2), (0, 1)),
        array("/v", 3, (2, 2), (0, 1), name="v2"),
        array("/f", 4, (2,), (0,), separator="."),
    )
    async with mounted(builder.publish()) as driver:
        for path, parent in (
            ("branches/main", "branches"),
            ("branches/main/a", "branches/main"),
            ("branches/main/a/c", "branches/main/a"),
            ("branches/main/a/c/0", "branches/main/a/c"),
            ("branches/main/v/0", "branches/main/v"),
            ("branches/main/.icefs", "branches/main"),
            ("branches", ""),
            ("", ""),
        ):
            own = await driver.walk(path)
            dot, dotdot = (await driver.entries(own.ino))[:2]
            assert (dot[0], dot[1].ino) == (".", own.ino), path
            assert (dotdot[0], dotdot[1].ino) == ("..", (await driver.walk(parent)).ino), path


# Names that clash.


async def test_a_node_wins_over_chunks_and_shows_them_too():
    builder = built(
        array("/a", 1, (3, 3), (0, 0), (1, 1), (2, 2)),
        array("/a/c", 2, (2,), (1,), name="v2"),
        just(group("/a/c/2/g", 3)),
        just(group("/a/c/1", 4)),
    )
    async with mounted(builder.publish(), branch="main") as driver:
        found = await driver.tree()
        assert files(found).keys() == {
            "a/zarr.json",
            "a/c/zarr.json",  # the array /a/c
            "a/c/0/0",  # chunks of /a
            "a/c/1/zarr.json",  # the group /a/c/1 hides the chunk 1 of /a/c, and shows chunks of /a
            "a/c/1/1",
            "a/c/2/2",
            "a/c/2/g/zarr.json",
        }
        assert await driver.listdir("a/c/2") == ["2", "g"]


async def test_of_two_chunks_with_one_name_the_nearer_arrays_is_there():
    builder = built(array("/a", 1, (3,), (0,), (2,)), array("/a/c", 2, (2,), (0,), name="v2"))
    async with mounted(builder.publish(), branch="main") as driver:
        assert files(await driver.tree()) == {
            "a/zarr.json": array_json(),
            "a/c/zarr.json": array_json(name="v2"),
            "a/c/0": b"/a/c(0,)",
            "a/c/2": b"/a(2,)",
        }


async def test_a_node_called_zarr_json_is_hidden_by_the_metadata_of_its_parent():
    builder = built(just(group("/", 1)), just(group("/zarr.json", 2)), just(group("/x/zarr.json", 3)))
    async with mounted(builder.publish(), branch="main") as driver:
        assert await driver.listdir() == ["x", "zarr.json"]
        assert not (await driver.walk("zarr.json")).is_dir
        assert (await driver.walk("x/zarr.json/zarr.json")).size > 0


async def test_a_node_called_icefs_is_hidden_by_the_control_directory():
    builder = built(just(group("/.icefs", 1)), just(group("/x/.icefs", 2)))
    async with mounted(builder.publish(), branch="main") as driver:
        assert await driver.exists(".icefs/status")
        assert not await driver.exists("x/.icefs/status")
        assert await driver.exists("x/.icefs/zarr.json")


async def test_names_that_no_file_system_holds_are_left_out():
    long = "x" * 256
    builder = built(just(group(f"/{long}", 1)), just(group("/ok", 2)), just(group("/grün ☃", 3)))
    async with mounted(builder.publish(), branch="main") as driver:
        assert await driver.listdir() == ["grün ☃", "ok"]


# Grids.


async def test_chunks_outside_the_grid_do_not_exist():
    builder = RepoBuilder()
    whole = builder.array("/a", 1, (4, 4), inline((0, 0), (3, 3)))
    shrunk = builder.array_of("/a", 1, (2, 2), [ManifestRef(whole.array.manifests[0].manifest_id, ((0, 4), (0, 4)))])
    builder.commit([shrunk])
    async with mounted(builder.publish(), branch="main") as driver:
        assert await driver.listdir("a/c") == ["0"]
        assert not await driver.exists("a/c/3/3")


async def test_an_array_without_visible_chunks_has_no_chunk_directory():
    builder = RepoBuilder()
    whole = builder.array("/a", 1, (4,), inline((3,)))
    shrunk = builder.array_of("/a", 1, (2,), [ManifestRef(whole.array.manifests[0].manifest_id, ((3, 4),))])
    builder.commit([shrunk])
    async with mounted(builder.publish(), branch="main") as driver:
        assert await driver.listdir("a") == ["zarr.json"]
        assert not await driver.exists("a/c")


async def test_an_immense_grid_is_numbered_by_a_table():
    far = 2**32 - 2
    builder = built(array("/a", 1, (2**32 - 1, 2**32 - 1), (0, 0), (far, far), (far, 3)))
    async with mounted(builder.publish(), branch="main") as driver:
        tree = await driver.tree()
        assert files(tree)[f"a/c/{far}/{far}"] == f"/a({far}, {far})".encode()
        ino = (await driver.walk(f"a/c/{far}/{far}")).ino
        assert (await driver.walk(f"a/c/{far}/{far}")).ino == ino < 2**63
        assert driver.fs.describe_inode(ino) == f"/a/c/{far}/{far}"


async def test_split_manifests_are_one_directory():
    boxes = [((0, 2), (0, 2)), ((2, 4), (0, 2)), ((0, 2), (2, 4)), ((2, 4), (2, 4))]
    indices = [(i, j) for i in range(4) for j in range(4)]
    builder = built(
        array("/a", 1, (4, 4), *indices, boxes=boxes), array("/f", 2, (4, 4), *indices, boxes=boxes, separator=".")
    )
    async with mounted(builder.publish(), branch="main") as driver:
        assert await driver.listdir("a/c") == ["0", "1", "2", "3"]
        assert await driver.listdir("a/c/1") == ["0", "1", "2", "3"]
        assert len(await driver.listdir("f")) == 17


# Damage.


async def test_a_broken_manifest_breaks_its_own_array_only():
    builder = built(just(group("/", 1)), array("/bad", 2, (3,), (0,)), array("/good", 3, (3,), (0,)))
    bad = next(iter(builder._manifests))
    storage = builder.publish()
    storage.put(manifest_key(bad), b"this is no manifest")
    async with mounted(storage, branch="main") as driver:
        assert await driver.listdir() == ["bad", "good", "zarr.json"]
        assert await driver.listdir("bad") == ["c", "zarr.json"]
        assert await driver.read("bad/zarr.json") == array_json()
        for attempt in range(2):
            with pytest.raises(FormatError):
                await driver.walk("bad/c/0")
            with pytest.raises(FormatError):
                await driver.listdir("bad/c")
            assert await driver.read("good/c/0") == b"/good(0,)", attempt


async def test_unknown_chunk_keys_break_the_chunks_of_their_array_only():
    builder = built(array("/a", 1, (3,), (0,), name="hilbert"), array("/b", 2, (3,), (0,)))
    async with mounted(builder.publish(), branch="main") as driver:
        assert await driver.read("a/zarr.json") == array_json("hilbert")
        assert not await driver.exists("a/.zarray")
        with pytest.raises(FormatError):
            await driver.walk("a/c")
        with pytest.raises(FormatError):
            await driver.listdir("a")
        assert await driver.listdir("b") == ["c", "zarr.json"]


async def test_a_chunk_too_long_for_a_file_is_shown_as_long_as_can_be():
    builder = RepoBuilder()
    ref = VirtualRef("file:///x", 0, 2**64 - 1, None, 0)
    builder.commit([builder.array("/a", 1, (1,), {(0,): ref})])
    async with mounted(builder.publish(), branch="main") as driver:
        assert (await driver.walk("a/c/0")).size == 2**63 - 1
        [_, _, (_, attr)] = await driver.entries((await driver.walk("a/c")).ino)
        assert attr.size == 2**63 - 1


# Files as directories and the reverse; writing.


async def test_files_are_no_directories_and_directories_no_files():
    builder = built(array("/a", 1, (3, 3), (0, 0)))
    async with mounted(builder.publish(), branch="main") as driver:
        for path in ("a/zarr.json", "a/c/0/0", ".icefs/status"):
            ino = (await driver.walk(path)).ino
            with pytest.raises(NotADirectoryTreeError):
                await driver.fs.opendir(ino)
            with pytest.raises(NotADirectoryTreeError):
                await driver.fs.lookup(ino, "x")
        for path in ("", "a", "a/c", "a/c/0", ".icefs"):
            with pytest.raises(IsADirectoryTreeError):
                await driver.fs.open((await driver.walk(path)).ino, os.O_RDONLY)


@pytest.mark.parametrize("how", [{"branch": "main"}, {"tag": "v1"}, {}])
async def test_nothing_can_be_changed(how):
    builder = built(just(group("/", 1)), array("/a", 2, (3,), (0,)))
    async with mounted(builder.publish(), **how) as driver:
        fs, prefix = driver.fs, "" if how else "tags/v1/"
        top = (await driver.walk(prefix)).ino
        a, chunk = (await driver.walk(f"{prefix}a")).ino, (await driver.walk(f"{prefix}a/c/0")).ino
        for flags in (os.O_WRONLY, os.O_RDWR, os.O_RDONLY | os.O_TRUNC):
            for path in ("a/c/0", "a/zarr.json", ".icefs/status"):
                with pytest.raises(ReadOnlyError):
                    await fs.open((await driver.walk(prefix + path)).ino, flags)
        for refused in (
            fs.create(a, "x", 0o644, os.O_RDWR, None),
            fs.mknod(a, "x", 0o644, 0, None),
            fs.mkdir(top, "x", 0o755, None),
            fs.unlink(a, "zarr.json"),
            fs.rmdir(top, "a"),
            fs.symlink(a, "x", "y", None),
            fs.rename(top, "a", top, "b", 0),
            fs.link(chunk, a, "x"),
            fs.setattr(chunk, None, None, None),
            fs.setxattr(chunk, "user.x", b""),
            fs.removexattr(chunk, "user.x"),
        ):
            with pytest.raises(ReadOnlyError):
                await refused


async def test_what_is_gone_is_stale():
    builder = built(array("/a", 1, (3,), (0,)))
    async with mounted(builder.publish(), branch="main") as driver:
        for ino in (0, 1 << 40, (await driver.walk("a/c/0")).ino + 1, (await driver.walk("a")).ino + 1000):
            with pytest.raises(StaleError):
                await driver.fs.getattr(ino)
            with pytest.raises(StaleError):
                await driver.fs.open(ino, os.O_RDONLY)


# Extended attributes.


async def test_extended_attributes_say_where_bytes_come_from():
    builder = RepoBuilder()
    native = builder.chunk(b"0123456789")
    virtual = VirtualRef("s3://user:secret@bucket/key?versionId=1", 5, 7, None, 0)
    refs = {(0,): native, (1,): InlineRef(b"abc"), (2,): virtual}
    tip = builder.commit([builder.array("/a", 1, (3,), refs)])
    async with mounted(builder.publish(), branch="main") as driver:

        async def xattrs(path):
            ino = (await driver.walk(path)).ino
            assert await driver.fs.listxattr(ino) == []
            names = ("snapshot", "kind", "location", "offset", "length")
            values = {name: await driver.fs.getxattr(ino, f"user.icefs.{name}") for name in names}
            return {name: value.decode() for name, value in values.items() if value is not None}

        snapshot = {"snapshot": str(tip)}
        assert await xattrs("a") == await xattrs("a/zarr.json") == await xattrs("a/c") == snapshot
        assert await xattrs(".icefs/status") == {}
        found = await xattrs("a/c/0")
        assert found.pop("location").endswith(f"chunks/{native.chunk_id}")
        assert found == snapshot | {"kind": "native", "offset": "0", "length": "10"}
        assert await xattrs("a/c/1") == snapshot | {"kind": "inline", "length": "3"}
        found = await xattrs("a/c/2")
        assert "secret" not in found["location"]
        assert found.pop("location").startswith("s3://***@bucket/key?versionId=")
        assert found == snapshot | {"kind": "virtual", "offset": "5", "length": "7"}
        ino = (await driver.walk("a/c/0")).ino
        assert await driver.fs.getxattr(ino, "user.other") is None
        assert await driver.fs.getxattr(ino, "security.capability") is None


# What is kept.


async def test_a_tree_that_the_kernel_forgot_is_forgotten_and_made_anew():
    builder = built(just(group("/", 1)), array("/a", 2, (3,), (0,)))
    async with mounted(builder.publish()) as driver:
        fs = driver.fs
        ranges = len(fs.space)
        tag = await driver.walk("tags/v1")
        tree = driver.mount.trees.root.tags["v1"]
        chunk = await driver.walk("tags/v1/a/c/0")
        await driver.tree("tags/v1")
        assert tree.kernel_refs > 4
        fs.forget(chunk.ino, tree.kernel_refs - 1)
        assert driver.mount.trees.root.tags == {"v1": tree}
        fs.forget(tag.ino, 1)
        assert driver.mount.trees.root.tags == {}
        assert len(fs.space) == ranges
        with pytest.raises(StaleError):
            await fs.getattr(chunk.ino)
        again = await driver.walk("tags/v1")
        assert again.ino != tag.ino
        assert await driver.read("tags/v1/a/c/0") == b"/a(0,)"
        fs.space.check_invariants()


async def test_a_branch_is_never_forgotten():
    async with mounted(built(just(group("/", 1))).publish()) as driver:
        ino = (await driver.walk("branches/main")).ino
        driver.fs.forget(ino, 1000)
        assert (await driver.walk("branches/main")).ino == ino


async def test_sessions_of_immutable_trees_are_bounded(monkeypatch):
    monkeypatch.setattr("icefs.vfs.refs.loaded_trees.MAX_LOADED", 2)
    builder = RepoBuilder()
    tips = [builder.commit([group(f"/g{number}", number)]) for number in range(5)]
    async with mounted(builder.publish()) as driver:
        inos = {tip: (await driver.walk(f"snapshots/{tip}/g{number}")).ino for number, tip in enumerate(tips)}
        assert sum(tree.session is not None for tree in driver.mount.trees.root.trees()) == 2
        # Numbers outlive the session.
        for number, tip in enumerate(tips):
            assert (await driver.walk(f"snapshots/{tip}/g{number}")).ino == inos[tip]
            assert await driver.fs.getattr(inos[tip])


async def test_log_lines_name_paths():
    builder = built(just(group("/", 1)), array("/a", 2, (3, 3), (0, 1)))
    async with mounted(builder.publish()) as driver:
        tree = "branches/main"
        for path in (f"{tree}/a/c/0/1", f"{tree}/a/c/0", f"{tree}/a/zarr.json", f"{tree}/.icefs/rpc", "tags", ".icefs"):
            attr = await driver.walk(path)
            assert driver.fs.describe_inode(attr.ino) == f"/{path}"
        assert driver.fs.describe_inode((await driver.walk("")).ino) == "/"
        assert driver.fs.describe_inode(1 << 50) == f"inode {1 << 50}"
        assert driver.fs.describe_handle(99) == "handle 99"


async def test_a_snapshot_that_nobody_looks_at_any_more_keeps_no_times_and_has_the_same_ones_again():
    builder = RepoBuilder()
    builder.commit([builder.array("/a", 1, (2,), inline((0,)))])
    shown = builder.commit([builder.array("/a", 1, (2,), inline((0,), (1,)))], chunks={1: [(1,)]})
    async with mounted(builder.publish(), snapshot=shown) as driver:
        tree = driver.mount.trees.single
        paths = ("a/c/0", "a/c/1", "a/zarr.json")
        before = [await driver.walk(path) for path in paths]
        [array] = [node for node in tree.session.list_nodes("/") if node.array is not None]
        assert tree.inodes.first_times.known_chunks(array.id) is not None
        tree.unload()
        assert tree.inodes.first_times.known_chunks(array.id) is None
        assert [await driver.walk(path) for path in paths] == before
        assert [await driver.fs.getattr(attr.ino) for attr in before] == before
