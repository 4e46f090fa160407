"""The command line on a repository in an object store."""

import json
import shutil
from pathlib import Path

import pytest

from icefs.cli.main import main
from icefs.cli.support.exit_codes import FORBIDDEN, NOT_FOUND, STORAGE
from tests.support.ci import require

DEMO = Path(__file__).resolve().parents[1] / "conformance/data/demo-repo"


@pytest.fixture
def location(s3_server, s3_storage, s3_prefix, monkeypatch):
    """The demo repository as a URL, for programs that have the credentials in the environment."""
    for path in DEMO.rglob("*"):
        if path.is_file():
            s3_storage.put(path.relative_to(DEMO).as_posix(), path.read_bytes())
    for name, value in s3_server.environment().items():
        monkeypatch.setenv(name, value)
    return f"s3://icefs-tests/{s3_prefix}?endpoint_url={s3_server.endpoint_url}"


def test_a_version_may_stand_in_the_middle_or_at_the_end(location, capsys):
    before, query = location.split("?")
    for repository in (f"{location}@v1.0", f"{before}@v1.0?{query}"):
        assert main(["log", "--oneline", "-n1", repository]) == 0
        assert capsys.readouterr().out.endswith("(tag: v1.0) Add a month of temperature\n")


def test_reading(location, capsysbinary):
    assert main(["cat", location, "weather/temperature/c/0/0/0", "--json"]) == 0
    described = json.loads(capsysbinary.readouterr().out)
    assert main(["cat", location, "weather/temperature/c/0/0/0"]) == 0
    assert capsysbinary.readouterr().out == (DEMO / described["location"]).read_bytes()


def test_info_shows_no_secrets(location, capsys, s3_server):
    assert main(["info", location]) == 0
    out = capsys.readouterr().out
    assert f"repository: {location}" in out
    assert not any(secret in out for name, secret in s3_server.environment().items() if name != "AWS_REGION")


def test_a_mount(location, tmp_path, capsys, monkeypatch):
    require(Path("/dev/fuse").exists() and shutil.which("fusermount3") is not None, "FUSE")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    place = tmp_path / "mnt"
    place.mkdir()
    assert main(["mount", location, str(place)]) == 0
    try:
        tree = place / "tags/v1.0"
        assert json.loads((tree / "weather/temperature/zarr.json").read_bytes())["shape"] == [31, 36, 72]
        capsys.readouterr()
        assert main(["log", "--oneline", "-n1", str(tree)]) == 0
        assert capsys.readouterr().out.endswith("(tag: v1.0) Add a month of temperature\n")
    finally:
        assert main(["umount", str(place)]) == 0


def test_what_goes_wrong_is_one_line(location, capsys, monkeypatch):
    bucket, _, query = location.partition("?")
    assert main(["log", f"{bucket}/nothing-here?{query}"]) == NOT_FOUND
    assert main(["log", f"s3://no-such-bucket/x?{query}"]) == STORAGE
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    assert main(["log", location]) == FORBIDDEN
    lines = capsys.readouterr().err.splitlines()
    assert [line.startswith("icefs: ") for line in lines] == [True] * 3
