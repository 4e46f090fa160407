"""A state directory's disk that remembers what was synced, and shows what power loss may leave of it."""

import os
import random
import shutil
from pathlib import Path

from icefs.worktree.spool.files import DiskIo
from icefs.worktree.spool.journal import Journal


class PowerDisk(DiskIo):
    """Knows of every spool file what is safe: its directory entry, and its bytes as of the last sync."""

    def __init__(self) -> None:
        self.entries: set[str] = set()
        self.contents: dict[str, tuple[bytes, int]] = {}
        self.wal_bytes = 0

    def sync(self, fd: int) -> None:
        super().sync(fd)
        path = os.readlink(f"/proc/self/fd/{fd}")
        self.contents[path] = (Path(path).read_bytes(), os.stat(path).st_mtime_ns)

    def sync_dir(self, path: str) -> None:
        super().sync_dir(path)
        self.entries.update(entry.path for entry in os.scandir(path))

    def open_journal(self, path: Path) -> Journal:
        """Opens the database, noting how much of its log is safe."""
        disk = self

        class Noting(Journal):
            def sync(self) -> None:
                super().sync()
                disk.wal_bytes = os.path.getsize(f"{path}-wal")

        return Noting(path, reserve_bytes=0)

    def lose_power(self, directory: Path, target: Path, rng: random.Random) -> None:
        """Makes a copy of the state directory as power loss may leave it: what is safe, and of the rest what chance
        lets through. Of a file that was not synced only a part may have arrived. Never a size before its bytes, as
        on ext4 and btrfs; on a file system that does this, no program can tell such a file from a whole one.
        """
        target.mkdir()
        shutil.copy(directory / "tree.db", target)
        wal = (directory / "tree.db-wal").read_bytes()
        (target / "tree.db-wal").write_bytes(
            wal[: rng.choice([self.wal_bytes, len(wal), rng.randint(self.wal_bytes, len(wal))])]
        )
        (target / "spool").mkdir()
        for bucket in (directory / "spool").iterdir():
            if str(bucket) not in self.entries:
                continue
            (target / "spool" / bucket.name).mkdir()
            for path in bucket.iterdir():
                is_safe = str(path) in self.entries
                if not is_safe and rng.random() < 0.5:
                    continue
                now = path.read_bytes(), path.stat().st_mtime_ns
                synced = self.contents.get(str(path), (b"", now[1])) if is_safe else (b"", now[1])
                data, mtime_ns = rng.choice([synced, synced, now])
                if data != synced[0] or not is_safe:
                    data = rng.choice([data, data[: len(data) // 2]])
                arrived = target / "spool" / bucket.name / path.name
                arrived.write_bytes(data)
                os.utime(arrived, ns=(mtime_ns, mtime_ns))
