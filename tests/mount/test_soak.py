"""A day's work in a few seconds, or as much of it as ICEFS_TEST_OPERATIONS says: the daemon stays as it was.

Several processes work on one mount (`tests.support.soaking`), while others commit, reset and delete branches. After
a warm-up the daemon's memory, descriptors, threads and tables are noted; at the end they must not have grown. An
operation that takes more than ten seconds (ICEFS_TEST_PATIENCE, where the machine has other work to do) fails the test
with the stacks of the daemon. At the end every client compares every file with its model, and the official library
finds the same in the branches.
"""

import contextlib
import json
import os
import resource
import select
import signal
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import icechunk
import pytest

from icefs.daemon.options import MountOptions
from tests.conformance.official import GROUP, commit, create
from tests.support.mounting import require_fuse, run_daemon, scratch_directory, unmount, wait_until
from tests.support.soaking import BEAT, Task
from tests.support.store_contents import read_branch

OPERATIONS = int(os.environ.get("ICEFS_TEST_OPERATIONS", "6000"))
CLIENTS = 3
WARMUP = int(os.environ.get("ICEFS_TEST_WARMUP", str(max(3000, min(20_000, OPERATIONS // 10)))))
PATIENCE_S = float(os.environ.get("ICEFS_TEST_PATIENCE", "10"))
MOST_THREADS = 60
SEED = int(os.environ.get("ICEFS_TEST_SEED", "1"))

LOOK = """
# SIGUSR2 writes how much of everything there is, as JSON. Garbage is collected first, so that this is what is held.
import gc, json, os, signal
from collections import Counter
from icefs.vfs.mount import Mount

mounts = []
make = Mount.__init__
def noting(self, *args, **options):
    mounts.append(self)
    make(self, *args, **options)
Mount.__init__ = noting

def look(number, frame):
    gc.collect()
    writable = [branch.writable for mount in mounts for branch in mount.trees.branches() if branch.writable is not None]
    works = [branch.work for branch in writable if branch.work is not None]
    tables = Counter({
        "working trees": len(writable),
        "open trees": len(works),
        "inode ranges": sum(len(mount.fs.space) for mount in mounts),
        "loaded": sum(mount.gauges.values()["loaded_trees"] for mount in mounts),
        "handles": sum(len(mount.fs.handles) for mount in mounts),
        **dict.fromkeys(("nodes", "kept", "superseded", "deferred", "final", "behind", "views"), 0),
    })
    for work in works:
        tables.update(work.table_sizes())
    types = Counter(type(one).__name__ for one in gc.get_objects())
    told = {"tables": tables, "types": types.most_common(30)}
    with open(os.environ["ICEFS_TEST_LOOK"] + ".new", "w") as file:
        json.dump(told, file)
    os.rename(os.environ["ICEFS_TEST_LOOK"] + ".new", os.environ["ICEFS_TEST_LOOK"])
signal.signal(signal.SIGUSR2, look)
"""


class Daemon:
    """The daemon under test, looked at from outside and from inside."""

    def __init__(self, scratch: Path, repository: Path) -> None:
        self.place, self.log, self.look_at = scratch / "mnt", scratch / "log", scratch / "look.json"
        self.state = scratch / "state"
        self.place.mkdir()
        options = MountOptions(
            repository=str(repository),
            mountpoint=str(self.place),
            poll_interval_s=0.3,
            state_dir=str(self.state),
            foreground=True,
        )
        os.environ["ICEFS_TEST_LOOK"] = str(self.look_at)
        self.process = run_daemon(LOOK, options, self.log)

    def look(self) -> dict[str, Any]:
        """Returns how much of everything there is."""
        with contextlib.suppress(FileNotFoundError):
            self.look_at.unlink()
        self.process.send_signal(signal.SIGUSR2)
        wait_until(self.look_at.exists, "a look into the daemon")
        told: dict[str, Any] = json.loads(self.look_at.read_text())
        process = Path("/proc", str(self.process.pid))
        told["fds"] = len(os.listdir(process / "fd"))
        told["threads"] = len(os.listdir(process / "task"))
        pages = int((process / "statm").read_text().split()[1])
        told["rss_mb"] = pages * resource.getpagesize() / 1e6
        files = [path for path in self.state.rglob("*") if path.is_file()]
        told["state_files"] = len(files)
        told["state_directories"] = len(list(self.state.iterdir()))
        told["state_mb"] = sum(path.stat().st_size for path in files) / 1e6
        return told

    def stacks(self) -> str:
        """Has the daemon write where it is."""
        self.process.send_signal(signal.SIGUSR1)
        time.sleep(0.3)
        return self.log.read_text()[-20_000:]

    def end(self) -> None:
        unmount(self.place)
        assert self.process.wait(30) == 0

    def kill(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        subprocess.run(["fusermount3", "-uz", self.place], check=False, capture_output=True)


class Worker:
    """A client's process, and its heartbeat."""

    def __init__(self, daemon: Daemon, repository: Path, number: int) -> None:
        self.beat = daemon.log.with_name(f"beat{number}")
        self.beat.write_bytes(bytes(BEAT.size))
        task = Task(
            str(daemon.place), str(repository), number, OPERATIONS // CLIENTS, WARMUP // CLIENTS, str(self.beat), SEED
        )
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.support.soaking", json.dumps(asdict(task))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=Path(__file__).parents[2],
        )

    def stuck(self) -> str | None:
        """Says which operation takes too long, if one does."""
        began, done, name = BEAT.unpack(self.beat.read_bytes())
        if began and time.monotonic() - began > PATIENCE_S:
            return f"{name.rstrip(bytes(1)).decode()} (operation {done:.0f}) takes {time.monotonic() - began:.1f} s"
        return None

    def line(self, others: list["Worker"], daemon: Daemon) -> str:
        """Waits for a line, with an eye on all clients."""
        assert self.process.stdout is not None
        while not select.select([self.process.stdout], [], [], 0.25)[0]:
            for worker in others:
                assert worker.process.poll() in {None, 0}, f"a client failed; the daemon:\n{daemon.stacks()}"
                if (reason := worker.stuck()) is not None:
                    pytest.fail(f"{reason}; the daemon:\n{daemon.stacks()}")
        line = self.process.stdout.readline().decode()
        assert line, f"a client ended with {self.process.wait()}; the daemon:\n{daemon.stacks()}"
        return line

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                with contextlib.suppress(BrokenPipeError):
                    pipe.close()
        self.process.wait()


@pytest.mark.timeout(0)
def test_a_day_of_work_leaves_the_daemon_as_it_was() -> None:
    require_fuse()
    with scratch_directory() as name, contextlib.ExitStack() as stack:
        scratch = Path(name)
        repository = scratch / "repo"
        # Small caches, which are full after the warm-up: what grows then is not what they keep.
        caching = icechunk.CachingConfig(num_snapshot_nodes=2000, num_chunk_refs=20_000, num_transaction_changes=4000)
        official = create(repository, 2, caching=caching)
        first = commit(official, "first", {"zarr.json": GROUP})
        for number in range(CLIENTS):
            official.create_branch(f"own{number}", first)
        daemon = Daemon(scratch, repository)
        stack.callback(daemon.kill)
        workers = [Worker(daemon, repository, number) for number in range(CLIENTS)]
        for worker in workers:
            stack.callback(worker.close)
        for worker in workers:
            assert worker.line(workers, daemon) == "warm\n"
        before = daemon.look()
        for worker in workers:
            assert worker.process.stdin is not None
            worker.process.stdin.write(b"go\n")
            worker.process.stdin.flush()
        left = [json.loads(worker.line(workers, daemon)) for worker in workers]
        after = daemon.look()
        tell(before, after, left)
        check_flat(before, after)
        answer = commit_rest(daemon)
        assert answer["type"] == "result" or answer["kind"] == "no-changes-to-commit", answer
        daemon.end()
        assert "Traceback" not in daemon.log.read_text(), daemon.log.read_text()[-20_000:]
        check_committed(repository, left)


def commit_rest(daemon: Daemon) -> dict[str, Any]:
    fd = os.open(daemon.place / "branches/main/.icefs/rpc", os.O_RDWR)
    try:
        os.write(fd, json.dumps({"op": "commit", "message": "the end", "skip_invalid": True}).encode())
        parts = []
        while part := os.read(fd, 1 << 16):
            parts.append(part)
    finally:
        os.close(fd)
    answer: dict[str, Any] = json.loads(b"".join(parts).splitlines()[-1])
    return answer


def tell(before: dict[str, Any], after: dict[str, Any], left: list[dict[str, Any]]) -> None:
    """Writes for people how it was, where they asked for more than the default."""
    report = {
        "operations": sum(one["operations"] for one in left),
        "slowest": max(one["slowest"] for one in left),
        "before": before,
        "after": after,
        "told": left[0]["told"],
    }
    where = os.environ.get("ICEFS_TEST_REPORT")
    if where:
        Path(where).write_text(json.dumps(report, indent=1))


def check_flat(before: dict[str, Any], after: dict[str, Any]) -> None:
    """Holds what there is after the work against what there was before, and against what the work may need."""
    told = f"\nbefore: {before}\nafter: {after}"
    tables = after["tables"]
    # Each working tree has some files ready for the next writer, and each file that was written may be open.
    assert after["fds"] <= max(before["fds"] + 20, 100 + 80 * tables["open trees"] + tables["nodes"]), told
    assert after["threads"] <= max(before["threads"] + 8, MOST_THREADS), told
    assert after["rss_mb"] <= before["rss_mb"] * 1.25 + 25, told
    # The log of each database is folded into it when it has 8 MB.
    assert after["state_mb"] <= before["state_mb"] * 2 + 12 * tables["open trees"], told
    assert after["state_files"] <= before["state_files"] * 2 + 80 * tables["open trees"], told
    assert after["state_directories"] <= before["state_directories"] + CLIENTS, told
    # Numbers of old chunks are forgotten once a tree has 200 ranges of them; immutable trees that are loaded have some.
    assert tables["inode ranges"] <= 400 * tables["open trees"] + 8 * tables["loaded"], told
    for table in sorted(tables.keys() - {"inode ranges", "loaded"}):
        assert tables[table] <= before["tables"][table] * 2 + 200, f"{table}{told}"


def check_committed(repository: Path, left: list[dict[str, Any]]) -> None:
    """Lets the official library read the branches."""
    found = read_branch(repository, "main")
    expected = {"zarr.json": GROUP}
    for number, one in enumerate(left):
        expected |= {f"w{number}/{path}": bytes.fromhex(data) for path, data in one["shared"].items()}
    compare(found, expected)
    for number, one in enumerate(left):
        compare(
            read_branch(repository, f"own{number}"), {path: bytes.fromhex(data) for path, data in one["own"].items()}
        )


def compare(found: dict[str, bytes], expected: dict[str, bytes]) -> None:
    assert found.keys() == expected.keys(), found.keys() ^ expected.keys()
    wrong = [path for path, data in expected.items() if found[path] != data]
    assert not wrong, wrong
