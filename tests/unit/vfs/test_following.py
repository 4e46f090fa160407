"""Refs that come, go and move while they are mounted."""

import os

import pytest

from icefs.errors import FormatError, RepositoryNotFoundError, StaleError
from icefs.format.layout import manifest_key, snapshot_key
from tests.support.repo_builder import RepoBuilder, group, inline, snapshot_id
from tests.support.vfs_driver import mounted


async def test_refs_come_and_go():
    builder = RepoBuilder()
    first = builder.commit([group("/", 1)])
    builder.tags["old"] = first
    builder.branches["dev/x"] = first
    async with mounted(builder.publish()) as driver:
        assert await driver.listdir("branches") == ["dev%2Fx", "main"]
        dev = await driver.walk("branches/dev%2Fx")
        old = await driver.walk("tags/old")
        directories = {name: await driver.walk(name) for name in ("branches", "tags", "snapshots")}
        driver.notifier.entries.clear()

        del builder.branches["dev/x"], builder.tags["old"]
        builder.branches["new"] = builder.tags["newer"] = first
        builder.publish()
        told = await driver.mount.follower.refresh()
        assert told == {
            "new_branches": ["new"],
            "deleted_branches": ["dev/x"],
            "new_tags": ["newer"],
            "deleted_tags": ["old"],
            "moved": {},
            "left_behind": {},
        }
        assert set(driver.notifier.entries) == {
            (directories["branches"].ino, b"dev%2Fx"),
            (directories["tags"].ino, b"old"),
        }
        assert set(driver.notifier.attrs) == {attr.ino for attr in directories.values()}
        assert driver.notifier.drained
        for name, before in directories.items():
            assert (await driver.walk(name)).mtime_ns > before.mtime_ns
        assert await driver.listdir("branches") == ["main", "new"]
        assert await driver.listdir("tags") == ["newer"]
        for gone in (dev, old):
            with pytest.raises(StaleError):
                await driver.fs.lookup(gone.ino, "zarr.json")


@pytest.mark.parametrize("spec_version", [1, 2])
async def test_a_tip_that_is_not_in_the_new_history_is_named(spec_version, caplog):
    """As where a store ignores conditions, and another writer's commit takes the place of this one's."""
    builder = RepoBuilder(spec_version=spec_version)
    first = builder.commit([group("/", 1)])
    ours = builder.commit([group("/", 1), group("/ours", 2)])
    async with mounted(builder.publish()) as driver:
        await driver.walk("branches/main/ours")
        later = builder.commit([group("/", 1), group("/ours", 2), group("/x", 4)])
        builder.publish()
        told = await driver.mount.follower.refresh()
        assert (told["moved"], told["left_behind"]) == ({"main": [str(ours), str(later)]}, {})
        assert "not in the history" not in caplog.text
        theirs = builder.commit([group("/", 1), group("/theirs", 3)], parent=first)
        builder.publish()
        told = await driver.mount.follower.refresh()
        assert told["left_behind"] == {"main": str(later)}
        assert f"snapshot {later}, which was the tip of branch main, is not in the history" in caplog.text
        assert str(theirs) in caplog.text


async def test_nothing_happens_where_nothing_changed():
    builder = RepoBuilder()
    builder.commit([group("/", 1)])
    async with mounted(builder.publish()) as driver:
        await driver.tree()
        await driver.mount.follower.refresh()
        assert not driver.notifier.entries
        assert not driver.notifier.attrs


async def test_a_branch_that_was_made_again_is_another_directory():
    builder = RepoBuilder()
    first = builder.commit([group("/", 1)])
    builder.branches["b"] = first
    async with mounted(builder.publish()) as driver:
        ino = (await driver.walk("branches/b")).ino
        del builder.branches["b"]
        builder.publish()
        await driver.mount.follower.refresh()
        builder.branches["b"] = first
        builder.publish()
        await driver.mount.follower.refresh()
        assert (await driver.walk("branches/b")).ino != ino


async def test_a_tag_that_was_made_again_elsewhere_is_another_directory():
    builder = RepoBuilder()
    first = builder.commit([group("/", 1)])
    second = builder.commit([group("/", 1), group("/g", 2)])
    builder.tags["t"] = first
    async with mounted(builder.publish()) as driver:
        assert await driver.listdir("tags/t") == ["zarr.json"]
        builder.tags["t"] = second
        builder.publish()
        await driver.mount.follower.refresh()
        assert await driver.listdir("tags/t") == ["g", "zarr.json"]


async def test_a_branch_nobody_looked_at_moves_without_being_read():
    builder = RepoBuilder()
    builder.commit([group("/", 1)])
    async with mounted(builder.publish()) as driver:
        before = await driver.walk("branches/main")
        tip = builder.commit([group("/", 1), group("/g", 2)])
        builder.publish()
        told = await driver.mount.follower.refresh()
        assert told["moved"] == {"main": [str(snapshot_id(1)), str(tip)]}
        assert before.ino in driver.notifier.attrs
        after = await driver.walk("branches/main")
        assert after.ino == before.ino
        assert after.mtime_ns > before.mtime_ns
        assert driver.mount.trees.root.branches["main"].session is None
        assert await driver.listdir("branches/main") == ["g", "zarr.json"]


async def test_directories_above_what_changed_have_a_new_time_and_the_others_keep_theirs():
    builder = RepoBuilder()
    a = builder.array("/g/a", 1, (2, 2), inline((0, 0), (1, 1)))
    b = builder.array("/h/b", 2, (2, 2), inline((0, 0), (1, 1)))
    builder.commit([a, b])
    async with mounted(builder.publish(), branch="main") as driver:
        changing = ["", "g", "g/a", "g/a/c", "g/a/c/1"]
        staying = [
            "g/a/c/0",
            "g/a/c/0/0",
            "g/a/zarr.json",
            "h",
            "h/b",
            "h/b/c",
            "h/b/c/0",
            "h/b/c/1/1",
            "h/b/zarr.json",
        ]
        before = {path: await driver.walk(path) for path in changing + staying}
        builder.commit([builder.array("/g/a", 1, (2, 2), inline((0, 0)) | inline((1, 1), tag="new")), b], log=False)
        builder.publish()
        await driver.mount.follower.refresh()
        for path in changing:
            after = await driver.walk(path)
            assert after.ino == before[path].ino, path
            assert after.mtime_ns > before[path].mtime_ns, path
            assert after.ino in driver.notifier.attrs, path
        for path in staying:
            assert await driver.walk(path) == before[path], path
        assert before["h"].ino not in driver.notifier.attrs
        assert await driver.read("g/a/c/1/1") == b"new(1, 1)"


async def test_an_array_that_grows_keeps_the_numbers_it_gave():
    builder = RepoBuilder()
    builder.commit([builder.array("/a", 1, (4,), inline(*((i,) for i in range(4))))])
    async with mounted(builder.publish(), branch="main") as driver:
        before = {i: (await driver.walk(f"a/c/{i}")).ino for i in range(4)}
        directory = (await driver.walk("a/c")).ino
        for size in (8, 9, 1000, 5000):
            builder.commit([builder.array("/a", 1, (size,), inline(*((i,) for i in range(0, size, size // 4 - 1))))])
            builder.commit([builder.array("/a", 1, (size,), inline(*((i,) for i in (0, 1, 2, 3, size - 1))))])
            builder.publish()
            await driver.mount.follower.refresh()
            assert (await driver.walk("a/c")).ino == directory
            assert (await driver.walk("a/c/0")).ino == before[0]
            assert await driver.read(f"a/c/{size - 1}") == f"({size - 1},)".encode()
        driver.fs.space.check_invariants()


async def test_chunks_that_a_smaller_grid_leaves_outside_are_forgotten_and_the_others_stay():
    """Nothing but the array's zarr.json changed, as far as the history tells."""
    builder = RepoBuilder()
    builder.commit([builder.array("/a", 1, (4, 2), inline((0, 0), (3, 1)))])
    async with mounted(builder.publish(), branch="main") as driver:
        directory, kept = await driver.walk("a"), await driver.walk("a/c/0/0")
        await driver.walk("a/c/3/1")
        builder.commit([builder.array("/a", 1, (2, 2), inline((0, 0), (3, 1)))])
        builder.publish()
        await driver.mount.follower.refresh()
        assert (directory.ino, b"c") in driver.notifier.entries
        assert await driver.listdir("a/c") == ["0"]
        assert await driver.walk("a/c/0/0") == kept


async def test_a_tip_that_cannot_be_read_leaves_the_tree_where_it_is(caplog):
    builder = RepoBuilder()
    builder.commit([builder.array("/a", 1, (2,), inline((0,)))])
    async with mounted(builder.publish(), branch="main") as driver:
        assert await driver.read("a/c/0") == b"(0,)"
        good = driver.mount.trees.single.snapshot_id
        tip = builder.commit([builder.array("/a", 1, (2,), inline((0,), tag="x"))], log=False)
        data = builder.storage.get(snapshot_key(tip)).data
        builder.publish()
        builder.storage.put(snapshot_key(tip), b"damage")
        for _ in range(2):
            assert (await driver.mount.follower.refresh())["moved"] == {}
            assert await driver.read("a/c/0") == b"(0,)"
            assert driver.mount.trees.single.snapshot_id == good
        assert "Not following the tip" in (await driver.read(".icefs/status")).decode()
        assert sum("stays at" in record.getMessage() for record in caplog.records) == 1
        caplog.clear()

        builder.storage.put(snapshot_key(tip), data)
        await driver.mount.follower.refresh()
        assert await driver.read("a/c/0") == b"x(0,)"
        assert driver.mount.trees.single.problem is None


async def test_a_new_manifest_that_cannot_be_read_breaks_its_own_array_only():
    builder = RepoBuilder()
    builder.commit([builder.array("/a", 1, (2,), inline((0,))), builder.array("/b", 2, (2,), inline((0,)))])
    async with mounted(builder.publish(), branch="main") as driver:
        await driver.tree()
        directory = (await driver.walk("a")).ino
        a, b = (builder.array(path, n, (2,), inline((0,), tag="x")) for path, n in (("/a", 1), ("/b", 2)))
        builder.commit([a, b], log=False)
        builder.publish()
        builder.storage.put(manifest_key(a.array.manifests[0].manifest_id), b"damage")
        await driver.mount.follower.refresh()
        assert (directory, b"c") in driver.notifier.entries
        assert await driver.read("b/c/0") == b"x(0,)"
        with pytest.raises(FormatError):
            await driver.walk("a/c/0")


async def test_a_store_that_does_not_answer_changes_nothing():
    builder = RepoBuilder()
    builder.commit([group("/", 1)])
    async with mounted(builder.publish()) as driver:
        await driver.tree()
        info = builder.storage.get("repo").data
        builder.storage.delete(["repo"])
        with pytest.raises(RepositoryNotFoundError):
            await driver.mount.follower.refresh()
        assert "cannot be read" in (await driver.read(".icefs/status")).decode()
        assert await driver.listdir("branches/main") == ["zarr.json"]
        builder.storage.put("repo", info)
        await driver.mount.follower.refresh()
        assert "cannot be read" not in (await driver.read(".icefs/status")).decode()


async def test_a_branch_that_is_the_whole_mount_outlives_its_deletion():
    builder = RepoBuilder()
    builder.branches["b"] = builder.commit([group("/", 1)])
    async with mounted(builder.publish(), branch="b") as driver:
        del builder.branches["b"]
        builder.publish()
        await driver.mount.follower.refresh()
        assert await driver.listdir() == ["zarr.json"]
        assert "was deleted" in (await driver.read(".icefs/status")).decode()


async def test_what_is_open_stays_what_it_was():
    builder = RepoBuilder()
    builder.commit([builder.array("/a", 1, (2,), inline((0,)))])
    async with mounted(builder.publish(), branch="main") as driver:
        fs = driver.fs
        held = {}
        for path in ("a/c/0", "a/zarr.json"):
            attr = await driver.walk(path)
            held[path] = (await fs.open(attr.ino, os.O_RDONLY))[0], attr, await driver.read(path)
        builder.commit(
            [builder.array("/a", 1, (2,), inline((0,), tag="longer"), user_data=b'{"node_type":"array"}')], log=False
        )
        builder.publish()
        await driver.mount.follower.refresh()
        for path, (fh, before, data) in held.items():
            assert bytes(await fs.read(fh, 0, 1000)) == data
            assert (await fs.getattr(before.ino)) == before
            assert (await driver.walk(path)).ino != before.ino
            with pytest.raises(StaleError):
                await fs.open(before.ino, os.O_RDONLY)
            await fs.release(fh)
            with pytest.raises(StaleError):
                await fs.getattr(before.ino)


async def test_a_listing_that_is_open_is_finished_as_it_was_begun():
    builder = RepoBuilder()
    builder.commit([builder.array("/a", 1, (9,), inline(*((i,) for i in range(9))))])
    async with mounted(builder.publish(), branch="main") as driver:
        fh = await driver.fs.opendir((await driver.walk("a/c")).ino)
        await driver.fs.readdir(fh, 0)
        builder.commit([builder.array("/a", 1, (9,), inline((8,)))], log=False)
        builder.publish()
        await driver.mount.follower.refresh()
        assert (await driver.fs.readdir(fh, 2)).names == [b"%d" % i for i in range(9)]
        assert (await driver.fs.readdir(fh, 0)).start == 0
        assert (await driver.fs.readdir(fh, 2)).names == [b"8"]


async def test_a_chunk_of_an_array_that_was_moved_away_and_back_is_not_the_one_it_was():
    builder = RepoBuilder()
    pairs = [(f"/a{number}", f"/b{number}", number) for number in range(1, 9)]

    def arrays(which: int, tag: str):
        return [builder.array(pair[which], pair[2], (1,), inline((0,), tag=tag)) for pair in pairs]

    builder.commit(arrays(0, "first"))
    async with mounted(builder.publish(), branch="main") as driver:
        before = {path: await driver.walk(f"{path[1:]}/c/0") for path, _, _ in pairs}
        for which, tag in ((1, "first"), (1, "second"), (0, "second")):
            builder.commit(arrays(which, tag), log=False)
            builder.publish()
            await driver.mount.follower.refresh()
        for path, attr in before.items():
            assert (await driver.walk(f"{path[1:]}/c/0")).ino != attr.ino, path
            with pytest.raises(StaleError):
                await driver.fs.open(attr.ino, os.O_RDONLY)
