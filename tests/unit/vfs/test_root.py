"""The mount's own directories, over both spec versions."""

import pytest

from icefs.errors import IsADirectoryTreeError, TreeError
from icefs.format.ids import INITIAL_SNAPSHOT_ID
from icefs.format.layout import snapshot_key
from icefs.inode import ROOT_INO
from icefs.vfs.attrs import ABSENT, ABSENT_FOREVER
from tests.support.repo_builder import SECOND, START, RepoBuilder, group, snapshot_id
from tests.support.vfs_driver import mounted


def history(spec_version=2):
    """main: 1 - 2 - 4, side: 1 - 3; tag t: 2; snapshot 5 is nobody's."""
    builder = RepoBuilder(spec_version=spec_version)
    one = builder.commit([group("/", 1)])
    two = builder.commit([group("/", 1), group("/two", 2)])
    builder.branches["side"] = one
    builder.commit([group("/", 1), group("/three", 3)], branch="side")
    builder.commit([group("/", 1), group("/four", 4)])
    builder.tags["t"] = two
    builder.commit([group("/", 1), group("/five", 5)], branch=None, parent=two)
    return builder


@pytest.mark.parametrize("spec_version", [1, 2])
async def test_the_layout(spec_version):
    async with mounted(history(spec_version).publish()) as driver:
        assert await driver.listdir() == ["as-of", "branches", "snapshots", "tags"]
        assert await driver.listdir("branches") == ["main", "side"]
        assert await driver.listdir("tags") == ["t"]
        reachable = sorted(str(snapshot_id(number)) for number in (1, 2, 3, 4))
        assert await driver.listdir("snapshots") == sorted([*reachable, str(INITIAL_SNAPSHOT_ID)])
        assert await driver.listdir("branches/main") == ["four", "zarr.json"]
        assert await driver.listdir("branches/side") == ["three", "zarr.json"]
        assert await driver.listdir("tags/t") == ["two", "zarr.json"]
        assert await driver.listdir(f"snapshots/{snapshot_id(1)}") == ["zarr.json"]


@pytest.mark.parametrize("spec_version", [1, 2])
async def test_a_snapshot_that_no_ref_reaches_is_found_by_its_id(spec_version):
    async with mounted(history(spec_version).publish()) as driver:
        assert await driver.listdir(f"snapshots/{snapshot_id(5)}") == ["five", "zarr.json"]


async def test_one_snapshot_in_several_places_is_as_many_directories():
    async with mounted(history().publish()) as driver:
        one = await driver.walk("tags/t")
        other = await driver.walk(f"snapshots/{snapshot_id(2)}")
        assert one.ino != other.ino
        assert one.mtime_ns == other.mtime_ns == (START + 3 * SECOND) * 1000 - 1_000_000_000


@pytest.mark.parametrize(
    "path",
    [
        "branches/nobody", "tags/main", "snapshots/main", "snapshots/00000000000000000000", "nothing", "zarr.json",
        "branches/main%2f", "snapshots/zzz",
    ],
)  # fmt: skip
async def test_names_that_lead_nowhere(path):
    async with mounted(history().publish()) as driver:
        assert not await driver.exists(path)
        assert not await driver.exists(path)


async def test_only_the_canonical_spelling_of_an_id_is_a_name():
    async with mounted(history().publish()) as driver:
        assert not await driver.exists(f"snapshots/{str(snapshot_id(1)).lower()}")


async def test_what_may_come_to_be_is_not_remembered_as_missing():
    async with mounted(history().publish()) as driver:
        assert await driver.fs.lookup(ROOT_INO, "x") == ABSENT_FOREVER
        for name, missing in (("branches", "x"), ("tags", "x"), ("snapshots", str(snapshot_id(9)))):
            assert await driver.fs.lookup((await driver.walk(name)).ino, missing) == ABSENT


async def test_a_snapshot_can_be_found_as_soon_as_it_exists():
    builder = history()
    async with mounted(builder.publish()) as driver:
        path = f"snapshots/{snapshot_id(6)}"
        assert not await driver.exists(path)
        builder.commit([group("/", 1), group("/six", 6)])
        builder.publish()
        assert await driver.listdir(path) == ["six", "zarr.json"]
        assert str(snapshot_id(6)) not in await driver.listdir("snapshots")
        await driver.mount.follower.refresh()
        assert str(snapshot_id(6)) in await driver.listdir("snapshots")


@pytest.mark.parametrize("spec_version", [1, 2])
async def test_a_broken_snapshot_breaks_its_own_trees_only(spec_version):
    builder = history(spec_version)
    storage = builder.publish()
    storage.put(snapshot_key(snapshot_id(3)), b"damage")
    async with mounted(storage) as driver:
        assert await driver.listdir("branches") == ["main", "side"]
        assert (await driver.walk("branches/side")).is_dir
        with pytest.raises(Exception, match=str(snapshot_id(3))):
            await driver.listdir("branches/side")
        assert await driver.listdir("branches/main") == ["four", "zarr.json"]
        assert str(snapshot_id(4)) in await driver.listdir("snapshots")


async def test_refs_with_names_that_no_file_has():
    builder = history()
    names = ["a/b", "", ".", "..", "100%", "grün", "x" * 300]
    for name in names:
        builder.branches[name] = snapshot_id(1)
    async with mounted(builder.publish()) as driver:
        shown = await driver.listdir("branches")
        assert shown == sorted(["a%2Fb", "%", "%2E", "%2E%2E", "100%25", "grün", "main", "side"])
        for text in shown:
            assert "zarr.json" in await driver.listdir(f"branches/{text}")


async def test_directories_of_the_root_are_no_files_and_no_links():
    async with mounted(history().publish()) as driver:
        for path in ("", "branches", ".icefs"):
            ino = (await driver.walk(path)).ino
            with pytest.raises(IsADirectoryTreeError):
                await driver.fs.open(ino, 0)
            with pytest.raises(TreeError):
                await driver.fs.readlink(ino)


async def test_thousands_of_snapshots_are_listed_without_being_read(monkeypatch):
    builder = RepoBuilder()
    for _ in range(2000):
        builder.commit([], log=False)
    async with mounted(builder.publish()) as driver:
        assert len(await driver.listdir("snapshots")) == 2001
        assert all(tree.session is None for tree in driver.mount.trees.root.trees())
