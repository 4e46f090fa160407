"""Control directories: what they say, and the conversation through `rpc`."""

import json
import os
import threading

import pytest
import trio

from icefs.errors import InvalidInputError, TreeError
from icefs.inode import ROOT_INO
from icefs.vfs.control import reports
from icefs.vfs.control.rpc import MAX_REQUEST_BYTES, RpcHandle
from tests.support.repo_builder import RepoBuilder, group, snapshot_id
from tests.support.vfs_driver import mounted, until

TREE_FILES = ["commit", "diff", "diff.json", "discard", "head", "info.json", "log", "log.json"]
TREE_FILES += ["rebase", "rpc", "status", "status.json", "views"]
ROOT_FILES = ["accesslog", "info.json", "metrics", "rpc", "stats.json", "status", "status.json", "version", "views"]


def repository():
    builder = RepoBuilder()
    builder.commit([group("/", 1)], message="first\nwith details")
    builder.tags["t"] = builder.commit([group("/", 1), group("/g", 2)], message="second")
    return builder


async def read_json(driver, path):
    return json.loads(await driver.read(path))


async def test_control_directories_are_found_and_not_listed():
    async with mounted(repository().publish()) as driver:
        for path in ("", "branches/main", "tags/t", f"snapshots/{snapshot_id(1)}"):
            assert ".icefs" not in await driver.listdir(path)
            expected = TREE_FILES if path else ROOT_FILES
            assert await driver.listdir(f"{path}/.icefs") == expected
        assert not await driver.exists("branches/.icefs")
        assert not await driver.exists("branches/main/.icefs/nothing")
    async with mounted(repository().publish(), branch="main") as driver:
        assert ".icefs" not in await driver.listdir()
        assert await driver.listdir(".icefs") == sorted({*TREE_FILES, *ROOT_FILES} - {"head"})


async def test_every_file_can_be_read_in_small_steps():
    async with mounted(repository().publish(), branch="main") as driver:
        for name in await driver.listdir(".icefs"):
            if name in ("rpc", "head", "stats.json", "metrics", "views"):
                continue
            assert await driver.read(f".icefs/{name}", step=7) == await driver.read(f".icefs/{name}"), name


async def test_a_tree_says_what_it_shows():
    async with mounted(repository().publish()) as driver:
        tip = str(snapshot_id(2))
        status = await read_json(driver, "branches/main/.icefs/status.json")
        assert (status["kind"], status["name"], status["snapshot"], status["tip"]) == ("branch", "main", tip, tip)
        assert (status["message"], status["tip_moved"], status["untracked"]) == ("second", False, [])
        assert not any(status["staged"].values())
        text = (await driver.read("branches/main/.icefs/status")).decode()
        assert text.startswith(f"On branch main\nBase snapshot {tip} (2023-11-14T22:13:22Z, second)\n")
        assert (await driver.read(f"snapshots/{tip}/.icefs/status")).startswith(b"On snapshot\n")
        assert (await driver.read("tags/t/.icefs/status")).startswith(b"On tag t\n")
        info = await read_json(driver, "tags/t/.icefs/info.json")
        assert (info["kind"], info["name"], info["snapshot"], info["writable"]) == ("tag", "t", tip, False)
        assert "pid" not in info
        assert await driver.read("tags/t/.icefs/diff") == b""
        diff = await read_json(driver, "tags/t/.icefs/diff.json")
        assert diff.pop("from") == str(snapshot_id(2))
        assert not any(diff.values())
        assert await read_json(driver, "branches/main/.icefs/commit") is None


async def test_a_tree_tells_its_history():
    async with mounted(repository().publish()) as driver:
        log = await read_json(driver, "branches/main/.icefs/log.json")
        assert [entry["message"] for entry in log] == ["second", "first\nwith details", "Repository initialized"]
        assert log[0]["parent_id"] == log[1]["id"] == str(snapshot_id(1))
        assert log[2]["parent_id"] is None
        lines = (await driver.read("branches/main/.icefs/log")).decode().splitlines()
        assert lines[1] == f"{snapshot_id(1)} 2023-11-14T22:13:21Z first"


async def test_head_leads_to_the_snapshot():
    async with mounted(repository().publish()) as driver:
        head = await driver.fs.readlink((await driver.walk("branches/main/.icefs/head")).ino)
        assert head == f"../../../snapshots/{snapshot_id(2)}"
        assert await driver.listdir(head.removeprefix("../../../")) == ["g", "zarr.json"]
        with pytest.raises(TreeError):
            await driver.fs.readlink((await driver.walk("branches/main/.icefs/status")).ino)
        with pytest.raises(TreeError):
            await driver.fs.open((await driver.walk("branches/main/.icefs/head")).ino, os.O_RDONLY)
    async with mounted(repository().publish(), tag="t") as driver:
        assert "head" not in await driver.listdir(".icefs")  # there is nothing that it could lead to


async def test_the_mount_says_what_it_is():
    async with mounted(repository().publish()) as driver:
        info = await read_json(driver, ".icefs/info.json")
        assert (info["pid"], info["version"], info["mountpoint"]) == (os.getpid(), "1.2.3", "/mnt")
        assert (info["spec_version"], info["repository"]) == (2, driver.mount.repository.storage.url)
        assert await driver.read(".icefs/version") == b"icefs 1.2.3\n"
        status = await read_json(driver, ".icefs/status.json")
        assert status["branches"] == {"main": str(snapshot_id(2))}
        assert status["tags"] == {"t": str(snapshot_id(2))}
        assert b"1 branch: main" in await driver.read(".icefs/status")
    async with mounted(repository().publish(), branch="main") as driver:
        info = await read_json(driver, ".icefs/info.json")
        assert (info["pid"], info["kind"], info["name"]) == (os.getpid(), "branch", "main")


async def test_counters():
    async with mounted(repository().publish()) as driver:
        driver.mount.stats.record(0, 0, 1500, 0, (1, b"a", 0))
        stats = await read_json(driver, ".icefs/stats.json")
        assert stats["operations"]["lookup"]["count"] == 1
        assert stats["gauges"]["open_files"] == 0
        text = (await driver.read(".icefs/metrics")).decode()
        assert 'icefs_operations_total{op="lookup",mountpoint="/mnt"} 1' in text
        assert 'icefs_operation_duration_seconds_count{op="lookup",mountpoint="/mnt"} 1' in text
        assert 'icefs_branch_moves_total{mountpoint="/mnt"} 0' in text


async def test_a_status_is_told_even_of_a_snapshot_that_cannot_be_read():
    builder = repository()
    storage = builder.publish()
    async with mounted(storage, branch="main") as driver:
        await driver.walk(".icefs")
        storage.delete(["repo"])
        driver.mount.repository.assets._repo = None
        status = await read_json(driver, ".icefs/status.json")
        assert status["snapshot"] == str(snapshot_id(2))
        assert status["message"] == "second"
        assert await read_json(driver, ".icefs/log.json") == []


# rpc


class Conversation:
    def __init__(self, driver, path="rpc"):
        self.driver = driver
        self.path = path

    async def __aenter__(self):
        attr = await self.driver.walk(f".icefs/{self.path}")
        self.fh, self.file = await self.driver.fs.open(attr.ino, os.O_RDWR)
        return self

    async def __aexit__(self, *failure):
        await self.driver.fs.release(self.fh)

    async def ask(self, request, step=1 << 16):
        data = request if isinstance(request, bytes) else json.dumps(request).encode()
        assert await self.driver.fs.write(self.fh, 0, data) == len(data)
        return await self.answer(step)

    async def answer(self, step=1 << 16):
        parts = []
        while part := await self.driver.fs.read(self.fh, 12345, step):
            parts.append(bytes(part))
        return [json.loads(line) for line in b"".join(parts).splitlines()]


async def test_a_conversation():
    async with mounted(repository().publish()) as driver, Conversation(driver) as conversation:
        assert (conversation.file.direct_io, conversation.file.nonseekable) == (True, True)
        assert await conversation.answer() == []
        assert await conversation.ask({"op": "ping"}) == [{"type": "result", "pid": os.getpid()}]
        assert await conversation.ask({"op": "ping"}, step=3) == [{"type": "result", "pid": os.getpid()}]
        [status] = await conversation.ask({"op": "status"})
        assert status["kind"] == "repository"
        [info] = await conversation.ask({"op": "info"})
        assert info["version"] == "1.2.3"


async def test_a_tree_speaks_for_itself():
    builder = repository()
    async with mounted(builder.publish(), branch="main") as driver, Conversation(driver) as conversation:
        [status] = await conversation.ask({"op": "status"})
        assert status["name"] == "main"
        await driver.tree()
        tip = builder.commit([group("/", 1)], log=False)
        builder.publish()
        [result] = await conversation.ask({"op": "refresh"})
        assert result["snapshot"] == str(tip)
        assert result["moved"] == {"main": [str(snapshot_id(2)), str(tip)]}
        assert driver.notifier.drained
        assert await driver.listdir() == ["zarr.json"]


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        (b"no json", "not JSON"),
        (b"[]", "op"),
        (b"{}", "op"),
        (b'{"op": 3}', "op"),
        (b'{"op": "fly"}', "unknown operation 'fly'"),
        (b"\xff", "not JSON"),
    ],
)
async def test_a_bad_request_is_answered(request_, message):
    async with mounted(repository().publish()) as driver, Conversation(driver) as conversation:
        [answer] = await conversation.ask(request_)
        assert answer["type"] == "error"
        assert message in answer["message"]
        assert (await conversation.ask({"op": "ping"}))[0]["type"] == "result"


async def test_an_error_of_the_operation_is_answered():
    builder = repository()
    storage = builder.publish()
    async with mounted(storage) as driver, Conversation(driver) as conversation:
        storage.delete(["repo"])
        [answer] = await conversation.ask({"op": "refresh"})
        assert (answer["type"], answer["kind"]) == ("error", "repository-not-found")
        assert answer["hint"]


async def test_progress_comes_before_the_result():
    async def count(request):
        for number in range(request["to"]):
            yield {"type": "progress", "number": number}
        yield {"done": True}

    handle = RpcHandle(5, {"count": count})
    await handle.write(0, b'{"op": "count",')
    await handle.write(0, b' "to": 2}')
    assert handle.read_nowait(0, 100) is None
    lines = []
    while line := await handle.read(0, 1 << 16):
        lines.append(json.loads(line))
    assert lines == [
        {"type": "progress", "number": 0},
        {"type": "progress", "number": 1},
        {"type": "result", "done": True},
    ]


async def test_who_only_writes_is_obeyed_at_once():
    seen = []

    async def note(request):
        seen.append(request)
        yield {}

    handle = RpcHandle(5, {"note": note}, os.O_WRONLY)
    await handle.write(0, b'{"op": "note"}')
    assert seen == [{"op": "note"}]


async def test_requests_are_bounded():
    handle = RpcHandle(5, {})
    await handle.write(0, b"x" * MAX_REQUEST_BYTES)
    with pytest.raises(InvalidInputError):
        await handle.write(0, b"x")


async def test_the_root_of_a_single_tree_has_inode_1():
    async with mounted(repository().publish(), tag="t") as driver:
        assert (await driver.walk("")).ino == ROOT_INO


async def test_a_file_whose_reader_is_gone_is_made_anew_for_the_next(monkeypatch, nursery):
    gate, made = threading.Event(), []

    def slowly(*args):
        made.append(1)
        assert gate.wait(30)
        return {"number": len(made)}

    monkeypatch.setattr(reports, "tree_status", slowly)
    async with mounted(repository().publish(), branch="main") as driver:
        ino = (await driver.walk(".icefs/status.json")).ino
        scope = trio.CancelScope()

        async def read():
            with scope:
                await driver.read_ino(ino)

        nursery.start_soon(read)
        await until(lambda: made)
        scope.cancel()
        await trio.testing.wait_all_tasks_blocked()
        assert scope.cancelled_caught
        gate.set()
        await until(lambda: not driver.mount.gauges.queues()["load"])
        assert await read_json(driver, ".icefs/status.json") == {"number": 2}
        assert driver.fs.handles.open_files == 0
