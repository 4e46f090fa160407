"""Mounts that show views in place of Zarr keys."""

import json
import os

import pytest

from icefs.errors import ReadOnlyError, StaleError
from icefs.inode import ROOT_INO
from icefs.vfs.attrs import FOREVER_S
from tests.support.repo_builder import RepoBuilder, group, inline, snapshot_id
from tests.support.toy_format import ToyFormat
from tests.support.vfs_driver import mounted
from tests.support.zarr_documents import array_document

ARRAY = array_document(shape=[40], chunk_grid={"name": "regular", "configuration": {"chunk_shape": [10]}})
FILES = ["a.bin", "a.json", "g", "g.json", "root.json"]


def built():
    builder = RepoBuilder()
    array = builder.array("/a", 2, (4,), inline((0,), (2,), tag="a"), user_data=ARRAY)
    builder.commit([group("/", 1), array, group("/g", 3)])
    builder.tags["t"] = builder.branches["main"]
    return builder


@pytest.mark.parametrize("ref", [{"branch": "main"}, {"tag": "t"}, {"snapshot": snapshot_id(1)}])
async def test_one_tree(ref):
    async with mounted(built().publish(), view="npy", tools=ToyFormat().tools(), **ref) as driver:
        assert await driver.listdir() == FILES
        assert (await driver.walk("")).ino == ROOT_INO
        assert await driver.read("a.bin") == b"a(0,)a(2,)"
        assert await driver.listdir("g") == []
        assert not await driver.exists("zarr.json")
        assert "status.json" in await driver.listdir(".icefs")
        assert json.loads(await driver.read(".icefs/status.json"))["snapshot"] == str(snapshot_id(1))
        assert await driver.read(".icefs/views/npy/a.bin") == b"a(0,)a(2,)"
        assert driver.fs.describe_inode((await driver.walk("a.bin")).ino) == "/a.bin"
        with pytest.raises(ReadOnlyError):
            await driver.fs.mkdir(ROOT_INO, "new", 0o755, None)


async def test_the_whole_repository():
    async with mounted(built().publish(), view="npy", tools=ToyFormat().tools()) as driver:
        assert await driver.listdir() == ["as-of", "branches", "snapshots", "tags"]
        assert await driver.listdir("tags") == ["t"]
        for tree in ("branches/main", "tags/t", f"snapshots/{snapshot_id(1)}"):
            assert await driver.listdir(tree) == FILES
            assert await driver.read(f"{tree}/a.bin") == b"a(0,)a(2,)"
            assert "log.json" in await driver.listdir(f"{tree}/.icefs")
            assert await driver.read(f"{tree}/.icefs/views/npy/a.bin") == b"a(0,)a(2,)"
            assert driver.fs.describe_inode((await driver.walk(f"{tree}/a.bin")).ino) == f"/{tree}/a.bin"
        assert "version" in await driver.listdir(".icefs")
        assert (await driver.walk("tags/t")).attr_timeout_s == FOREVER_S
        assert (await driver.walk("branches/main")).attr_timeout_s == 0
        with pytest.raises(ReadOnlyError):
            await driver.fs.mkdir((await driver.walk("tags/t")).ino, "new", 0o755, None)


async def test_a_branch_is_followed_and_deleted_names_are_invalidated():
    builder = built()
    builder.branches["side"] = builder.branches["main"]
    async with mounted(builder.publish(), view="npy", tools=ToyFormat().tools()) as driver:
        directory = (await driver.walk("branches")).ino
        side = await driver.walk("branches/side")
        fh, _ = await driver.fs.open((await driver.walk("branches/main/a.bin")).ino, os.O_RDONLY)
        builder.commit([group("/", 1)], deleted_arrays=[2], deleted_groups=[3])
        del builder.branches["side"]
        builder.publish()
        await driver.mount.follower.refresh()
        assert (directory, b"side") in driver.notifier.entries
        assert await driver.listdir("branches") == ["main"]
        assert await driver.listdir("branches/main") == ["root.json"]
        assert await driver.fs.read(fh, 0, 5) == b"a(0,)"
        with pytest.raises(StaleError):
            await driver.fs.lookup(side.ino, "a.bin")
        await driver.fs.release(fh)


async def test_a_tag_goes_from_memory_when_the_kernel_forgets_it():
    async with mounted(built().publish(), view="npy", tools=ToyFormat().tools()) as driver:
        root = await driver.walk("tags/t")
        control = await driver.walk("tags/t/.icefs")
        driver.fs.forget(root.ino, 2)
        assert list(driver.mount.trees.root.tags) == ["t"]
        driver.fs.forget(control.ino, 1)
        assert not driver.mount.trees.root.tags
        assert await driver.read("tags/t/a.bin") == b"a(0,)a(2,)"
