"""Damaged repositories and virtual chunks on real mounts: the rest stays readable, and the log says why."""

import errno
import os
from pathlib import Path

import icechunk as ic
import pytest

from tests.conformance.official import GROUP, commit, create, loose_array_json
from tests.support.mounting import mounted

BIG = bytes(range(256)) * 256


def fails(number, function, *args):
    with pytest.raises(OSError) as caught:
        function(*args)
    assert caught.value.errno == number, errno.errorcode[caught.value.errno]


@pytest.fixture
def repo(tmp_path):
    """Two arrays of native chunks, each with a manifest of its own."""
    official = create(tmp_path / "repo", 2)
    commit(official, "group", {"zarr.json": GROUP})
    for name in ("one", "two"):
        items = {f"{name}/zarr.json": loose_array_json((1 << 17,), (1 << 16,))}
        commit(official, name, items | {f"{name}/c/{i}": BIG[i:] for i in range(2)})
    return tmp_path / "repo"


def location(path):
    return Path(os.getxattr(path, "user.icefs.location").decode().removeprefix("file://"))


def test_a_damaged_manifest(repo):
    """A damaged manifest is EIO for the chunks of its array. The array's metadata and every other array stay
    readable."""
    for manifest in (repo / "manifests").iterdir():
        data = manifest.read_bytes()
        with mounted(repo, branch="main", may_complain=True) as mount:
            # Nothing remembers a failure, so one mount sees all kinds of damage, and the repair.
            for damage in (b"", data[: len(data) // 2], data[:60] + b"\xff" * 40, b"\0" * len(data)):
                manifest.write_bytes(damage)
                broken = [name for name in ("one", "two") if not os.path.lexists(mount / name / "c/0")]
                assert len(broken) == 1
                for name in ("one", "two"):
                    assert (mount / name / "zarr.json").read_bytes() == loose_array_json((1 << 17,), (1 << 16,))
                    assert sorted(os.listdir(mount / name)) == ["c", "zarr.json"]
                    if name in broken:
                        fails(errno.EIO, os.stat, mount / name / "c/0")
                        fails(errno.EIO, os.listdir, mount / name / "c")
                    else:
                        assert (mount / name / "c/1").read_bytes() == BIG[1:]
                assert manifest.name in mount.control("stats.json")["failures"][-1]["message"]
            assert any(manifest.name in line for line in mount.complaints())
            manifest.write_bytes(data)
            assert all((mount / name / "c/0").read_bytes() == BIG for name in ("one", "two"))


def test_a_damaged_chunk(repo):
    """A chunk whose object is missing or too short is EIO: never zeros, and never a part."""
    with mounted(repo, branch="main", may_complain=True) as mount:
        missing, short = (location(mount / f"one/c/{i}") for i in range(2))
        data = missing.read_bytes()
        missing.unlink()
        os.truncate(short, 10)
        for path in (mount / "one/c/0", mount / "one/c/1"):
            assert os.stat(path).st_size > 10
            fails(errno.EIO, path.read_bytes)
        assert (mount / "two/c/0").read_bytes() == BIG
        assert len(mount.complaints()) == 2
        missing.write_bytes(data)
        assert (mount / "one/c/0").read_bytes() == BIG


def test_virtual_chunks(tmp_path):
    """A virtual chunk outside of the containers that the user authorised is EACCES, and its size is known all the
    same."""
    source = tmp_path / "data/source.bin"
    source.parent.mkdir()
    source.write_bytes(BIG)
    prefix = f"file://{source.parent}/"
    config = ic.RepositoryConfig.default()
    config.set_virtual_chunk_container(
        ic.VirtualChunkContainer(prefix, store=ic.local_filesystem_store(str(source.parent)))
    )
    official = ic.Repository.create(ic.local_filesystem_storage(str(tmp_path / "repo")), config=config)
    session = official.writable_session("main")
    from tests.conformance.official import put_all

    put_all(session.store, {"a/zarr.json": loose_array_json((30,), (10,))})
    for number, offset in enumerate((5, 1000)):
        session.store.set_virtual_ref(f"a/c/{number}", f"{prefix}source.bin", offset=offset, length=10)
    session.store.set_virtual_ref("a/c/2", f"{prefix}missing.bin", offset=0, length=10)
    session.commit("virtual")
    with mounted(tmp_path / "repo", branch="main", may_complain=True) as mount:
        assert os.stat(mount / "a/c/0").st_size == 10
        fails(errno.EACCES, (mount / "a/c/0").read_bytes)
        assert any("--allow-virtual" in line or "may not be followed" in line for line in mount.complaints())
    with mounted(tmp_path / "repo", branch="main", allow_virtual=(prefix,), may_complain=True) as mount:
        assert (mount / "a/c/0").read_bytes() == BIG[5:15]
        assert (mount / "a/c/1").read_bytes() == BIG[1000:1010]
        assert os.getxattr(mount / "a/c/1", "user.icefs.kind") == b"virtual"
        fails(errno.EIO, (mount / "a/c/2").read_bytes)


def test_a_damaged_repository_is_not_mounted(repo):
    """Refuses what cannot be read at all, in the parent process and with the daemon's own error."""
    from icefs.errors import FormatError

    (repo / "repo").write_bytes(b"damage")
    with pytest.raises(FormatError), mounted(repo):
        pass
