"""The times of files in tags and snapshots: `rsync` and `make` see what changed between two versions."""

import os
import shutil
import subprocess
import time

import icechunk as ic
import pytest

from tests.conformance.official import GROUP, commit, create, loose_array_json, remove
from tests.support.ci import require
from tests.support.mounting import mounted

BIG = bytes(range(256)) * 4096


def version_1():
    return {
        "zarr.json": GROUP,
        "a/zarr.json": loose_array_json((40, 40), (10, 10)),
        "big/zarr.json": loose_array_json((4 << 20,), (1 << 20,)),
        "many/zarr.json": loose_array_json((3000,), (1,)),
        "scalar/zarr.json": loose_array_json((), ()),
        "scalar/c": b"s",
        **{f"a/c/{i}/{j}": b"%d %d" % (i, j) for i in range(4) for j in range(4)},
        **{f"big/c/{i}": BIG for i in range(4)},
        **{f"many/c/{i}": b"%04d" % i for i in range(3000)},
    }


# Of the same sizes as what they replace: only times tell.
CHANGED = {"a/c/2/3": b"3 2", "big/c/1": BIG[::-1], "many/c/17": b"1700", "scalar/c": b"t"}
NEW = {"b/zarr.json": loose_array_json((1,), (1,)), "b/c/0": b"b"}


@pytest.fixture(scope="module")
def repo(tmp_path_factory):
    path = tmp_path_factory.mktemp("times") / "repo"
    official = create(path, 2)
    official.create_tag("v1", commit(official, "first", version_1()))
    time.sleep(1.1)  # rsync compares whole seconds
    commit(official, "second", {"a/c/2/3": CHANGED["a/c/2/3"], "many/c/17": b"0000"})
    commit(official, "third", CHANGED | NEW)
    session = official.writable_session("main")
    remove(session.store, "a/c/0/0")
    official.create_tag("v2", session.commit("fourth"))
    return path


@pytest.fixture(scope="module")
def mount(repo, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        with mounted(repo) as found:
            yield found


def times(root):
    found = {}
    for directory, _, names in os.walk(root):
        for name in names:
            path = os.path.join(directory, name)
            found[os.path.relpath(path, root)] = os.stat(path).st_mtime_ns
    return found


def test_a_file_has_the_time_of_the_commit_that_changed_it(mount):
    before, after = times(mount / "tags/v1"), times(mount / "tags/v2")
    assert len(set(before.values())) == 1
    assert {path for path in after if after[path] != before.get(path)} == CHANGED.keys() | NEW.keys()
    assert {after[path] for path in CHANGED.keys() | NEW.keys()} == {after["b/c/0"]}
    assert after["b/c/0"] > before["zarr.json"]
    assert before.keys() - after.keys() == {"a/c/0/0"}
    # The same one by one as in listings, and in a branch that was not looked at before.
    assert times(mount / "branches/main") == after
    snapshot = os.readlink(mount / "tags/v2/.icefs/head").rpartition("/")[2]
    assert {path: os.stat(mount / f"snapshots/{snapshot}/{path}").st_mtime_ns for path in after} == after


def test_rsync_copies_what_changed(mount, tmp_path):
    require(shutil.which("rsync") is not None, "rsync")

    def sync(tag):
        done = subprocess.run(
            ["rsync", "-a", "--delete", "--out-format=%o %n", f"{mount / 'tags' / tag}/", tmp_path / "copy"],
            check=True,
            capture_output=True,
            text=True,
        )
        return {line for line in done.stdout.splitlines() if not line.endswith("/")}

    assert len(sync("v1")) == len(version_1())
    assert sync("v1") == set()
    sent = {f"send {path}" for path in CHANGED.keys() | NEW.keys()}
    assert sync("v2") == sent | {"del. a/c/0/0"}
    for path, data in (CHANGED | NEW).items():
        assert (tmp_path / "copy" / path).read_bytes() == data
    assert sync("v1") == {f"send {path}" for path in {*CHANGED, "a/c/0/0"}} | {f"del. {path}" for path in NEW}
    assert (tmp_path / "copy/big/c/1").read_bytes() == BIG


def test_make_makes_what_is_older(mount, tmp_path):
    require(shutil.which("make") is not None, "make")
    tree = mount / "tags/v2"
    rule = "$(SUMS): %.sum: $(TREE)/%\n\t@mkdir -p $(dir $@); cksum < $< > $@; echo $*\n"
    (tmp_path / "Makefile").write_text(rule)
    sums = [f"big/c/{number}.sum" for number in range(4)]
    for name in sums:  # made between the two versions
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("old")
        between = os.stat(mount / "tags/v1/big/c/0").st_mtime_ns + 1
        os.utime(tmp_path / name, ns=(between, between))
    command = ["make", "-C", tmp_path, "--no-print-directory", f"TREE={tree}", f"SUMS={' '.join(sums)}", *sums]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    assert [line for line in done.stdout.splitlines() if line.startswith("big")] == ["big/c/1"]
    newer = subprocess.run(
        ["find", tree, "-type", "f", "-newer", mount / "tags/v1/zarr.json", "-printf", "%P\n"],
        check=True,
        capture_output=True,
        text=True,
    )
    assert set(newer.stdout.split()) == CHANGED.keys() | NEW.keys()


def test_a_branch_that_moves_keeps_the_times_of_what_stays(repo, tmp_path):
    shutil.copytree(repo, tmp_path / "repo")
    with mounted(tmp_path / "repo") as mount:
        before = times(mount / "branches/main")
        held = os.open(mount / "branches/main/many/c/17", os.O_RDONLY)
        was = os.fstat(held).st_mtime_ns
        official = ic.Repository.open(ic.local_filesystem_storage(str(tmp_path / "repo")))
        commit(official, "fifth", {"many/c/17": b"5555", "a/c/1/1": b"new"})
        mount.refresh()
        after = times(mount / "branches/main")
        assert {path for path in after if after[path] != before[path]} == {"many/c/17", "a/c/1/1"}
        assert os.fstat(held).st_mtime_ns == was
        os.close(held)
    with mounted(tmp_path / "repo") as mount:
        assert times(mount / "branches/main") == after


def test_logs_that_are_gone(repo, tmp_path):
    shutil.copytree(repo, tmp_path / "repo")
    with mounted(tmp_path / "repo") as mount:
        expected = times(mount / "tags/v2")
    for log in (tmp_path / "repo/transactions").iterdir():
        log.unlink()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path / "empty"))
        with mounted(tmp_path / "repo") as mount:
            found = times(mount / "tags/v2")
            tip = max(expected.values())
            assert len(set(found.values())) == 1
            assert min(found.values()) > tip  # the fourth commit's, which only deleted
