"""Tests of how files come to their places while other threads move whole directories there."""

import os

import pytest

from icefs.errors import NotAnObjectError
from icefs.storage.local.beneath import Beneath
from icefs.transfer.export_files import in_directory
from tests.support.hostile import STRANGE, deadline, make_outside, place, unchanged


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

    def make(parent):
        # The directory is open; others may replace it before anything is moved into it.
        tries.append(target)
        if len(tries) == 1:
            os.rename(stage, target.parent)
        os.rename(ours, parent.name, dst_dir_fd=parent.fd)

    in_directory(Beneath(str(tmp_path / "out")), "g/a/zarr.json", make)
    assert len(tries) == 2
    assert target.read_bytes() == b"ours"
    assert (target.parent / "c").read_bytes() == b"theirs"


def test_what_stays_missing_is_told(tmp_path):
    target = tmp_path / "out/g/zarr.json"
    with pytest.raises(FileNotFoundError):
        in_directory(
            Beneath(str(tmp_path / "out")), "g/zarr.json", lambda parent: os.rename(tmp_path / "never", target)
        )
    assert target.parent.is_dir()


@pytest.mark.parametrize("at", ["g", "g/a", "g/a/zarr.json"])
@pytest.mark.parametrize("thing", [*STRANGE, "file in place of a directory"])
def test_nothing_is_written_through_what_is_in_the_way(tmp_path, at, thing):
    """A link is refused, or replaced where the file itself goes."""
    outside, root = make_outside(tmp_path), tmp_path / "out"
    (root / "g/a").mkdir(parents=True)
    place(root / at, thing, outside)
    ours = tmp_path / "ours"
    ours.write_bytes(b"ours")
    with unchanged(outside), deadline(5):
        try:
            in_directory(Beneath(str(root)), "g/a/zarr.json", lambda p: os.rename(ours, p.name, dst_dir_fd=p.fd))
        except (OSError, NotAnObjectError) as error:
            if at == "g/a/zarr.json":
                raise AssertionError(at) from error
        else:
            assert at == "g/a/zarr.json"
            assert (root / at).read_bytes() == b"ours"
