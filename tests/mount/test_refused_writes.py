"""What is refused when it is written is shown where those who wrote it look."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conformance.official import GROUP, commit, create
from tests.support.mounting import mounted

BAD = {
    '{"zarr_format":3,"node_type":"group","attributes":{"valid_min":NaN}}': "NaN at attributes.valid_min",
    '{"zarr_format":3,"node_type":"group","attributes":{"a":[{"b":[1,-Infinity]}]}}': (
        "it is no JSON: -Infinity at attributes.a[0].b[1]"
    ),
    '{"zarr_format":3,\n"node_type":}': "line 2 column 13",
}


@pytest.mark.parametrize("text", BAD)
def test_status_says_what_was_refused_where_and_why(tmp_path: Path, text: str) -> None:
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
        command = [sys.executable, "-c", "from icefs.cli.main import main; main()", "status", mount.path]
        shown = subprocess.run(command, check=False, capture_output=True, text=True).stdout
        assert not shown or refused["reason"] in shown
        target.write_bytes(GROUP)
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
