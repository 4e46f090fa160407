"""Ctrl-C ends every command that talks to a store, at once or after two seconds, however long the store is silent."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np
import pytest
import zarr

from icefs.cli.support.exit_codes import INTERRUPTED
from icefs.cli.support.registry import COMMANDS
from icefs.daemon.mountinfo import mounted_at
from icefs.engine.write.repository import WritableRepository
from icefs.storage.s3.store import S3Storage
from tests.conformance.official import GROUP, array_json
from tests.support.fault_proxy import FaultProxy
from tests.support.mounting import wait_until
from tests.support.s3_server import BUCKET
from tests.support.virtual_samples import settled

ICEFS = Path(sys.executable).with_name("icefs")
PATIENCE_S = 20
"""Far below the minutes that a command waits for a silent store, and far above two seconds."""

# The lines; REPO, NEW, FILES and OUT stand for places.
LINES: dict[str, list[str]] = {
    "init": ["init NEW"],
    "doctor": ["doctor REPO"],
    "info": ["info REPO"],
    "log": ["log REPO", "log REPO --graph"],
    "blame": ["blame REPO a"],
    "merge": ["merge other --repo REPO"],
    "cherry-pick": ["cherry-pick other --repo REPO"],
    "revert": ["revert main --repo REPO"],
    "restore": ["restore a --from other --repo REPO"],
    "clone": ["clone REPO OUT", "clone REPO NEW"],
    "pull": ["pull REPO --repo REPO"],
    "push": ["push REPO --repo REPO"],
    "branch": ["branch create new --repo REPO", "branch list --repo REPO"],
    "tag": ["tag create new --repo REPO"],
    "ls": ["ls REPO -l"],
    "cat": ["cat REPO a/c/0"],
    "import": [
        "import FILES/zarr REPO --path /new",
        "import --virtual FILES/a.h5 REPO",
        "import --copy FILES/a.h5 REPO",
    ],
    "export": ["export REPO OUT", "export REPO OUT --format npy"],
    "stats": ["stats REPO", "stats REPO --history"],
    "fsck": ["fsck REPO", "fsck REPO --repair"],
    "expire": ["expire REPO --older-than 1d"],
    "gc": ["gc REPO --older-than 1d"],
    "rewrite-manifests": ["rewrite-manifests REPO"],
    "upgrade": ["upgrade REPO"],
    "config": ["config get --repo REPO", "config set compression.level=4 --repo REPO"],
    "inspect": ["inspect REPO main"],
    "diff": ["diff REPO start main", "diff REPO other...main"],
    "mount": ["mount REPO OUT"],
}
# Those that talk to a mount, or to nothing; a mount's own tests end them.
WITHOUT_STORE = {
    *("umount", "serve", "install-units", "status", "commit", "discard", "rebase", "refresh", "top", "log-level"),
    *("warmup", "help", "completion", "sessions"),
}
CASES = [line for lines in LINES.values() for line in lines]


def test_each_command_is_here():
    assert LINES.keys() | WITHOUT_STORE == COMMANDS.keys()
    assert not LINES.keys() & WITHOUT_STORE


@dataclass(frozen=True)
class Place:
    """A repository behind a proxy, and a directory of files."""

    location: str
    proxy: FaultProxy
    directory: Path

    def typed(self, line: str) -> list[str]:
        words = {
            "REPO": self.location,
            "NEW": self.location.replace("?", "-new?"),
            "OUT": str(self.directory / "out"),
            "FILES": str(self.directory),
        }
        found = []
        for word in line.split():
            for name, value in words.items():
                word = word.replace(name, value)
            found.append(word)
        return found


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("files")
    with h5py.File(directory / "a.h5", "w") as file:
        file.create_dataset("x", data=np.arange(1000.0), chunks=(100,))
    settled(directory / "a.h5")
    zarr.create_array(str(directory / "zarr"), shape=(900,), chunks=(300,), dtype="i8", compressors=None)[:] = 1
    return directory


@pytest.fixture
def place(s3_server, s3_prefix, proxy, files, tmp_path, monkeypatch) -> Iterator[Place]:
    storage = S3Storage(BUCKET, s3_prefix, s3_server.options())
    with WritableRepository.create(storage) as repository:
        repository.create_tag("start", repository.lookup_branch("main"))
        for message in ("one", "two"):
            with repository.transaction("main", message=message) as session:
                if session.get_node("/a") is None:
                    session.nodes.put("/", GROUP)
                    session.nodes.put("/a", array_json((4,), (1,)))
                session.chunks.set("/a", (0,), message.encode() * 300)
            if message == "one":
                repository.create_branch("other", repository.lookup_branch("main"))
        with repository.transaction("other", message="three") as session:
            session.chunks.set("/a", (1,), b"three" * 300)
    storage.close()
    for name, value in s3_server.environment().items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "out").mkdir()
    for each in files.iterdir():
        (tmp_path / each.name).symlink_to(each)
    yield Place(f"s3://{BUCKET}/{s3_prefix}?endpoint_url={proxy.endpoint_url}", proxy, tmp_path)
    proxy.clear()
    if mounted_at(str(tmp_path / "out")) is not None:  # a mount needs nothing but what it has already
        subprocess.run([ICEFS, "umount", tmp_path / "out"], check=True, capture_output=True)


def interrupt(place: Place, line: str) -> int:
    """Types a line, and Ctrl-C when a request is not answered; returns the exit code when nothing runs any more."""
    with subprocess.Popen(
        [ICEFS, *place.typed(line)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, process_group=0
    ) as command:
        try:
            wait_until(lambda: any(plan.fired for plan in place.proxy.plans) or command.poll() is not None, "a request")
            command.send_signal(signal.SIGINT)
            code = command.wait(PATIENCE_S)
        finally:
            command.kill()
        assert command.stderr is not None
        said = command.stderr.read().decode()
        assert "Traceback" not in said
        assert code in (0, INTERRUPTED), said
    wait_until(lambda: not is_group(command.pid), "the end of what it started")
    return code


def is_group(number: int) -> bool:
    """Tells whether a process group has processes."""
    try:
        os.killpg(number, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.mark.parametrize("line", CASES)
def test_a_store_that_never_answers(place: Place, line: str) -> None:
    place.proxy.plan("hang", times=None)
    assert interrupt(place, line) == INTERRUPTED


@pytest.mark.parametrize("line", CASES)
def test_a_store_that_falls_silent_after_the_repository_is_open(place: Place, line: str) -> None:
    plans = [place.proxy.plan("hang", times=None, path=kind) for kind in ("snapshots", "manifests", "transactions")]
    plans += [place.proxy.plan("hang", times=None, path=kind) for kind in ("/chunks/", "list-type", "overwritten")]
    plans += [place.proxy.plan("hang", times=None, method=method) for method in ("PUT", "POST", "DELETE")]
    code = interrupt(place, line)
    # A command that asks for nothing more is over.
    assert code == (INTERRUPTED if any(plan.fired for plan in plans) else 0)
