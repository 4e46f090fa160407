"""Views below `.icefs/views`, of tags, snapshots and branches that are only read."""

import errno
import os
import stat
import threading

import pytest
import trio

from icefs.daemon.errno_map import to_errno
from icefs.errors import DecodeError, IsADirectoryTreeError, NotADirectoryTreeError, ReadOnlyError, StaleError
from icefs.inode import ROOT_INO
from icefs.vfs.attrs import ABSENT, ABSENT_FOREVER, FOREVER_S
from tests.support.repo_builder import RepoBuilder, group, inline, snapshot_id
from tests.support.toy_format import ToyFormat
from tests.support.vfs_driver import mounted, until
from tests.support.zarr_documents import array_document

ARRAY = array_document(shape=[40], chunk_grid={"name": "regular", "configuration": {"chunk_shape": [10]}})
TREES = ["branches/main/.icefs/views/npy", "tags/t/.icefs/views/npy", ".icefs/views/npy/tags/t"]


def built():
    """main and the tag `t`: an array `a` with chunks 0 and 2, and a group `g` with an array in it."""
    builder = RepoBuilder()
    builder.commit(
        [
            group("/", 1),
            builder.array("/a", 2, (4,), inline((0,), (2,), tag="a"), user_data=ARRAY),
            group("/g", 3),
            builder.array("/g/x", 4, (4,), inline((1,), tag="x"), user_data=ARRAY),
        ]
    )
    builder.tags["t"] = builder.branches["main"]
    return builder


@pytest.mark.parametrize("tree", [*TREES, ".icefs/views/npy/branches/main"])
async def test_the_view_of_each_tree(tree):
    toy = ToyFormat()
    async with mounted(built().publish(), tools=toy.tools()) as driver:
        assert await driver.listdir(tree) == ["a.bin", "a.json", "g", "g.json", "root.json"]
        assert await driver.listdir(f"{tree}/g") == ["x.bin", "x.json"]
        assert await driver.read(f"{tree}/a.bin") == b"a(0,)a(2,)"
        assert await driver.read(f"{tree}/a.json", step=7) == ARRAY
        assert await driver.read(f"{tree}/g/x.bin") == b"x(1,)"
        assert not await driver.exists(f"{tree}/nothing")
        assert not await driver.exists(f"{tree}/.icefs")


async def test_the_view_of_the_one_tree_that_is_mounted():
    toy = ToyFormat()
    for ref in ({"tag": "t"}, {"branch": "main"}, {"snapshot": snapshot_id(1)}):
        async with mounted(built().publish(), tools=toy.tools(), **ref) as driver:
            assert await driver.read(".icefs/views/npy/g/x.bin") == b"x(1,)"
            assert ".icefs" not in await driver.listdir()


async def test_formats_are_listed_and_found_in_one_spelling():
    async with mounted(built().publish(), tools=ToyFormat().tools()) as driver:
        for place in (".icefs", "tags/t/.icefs"):
            assert "views" in await driver.listdir(place)
            assert await driver.listdir(f"{place}/views") == ["netcdf", "netcdf3", "npy", "zarr2"]
            assert await driver.exists(f"{place}/views/zarr2,compressed")
            assert not await driver.exists(f"{place}/views/zarr2,compressed,compressed")
            assert not await driver.exists(f"{place}/views/zarr")
            assert not await driver.exists(f"{place}/views/npy,groups")


async def test_refs_of_the_whole_mount_are_listed_without_making_their_trees():
    async with mounted(built().publish(), tools=ToyFormat().tools()) as driver:
        assert await driver.listdir(".icefs/views/npy") == ["branches", "snapshots", "tags"]
        assert await driver.listdir(".icefs/views/npy/tags") == ["t"]
        assert await driver.listdir(".icefs/views/npy/branches") == ["main"]
        assert str(snapshot_id(1)) in await driver.listdir(".icefs/views/npy/snapshots")
        assert not driver.mount.trees.root.tags
        assert not driver.mount.trees.root.snapshots
        assert not await driver.exists(".icefs/views/npy/tags/none")
        assert not await driver.exists(".icefs/views/npy/other")


@pytest.mark.parametrize("tree", TREES)
async def test_attributes_are_exact_before_the_first_read(tree):
    toy = ToyFormat()
    async with mounted(built().publish(), tools=toy.tools()) as driver:
        file = await driver.walk(f"{tree}/a.bin")
        assert (file.size, stat.S_IMODE(file.mode), file.nlink) == (10, 0o444, 1)
        assert stat.S_ISREG(file.mode)
        assert file == await driver.fs.getattr(file.ino)
        chunk = await driver.walk("tags/t/a/c/0")
        assert file.mtime_ns == chunk.mtime_ns
        directory = await driver.walk(f"{tree}/g")
        assert stat.S_ISDIR(directory.mode)
        assert stat.S_IMODE(directory.mode) == 0o555
        assert not toy.reads


async def test_the_kernel_remembers_what_never_changes_and_asks_again_for_a_branch():
    async with mounted(built().publish(), tools=ToyFormat().tools()) as driver:
        for path in ("tags/t/.icefs/views/npy", "tags/t/.icefs/views/npy/g", "tags/t/.icefs/views/npy/a.bin"):
            attr = await driver.walk(path)
            assert (attr.entry_timeout_s, attr.attr_timeout_s) == (FOREVER_S, FOREVER_S), path
        directory = await driver.walk("tags/t/.icefs/views/npy")
        assert await driver.fs.lookup(directory.ino, "none") == ABSENT_FOREVER
        directory = await driver.walk("branches/main/.icefs/views/npy")
        assert (directory.entry_timeout_s, directory.attr_timeout_s) == (0, 0)
        file = await driver.walk("branches/main/.icefs/views/npy/a.bin")
        assert (file.entry_timeout_s, file.attr_timeout_s) == (0, FOREVER_S)
        assert await driver.fs.lookup(directory.ino, "none") == ABSENT
        # A tag may be deleted, and nothing invalidates this name then.
        assert (await driver.walk(".icefs/views/npy/tags/t")).entry_timeout_s == 0
        snapshot = await driver.walk(f".icefs/views/npy/snapshots/{snapshot_id(1)}")
        assert (snapshot.entry_timeout_s, snapshot.attr_timeout_s) == (FOREVER_S, FOREVER_S)


async def test_one_version_in_several_places_is_as_many_directories():
    async with mounted(built().publish(), tools=ToyFormat().tools()) as driver:
        inos = [(await driver.walk(path)).ino for path in [*TREES, *(f"{tree}/g" for tree in TREES)]]
        assert len(set(inos)) == len(inos)


async def test_a_number_is_the_same_after_the_kernel_forgot_it():
    async with mounted(built().publish(), tools=ToyFormat().tools()) as driver:
        path = "tags/t/.icefs/views/npy/g/x.bin"
        first = await driver.walk(path)
        await driver.walk(path)
        known = len(driver.mount.views)
        driver.fs.forget(first.ino, 2)
        assert len(driver.mount.views) == known - 1
        with pytest.raises(StaleError):
            await driver.fs.getattr(first.ino)
        assert await driver.walk(path) == first


async def test_listed_numbers_are_those_of_stat_and_nothing_listed_is_remembered():
    toy = ToyFormat()
    toy.more = 5000
    async with mounted(built().publish(), tools=toy.tools()) as driver:
        tree = "tags/t/.icefs/views/npy"
        directory = await driver.walk(tree)
        known = len(driver.mount.views)
        entries = await driver.entries(directory.ino, 300)
        assert len(entries) == 2 + 5 + 5000
        assert len(driver.mount.views) == known
        listed = {name: attr.ino for name, attr in entries}
        for name in ("a.bin", "g", "g.json"):
            assert (await driver.walk(f"{tree}/{name}")).ino == listed[name]
        assert listed["."] == directory.ino
        assert toy.layouts == 2


async def test_a_listing_can_begin_again_and_go_back():
    toy = ToyFormat()
    toy.more = 5000
    async with mounted(built().publish(), tools=toy.tools()) as driver:
        fh = await driver.fs.opendir((await driver.walk("tags/t/.icefs/views/npy")).ino)

        async def at(position):
            run = await driver.fs.readdir(fh, position)
            return None if run is None else run.names[position - run.start]

        assert await at(4000) == b"~0003993"
        assert await at(10) == b"~0000003"
        assert await at(2) == b"a.bin"
        assert await at(0) == b"."
        assert await at(5006) == b"~0004999"
        assert await at(5007) is None
        assert await at(5006) == b"~0004999"
        await driver.fs.releasedir(fh)


async def test_a_listing_that_failed_half_way_is_never_taken_for_whole():
    class Failing(ToyFormat):
        def root(self, hierarchy, decoder):
            root = super().root(hierarchy, decoder)

            def fail():
                yield from list(type(root).list(root))[:2]
                raise DecodeError("this directory cannot be read")

            root.list = fail
            return root

    async with mounted(built().publish(), tools=Failing().tools()) as driver:
        directory = await driver.walk("tags/t/.icefs/views/npy")
        fh = await driver.fs.opendir(directory.ino)
        for _ in range(2):
            with pytest.raises(DecodeError):
                await driver.fs.readdir(fh, 2)
        await driver.fs.releasedir(fh)


@pytest.mark.parametrize("flags", [os.O_WRONLY, os.O_RDWR, os.O_RDONLY | os.O_TRUNC])
async def test_nothing_can_be_written(flags):
    async with mounted(built().publish(), tools=ToyFormat().tools()) as driver:
        tree = "branches/main/.icefs/views/npy"
        file, directory = await driver.walk(f"{tree}/a.bin"), await driver.walk(tree)
        with pytest.raises(ReadOnlyError):
            await driver.fs.open(file.ino, flags)
        with pytest.raises(ReadOnlyError):
            await driver.fs.unlink(directory.ino, "a.bin")
        with pytest.raises(ReadOnlyError):
            await driver.fs.create(directory.ino, "new", 0o644, os.O_WRONLY, None)
        assert to_errno(ReadOnlyError("no")).errno == errno.EROFS


async def test_files_are_no_directories_and_the_other_way_round():
    async with mounted(built().publish(), tools=ToyFormat().tools()) as driver:
        tree = "tags/t/.icefs/views/npy"
        file, directory = await driver.walk(f"{tree}/a.bin"), await driver.walk(tree)
        with pytest.raises(IsADirectoryTreeError):
            await driver.fs.open(directory.ino, os.O_RDONLY)
        with pytest.raises(NotADirectoryTreeError):
            await driver.fs.opendir(file.ino)
        with pytest.raises(NotADirectoryTreeError):
            await driver.fs.lookup(file.ino, "x")
        assert await driver.fs.listxattr(file.ino) == ()
        assert await driver.fs.getxattr(file.ino, "user.icefs.snapshot") is None
        assert driver.fs.describe_inode(file.ino) == f"/{tree}/a.bin"


async def test_a_chunk_that_does_not_decode_is_an_error_of_the_reads_that_meet_it():
    builder = RepoBuilder()
    refs = {(0,): builder.chunk(b"sound!"), (1,): builder.chunk(b"broken"), (2,): builder.chunk(b"sound?")}
    builder.commit([group("/", 1), builder.array("/a", 2, (4,), refs, user_data=ARRAY)])
    async with mounted(builder.publish(), tools=ToyFormat().tools(), branch="main") as driver:
        fh, _ = await driver.fs.open((await driver.walk(".icefs/views/npy/a.bin")).ino, os.O_RDONLY)
        assert await driver.fs.read(fh, 0, 6) == b"sound!"
        with pytest.raises(DecodeError) as caught:
            await driver.fs.read(fh, 4, 6)
        assert to_errno(caught.value).errno == errno.EIO
        assert await driver.fs.read(fh, 12, 100) == b"sound?"
        assert await driver.fs.read(fh, 18, 100) == b""
        await driver.fs.release(fh)


async def test_what_a_format_cannot_show_after_all_is_damage_of_that_file():
    builder = RepoBuilder()
    document = array_document(attributes={"x": "not shown"})
    builder.commit([group("/", 1), builder.array("/a", 2, (4,), user_data=document)])
    async with mounted(builder.publish(), tools=ToyFormat().tools(), branch="main") as driver:
        with pytest.raises(DecodeError):
            await driver.walk(".icefs/views/npy/a.json")
        assert (await driver.walk(".icefs/views/npy/a.bin")).size == 0


async def test_a_reader_that_waits_can_be_interrupted_and_keeps_nobody_else_waiting():
    toy = ToyFormat()
    async with mounted(built().publish(), tools=toy.tools(), branch="main") as driver:
        file = await driver.walk(".icefs/views/npy/a.bin")
        fh, _ = await driver.fs.open(file.ino, os.O_RDONLY)
        toy.may_read.clear()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(driver.fs.read, fh, 0, 10)
            await until(lambda: toy.reads)
            assert await driver.read("a/c/0") == b"a(0,)"
            assert (await driver.walk(".icefs/views/npy/g/x.bin")).size == 5
            nursery.cancel_scope.cancel()
        toy.may_read.set()
        assert await driver.fs.read(fh, 5, 10) == b"a(2,)"
        await driver.fs.release(fh)


async def test_many_that_ask_for_the_same_have_it_worked_out_once():
    toy = ToyFormat()
    async with mounted(built().publish(), tools=toy.tools(), branch="main") as driver:
        directory = await driver.walk(".icefs/views/npy")
        async with trio.open_nursery() as nursery:
            for _ in range(20):
                nursery.start_soon(driver.fs.lookup, directory.ino, "a.bin")
        assert (toy.roots, toy.layouts) == (1, 1)


async def test_a_branch_is_followed_and_an_open_file_keeps_its_version():
    builder = built()
    async with mounted(builder.publish(), tools=ToyFormat().tools()) as driver:
        tree = "branches/main/.icefs/views/npy"
        old = await driver.walk(f"{tree}/a.bin")
        fh, _ = await driver.fs.open(old.ino, os.O_RDONLY)
        builder.commit(
            [group("/", 1), builder.array("/a", 2, (4,), inline((0,), tag="later"), user_data=ARRAY)],
            chunks={2: [(0,), (2,)]}, deleted_groups=[3], deleted_arrays=[4],
        )  # fmt: skip
        builder.publish()
        await driver.mount.follower.refresh()
        new = await driver.walk(f"{tree}/a.bin")
        assert new.ino != old.ino
        assert await driver.read_ino(new.ino) == b"later(0,)"
        assert await driver.fs.read(fh, 0, 100) == b"a(0,)a(2,)"
        assert await driver.fs.getattr(old.ino) == old
        await driver.fs.release(fh)
        assert not await driver.exists(f"{tree}/g")
        assert await driver.listdir(tree) == ["a.bin", "a.json", "root.json"]
        assert await driver.read(".icefs/views/npy/branches/main/a.bin") == b"later(0,)"
        assert await driver.read("tags/t/.icefs/views/npy/a.bin") == b"a(0,)a(2,)"


async def test_a_branch_that_was_deleted_is_gone_with_its_views():
    builder = built()
    builder.branches["side"] = builder.branches["main"]
    async with mounted(builder.publish(), tools=ToyFormat().tools()) as driver:
        tree = ".icefs/views/npy/branches/side"
        directory = await driver.walk(tree)
        fh, _ = await driver.fs.open((await driver.walk(f"{tree}/a.bin")).ino, os.O_RDONLY)
        del builder.branches["side"]
        builder.publish()
        await driver.mount.follower.refresh()
        assert not await driver.exists(tree)
        with pytest.raises(StaleError):
            await driver.fs.lookup(directory.ino, "a.bin")
        assert await driver.fs.read(fh, 0, 5) == b"a(0,)"
        await driver.fs.release(fh)


async def test_a_tree_stays_in_memory_while_the_kernel_knows_its_view_and_goes_then():
    async with mounted(built().publish(), tools=ToyFormat().tools()) as driver:
        path = ".icefs/views/npy/tags/t"
        root = await driver.walk(path)
        file = await driver.walk(f"{path}/a.bin")
        assert list(driver.mount.trees.root.tags) == ["t"]
        driver.fs.forget(root.ino, 2)
        assert list(driver.mount.trees.root.tags) == ["t"]
        driver.fs.forget(file.ino, 1)
        assert not driver.mount.trees.root.tags
        assert await driver.read(f"{path}/a.bin") == b"a(0,)a(2,)"


async def test_few_views_are_in_memory_and_the_others_are_made_again():
    builder = built()
    for number in range(40):
        builder.tags[f"t{number}"] = builder.branches["main"]
    toy = ToyFormat()
    async with mounted(builder.publish(), tools=toy.tools()) as driver:
        paths = [f".icefs/views/npy/tags/t{number}/a.bin" for number in range(40)]
        first = [await driver.walk(path) for path in paths]
        assert toy.roots == 40
        assert [await driver.walk(path) for path in paths] == first
        assert 40 < toy.roots <= 80
        assert [await driver.read_ino(attr.ino) for attr in first] == [b"a(0,)a(2,)"] * 40


async def test_nothing_is_made_before_the_first_look():
    toy = ToyFormat()
    async with mounted(built().publish(), tools=toy.tools()) as driver:
        await driver.fs.lookup(ROOT_INO, ".icefs")
        await driver.tree("branches/main")
        await driver.listdir("tags/t/.icefs")
        assert not toy.roots
        assert not [thread for thread in threading.enumerate() if thread.name.startswith("icefs-views")]
