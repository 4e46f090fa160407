"""Names in a working tree: what each operation does to the tree, and what it leaves of the base alone."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from icefs.errors import (
    AlreadyExistsError,
    EntryNotFoundError,
    InvalidInputError,
    IsADirectoryTreeError,
    NameTooLongError,
    NotADirectoryTreeError,
    NotEmptyError,
    NotPermittedError,
    ReservedNameError,
    StaleError,
)
from icefs.worktree.model.nodes import Perm
from icefs.worktree.ops.namespace import RENAME_EXCHANGE, RENAME_NOREPLACE
from tests.support.dict_base import Snapshots
from tests.support.tree_driver import DIR_PERM, PERM, Driver, open_tree

BASE = {
    "zarr.json": b"root",
    "a/zarr.json": b"array a",
    **{f"a/c/{i}/{j}": b"chunk %d %d" % (i, j) for i in range(3) for j in range(3)},
    "g/b/zarr.json": b"array b",
    "g/b/c": b"scalar",
}


@pytest.fixture
def snapshots() -> Snapshots:
    return Snapshots(BASE)


@pytest.fixture
def driver(tmp_path: Path, snapshots: Snapshots) -> Iterator[Driver]:
    driver = open_tree(tmp_path / "state", snapshots)
    yield driver
    driver.tree.check_invariants()
    driver.tree.close()


def test_an_untouched_tree_is_its_base(driver: Driver) -> None:
    assert driver.files() == BASE
    assert not driver.tree.has_changes()
    assert driver.listdir("a/c") == ["0", "1", "2"]
    assert driver.stat("a/c/0/1").size == len(b"chunk 0 1")
    assert driver.stat("a").is_dir
    assert driver.entry("a/c/3/0") is None
    assert driver.entry(".zgroup") is None


def test_only_readdir_lists_the_base(driver: Driver, snapshots: Snapshots) -> None:
    base_tree = snapshots.trees["base"]
    driver.write("a/c/1/1", b"new")
    driver.write("a/c/7/7", b"new") if driver.exists("a/c/7") else driver.mkdir("a/c/7")
    driver.rename("a/c/0/0", "a/c/0/x.partial")
    driver.unlink("a/c/2/2")
    driver.rename("a", "moved")
    driver.chmod("moved/c/1/2", 0o600)
    assert driver.read("moved/c/2/1") == b"chunk 2 1"
    assert base_tree.listed == []
    assert base_tree.reads == ["a/c/2/1"]


def test_a_renamed_base_directory_is_a_redirect(driver: Driver, snapshots: Snapshots) -> None:
    inos = {path: driver.stat(path).ino for path in BASE}
    inos["a/c"] = driver.stat("a/c").ino
    driver.rename("a", "g/moved")
    assert not driver.exists("a")
    for path in BASE:
        new = f"g/moved{path[1:]}" if path.startswith("a/") else path
        assert driver.stat(new).ino == inos[path]
        assert driver.read(new) == BASE[path]
    assert driver.stat("g/moved/c").ino == inos["a/c"]
    assert snapshots.trees["base"].listed == []
    driver.mkdir("a")
    assert driver.listdir("a") == []
    driver.rename("g/moved", "again")
    driver.rmdir("a")
    driver.rename("again", "a")
    assert driver.files() == BASE
    assert not driver.tree.has_changes()


def test_a_base_path_names_the_same_thing_whatever_becomes_of_it(driver: Driver) -> None:
    where = driver.where("a/c/0/0")
    assert where == "a/c/0/0"
    driver.rename("a", "z")
    driver.rename("z/c/0/0", "z/c/0/1")
    assert driver.tree.entries.path_of(where) == "z/c/0/1"
    assert driver.tree.entries.attr(where) == driver.stat("z/c/0/1")
    directory = driver.tree.entries.find("z/c/1")
    assert directory == "a/c/1"
    driver.write("z/c/1/new", b"")
    assert driver.tree.entries.path_of("a/c/1") == "z/c/1"
    driver.unlink("z/c/0/1")
    with pytest.raises(StaleError):
        driver.tree.entries.attr(where)
    with pytest.raises(StaleError):
        driver.tree.entries.attr("a/c/9/9")


def test_an_inode_number_outlives_copy_up_rename_and_rename_over(driver: Driver) -> None:
    ino = driver.stat("a/c/0/0").ino
    driver.write("a/c/0/0", b"changed", os.O_WRONLY)
    assert driver.stat("a/c/0/0").ino == ino
    driver.rename("a/c/0/0", "a/c/0/1")
    assert driver.stat("a/c/0/1").ino == ino
    driver.write("a/c/0/t.partial", b"other")
    new = driver.stat("a/c/0/t.partial").ino
    driver.rename("a/c/0/t.partial", "a/c/0/1")
    assert driver.stat("a/c/0/1").ino == new
    assert driver.read("a/c/0/1") == b"other"


def test_rename_onto_itself_and_onto_a_link_of_itself_do_nothing(driver: Driver) -> None:
    driver.rename("zarr.json", "zarr.json")
    driver.rename("a", "a")
    assert not driver.tree.has_changes()
    driver.link("zarr.json", "second")
    driver.rename("second", "zarr.json")
    driver.rename("second", "zarr.json", RENAME_EXCHANGE)
    assert driver.stat("second") == driver.stat("zarr.json")
    assert driver.stat("second").nlink == 2


def test_zarr_pythons_set_if_not_exists(driver: Driver) -> None:
    driver.write("g/zarr.partial", b"group")
    driver.link("g/zarr.partial", "g/zarr.json")
    driver.unlink("g/zarr.partial")
    assert driver.read("g/zarr.json") == b"group"
    assert driver.stat("g/zarr.json").nlink == 1
    driver.write("g/zarr.partial", b"other")
    with pytest.raises(AlreadyExistsError):
        driver.link("g/zarr.partial", "g/zarr.json")
    driver.unlink("g/zarr.partial")
    assert driver.listdir("g") == ["b", "zarr.json"]


def test_links_share_everything(driver: Driver) -> None:
    driver.link("zarr.json", "two")
    driver.link("two", "a/three")
    driver.write("two", b"through two")
    assert driver.read("zarr.json") == driver.read("a/three") == b"through two"
    assert {driver.stat(path).ino for path in ("zarr.json", "two", "a/three")} == {driver.stat("two").ino}
    driver.unlink("zarr.json")
    driver.unlink("two")
    assert driver.stat("a/three").nlink == 1
    assert driver.read("a/three") == b"through two"
    assert driver.tree.entries.path_of(driver.where("a/three")) == "a/three"


def test_noreplace_and_exchange(driver: Driver) -> None:
    with pytest.raises(AlreadyExistsError):
        driver.rename("a/c/0/0", "a/c/0/1", RENAME_NOREPLACE)
    driver.rename("a/c/0/0", "a/c/0/9", RENAME_NOREPLACE)
    with pytest.raises(EntryNotFoundError):
        driver.rename("a/c/0/9", "a/c/0/8", RENAME_EXCHANGE)
    driver.rename("a", "g", RENAME_EXCHANGE)
    assert driver.read("g/c/0/9") == b"chunk 0 0"
    assert driver.read("a/b/c") == b"scalar"
    driver.rename("a/b/c", "g/c", RENAME_EXCHANGE)
    assert driver.read("g/c") == b"scalar"
    assert driver.read("a/b/c/1/1") == b"chunk 1 1"
    with pytest.raises(InvalidInputError):
        driver.rename("a", "a/b/c", RENAME_EXCHANGE)
    with pytest.raises(InvalidInputError):
        driver.rename("a/b/c", "a", RENAME_EXCHANGE)
    with pytest.raises(InvalidInputError):
        driver.rename("a", "b", 4)


def test_what_cannot_be_renamed(driver: Driver) -> None:
    with pytest.raises(EntryNotFoundError):
        driver.rename("none", "x")
    with pytest.raises(InvalidInputError):
        driver.rename("a", "a/c/inner")
    driver.mkdir("new")
    with pytest.raises(InvalidInputError):
        driver.rename("new", "new/inner")
    with pytest.raises(NotEmptyError):
        driver.rename("new", "a")
    with pytest.raises(NotEmptyError):
        driver.rename("a/c/0/0", "a/c")
    with pytest.raises(IsADirectoryTreeError):
        driver.rename("zarr.json", "new")
    with pytest.raises(NotADirectoryTreeError):
        driver.rename("new", "zarr.json")
    driver.rename("a", "new")
    assert driver.read("new/c/1/1") == b"chunk 1 1"


def test_a_removed_base_file_stays_away(driver: Driver) -> None:
    driver.unlink("a/c/0/0")
    assert driver.listdir("a/c/0") == ["1", "2"]
    with pytest.raises(EntryNotFoundError):
        driver.unlink("a/c/0/0")
    driver.write("a/c/0/0", b"anew")
    assert driver.read("a/c/0/0") == b"anew"
    driver.unlink("a/c/0/0")
    assert not driver.exists("a/c/0/0")
    driver.rename("a/c/0/1", "a/c/0/0")
    driver.rename("a/c/0/0", "elsewhere")
    assert driver.listdir("a/c/0") == ["2"]


def test_a_temporary_file_leaves_no_trace(driver: Driver) -> None:
    driver.write("a/c/0/0.partial", b"x")
    driver.unlink("a/c/0/0.partial")
    assert not driver.tree.has_changes()
    assert list(driver.tree.changes()) == []


def test_rmtree_of_a_base_array_leaves_one_whiteout(driver: Driver) -> None:
    for i in range(3):
        for j in range(3):
            driver.unlink(f"a/c/{i}/{j}")
        driver.rmdir(f"a/c/{i}")
    with pytest.raises(NotEmptyError):
        driver.rmdir("a")
    driver.rmdir("a/c")
    driver.unlink("a/zarr.json")
    driver.rmdir("a")
    assert [(change.kind, change.path) for change in driver.tree.changes()] == [("whiteout", "a")]
    driver.mkdir("a")
    assert driver.listdir("a") == []
    driver.write("a/zarr.json", b"another array")
    assert driver.files() == {**{p: d for p, d in BASE.items() if p[0] != "a"}, "a/zarr.json": b"another array"}


def test_what_cannot_be_removed(driver: Driver) -> None:
    with pytest.raises(NotEmptyError):
        driver.rmdir("a")
    with pytest.raises(NotADirectoryTreeError):
        driver.rmdir("zarr.json")
    with pytest.raises(IsADirectoryTreeError):
        driver.unlink("a")
    with pytest.raises(EntryNotFoundError):
        driver.rmdir("none")


@pytest.mark.parametrize("name", [".zgroup", ".zarray", ".zattrs", ".zmetadata"])
def test_zarr_v2_metadata_is_refused_at_creation(driver: Driver, name: str) -> None:
    with pytest.raises(ReservedNameError):
        driver.open(f"a/{name}", os.O_WRONLY | os.O_CREAT)
    with pytest.raises(ReservedNameError):
        driver.mkdir(name)
    driver.write("t.partial", b"{}")
    with pytest.raises(ReservedNameError):
        driver.rename("t.partial", name)
    with pytest.raises(ReservedNameError):
        driver.link("t.partial", name)
    assert driver.read("t.partial") == b"{}"
    assert not driver.exists(name)


def test_the_control_directorys_name_is_taken_at_the_root_only(driver: Driver) -> None:
    with pytest.raises(ReservedNameError):
        driver.mkdir(".icefs")
    driver.mkdir("a/.icefs")
    with pytest.raises(ReservedNameError):
        driver.rename("a/.icefs", ".icefs")


def test_names_of_any_kind_up_to_255_bytes(driver: Driver) -> None:
    for name in ("ä" * 127, "x" * 255, "with space", "tab\tnew\nline", "0.__lock", ".0.XyZ12", "日本語"):
        driver.write(f"a/{name}", name.encode())
        assert driver.read(f"a/{name}") == name.encode()
    for name in ("ä" * 128, "x" * 256):
        with pytest.raises(NameTooLongError):
            driver.write(f"a/{name}", b"")
        with pytest.raises(NameTooLongError):
            driver.entry(f"a/{name}")
        with pytest.raises(NameTooLongError):
            driver.rename("zarr.json", name)
    for name in ("nul\0", ".", "..", "\udcff"):
        with pytest.raises(InvalidInputError):
            driver.mkdir(name)


def test_links_to_directories_symlinks_and_devices_are_not_permitted(driver: Driver) -> None:
    root = driver.tree.root_ino
    with pytest.raises(NotPermittedError):
        driver.link("a", "b")
    driver.mkdir("new")
    with pytest.raises(NotPermittedError):
        driver.link("new", "b")
    with pytest.raises(NotPermittedError):
        driver.tree.names.mknod(root, "fifo", PERM, 0o010000)
    assert driver.tree.names.mknod(root, "plain", PERM, 0o100000).attr.size == 0
    assert driver.exists("plain")


def test_exclusive_creation(driver: Driver) -> None:
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
    with pytest.raises(AlreadyExistsError):
        driver.open("zarr.json", flags)
    with pytest.raises(AlreadyExistsError):
        driver.open("a", flags)
    driver.close(driver.open("lock", flags))
    with pytest.raises(AlreadyExistsError):
        driver.open("lock", flags)
    with pytest.raises(IsADirectoryTreeError):
        driver.open("a", os.O_WRONLY | os.O_CREAT)


def test_a_file_is_no_directory(driver: Driver) -> None:
    where = driver.where("zarr.json")
    with pytest.raises(NotADirectoryTreeError):
        driver.tree.names.mkdir(where, "x", DIR_PERM)
    driver.chmod("zarr.json", 0o600)
    with pytest.raises(NotADirectoryTreeError):
        driver.tree.entries.lookup(driver.where("zarr.json"), "x")
    assert driver.tree.entries.find("zarr.json/x") is None
    assert driver.tree.entries.find("a/none") is None


def test_a_removed_directory_is_stale(driver: Driver) -> None:
    driver.mkdir("new")
    where = driver.where("new")
    driver.rmdir("new")
    with pytest.raises(StaleError):
        driver.tree.names.mkdir(where, "x", DIR_PERM)
    with pytest.raises(StaleError):
        driver.tree.entries.lookup(where, "x")


def test_modes_owners_and_times_are_kept(driver: Driver) -> None:
    driver.chmod("a/c/0/0", 0o600)
    driver.utime("a/c/0/0", 5, 7)
    driver.utime("a", 8, 9)
    attr = driver.stat("a/c/0/0")
    assert (attr.mode, attr.atime_ns, attr.mtime_ns) == (0o100600, 5, 7)
    assert driver.stat("a").mtime_ns == 9
    handle = driver.open("private", os.O_WRONLY | os.O_CREAT, Perm(0o600, 1, 2))
    driver.close(handle)
    attr = driver.stat("private")
    assert (attr.mode, attr.uid, attr.gid) == (0o100600, 1, 2)
    assert [(change.kind, change.path) for change in driver.tree.changes()] == [
        ("attributes", "a/c/0/0"),
        ("written", "private"),
    ]


def test_a_directory_of_many_links_in_order(driver: Driver) -> None:
    driver.mkdir("d")
    driver.write("d/one", b"1")
    for number in range(5):
        driver.link("d/one", f"d/link{number}")
    for number in (2, 0, 4):
        driver.unlink(f"d/link{number}")
    driver.unlink("d/one")
    assert driver.listdir("d") == ["link1", "link3"]
    assert {driver.stat(f"d/{name}").nlink for name in ("link1", "link3")} == {2}
    driver.rename("d/link1", "d/link3", RENAME_EXCHANGE)
    driver.rename("d/link1", "zarr.json", RENAME_EXCHANGE)
    assert driver.read("zarr.json") == b"1"
    assert driver.read("d/link1") == b"root"


def test_dir_view_says_what_to_hide(driver: Driver) -> None:
    driver.unlink("a/c/0/0")
    driver.write("a/c/0/1", b"x")
    driver.write("a/c/0/new", b"x")
    view = driver.tree.entries.view(driver.where("a/c/0"))
    assert view.base_path == "a/c/0"
    assert sorted(view.entries) == ["1", "new"]
    assert view.hides >= {"0", "1"}
    assert driver.tree.entries.view("a/c/1").base_path == "a/c/1"
    driver.mkdir("plain")
    assert driver.tree.entries.view(driver.where("plain")).base_path is None
