"""A working tree as an icefs of long ago left it, killed in the middle of a commit.

`tests/unit/worktree/data/state-v1.json` was made by the icefs that had version 1 of the state directory, by

    python -m tests.support.old_state DIRECTORY FILE

at a commit before the version was raised. It holds every file of the state directory, with its time, and what the
tree showed before the process was killed. Never make it again with a newer icefs: that it is old is its use.
"""

import base64
import json
import os
import shutil
import signal
import sys
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.support.dict_base import Snapshots
from tests.support.forked import Child
from tests.support.tree_driver import Driver, open_tree

BASE = {"a/zarr.json": b"{}", "a/c/0": b"chunk 0", "a/c/1": b"chunk 1", "b/zarr.json": b"b", "b/c/0": b"0", "r": b"r"}
SNAPSHOT = "1CECHNKREP0F1RSTCMT0"


def work(driver: Driver) -> None:
    """Does a bit of everything that has rows of its own."""
    driver.write("a/c/0", b"new chunk 0")
    driver.write("a/c/7.partial", b"chunk 7" * 1000)
    driver.rename("a/c/7.partial", "a/c/7")
    driver.unlink("a/c/1")
    driver.rename("b", "renamed")
    driver.mkdir("empty")
    driver.link("a/zarr.json", "empty/linked")
    driver.chmod("empty", 0o700)
    driver.utime("a/c/7", 11, 12)
    driver.write("notes é.txt", "not a key: é".encode())
    driver.write("gone", b"gone")
    driver.unlink("gone")
    driver.unlink("r")
    frozen = driver.tree.freeze()
    driver.tree.record_intent(frozen, SNAPSHOT, "base", ["notes é.txt"])
    driver.write("a/c/0", b"newest chunk 0")
    driver.unlink("renamed/c/0")
    driver.mkdir("later")
    driver.rename("a/c/7", "later/seven")


def shown(driver: Driver) -> dict[str, list[Any]]:
    """Returns what a tree shows: for each path its mode, links, owner, and for files their time and bytes."""
    found = {}
    for path, entry in driver.walk():
        attr = entry.attr
        told: list[Any] = [attr.mode, attr.nlink, attr.uid, attr.gid]
        if not attr.is_dir:
            told += [attr.mtime_ns, driver.read(path).hex()]
        found[path] = told
    return found


def make(directory: Path) -> dict[str, list[Any]]:
    """Makes a state directory in a process that is killed; returns what the tree showed."""

    def child(report: Callable[[str], None]) -> None:
        driver = open_tree(directory, Snapshots(BASE))
        work(driver)
        report(json.dumps(shown(driver)))
        signal.pause()

    process = Child(child)
    [line] = process.lines(1)
    process.kill()
    process.wait()
    told: dict[str, list[Any]] = json.loads(line)
    return told


def pack(directory: Path, told: dict[str, list[Any]], file: Path) -> None:
    """Puts a state directory and what it showed into one file."""
    files = {
        str(path.relative_to(directory)): {
            "mtime_ns": path.stat().st_mtime_ns,
            "data": base64.b85encode(zlib.compress(path.read_bytes(), 9)).decode(),
        }
        for path in sorted(directory.rglob("*"))
        if path.is_file() and path.name != "reserve"
    }
    file.write_text(json.dumps({"files": files, "shown": told}, indent=1) + "\n")


def unpack(file: Path, directory: Path) -> dict[str, list[Any]]:
    """Puts the state directory back; returns what it showed."""
    packed = json.loads(file.read_text())
    if directory.exists():
        shutil.rmtree(directory)
    for name, one in packed["files"].items():
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(zlib.decompress(base64.b85decode(one["data"])))
        os.utime(path, ns=(one["mtime_ns"], one["mtime_ns"]))
    told: dict[str, list[Any]] = packed["shown"]
    return told


if __name__ == "__main__":
    pack(Path(sys.argv[1]), make(Path(sys.argv[1])), Path(sys.argv[2]))
