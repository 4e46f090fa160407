"""What a service manager hears, over a socket of ours."""

import logging
import os
import signal
import socket
from dataclasses import replace
from types import SimpleNamespace

import pytest
import trio
import trio.testing

from icefs.daemon.live_options import LiveOptions
from icefs.daemon.options import MountOptions
from icefs.daemon.service import Service, obey_signals
from icefs.daemon.systemd import ServiceManager
from icefs.errors import InvalidInputError
from icefs.vfs.observe.mount_facts import MountFacts
from icefs.vfs.observe.stats import Stats
from icefs.vfs.refs.mounted_trees import MountedTrees

OPTIONS = MountOptions(repository="/r", mountpoint="/m", cache_size=10)


@pytest.fixture(autouse=True)
def log_level():
    """A reload sets the level of all logs."""
    level = logging.getLogger().level
    yield
    logging.getLogger().setLevel(level)


class Manager:
    """The other side: a socket that hears datagrams."""

    def __init__(self, address):
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(address)
        self.socket.setblocking(False)

    async def told(self):
        """Waits until there is something to hear."""
        await trio.lowlevel.wait_readable(self.socket)

    def heard(self):
        found = []
        while True:
            try:
                found.append(dict(line.split("=", 1) for line in self.socket.recv(4096).decode().split("\n")))
            except BlockingIOError:
                return found


@pytest.fixture
def manager(tmp_path):
    manager = Manager(str(tmp_path / "notify"))
    yield manager
    manager.socket.close()


def to(manager, **environment):
    ours = ServiceManager.from_environment({"NOTIFY_SOCKET": manager.socket.getsockname(), **environment})
    assert ours.is_there
    return ours


class FakeMount:
    """As much of a mount as the status line asks: a repository with refs, and no tree that was looked at."""

    def __init__(self, branches, tags=(), problem=None):
        self.repository = SimpleNamespace(storage=SimpleNamespace(url="s3://user:secret@bucket/era5"))
        refs = SimpleNamespace(branches=branches, tags=dict.fromkeys(tags))
        self.follower = SimpleNamespace(refs=refs, problem=problem)
        root = SimpleNamespace(branches={}, directory_ino=lambda name: 5)
        self.trees = MountedTrees(root, None)
        self.fs = self  # answers the requests as well
        self.stats = Stats(())
        self.asked = 0

    async def lookup(self, parent, name):
        self.asked += 1
        return SimpleNamespace(ino=6)

    def forget(self, ino, count):
        assert (ino, count) == (6, 1)


def service_of(ours, mount, mountpoint, reread=None, cache=None, needs_cache=True):
    facts = MountFacts(reloads=0, needs_restart=[], no_effect=[], problem=None)
    return Service(
        ours, mount, LiveOptions(replace(OPTIONS, mountpoint=str(mountpoint)), cache, facts, needs_cache), reread
    )


@pytest.fixture
def place(tmp_path):
    (tmp_path / "mnt/.icefs").mkdir(parents=True)
    (tmp_path / "mnt/.icefs/version").touch()
    return tmp_path / "mnt"


def test_the_environment_is_taken_from_our_children():
    environment = {"NOTIFY_SOCKET": "@x", "WATCHDOG_USEC": "3000000", "WATCHDOG_PID": str(os.getpid()), "HOME": "/"}
    ours = ServiceManager.from_environment(environment)
    assert (ours.watchdog_s, environment) == (3.0, {"HOME": "/"})
    ours.close()


@pytest.mark.parametrize("environment", [{}, {"WATCHDOG_USEC": "5", "WATCHDOG_PID": "1"}, {"WATCHDOG_USEC": "0"}])
def test_without_a_manager_nothing_is_told(environment):
    ours = ServiceManager.from_environment(environment)
    assert (ours.is_there, ours.watchdog_s) == (False, None)
    ours.notify(READY="1")
    ours.close()


def test_a_socket_that_is_none_is_said(caplog):
    assert not ServiceManager.from_environment({"NOTIFY_SOCKET": "vsock:2:1"}).is_there
    assert "vsock:2:1" in caplog.text


def test_a_manager_that_has_gone_is_no_failure(manager):
    ours = to(manager)
    os.unlink(manager.socket.getsockname())
    ours.notify(READY="1")
    ours.close()


def test_a_line_stays_one_line(manager):
    ours = to(manager)
    ours.notify(STATUS="a\nREADY=1\n b", MAINPID="7")
    assert manager.heard() == [{"STATUS": "a READY=1 b", "MAINPID": "7"}]
    ours.close()


async def test_ready_only_when_the_mount_answers_and_the_status_is_kept_current(manager, place):
    ours, mount = to(manager), FakeMount({"main": "1CECHNKREP0F1RSTCMT0"}, ["v1"])
    (place / ".icefs/version").unlink()
    os.mkfifo(place / ".icefs/version")  # a mount that does not answer yet
    called = []
    async with trio.open_nursery() as nursery:
        nursery.start_soon(service_of(ours, mount, place).run, lambda: called.append(1))
        await trio.sleep(0.05)
        assert (manager.heard(), called) == ([], [])
        await trio.to_thread.run_sync((place / ".icefs/version").write_bytes, b"")
        with trio.fail_after(5):
            await manager.told()
        await trio.testing.wait_all_tasks_blocked()
        assert manager.heard() == [{"READY": "1", "STATUS": "s3://***@bucket/era5: main 1CECHNKR, 1 tag"}]
        assert (called, mount.asked) == ([1], 1)
        mount.follower.refs.branches |= {"a": "2" * 20, "b": "3" * 20, "c": "4" * 20, "d": "5" * 20}
        mount.follower.problem = "no answer"
        with trio.fail_after(5):
            await manager.told()
        line = "a 22222222, b 33333333, c 44444444, d 55555555, 1 more branch, 1 tag; refs cannot be read: no answer"
        assert manager.heard() == [{"STATUS": f"s3://***@bucket/era5: {line}"}]
        nursery.cancel_scope.cancel()
    ours.close()


async def test_the_watchdog_hears_of_us_as_long_as_the_event_loop_turns(manager, place):
    ours = to(manager, WATCHDOG_USEC="90000")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(service_of(ours, FakeMount({}), place).run, lambda: None)
        await trio.sleep(0.3)
        pings = [told for told in manager.heard() if "WATCHDOG" in told]
        assert 4 <= len(pings) <= 14
        nursery.cancel_scope.cancel()
    ours.close()


async def test_a_reload_turns_what_can_be_turned_and_names_the_rest(manager, place):
    ours, cache = to(manager), SimpleNamespace(max_bytes=10)
    wanted = [replace(OPTIONS, mountpoint=str(place), cache_size=20, poll_interval_s=9.0, branch="b")]
    service = service_of(ours, FakeMount({}), place, lambda: wanted[0], cache)
    await service.reload()
    first, last = manager.heard()
    assert (first["RELOADING"], last) == ("1", {"READY": "1"})
    assert int(first["MONOTONIC_USEC"]) > 0
    assert (cache.max_bytes, service.live.options.poll_interval_s, service.live.options.branch) == (20, 9.0, None)
    expected = {"can_reload": True, "reloads": 1, "needs_restart": ["branch"], "no_effect": [], "problem": None}
    assert service.live.facts.service == expected
    ours.close()


async def test_a_cache_size_has_no_effect_on_a_local_repository(manager, place, caplog):
    ours = to(manager)
    wanted = replace(OPTIONS, mountpoint=str(place), cache_size=20)
    for needs_cache, expected in ((False, ([], ["cache-size"])), (True, (["cache-size"], []))):
        service = service_of(ours, FakeMount({}), place, lambda: wanted, needs_cache=needs_cache)
        await service.reload()
        facts = service.live.facts.service
        assert (facts["needs_restart"], facts["no_effect"]) == expected
    assert "cache-size has no effect: a local repository has no cache" in caplog.text
    assert "these changes wait for a restart: cache-size" in caplog.text
    assert "cache_size" not in caplog.text
    ours.close()


async def test_a_configuration_that_is_wrong_changes_nothing(manager, place):
    def reread():
        raise InvalidInputError("a.toml:3: branch: no")

    ours = to(manager)
    service = service_of(ours, FakeMount({}), place, reread)
    before = service.live.options
    await service.reload()
    assert manager.heard()[-1] == {"READY": "1"}
    assert (service.live.options, service.live.facts.service["problem"]) == (before, "a.toml:3: branch: no")
    ours.close()


@pytest.mark.parametrize("has_configuration", [True, False])
async def test_sighup_reloads_where_there_is_something_to_read_again_and_ends_the_mount_elsewhere(
    manager, place, has_configuration
):
    ours = to(manager)
    options = replace(OPTIONS, mountpoint=str(place))
    service = service_of(ours, FakeMount({}), place, (lambda: options) if has_configuration else None)
    stopped = []

    async def stop():
        stopped.append(1)
        nursery.cancel_scope.cancel()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(obey_signals, service, stop)
        await trio.testing.wait_all_tasks_blocked()
        os.kill(os.getpid(), signal.SIGHUP)
        with trio.fail_after(5):
            await manager.told()
        await trio.sleep(0.1)  # a reload reads in a thread
        nursery.cancel_scope.cancel()
    assert bool(stopped) is not has_configuration
    assert service.live.facts.service["reloads"] == int(has_configuration)
    assert ("STOPPING" in manager.heard()[0]) is not has_configuration
    ours.close()
