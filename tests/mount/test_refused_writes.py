"""Refused writes are shown where their writers look."""

import errno
import os
from pathlib import Path

import pytest

from icefs.cli.main import main
from tests.conformance.official import GROUP, commit, create
from tests.support.ci import require
from tests.support.mounting import mounted
from tests.support.users import run_as

OTHER = 4202
BAD = {
    '{"zarr_format":3,"node_type":"group","attributes":{"valid_min":NaN}}': "NaN at attributes.valid_min",
    '{"zarr_format":3,"node_type":"group","attributes":{"a":[{"b":[1,-Infinity]}]}}': (
        "it is no JSON: -Infinity at attributes.a[0].b[1]"
    ),
    '{"zarr_format":3,\n"node_type":}': "line 2 column 13",
}


@pytest.mark.parametrize("text", BAD)
def test_status_says_what_was_refused_where_and_why(
    tmp_path: Path, text: str, capfd: pytest.CaptureFixture[str]
) -> None:
    """By the name that it was to get, until it is written well; also with a log that says nothing."""
    repository = tmp_path / "repo"
    commit(create(repository, 2), "first", {"zarr.json": GROUP})
    with mounted(repository, branch="main", log_level="warning") as mount:
        (mount / "h").mkdir()
        temporary, target = mount / "h/zarr.json.part", mount / "h/zarr.json"
        temporary.write_text(text)
        with pytest.raises(OSError) as caught:
            temporary.rename(target)
        assert caught.value.errno == errno.EINVAL
        with pytest.raises(OSError):
            target.write_text(text)
        [refused] = mount.control("status.json")["refused"]
        assert refused["path"] == "h/zarr.json"
        assert BAD[text] in refused["reason"]
        assert refused["reason"] in (mount / ".icefs/status").read_text()
        assert main(["status", str(mount.path)]) == 0
        assert f"  h/zarr.json: {refused['reason']}\n" in capfd.readouterr().out
        target.write_bytes(GROUP)
        assert mount.control("status.json")["refused"] == []


def test_another_user_of_the_mount_sees_why_a_write_was_refused(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    require(os.getuid() == 0, "the superuser, who can become other users")
    repository = tmp_path / "repo"
    commit(create(repository, 2), "first", {"zarr.json": GROUP})
    text = next(iter(BAD))
    with mounted(repository, branch="main", allow_other=True, log_level="warning") as mount:
        mount.path.parent.chmod(0o755)
        (mount / "h").mkdir()
        (mount / "h").chmod(0o777)
        assert main(["status", str(mount.path)]) == 0  # here, where other users cannot import what it takes
        capfd.readouterr()
        assert run_as(OTHER, OTHER, lambda: (mount / "h/zarr.json").write_text(text)) == "OSError"
        assert run_as(OTHER, OTHER, lambda: main(["status", str(mount.path)])) == "0"
        assert BAD[text] in capfd.readouterr().out


@pytest.mark.parametrize("name", [".zgroup", ".zarray", ".zattrs", ".zmetadata"])
@pytest.mark.parametrize("how", ["create", "mkdir", "mknod", "rename", "link"])
def test_status_says_that_metadata_of_zarr_v2_was_refused(tmp_path: Path, how: str, name: str) -> None:
    """Until the group or array is there in version 3."""
    repository = tmp_path / "repo"
    commit(create(repository, 2), "first", {"zarr.json": GROUP})
    with mounted(repository, branch="main") as mount:
        (mount / "h").mkdir()
        source, target = mount / "h/source", mount / "h" / name
        source.write_text('{"zarr_format":2}')
        attempts = {
            "create": lambda: target.write_text("{}"),
            "mkdir": target.mkdir,
            "mknod": lambda: os.mknod(target),
            "rename": lambda: source.rename(target),
            "link": lambda: target.hardlink_to(source),
        }
        with pytest.raises(PermissionError):
            attempts[how]()
        [refused] = mount.control("status.json")["refused"]
        assert refused["path"] == f"h/{name}"
        assert "an Icechunk repository holds Zarr v3 only" in refused["reason"]
        assert f"h/{name}: {refused['reason']}" in (mount / ".icefs/status").read_text()
        (mount / "h/zarr.json").write_bytes(GROUP)
        assert mount.control("status.json")["refused"] == []


def test_an_empty_zarr_json_is_no_error_at_close(tmp_path: Path) -> None:
    """Somebody else has cut it and is about to write it; status says that it is not whole."""
    repository = tmp_path / "repo"
    commit(create(repository, 2), "first", {"zarr.json": GROUP})
    with mounted(repository, branch="main") as mount:
        fd = os.open(mount / "zarr.json", os.O_WRONLY | os.O_TRUNC)
        os.write(fd, GROUP)
        os.truncate(mount / "zarr.json", 0)
        os.close(fd)
        assert [one["path"] for one in mount.control("status.json")["invalid"]] == ["zarr.json"]
