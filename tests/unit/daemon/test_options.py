import os

import pytest

from icefs.daemon.options import MountOptions, default_log_file, parse_address
from icefs.errors import InvalidInputError


def make(**options):
    return MountOptions(**{"repository": "repo", "mountpoint": "mnt", **options})


@pytest.mark.parametrize(
    "options",
    [
        {"branch": "a", "tag": "b"},
        {"tag": "a", "snapshot": "b"},
        {"as_of": 5},
        {"as_of": 5, "tag": "t"},
        {"log_level": "loud"},
        {"poll_interval_s": -1.0},
        {"poll_interval_s": float("nan")},
        {"umask": 0o1000},
        {"uid": 99999999999},
        {"uid": -1},
        {"gid": 4294967295},
        {"pack_size": -1},
        {"upload_after_s": -1.0},
        {"pack_size": 1 << 31},
        {"view": "hdf4"},
        {"view": "npy,groups"},
        {"view_cache": -1},
    ],
)
def test_what_makes_no_sense_is_refused(options):
    with pytest.raises(InvalidInputError):
        make(**options)


def test_a_mount_that_shows_a_view_is_read_only():
    assert make().is_writable
    assert not make(view="zarr2,compressed").is_writable


def test_options_travel_as_json():
    options = make(branch="b", as_of=5, allow_virtual=("s3://a/", "file:///b/"), umask=0o22, uid=3)
    assert MountOptions.from_json(options.to_json()) == options
    assert MountOptions.from_json(make().to_json().encode()) == make()


def test_paths_become_absolute_and_urls_stay(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    real = os.path.realpath(tmp_path)
    options = make(log_file="here.log").resolved()
    assert (options.repository, options.mountpoint) == (f"{real}/repo", f"{real}/mnt")
    assert options.log_file == f"{real}/here.log"
    for url in ("s3://bucket/prefix?region=x", "file:///repo", "memory:name", "https://host/x"):
        assert make(repository=url).resolved().repository == url
    assert options.resolved() == options


def test_a_link_to_a_mountpoint_is_followed(tmp_path):
    """A working tree is found by where its mount is, however that is spelled."""
    (tmp_path / "target").mkdir()
    (tmp_path / "link").symlink_to("target")
    assert make(mountpoint=str(tmp_path / "link")).resolved().mountpoint == os.path.realpath(tmp_path) + "/target"
    assert make(mountpoint=str(tmp_path / "link/inner")).resolved().mountpoint.endswith("/target/inner")


def test_each_mountpoint_has_a_log_of_its_own(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    assert default_log_file("/mnt/data") == tmp_path / "icefs/log/mnt-data.log"
    assert default_log_file("/") == tmp_path / "icefs/log/root.log"
    assert default_log_file("/mnt/ü%") == tmp_path / "icefs/log/mnt-%C3%BC%25.log"
    assert len(default_log_file("/" + "x" * 1000).name) < 255
    assert make(mountpoint="/mnt/data").resolved().log_file == str(tmp_path / "icefs/log/mnt-data.log")
    assert make(mountpoint="/mnt/data", foreground=True).resolved().log_file is None


def test_what_can_be_written_to_has_a_state_directory(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    assert make().resolved().state_dir == make(branch="b").resolved().state_dir == str(tmp_path / "icefs/trees")
    for fixed in ({"read_only": True}, {"tag": "t"}, {"snapshot": "s"}, {"branch": "b", "as_of": 5}):
        options = make(**fixed).resolved()
        assert (options.is_writable, options.state_dir) == (False, None)


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("9100", ("127.0.0.1", 9100)),
        (":9100", ("127.0.0.1", 9100)),
        ("0.0.0.0:1", ("0.0.0.0", 1)),
        ("[::1]:80", ("::1", 80)),
    ],
)
def test_addresses(text, address):
    assert parse_address(text) == address


@pytest.mark.parametrize("text", ["", "host", "host:", "host:x", "1:70000", "-1"])
def test_what_is_no_address_is_refused(text):
    with pytest.raises(InvalidInputError):
        parse_address(text)
    with pytest.raises(InvalidInputError):
        MountOptions(repository="r", mountpoint="m", metrics=text)


def test_an_unknown_format_is_refused():
    with pytest.raises(InvalidInputError):
        MountOptions(repository="r", mountpoint="m", log_format="xml")
