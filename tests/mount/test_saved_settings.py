"""Settings that `icefs config set` saved are obeyed by commands and mounts, as they are by the API.

The tests at the wire of each store are listed in `tests/conformance/test_settings_table.py`.
"""

import mmap
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import zarr

import icefs
from icefs.cli.main import main
from icefs.cli.support.exit_codes import STORAGE
from tests.support.fault_proxy import FaultProxy
from tests.support.mounting import mounted, wait_until
from tests.support.stalling_server import serving

ARRAYS = 3
CHUNK_BYTES = 1 << 20


@pytest.fixture
def repo(tmp_path: Path) -> Path:
    """A repository whose arrays have one large chunk each."""
    made = icefs.Repository.create(icefs.local_filesystem_storage(tmp_path / "repo"))
    session = made.writable_session("main")
    for number in range(ARRAYS):
        array = zarr.create_array(
            session.store, name=f"a{number}", shape=(CHUNK_BYTES,), chunks=(CHUNK_BYTES,), dtype="u1", compressors=None
        )
        array[:] = np.arange(CHUNK_BYTES) % 251
    session.commit("arrays")
    return tmp_path / "repo"


@pytest.fixture
def web(repo: Path) -> Iterator[FaultProxy]:
    """The repository behind a web server, which is only read."""
    with serving(repo) as server, FaultProxy(server.url) as proxy:
        yield proxy


def save(repo: Path, *settings: str) -> None:
    assert main(["config", "set", *settings, "--repo", str(repo)]) == 0


def reads(proxy: FaultProxy, kind: str) -> int:
    return sum(each.method == "GET" and f"/{kind}/" in each.path for each in proxy.requests)


# --- reading ---


@pytest.mark.parametrize(("size", "requests"), [(None, 1), (CHUNK_BYTES // 4, 4)])
def test_the_size_of_requests(repo, web, capfdbinary, size, requests):
    if size is not None:
        save(repo, f"storage.concurrency.ideal_concurrent_request_size={size}")
    with mounted(web.endpoint_url, branch="main", may_complain=True) as mount:
        data = (mount / "a0/c/0").read_bytes()
    assert reads(web, "chunks") == requests
    web.clear()
    capfdbinary.readouterr()
    assert main(["cat", web.endpoint_url, "a0/c/0"]) == 0
    assert capfdbinary.readouterr().out == data == (np.arange(CHUNK_BYTES) % 251).astype("u1").tobytes()
    assert reads(web, "chunks") == requests


@pytest.mark.parametrize("most", [0, 2, ARRAYS])
def test_manifests_are_fetched_ahead(repo, web, most):
    save(repo, f'manifest.preload={{"preload_if": "true", "max_total_refs": {most}, "max_arrays_to_scan": 9}}')
    with mounted(web.endpoint_url, branch="main", may_complain=True) as mount:
        assert (mount / "zarr.json").exists()
        wait_until(lambda: reads(web, "manifests") == most, "the manifests")
        for number in range(ARRAYS):
            (mount / f"a{number}/c/0").read_bytes()
        assert reads(web, "manifests") == ARRAYS


@pytest.mark.parametrize("tries", [1, 3])
def test_retries(repo, web, tries):
    save(repo, f"storage.retries.max_tries={tries}", "storage.retries.initial_backoff_ms=1")
    web.plan("throttle", path="/snapshots/", times=None)
    assert main(["ls", web.endpoint_url]) == STORAGE
    assert reads(web, "snapshots") == tries
    web.clear()
    with mounted(web.endpoint_url, branch="main", may_complain=True) as mount:
        web.plan("throttle", path="/chunks/", times=None)
        # Without the page cache the kernel asks once: where a read ahead has failed it asks again, page by page.
        file = os.open(mount / "a0/c/0", os.O_RDONLY | os.O_DIRECT)
        try:
            with mmap.mmap(-1, mmap.PAGESIZE) as page, pytest.raises(OSError, match="Input/output"):
                os.preadv(file, [page], 0)
        finally:
            os.close(file)
        assert reads(web, "chunks") == tries


# --- writing ---


def commit_of_a_mount(repo: Path, chunks: int) -> None:
    with mounted(repo, branch="main", may_complain=True) as mount:
        array = zarr.create_array(str(mount / "b"), shape=(chunks,), chunks=(1,), dtype="i8", compressors=None)
        array[:] = np.arange(chunks)
        (mount / ".icefs/commit").write_text("by a mount")


def commit_of_an_import(repo: Path, chunks: int) -> None:
    tree = repo.parent / "tree"
    zarr.create_array(str(tree), shape=(chunks,), chunks=(1,), dtype="i8", compressors=None)[:] = np.arange(chunks)
    assert main(["import", str(tree), str(repo), "--path", "/b", "-m", "by a command", "--pack-size", "0"]) == 0


WRITERS = [commit_of_a_mount, commit_of_an_import]


def objects(repo: Path, kind: str) -> set[str]:
    return {path.name for path in (repo / kind).iterdir()}


@pytest.mark.parametrize("write", WRITERS)
@pytest.mark.parametrize(("threshold", "expected"), [(7, True), (8, False)])
def test_small_chunks_are_inline(repo, write, threshold, expected):
    save(repo, f"inline_chunk_threshold_bytes={threshold}")
    before = objects(repo, "chunks")
    write(repo, 4)
    assert bool(objects(repo, "chunks") - before) == expected


@pytest.mark.parametrize("write", WRITERS)
def test_manifests_are_split(repo, write):
    tree = icefs.ManifestSplittingConfig.from_dict(
        {icefs.ManifestSplitCondition.AnyArray(): {icefs.ManifestSplitDimCondition.Any(): 2}}
    )
    opened = icefs.Repository.open(
        icefs.local_filesystem_storage(repo), icefs.RepositoryConfig(manifest=icefs.ManifestConfig(splitting=tree))
    )
    opened.save_config()
    before = objects(repo, "manifests")
    write(repo, 6)
    assert len(objects(repo, "manifests") - before) == 3


@pytest.mark.parametrize("write", WRITERS)
def test_pages_of_the_ops_log(repo, write):
    save(repo, "num_updates_per_repo_info_file=1")
    before = objects(repo, "overwritten")
    write(repo, 1)
    assert objects(repo, "overwritten") > before
    opened = icefs.Repository.open(icefs.local_filesystem_storage(repo))
    assert next(opened.ancestry(branch="main")).message.startswith("by a ")
