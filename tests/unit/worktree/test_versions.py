"""State directories of newer and older versions: the former are left alone, the latter keep every byte."""

import contextlib
import json
import os
import signal
import sqlite3
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from icefs.errors import StorageError, UnsupportedSpecVersionError
from icefs.worktree.spool import versions
from icefs.worktree.spool.state import read_info
from icefs.worktree.spool.versions import STATE_VERSION
from tests.support.dict_base import Snapshots
from tests.support.forked import Child
from tests.support.old_state import BASE, SNAPSHOT, shown, unpack
from tests.support.tree_driver import open_tree

VERSION_1 = Path(__file__).with_name("data") / "state-v1.json"
VERSION_2 = VERSION_1.with_name("state-v2.json")


@pytest.fixture
def snapshots() -> Snapshots:
    return Snapshots(BASE)


def contents(directory: Path) -> dict[str, tuple[int, bytes]]:
    return {
        str(path.relative_to(directory)): (path.stat().st_mtime_ns, path.read_bytes())
        for path in directory.rglob("*")
        if path.is_file()
    }


def database_version(directory: Path) -> int:
    with contextlib.closing(sqlite3.connect(directory / "tree.db")) as database:
        version: int = database.execute("pragma user_version").fetchone()[0]
        return version


def check(directory: Path, told: dict[str, list[Any]]) -> None:
    """Opens the tree, and compares all that it shows, and its commit in doubt, with what the old version told."""
    driver = open_tree(directory, Snapshots(BASE))
    assert shown(driver) == told
    intent = driver.tree.pending_intent
    assert intent is not None
    assert (intent.snapshot_id, intent.base, intent.left_out) == (SNAPSHOT, "base", ("notes é.txt",))
    driver.tree.check_invariants()
    driver.tree.abandon_recovered()
    assert shown(driver) == told
    driver.tree.close()


def test_version_2_is_migrated_and_keeps_every_byte(tmp_path: Path) -> None:
    directory = tmp_path / "tree"
    told = unpack(VERSION_2, directory)
    assert json.loads((directory / "info.json").read_text())["version"] == 2
    check(directory, told)
    assert database_version(directory) == STATE_VERSION
    assert json.loads((directory / "info.json").read_text())["version"] == STATE_VERSION


def test_version_1_is_migrated_and_keeps_every_byte(tmp_path: Path) -> None:
    directory = tmp_path / "tree"
    told = unpack(VERSION_1, directory)
    assert database_version(tmp_path / "copy") == 1 if unpack(VERSION_1, tmp_path / "copy") else False
    assert "version" not in json.loads((directory / "info.json").read_text())
    check(directory, told)
    assert database_version(directory) == STATE_VERSION
    assert json.loads((directory / "info.json").read_text())["version"] == STATE_VERSION
    info = read_info(directory)
    assert info is not None
    assert (info.repository, info.branch, info.base) == ("memory:test", "main", "base")
    driver = open_tree(directory, Snapshots(BASE))
    assert shown(driver) == told
    driver.tree.close()


def test_a_new_tree_tells_its_version(tmp_path: Path, snapshots: Snapshots) -> None:
    open_tree(tmp_path, snapshots).tree.close()
    assert json.loads((tmp_path / "info.json").read_text())["version"] == STATE_VERSION
    assert database_version(tmp_path) == STATE_VERSION


def newer_info(directory: Path) -> None:
    path = directory / "info.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "version": STATE_VERSION + 1}))


def newer_database(directory: Path) -> None:
    (directory / "info.json").unlink()
    with contextlib.closing(sqlite3.connect(directory / "tree.db")) as database:
        database.execute(f"pragma user_version = {STATE_VERSION + 1}")


@pytest.mark.parametrize("make_newer", [newer_info, newer_database])
def test_a_newer_version_is_refused_and_not_touched(
    tmp_path: Path, snapshots: Snapshots, make_newer: Callable[[Path], None]
) -> None:
    directory = tmp_path / "tree"
    unpack(VERSION_1, directory)
    make_newer(directory)
    before = contents(directory)
    for _ in range(2):
        with pytest.raises(UnsupportedSpecVersionError, match=r"written by a newer icefs.*left as it is") as caught:
            open_tree(directory, snapshots)
        assert "mount it with the icefs that wrote it" in (caught.value.hint or "")
        assert contents(directory) == before


@pytest.mark.parametrize("text", ["", "[]", "{", '{"version": "two"}', "\xff"])
def test_what_info_json_says_is_not_trusted_blindly(tmp_path: Path, snapshots: Snapshots, text: str) -> None:
    driver = open_tree(tmp_path, snapshots)
    driver.write("x", b"kept")
    driver.tree.close()
    (tmp_path / "info.json").write_text(text, "latin-1")
    driver = open_tree(tmp_path, snapshots)
    assert driver.read("x") == b"kept"
    driver.tree.close()


def test_steps_follow_one_another_in_one_transaction(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[int] = []

    def step(version: int) -> versions.Migration:
        def migrate(database: sqlite3.Connection) -> None:
            assert database.in_transaction
            done.append(version)
            database.execute(f"create table added_in_{version + 1} (x)")

        return migrate

    told = unpack(VERSION_1, tmp_path)
    monkeypatch.setattr(versions, "STATE_VERSION", 4)
    monkeypatch.setattr(versions, "MIGRATIONS", {version: step(version) for version in (1, 2, 3)})
    check(tmp_path, told)
    assert done == [1, 2, 3]
    driver = open_tree(tmp_path, Snapshots(BASE))
    driver.tree.close()
    assert done == [1, 2, 3]


def test_a_failed_migration_changes_nothing(
    tmp_path: Path, snapshots: Snapshots, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(database: sqlite3.Connection) -> None:
        database.execute("create table half_done (x)")
        database.execute("no sql at all")

    told = unpack(VERSION_1, tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(versions, "MIGRATIONS", {1: broken})
        with pytest.raises(StorageError):
            open_tree(tmp_path, snapshots)
    with contextlib.closing(sqlite3.connect(tmp_path / "tree.db")) as database:
        assert database.execute("select count(*) from sqlite_master where name = 'half_done'").fetchone() == (0,)
        assert database.execute("pragma user_version").fetchone() == (1,)
    check(tmp_path, told)


def test_a_crash_anywhere_in_a_migration_is_harmless(tmp_path: Path) -> None:
    """Killed at every statement of SQL and every change of a file, one after the other."""
    directory = tmp_path / "tree"
    at = 0
    versions_seen = set()
    while True:
        at += 1
        told = unpack(VERSION_1, directory)

        def child(report: Callable[[str], None], at: int = at) -> None:
            left = at

            def point(*_: object) -> None:
                nonlocal left
                left -= 1
                if not left:
                    os.kill(os.getpid(), signal.SIGKILL)

            connect = sqlite3.connect

            def connect_traced(*args: Any, **options: Any) -> sqlite3.Connection:
                database = connect(*args, **options)
                database.set_trace_callback(point)
                return database

            def migrate_more(database: sqlite3.Connection) -> None:
                database.execute("create table more (x)")
                database.execute("insert into more values (1)")

            sqlite3.connect = connect_traced  # type: ignore[assignment]
            versions.MIGRATIONS[1] = migrate_more
            sys.addaudithook(lambda event, _: point() if event in {"open", "os.rename", "os.remove"} else None)
            open_tree(directory, Snapshots(BASE))
            report("opened")
            os.kill(os.getpid(), signal.SIGKILL)

        process = Child(child)
        lines = process.lines(1)
        process.wait()
        version = json.loads((directory / "info.json").read_text()).get("version", 1)
        versions_seen.add(version)
        check(directory, told)
        with contextlib.closing(sqlite3.connect(directory / "tree.db")) as database:
            assert database.execute("pragma user_version").fetchone() == (STATE_VERSION,)
        if lines:
            break
    assert at > 20
    assert versions_seen == {1, STATE_VERSION}
