"""One mount's life on each kind of store: a directory, S3, Google Cloud Storage and Azure Blob Storage.

The services stand behind a relay that throttles and loses the answer of the write that publishes a commit. The other
writer is the official library, except on Google Cloud Storage: the emulator refuses its writes.
"""

import itertools
import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import icechunk
import numpy as np
import pytest
import zarr

import icefs
from icefs.cli.main import main
from icefs.daemon.mountinfo import mounted_at
from icefs.daemon.options import MountOptions
from icefs.daemon.spawn import spawn
from icefs.storage.gcs.store import GcsStorage
from tests.support import azurite as azure
from tests.support import gcs_server as google
from tests.support.fault_proxy import FaultProxy
from tests.support.mounting import Mount, wait_until
from tests.support.s3_places import Place
from tests.support.s3_server import ADMIN

_numbers = itertools.count()


@dataclass(frozen=True)
class Store:
    """A place for a repository.

    Attributes:
        location: Where the mount finds it, behind the relay if there is one.
        others: Opens the repository for the other writer, past the relay.
        proxy: The relay.
        write: The method of a request that writes.
        publishing: What tells the write that replaces the repository's object from all others.
        secret: What no log may have.
    """

    location: str
    others: Callable[[], Any]
    proxy: FaultProxy | None = None
    write: str = "PUT"
    publishing: dict[str, str] = field(default_factory=lambda: {"path": "/repo", "header": "if-match"})
    secret: str | None = None

    def chunk_reads(self) -> int:
        """Returns how many reads of chunks came by since the relay was cleared."""
        assert self.proxy is not None
        return sum(request.method == "GET" and "chunks" in request.path for request in self.proxy.requests)


def local(request: pytest.FixtureRequest, prefix: str) -> Iterator[Store]:
    path = str(request.getfixturevalue("tmp_path") / "repo")
    yield Store(path, lambda: icechunk.Repository.open(icechunk.local_filesystem_storage(path)))


def s3(request: pytest.FixtureRequest, prefix: str) -> Iterator[Store]:
    server = request.getfixturevalue("s3_server")
    for name, value in server.environment().items():
        request.getfixturevalue("monkeypatch").setenv(name, value)
    keys = (ADMIN.access_key_id, ADMIN.secret_access_key)
    arguments = Place(server.endpoint_url, prefix, *keys).arguments()
    with FaultProxy(server.endpoint_url) as proxy:
        yield Store(
            Place(proxy.endpoint_url, prefix, *keys).url,
            lambda: icechunk.Repository.open(icechunk.s3_storage(**arguments)),
            proxy,
            secret=ADMIN.secret_access_key,
        )


def gcs(request: pytest.FixtureRequest, prefix: str) -> Iterator[Store]:
    server = request.getfixturevalue("gcs_server")
    storage = GcsStorage(google.BUCKET, prefix, server.options())
    with FaultProxy(server.endpoint_url) as proxy:
        yield Store(
            server.location(prefix).replace(server.endpoint_url, proxy.endpoint_url),
            lambda: icefs.Repository.open(storage),
            proxy,
            "POST",
            # Generations of objects that exist are microseconds since 1970, and 0 asks for none to exist.
            {"path": "ifGenerationMatch=1"},
        )
    storage.close()


def azure_blobs(request: pytest.FixtureRequest, prefix: str) -> Iterator[Store]:
    server = request.getfixturevalue("azurite")
    for name, value in (server.environment() | {"AZURITE_BLOB_STORAGE_URL": server.root_url}).items():
        request.getfixturevalue("monkeypatch").setenv(name, value)
    official = icechunk.azure_storage(
        account=azure.ACCOUNT,
        container=azure.CONTAINER,
        prefix=prefix,
        access_key=azure.KEY,
        config={"azure_storage_use_emulator": "true"},
    )
    with FaultProxy(server.root_url) as proxy:
        endpoint_url = server.endpoint_url.replace(server.root_url, proxy.endpoint_url)
        yield Store(
            f"az://{azure.CONTAINER}/{prefix}?endpoint_url={endpoint_url}",
            lambda: icechunk.Repository.open(official),
            proxy,
            secret=azure.KEY,
        )


@pytest.fixture(params=[local, s3, gcs, azure_blobs], ids=lambda kind: kind.__name__)
def store(request: pytest.FixtureRequest) -> Iterator[Store]:
    icechunk.set_logs_filter("off")
    yield from request.param(request, f"life/{next(_numbers)}")


@pytest.fixture
def options(store: Store, tmp_path: Path) -> Iterator[MountOptions]:
    (tmp_path / "mnt").mkdir()
    options = MountOptions(
        repository=store.location,
        mountpoint=str(tmp_path / "mnt"),
        branch="main",
        state_dir=str(tmp_path / "state"),
        cache_dir=str(tmp_path / "cache"),
        cache_size=1 << 30,
        log_file=str(tmp_path / "log"),
        poll_interval_s=0,
        pack_size=0,
        upload_after_s=0.1,
    )
    yield options
    if mounted_at(options.mountpoint) is not None:
        subprocess.run(["fusermount3", "-uz", options.mountpoint], check=True)


def start(options: MountOptions) -> Mount:
    assert options.log_file is not None
    return Mount(Path(options.mountpoint), spawn(options), Path(options.log_file))


def commit(store: Store, mount: Mount, message: str, *, throttled: bool = False) -> None:
    """Commits while the service does not answer the write that publishes, and throttles if asked to."""
    if store.proxy is None:
        (mount / ".icefs/commit").write_text(message)
        return
    store.proxy.clear()
    plans = [store.proxy.plan("lose", method=store.write, **store.publishing)]
    if throttled:
        plans.append(store.proxy.plan("throttle", method=store.write))
        plans.append(store.proxy.plan("too many", method="GET"))
    (mount / ".icefs/commit").write_text(message)
    assert [plan.fired for plan in plans] == [1] * len(plans)
    store.proxy.clear()


def read(options: MountOptions) -> np.ndarray:
    """Reads the array by a mount of its own, so from no memory."""
    mount = start(options)
    values = zarr.open_array(str(mount / "a"), mode="r")[:]
    assert mount.unmount() == 0
    return np.asarray(values)


def test_a_mount_lives_through_faults_conflicts_its_end_and_upkeep(
    store: Store, options: MountOptions, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["init", store.location]) == 0
    at = Path(options.mountpoint)
    values = np.arange(40_000, dtype="i4").reshape(200, 200)
    mount = start(options)
    array = zarr.create_array(str(at / "a"), shape=(200, 200), chunks=(50, 100), dtype="i4", compressors=None)
    if store.proxy is not None:
        meanwhile = store.proxy.plan("throttle", method=store.write)
    array[:] = values
    if store.proxy is not None:
        # The rest may wait for the commit: a refused upload is tried again after up to a minute.
        wait_until(lambda: meanwhile.fired == 1, "an upload before the commit is throttled")
    commit(store, mount, "written", throttled=True)

    # Another writer was quicker.
    array[:50] = values[:50] = -1
    with store.others().transaction("main", message="theirs") as theirs:
        zarr.open_array(theirs, path="a", mode="a")[150:] = values[150:] = 5
    with pytest.raises(OSError):
        (at / ".icefs/commit").write_text("too late")
    assert main(["rebase", str(at)]) == 0
    commit(store, mount, "rebased")

    # The daemon dies with changes that are in no commit.
    array[50:100] = values[50:100] = -2
    os.kill(mount.pid, signal.SIGKILL)
    assert mount.wait() == -signal.SIGKILL
    subprocess.run(["fusermount3", "-uz", at], check=True)
    mount = start(options)
    np.testing.assert_array_equal(zarr.open_array(str(at / "a"))[:], values)
    commit(store, mount, "after the kill")
    assert mount.unmount() == 0

    # What one mount has read from the store, the next one has on disk.
    np.testing.assert_array_equal(read(options), values)
    if store.proxy is not None:
        store.proxy.clear()
        np.testing.assert_array_equal(read(options), values)
        assert store.chunk_reads() == 0
        np.testing.assert_array_equal(read(replace(options, cache_dir=str(at.with_name("cold")))), values)
        assert store.chunk_reads() > 0
    assert store.secret is None or store.secret not in mount.log.read_text()

    assert main(["gc", store.location, "--older-than", "0s", "--force"]) == 0
    capsys.readouterr()
    assert main(["fsck", store.location]) == 0
    assert main(["doctor", store.location]) == 0
    told = capsys.readouterr().out
    if store.proxy is not None:
        assert "conditional writes" in told
        assert "clock" in told
    repo = store.others()
    assert [info.message for info in repo.ancestry(branch="main")] == [
        *("after the kill", "rebased", "theirs", "written", "Repository initialized")
    ]
    session = repo.readonly_session("main")
    np.testing.assert_array_equal(zarr.open_array(session.store, path="a", mode="r")[:], values)
