"""The life of a branch's working tree: opened when it is needed, gone with its branch."""

import os
import threading
from types import SimpleNamespace

import pytest
import trio

from icefs.engine.write.repository import WritableRepository
from icefs.errors import StaleError
from icefs.fuse.boundary import OPERATIONS
from icefs.storage.memory import MemoryStorage
from icefs.vfs.branches import writable_branch
from icefs.vfs.branches.settings import WorkingOptions
from icefs.vfs.control.mount_control import MountControl
from icefs.vfs.mount import Mount, MountRequest
from icefs.vfs.observe.stats import Stats
from tests.support.fake_vfs import FakeNotifier
from tests.support.vfs_driver import OWNERSHIP, Driver, until


async def test_a_working_tree_that_is_being_opened_goes_with_its_branch(tmp_path, monkeypatch):
    repository = WritableRepository.create(MemoryStorage())
    repository.create_branch("short", repository.lookup_branch("main"))
    begun, may_go_on = threading.Event(), threading.Event()
    opened = []

    def slowly(branch, work, repository):
        opened.append(work)
        begun.set()
        assert may_go_on.wait(30)

    monkeypatch.setattr(writable_branch, "recover", slowly)
    request, notifier = MountRequest(OWNERSHIP, working=WorkingOptions(tmp_path)), FakeNotifier()
    mount = Mount(repository, repository.refs(), request, notifier, Stats(OPERATIONS), MountControl)
    directory = await Driver(mount, notifier).walk("branches/short")
    refused = []

    async def write():
        with pytest.raises(StaleError) as caught:
            await mount.fs.create(directory.ino, "draft", 0o644, os.O_WRONLY, SimpleNamespace(uid=1, gid=1, umask=0))
        refused.append(caught.value)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(write)
        assert await trio.to_thread.run_sync(begun.wait, 30)
        repository.delete_branch("short")
        await mount.follower.refresh()
        may_go_on.set()
    assert refused
    [work] = opened
    assert work._core.is_closed
    assert not work.directory.exists()
    mount.close()


async def test_a_branch_stays_where_it_is_while_a_thread_works_that_nobody_waits_for(tmp_path, nursery):
    repository = WritableRepository.create(MemoryStorage())
    request, notifier = MountRequest(OWNERSHIP, working=WorkingOptions(tmp_path)), FakeNotifier()
    mount = Mount(repository, repository.refs(), request, notifier, Stats(OPERATIONS), MountControl)
    await Driver(mount, notifier).walk("branches/main")
    tree = mount.trees.root.branches["main"]
    operations = tree.writable.operations
    begun, gate, scope = threading.Event(), threading.Event(), trio.CancelScope()

    def work():
        begun.set()
        assert gate.wait(30)

    async def run():
        with scope:
            await operations.in_thread(work)

    nursery.start_soon(run)
    assert await trio.to_thread.run_sync(begun.wait, 30)
    scope.cancel()
    await trio.testing.wait_all_tasks_blocked()
    assert scope.cancelled_caught
    assert tree.is_pinned
    gate.set()
    await until(lambda: not mount.gauges.queues()["write"])
    assert not tree.is_pinned
    mount.close()
