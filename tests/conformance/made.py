"""A repository that icefs's encoders make, update by update, and reading single files of repositories."""

from collections.abc import Callable
from datetime import datetime
from pathlib import Path

import icechunk as ic

from icefs.clock import to_micros
from icefs.format.ids import INITIAL_SNAPSHOT_ID, SnapshotId
from icefs.format.layout import OVERWRITTEN, REPO_INFO, SNAPSHOTS
from icefs.format.repo.info import RepoInfo, encode_repo_info, parse_repo_info
from icefs.format.repo.snapshot_table import SnapshotInfo
from icefs.format.repo.update import (
    Stamp,
    add_snapshot,
    initial_repo_info,
    next_timestamp,
)
from icefs.format.snapshot.reader import Snapshot, parse_snapshot
from icefs.format.snapshot.writer import encode_snapshot
from icefs.format.transaction_log import TransactionLog, encode_transaction_log
from tests.support.repo_samples import snapshot_id


def read_snapshot(path: Path) -> Snapshot:
    return parse_snapshot(path.read_bytes(), name=path.name)


def read_repo(path: Path) -> RepoInfo:
    return parse_repo_info(path.read_bytes(), name=path.name)


def local(path: Path) -> ic.Storage:
    return ic.local_filesystem_storage(str(path))


class Made:
    """A repository whose every file but the chunks was written by icefs, update by update, with backups."""

    def __init__(self, path: Path) -> None:
        self.path = path
        for directory in (SNAPSHOTS, "transactions", OVERWRITTEN):
            (path / directory).mkdir(parents=True)
        self.now = to_micros(datetime.now().astimezone()) - 60_000_000
        first = SnapshotInfo(
            INITIAL_SNAPSHOT_ID, None, self.now, "Repository initialized", {"__icechunk": {"is_root": True}}
        )
        self.write_snapshot(first)
        self.write(initial_repo_info(first, now=self.now))

    def write_snapshot(self, info: SnapshotInfo) -> None:
        data = encode_snapshot(
            snapshot_id=info.id,
            flushed_at=info.flushed_at,
            message=info.message,
            metadata=info.metadata,
            nodes=[],
            manifest_files=[],
            spec_version=2,
        )
        (self.path / SNAPSHOTS / str(info.id)).write_bytes(data)
        log = encode_transaction_log(TransactionLog(info.id), spec_version=2)
        (self.path / "transactions" / str(info.id)).write_bytes(log)

    def write(self, repo: RepoInfo) -> None:
        (self.path / REPO_INFO).write_bytes(encode_repo_info(repo))

    def update(self, change: Callable[[RepoInfo, Stamp], RepoInfo], *, num_updates: int = 1000) -> RepoInfo:
        present = read_repo(self.path / REPO_INFO)
        self.now = next_timestamp(present, self.now + 1000)
        name = f"repo.{self.now:014d}.X"
        (self.path / OVERWRITTEN / name).write_bytes((self.path / REPO_INFO).read_bytes())
        self.write(change(present, Stamp(self.now, name, num_updates)))
        return read_repo(self.path / REPO_INFO)

    def commit(self, number: int, parent: SnapshotId, branch: str | None = "main") -> SnapshotId:
        info = SnapshotInfo(snapshot_id(number), parent, self.now + 1000, f"commit {number}", {"n": number})
        self.write_snapshot(info)
        self.update(lambda repo, stamp: add_snapshot(repo, info, stamp, branch=branch))
        return info.id

    def official(self) -> ic.Repository:
        return ic.Repository.open(local(self.path))
