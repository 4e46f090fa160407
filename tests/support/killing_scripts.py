"""Programs that do a script of operations to a directory, as others do them, and note what they have done."""

import errno
import os
import random
import signal
import time
from collections.abc import Callable
from pathlib import Path

from tests.support.tree_script import Model, Step, make_script, temporary_of

KINDS = (
    "write", "write", "replace", "replace", "overwrite", "patch", "append", "append", "truncate", "unlink", "mkdir",
    "mkdir", "rmdir", "link", "rename", "rename",
)  # fmt: skip
NAMES = ("0", "1", "2", "x.partial", "c", "d")
DEAD = frozenset({errno.ENOTCONN, errno.ECONNABORTED})
"""What a mount without a daemon answers."""

SIZES = (0, 1, 10, 5000, 5000, 300_000)


def script_of(model: Model, seed: str, length: int = 300) -> list[tuple[Step, Model]]:
    """Draws the script that a writer does, and its checker knows."""
    return make_script(model, random.Random(seed), length, kinds=KINDS, names=NAMES, sizes=SIZES)


def play(report: Callable[[], None], directory: str, told: str, linked: list[str], seed: str) -> None:
    """Does a script below a directory until that fails, as it does when the daemon dies; notes each step done.

    The notes go to a file by one `write(2)` each, so they outlive this process and the daemon.
    """
    files, dirs = content_of(Path(directory))
    script = script_of(Model(files, dirs, frozenset(linked)), seed)
    player = PathPlayer(Path(directory))
    with open(told, "ab", buffering=0) as notes:
        report()
        for step, _ in script:
            try:
                player.play(step)
            except OSError as error:
                if error.errno not in DEAD:
                    raise
                return
            notes.write(b"%s\n" % step.kind.encode())


class PathPlayer:
    """Does the steps of a script to a directory; each has happened when `play` returns."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def play(self, step: Step) -> None:
        """Does one step."""
        path, target = self._root / step.path, self._root / step.target
        match step.kind:
            case "write" | "overwrite":
                self._write(path, step.data, os.O_CREAT | os.O_TRUNC)
            case "patch":
                self._write(path, step.data, 0)
            case "append":
                self._write(path, step.data, os.O_APPEND)
            case "replace":
                temporary = self._root / temporary_of(step.path)
                temporary.unlink(missing_ok=True)  # an earlier kill may have left it, and it may have other names
                self._write(temporary, step.data, os.O_CREAT | os.O_TRUNC)
                temporary.replace(path)
            case "truncate":
                if path.stat().st_size > 2:
                    os.truncate(path, 2)
            case "unlink":
                path.unlink()
            case "mkdir":
                path.mkdir()
            case "rmdir":
                path.rmdir()
            case "link":
                target.hardlink_to(path)
            case "rename":
                path.rename(target)
            case _:
                raise AssertionError(step)

    def _write(self, path: Path, data: bytes, flags: int) -> None:
        fd = os.open(path, os.O_WRONLY | flags, 0o644)
        try:
            done = 0
            while done < len(data):
                done += os.write(fd, data[done:])
        finally:
            os.close(fd)


def content_of(root: Path) -> tuple[dict[str, bytes], frozenset[str]]:
    """Returns the files and directories below a directory, but for a control directory."""
    files, dirs = {}, set()
    for above, below, names in os.walk(root, onerror=_fail):
        below[:] = [name for name in below if name != ".icefs"]
        relative = Path(above).relative_to(root)
        dirs.update(str(relative / name) for name in below)
        files.update({str(relative / name): Path(above, name).read_bytes() for name in names})
    return files, frozenset(dirs)


def _fail(error: OSError) -> None:
    raise error


VALUES = 12


def count_up(report: Callable[[], None], chunks: str, told: str, start: int) -> None:
    """Sets one chunk after the other of an array of integers, each a chunk, to a number that grows with each step.

    Every second one is written in place, the others are written to another name and renamed.
    """
    del report
    with open(told, "ab", buffering=0) as notes:
        for step in range(start, start + 5000):
            path = Path(chunks, str(step % VALUES))
            data = (VALUES + step).to_bytes(8, "little")
            try:
                if step % 2:
                    Path(f"{path}.partial").write_bytes(data)
                    os.replace(f"{path}.partial", path)
                else:
                    fd = os.open(path, os.O_WRONLY | os.O_CREAT)
                    try:
                        os.write(fd, data)
                    finally:
                        os.close(fd)
            except OSError as error:
                if error.errno not in DEAD:
                    raise
                return
            notes.write(b"%d\n" % step)


def kill_at(report: Callable[[], None], pid: int, moment: float) -> None:
    """Kills a process at a moment of the monotonic clock."""
    del report
    time.sleep(max(0.0, moment - time.monotonic()))
    os.kill(pid, signal.SIGKILL)
