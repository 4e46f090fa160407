"""icefs and other file systems over object stores: rclone mount and JuiceFS, over the same server.

The same program, plain file input and output, on fresh mounts that have nothing cached, one of each side in turn.
icefs shows an array of 1 MiB chunks and one of 10 KiB chunks; the others show the same files. The time ends when
the bytes are in the store: after the commit, the upload (rclone without its own cache), the close (JuiceFS).
JuiceFS keeps its names in SQLite on the local disk, and so has the shorter way to a listing.
"""

import atexit
import contextlib
import functools
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.benchmarks import mounts
from tests.benchmarks.far_store import BUCKET, Counts, far_away, location, relay, run, server, told
from tests.benchmarks.rows import Row, compare

BIG_COUNT, BIG_BYTES = 64, 1 << 20
SMALL_COUNT, SMALL_BYTES = 1000, 10 << 10
WRITE_COUNT = 500
DELAY_MS = int(os.environ.get("ICEFS_BENCH_PEERS_MS", "0"))
_BIN = Path(sys.executable).parent

_CONSTANTS = {
    "BIG_COUNT": BIG_COUNT,
    "BIG_BYTES": BIG_BYTES,
    "SMALL_COUNT": SMALL_COUNT,
    "SMALL_BYTES": SMALL_BYTES,
    "WRITE_COUNT": WRITE_COUNT,
}
_CREATE = """
import icechunk, numpy
session = icechunk.Repository.create(official()).writable_session("main")
def fill(name, count, size):
    options = {"dtype": "u1", "compressors": None, "filters": None}
    array = zarr.create_array(session.store, name=name, shape=(count * size,), chunks=(size,), **options)
    array[:] = numpy.random.default_rng(1).integers(0, 255, count * size, dtype="u1")
fill("big", BIG_COUNT, BIG_BYTES)
fill("small", SMALL_COUNT, SMALL_BYTES)
zarr.create_array(session.store, name="new", shape=(WRITE_COUNT * SMALL_BYTES,), chunks=(SMALL_BYTES,), dtype="u1",
                  compressors=None, filters=None)
session.commit("x")
told()
"""
_READ = """
os.chdir(prefix + "/NAME/c")
total = 0
start = time.perf_counter()
for number in range(NAME_COUNT):
    with open(str(number), "rb", buffering=0) as file:
        while data := file.read(1 << 20):
            total += len(data)
seconds = time.perf_counter() - start
assert total == NAME_COUNT * NAME_BYTES, total
told(seconds)
"""


def _reading(name: str, count: int, size: int) -> str:
    return _READ.replace("NAME_COUNT", str(count)).replace("NAME_BYTES", str(size)).replace("NAME", name)


_PROGRAMS = {
    "sequential read, 1 MiB files": _reading("big", BIG_COUNT, BIG_BYTES),
    "small-file read, 10 KiB files": _reading("small", SMALL_COUNT, SMALL_BYTES),
    "small-file write, 10 KiB files": """
pool = os.urandom(SMALL_BYTES + WRITE_COUNT)
start = time.perf_counter()
os.makedirs(prefix + "/new/c", exist_ok=True)
for number in range(WRITE_COUNT):
    with open(f"{prefix}/new/c/{number}", "wb", buffering=0) as file:
        file.write(pool[number : number + SMALL_BYTES])
if os.path.exists(prefix + "/.icefs/commit"):
    with open(prefix + "/.icefs/commit", "w") as file:
        file.write("new files")
told(time.perf_counter() - start)
""",
    "listing with sizes": """
start = time.perf_counter()
total = count = 0
for name in ("big", "small"):
    for entry in os.scandir(f"{prefix}/{name}/c"):
        total += entry.stat().st_size
        count += 1
assert (count, total) == (BIG_COUNT + SMALL_COUNT, BIG_COUNT * BIG_BYTES + SMALL_COUNT * SMALL_BYTES)
told(time.perf_counter() - start)
""",
}  # fmt: skip


@functools.cache
def _repository() -> str:
    prefix = f"peers-{os.getpid()}"
    run(_CREATE, prefix, server().endpoint_url, **_CONSTANTS)
    return prefix


@contextlib.contextmanager
def _icefs() -> Iterator[Path]:
    with (
        tempfile.TemporaryDirectory(prefix="icefs-bench-") as scratch,
        mounts.icefs_mount(
            location(_repository()), "--cache-dir", f"{scratch}/c", state_dir=Path(scratch) / "state"
        ) as mountpoint,
    ):
        yield mountpoint


def _copy_files(target: Path) -> None:
    """Fills a file system with the files that icefs shows."""
    with mounts.icefs_mount(location(_repository()), "--cache-size", "0") as mountpoint:
        for name in ("big", "small"):
            shutil.copytree(mountpoint / name, target / name)


def _wait_until_mounted(mountpoint: Path, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 30
    while not os.path.ismount(mountpoint):
        if process.poll() not in (None, 0) or time.monotonic() > deadline:
            raise SystemExit(f"{process.args[0]} does not mount")
        time.sleep(0.02)


@contextlib.contextmanager
def _serving(command: list[str], mountpoint: Path) -> Iterator[Path]:
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
        try:
            _wait_until_mounted(mountpoint, process)
            yield mountpoint
        finally:
            subprocess.run(["fusermount3", "-u", mountpoint], check=False)
            try:
                process.wait(timeout=20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _rclone(source: str, mountpoint: Path) -> list[str]:
    keys = server().environment()
    remote = (
        f":s3,provider=Other,access_key_id={keys['AWS_ACCESS_KEY_ID']},secret_access_key={keys['AWS_SECRET_ACCESS_KEY']}"
        f",endpoint='{relay().endpoint_url}',region=us-east-1,force_path_style=true:{source}"
    )
    return [str(_BIN / "rclone"), "mount", remote, str(mountpoint), "--config", os.devnull]


@functools.cache
def _rclone_files() -> str:
    source = f"{BUCKET}/rclone-{os.getpid()}"
    with tempfile.TemporaryDirectory(prefix="icefs-bench-") as scratch:
        files = Path(scratch) / "files"
        _copy_files(files)
        remote = _rclone(source, Path())[2]
        command = [_BIN / "rclone", "copy", "--config", os.devnull, files, remote]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return source


@contextlib.contextmanager
def _rclone_mount() -> Iterator[Path]:
    source = _rclone_files()
    with (
        tempfile.TemporaryDirectory(prefix="icefs-bench-") as scratch,
        _serving(_rclone(source, Path(scratch)), Path(scratch)) as mountpoint,
    ):
        yield mountpoint


def _juicefs(*arguments: str) -> list[str]:
    return [str(_BIN / "juicefs"), *arguments, "--no-agent"]


@functools.cache
def _juicefs_volume() -> str:
    keys = server().environment()
    directory = tempfile.mkdtemp(prefix="icefs-bench-juicefs-")
    atexit.register(shutil.rmtree, directory, ignore_errors=True)
    meta = f"sqlite3://{directory}/meta.db"
    command = [
        *_juicefs("format", "--storage", "s3", "--bucket", f"{relay().endpoint_url}/{BUCKET}"),
        *("--trash-days", "0", meta, f"juice{os.getpid()}"),
    ]
    environment = os.environ | {"ACCESS_KEY": keys["AWS_ACCESS_KEY_ID"], "SECRET_KEY": keys["AWS_SECRET_ACCESS_KEY"]}
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment)
    with _juicefs_on(meta) as mountpoint:
        _copy_files(mountpoint)
    return meta


@contextlib.contextmanager
def _juicefs_on(meta: str) -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="icefs-bench-") as scratch:
        mountpoint = Path(scratch) / "mnt"
        mountpoint.mkdir()
        options = ("--cache-dir", f"{scratch}/cache", "--no-usage-report", "--no-syslog", "--no-bgjob")
        with _serving([*_juicefs("mount", *options, meta, str(mountpoint))], mountpoint):
            yield mountpoint


@contextlib.contextmanager
def _juicefs_mount() -> Iterator[Path]:
    with _juicefs_on(_juicefs_volume()) as mountpoint:
        yield mountpoint


@dataclass(frozen=True, slots=True)
class _Peer:
    name: str
    mount: Callable[[], contextlib.AbstractContextManager[Path]]
    prepare: Callable[[], object]


_PEERS = (
    _Peer("rclone mount", _rclone_mount, _rclone_files),
    _Peer("JuiceFS", _juicefs_mount, _juicefs_volume),
)


def against(what: str, rounds: int, program: str, peer: _Peer) -> Row:
    """Runs one program on both."""
    far_away(0)
    _repository()
    peer.prepare()
    proxy = far_away(DELAY_MS)
    counts: dict[str, Counts] = {}

    def measure(name: str, mount: Callable[[], contextlib.AbstractContextManager[Path]]) -> float:
        with mount() as mountpoint:
            shutil.rmtree(mountpoint / "new/c", ignore_errors=True)
            proxy.take_counts()
            (seconds,) = run(program, mountpoint, "", **_CONSTANTS)
            counts[name] = proxy.take_counts()
            return seconds

    row = compare(what, lambda: measure("icefs", _icefs), lambda: measure(peer.name, peer.mount), 1, rounds)
    counted = "; ".join(told(name, count) for name, count in counts.items())
    return Row(f"{what} ({counted})", row.ours, row.theirs, row.ratio, row.target, row.met)


REMOTE_PEERS: dict[str, Callable[[str, int], Row]] = {
    f"S3 at {DELAY_MS} ms, {name}, vs. {peer.name}": functools.partial(against, program=program, peer=peer)
    for name, program in _PROGRAMS.items()
    for peer in _PEERS
}
