"""A repository on an S3 server, mounted: chunks are fetched once, ahead of sequential readers, and damage is EIO."""

import errno
import json
import os
import subprocess
import sys

import pytest

from tests.conformance.official import GROUP, array_json, commit, create
from tests.support.mounting import mounted

CHUNK = bytes(range(256)) * 1024
COUNT = 24
KEYS = {"zarr.json": GROUP, "a/zarr.json": array_json((COUNT << 18,), (1 << 18,))} | {
    f"a/c/{i}": bytes([i]) + CHUNK[1:] for i in range(COUNT)
}


@pytest.fixture
def place(s3_server, s3_storage, s3_prefix, tmp_path, monkeypatch):
    """The location of a repository, copied to the server object by object."""
    commit(create(tmp_path / "repo", 2), "first", KEYS)
    for path in (tmp_path / "repo").rglob("*"):
        if path.is_file():
            s3_storage.put(path.relative_to(tmp_path / "repo").as_posix(), path.read_bytes())
    for name, value in s3_server.environment().items():
        monkeypatch.setenv(name, value)
    return f"s3://icefs-tests/{s3_prefix}?endpoint_url={s3_server.endpoint_url}"


def test_a_mounted_bucket(place, s3_server, s3_storage, s3_prefix):
    with mounted(place, branch="main", may_complain=True) as mount:
        for key, data in KEYS.items():
            assert os.stat(mount / key).st_size == len(data)
        gauges = mount.control("stats.json")["gauges"]
        assert gauges["chunks_opened_remote_total"] == 0
        for key, data in KEYS.items():
            assert (mount / key).read_bytes() == data
        gauges = mount.control("stats.json")["gauges"]
        assert gauges["chunks_opened_remote_total"] == COUNT
        # In order, so most were on their way before they were opened; and none came twice.
        assert gauges["chunk_fetched_bytes_total"] == COUNT * len(CHUNK)
        assert gauges["chunk_memory_hits_total"] >= COUNT // 2
        readers = [
            subprocess.Popen([sys.executable, "-c", f"open({str(mount / 'a/c/7')!r}, 'rb').read()"]) for _ in range(4)
        ]
        assert [reader.wait(30) for reader in readers] == [0] * 4
        info = json.dumps(mount.control("info.json"))
        assert "icefs-tests" in info
        assert s3_server.environment()["AWS_SECRET_ACCESS_KEY"] not in info
        location = os.getxattr(mount / "a/c/3", "user.icefs.location").decode()
        assert location.startswith(f"s3://icefs-tests/{s3_prefix}/chunks/")

    with mounted(place, branch="main", may_complain=True) as mount:
        location = os.getxattr(mount / "a/c/3", "user.icefs.location").decode()
        assert not s3_storage.delete([f"chunks/{location.partition('?')[0].rpartition('/')[2]}"])
        with pytest.raises(OSError) as caught:
            (mount / "a/c/3").read_bytes()
        assert caught.value.errno == errno.EIO
        assert (mount / "a/c/4").read_bytes() == KEYS["a/c/4"]
        assert any("a/c/3" in line for line in mount.complaints())
