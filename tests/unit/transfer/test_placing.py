"""Tests of how files come to their places while other threads move whole directories there."""

import os

import pytest

from icefs.transfer.writing import in_directory


def _full(path, name):
    path.mkdir()
    (path / name).write_bytes(b"theirs")
    return path


def test_a_directory_that_was_replaced_while_it_was_empty_is_looked_up_again(tmp_path):
    ours = tmp_path / "ours"
    ours.write_bytes(b"ours")
    stage = _full(tmp_path / "stage", "c")
    target = tmp_path / "out/g/a/zarr.json"
    tries = []

    def make():
        # The kernel looks up a directory and takes hold of it; in between others may replace it.
        fd = os.open(target.parent, os.O_PATH)
        try:
            tries.append(target)
            if len(tries) == 1:
                os.rename(stage, target.parent)
            os.rename(ours, target.name, dst_dir_fd=fd)
        finally:
            os.close(fd)

    in_directory(str(target), make)
    assert len(tries) == 2
    assert target.read_bytes() == b"ours"
    assert (target.parent / "c").read_bytes() == b"theirs"


def test_what_stays_missing_is_told(tmp_path):
    target = tmp_path / "out/g/zarr.json"
    with pytest.raises(FileNotFoundError):
        in_directory(str(target), lambda: os.rename(tmp_path / "never", target))
    assert target.parent.is_dir()
