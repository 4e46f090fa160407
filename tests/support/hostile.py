"""What somebody who may write in a directory can put there, and a look at whether it did harm.

place(path, "symlink to a file", outside)   # replaces what is at `path`
with unchanged(outside), deadline(10):      # nothing outside is made, changed or removed, and nothing blocks
    ...
"""

import importlib
import os
import pickle
import pkgutil
import shutil
import signal
import socket
import stat
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from icefs import cli

SECRET: Final = b"0123456789 the secret of another user"
OTHER_USER: Final = 4201

FOLLOWED: Final = ("symlink to a file", "dangling symlink", "symlink to a directory")
WAITED_FOR: Final = ("FIFO", "socket", "device")
STRANGE: Final = (*FOLLOWED, *WAITED_FOR)
"""What is neither a file nor a directory."""

THINGS: Final = (*STRANGE, "directory in place of a file", "file in place of a directory", "hard link")


def make_outside(directory: Path) -> Path:
    """Makes a directory that nothing may touch: a file, a directory with files of many names, a place for new ones."""
    outside = directory / "outside"
    (outside / "directory" / "branch.main").mkdir(parents=True)
    for name in ("file", "directory/A", "directory/ref.json", "directory/branch.main/ref.json", "directory/repo.1"):
        (outside / name).write_bytes(SECRET)
    return outside


def fits(thing: str, *, is_directory: bool) -> bool:
    """Tells whether a thing can stand in the place of a directory or of a file."""
    if thing in ("directory in place of a file", "hard link"):
        return not is_directory
    if thing == "file in place of a directory":
        return is_directory
    return thing != "device" or os.geteuid() == 0


def place(path: Path, thing: str, outside: Path) -> None:
    """Replaces what is at a path, which need not be anything."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
    _MAKE[thing](path, outside)


def _make_socket(path: Path, outside: Path) -> None:
    del outside
    here = os.open(".", os.O_RDONLY)
    try:
        os.chdir(path.parent)  # the path of a socket may have only 107 bytes
        with socket.socket(socket.AF_UNIX) as listening:
            listening.bind(path.name)
    finally:
        os.fchdir(here)
        os.close(here)


_MAKE: Final[dict[str, Callable[[Path, Path], object]]] = {
    "symlink to a file": lambda path, outside: path.symlink_to(outside / "file"),
    "dangling symlink": lambda path, outside: path.symlink_to(outside / "directory" / "new"),
    "symlink to a directory": lambda path, outside: path.symlink_to(outside / "directory"),
    "FIFO": lambda path, outside: os.mkfifo(path),
    "socket": _make_socket,
    "device": lambda path, outside: os.mknod(path, 0o666 | stat.S_IFCHR, os.makedev(1, 3)),
    "directory in place of a file": lambda path, outside: path.mkdir(),
    "file in place of a directory": lambda path, outside: path.write_bytes(b""),
    "hard link": lambda path, outside: path.hardlink_to(outside / "file"),
}


def _look(outside: Path) -> dict[str, object]:
    found: dict[str, object] = {}
    for path in (outside, *sorted(outside.rglob("*"))):
        status = path.lstat()
        content = path.read_bytes() if stat.S_ISREG(status.st_mode) else None
        found[str(path)] = (status.st_ino, status.st_mode, status.st_uid, status.st_gid, status.st_mtime_ns, content)
    return found


@contextmanager
def unchanged(outside: Path) -> Iterator[None]:
    """Fails if anything in a directory is made, changed or removed meanwhile."""
    before = _look(outside)
    yield
    assert _look(outside) == before


class BlockedError(BaseException):
    """Something waited; no handler of errors takes it for one of its own."""


@contextmanager
def deadline(seconds: float) -> Iterator[None]:
    """Interrupts what the main thread waits for."""

    def ring(*_: object) -> None:
        raise BlockedError(f"it still waits after {seconds:g} s")

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def call_as_other_user[T](function: Callable[[], T]) -> T:
    """Calls a function in a child process of a user who owns nothing; of this user, unless that is root."""
    for module in pkgutil.walk_packages(cli.__path__, "icefs.cli."):
        importlib.import_module(module.name)  # here: the source may be where that user cannot read it
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        try:
            if os.geteuid() == 0:
                os.setgroups([])
                os.setresgid(OTHER_USER, OTHER_USER, OTHER_USER)
                os.setresuid(OTHER_USER, OTHER_USER, OTHER_USER)
            os.umask(0o022)
            os.write(writing, pickle.dumps((True, function())))
        except BaseException as error:
            os.write(writing, pickle.dumps((False, repr(error))))
        finally:
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as answer:
        data = answer.read()
    os.waitpid(child, 0)
    is_good, value = pickle.loads(data)
    assert is_good, value
    return value  # type: ignore[no-any-return]


def as_other_user(arguments: list[str], **options: object) -> "subprocess.CompletedProcess[str]":
    """Runs a command as a user who owns nothing; only root can."""
    user = ["setpriv", f"--reuid={OTHER_USER}", f"--regid={OTHER_USER}", "--clear-groups"]
    return subprocess.run(  # type: ignore[call-overload, no-any-return]
        [*user, *arguments], **{"capture_output": True, "text": True, "timeout": 60, "check": False, **options}
    )
