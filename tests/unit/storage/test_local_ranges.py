"""Ranges of files below a directory: any name, and no link out of it, whenever it is put there."""

import ctypes
import errno
import os
import threading
from contextlib import suppress

import pytest

from icefs.errors import (
    IcefsError,
    InvalidInputError,
    InvalidObjectSizeError,
    ObjectModifiedError,
    ObjectNotFoundError,
    UnauthorizedContainerError,
)
from icefs.storage.local.ranges import LocalRanges

_EXCHANGE = 2


def test_any_name_below_the_root_and_its_checksum(tmp_path):
    (tmp_path / "odd ~name%41#1").write_bytes(b"0123456789")
    files = LocalRanges(tmp_path)
    status = (tmp_path / "odd ~name%41#1").stat()
    etag = f"{status.st_ino:x}-{status.st_mtime_ns // 1000:x}-{status.st_size:x}"
    assert files.read_range("odd ~name%41#1", 2, 4, if_match_etag=etag) == b"23"
    assert files.read_range("odd ~name%41#1", 2, 4, if_match_etag=f'"{etag}"') == b"23"
    with pytest.raises(ObjectModifiedError):
        files.read_range("odd ~name%41#1", 2, 4, if_match_etag=etag + "0")
    seconds = status.st_mtime_ns // 1_000_000_000
    assert files.read_range("odd ~name%41#1", 0, 10, if_unmodified_since_s=seconds) == b"0123456789"
    with pytest.raises(ObjectModifiedError):
        files.read_range("odd ~name%41#1", 0, 10, if_unmodified_since_s=seconds - 1)
    assert LocalRanges("/").read_range(str(tmp_path / "odd ~name%41#1")[1:], 0, 3) == b"012"
    for key in ("../x", "a/../../x", "..", "a\0"):
        with pytest.raises(InvalidInputError):
            files.read_range(key, 0, 1)
    with pytest.raises(InvalidObjectSizeError):
        files.read_range("odd ~name%41#1", 5, 11)
    with pytest.raises(ObjectNotFoundError):
        files.read_range("missing", 0, 1)


@pytest.mark.parametrize("is_absolute", [False, True], ids=["relative", "absolute"])
def test_links_that_stay_below_the_root_are_followed(tmp_path, is_absolute):
    root = tmp_path / "root"
    (root / "sub").mkdir(parents=True)
    (root / "sub/file").write_bytes(b"data")
    (root / "link").symlink_to(root / "sub" if is_absolute else "sub")
    (tmp_path / "named").symlink_to("root")
    assert LocalRanges(tmp_path / "named").read_range("link/file", 0, 4) == b"data"


@pytest.mark.parametrize("kind", ["file", "directory", "dangling", "fifo"])
def test_nothing_is_opened_where_a_link_leads_out(tmp_path, kind):
    root, outside = tmp_path / "root", tmp_path / "rootless"
    root.mkdir()
    outside.mkdir()
    (outside / "secret").write_bytes(b"secret")
    os.mkfifo(outside / "fifo")
    target = {"file": "secret", "directory": "", "dangling": "nothing", "fifo": "fifo"}[kind]
    (root / "link").symlink_to(outside / target)
    key = "link/secret" if kind == "directory" else "link"
    expected = ObjectNotFoundError if kind == "dangling" else UnauthorizedContainerError
    with pytest.raises(expected, match="link"):
        LocalRanges(root).read_range(key, 0, 6)


def test_the_root_is_where_it_was_when_it_was_authorised(tmp_path):
    (tmp_path / "private").mkdir()
    (tmp_path / "private/file").write_bytes(b"secret")
    (tmp_path / "root").mkdir()
    files = LocalRanges(tmp_path / "root")
    (tmp_path / "root").rmdir()
    (tmp_path / "root").symlink_to("private")
    with pytest.raises(UnauthorizedContainerError):
        files.read_range("file", 0, 6)


def test_a_link_swapped_in_while_a_file_is_opened_leads_nowhere(tmp_path):
    """Somebody who may write in the directory exchanges a directory with a link, as fast as can be."""
    root, private = tmp_path / "root", tmp_path / "private"
    (root / "d").mkdir(parents=True)
    private.mkdir()
    (root / "d/file").write_bytes(b"public")
    (private / "file").write_bytes(b"secret")
    (root / "l").symlink_to(private)
    libc = ctypes.CDLL(None, use_errno=True)
    one, other = os.fsencode(root / "d"), os.fsencode(root / "l")
    stop = threading.Event()

    def exchange():
        while not stop.is_set():
            assert libc.renameat2(-100, one, -100, other, _EXCHANGE) == 0, errno.errorcode[ctypes.get_errno()]

    swapping = threading.Thread(target=exchange)
    swapping.start()
    found = set()
    try:
        files = LocalRanges(root)
        for _ in range(2000):
            with suppress(IcefsError):
                found.add(files.read_range("d/file", 0, 6))
    finally:
        stop.set()
        swapping.join()
    assert found == {b"public"}
