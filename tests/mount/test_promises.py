"""Sentences of `icefs/vfs/SEMANTICS.md` that no other test holds, each on a real mount."""

import errno
import json
import os
import re
import stat
from pathlib import Path

import pytest

from tests.conformance.official import GROUP, commit, create, loose_array_json
from tests.support.ci import require
from tests.support.mounting import mounted
from tests.support.users import run_as

DOCUMENT = Path(__file__).parents[2] / "icefs/vfs/SEMANTICS.md"
KEYS = {
    "zarr.json": GROUP,
    "g/zarr.json": GROUP,
    "a/zarr.json": loose_array_json((40,), (10,)),
    "a/c/0": b"chunk 0",
    "a/c/1": bytes(100_000),
}


@pytest.fixture(scope="module")
def repo(tmp_path_factory):
    path = tmp_path_factory.mktemp("promises") / "repo"
    official = create(path, 2)
    official.create_tag("v1", commit(official, "first", KEYS))
    return path


@pytest.fixture(scope="module")
def mount(repo):
    with mounted(repo) as found:
        yield found


@pytest.fixture(scope="module", params=["tags/v1", "branches/main"])
def tree(request, mount):
    return mount / request.param


def test_directories_have_no_size_and_two_links(mount):
    (mount / "branches/main/new/below").mkdir(parents=True)
    for path in ("", "branches", "branches/main", "branches/main/a/c", "branches/main/new", "tags/v1/g"):
        found = os.stat(mount / path)
        assert (found.st_size, found.st_nlink) == (0, 2), path


def test_reading_leaves_access_times_and_utimes_sets_them(tree):
    for path in (tree / "a/c/0", tree / "zarr.json"):
        before = path.stat().st_atime_ns
        path.read_bytes()
        assert path.stat().st_atime_ns == before
    if tree.name == "main":
        file = tree / "timed"
        file.write_bytes(b"x")
        os.utime(file, ns=(5, 7))
        file.read_bytes()
        assert (file.stat().st_atime_ns, file.stat().st_mtime_ns) == (5, 7)


def test_what_a_program_makes_is_its_own(repo):
    require(os.getuid() == 0, "the superuser, who can become other users")

    def work(root):
        os.close(os.open(root / "file", os.O_CREAT | os.O_WRONLY, 0o640))
        os.mkdir(root / "directory", 0o711)

    with mounted(repo, allow_other=True) as mount:
        mount.path.parent.chmod(0o755)
        root = mount / "branches/main"
        root.chmod(0o777)
        assert run_as(4242, 4243, lambda: work(root)) == "None"
        for name, mode in (("file", stat.S_IFREG | 0o640), ("directory", stat.S_IFDIR | 0o711)):
            found = (root / name).stat()
            assert (found.st_mode, found.st_uid, found.st_gid) == (mode, 4242, 4243)


def test_names_of_one_file_become_files_of_their_own(repo):
    with mounted(repo) as mount:
        root = mount / "branches/main"
        file, other = root / "a/c/2", root / "a/c/3"
        file.write_bytes(b"two names")
        assert file.stat().st_nlink == 1
        os.link(file, other)
        number = file.stat().st_ino
        assert [path.stat().st_nlink for path in (file, other)] == [2, 2]
        assert other.stat().st_ino == number
        (root / ".icefs/commit").write_text("two names")
        assert [path.stat().st_nlink for path in (file, other)] == [1, 1]
        numbers = [path.stat().st_ino for path in (file, other)]
        assert len(set(numbers)) == 2
        assert number in numbers
        assert file.read_bytes() == other.read_bytes() == b"two names"


def test_a_petabyte_without_room_where_nothing_can_be_written(repo):
    with mounted(repo, read_only=True) as mount:
        found = os.statvfs(mount.path)
        assert found.f_blocks * found.f_frsize == 1 << 50
        assert (found.f_bfree, found.f_bavail) == (0, 0)


def test_a_second_read_makes_no_request(tree, mount):
    assert (tree / "a/c/1").read_bytes() == KEYS["a/c/1"]
    before = mount.requests().get("read", 0)
    assert before
    assert (tree / "a/c/1").read_bytes() == KEYS["a/c/1"]
    # Reading the numbers is itself a read, of a control file.
    assert mount.requests()["read"] - before <= 2


def test_files_have_no_holes(mount):
    file = mount / "branches/main/sparse"
    with file.open("wb") as stream:
        stream.truncate(1 << 20)
        assert os.lseek(stream.fileno(), 0, os.SEEK_DATA) == 0
        assert os.lseek(stream.fileno(), 0, os.SEEK_HOLE) == 1 << 20


def test_the_root_of_a_branch_is_busy_or_read_only(repo, mount):
    with pytest.raises(OSError) as caught:
        os.rmdir(mount / "branches/main")
    assert caught.value.errno == errno.EROFS
    with mounted(repo, branch="main") as single:
        with pytest.raises(OSError) as caught:
            os.rmdir(single.path)
        assert caught.value.errno == errno.EBUSY


def test_control_files_have_no_size_and_some_content(tree):
    for name in ("status", "log.json", "info.json"):
        file = tree / ".icefs" / name
        assert file.stat().st_size == 0
        assert file.read_bytes()


def test_the_operations_of_rpc_are_those_of_the_document(mount):
    def operations(tree):
        [error] = mount.rpc({"op": "none"}, tree)
        assert error.keys() == {"type", "error", "kind", "message", "hint"}
        return set(error["hint"].removeprefix("known are ").split(", "))

    text = re.sub(r"\s+", " ", DOCUMENT.read_text())
    found = re.search(
        r"Every `rpc` has (.*?); .*? That of a tree has (.*?) as well, that of the mount's root (.*?)\.", text
    )
    assert found
    everywhere, of_trees, of_the_root = (set(re.findall(r"`([\w-]+)`", names)) for names in found.groups())
    assert operations("branches/main") == operations("tags/v1") == everywhere | of_trees
    assert operations("") == everywhere | of_the_root


def test_a_missing_operation_has_no_result(mount):
    answer = mount.rpc({"op": "commit", "message": "m"}, "tags/v1")
    assert [line["type"] for line in answer] == ["error"]
    assert json.dumps(answer[0]["message"])
