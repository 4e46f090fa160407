"""Daemons and programs to be killed: forked, by the dozen a second, from one process that has imported everything.

    with Nursery() as nursery:
        daemon = nursery.daemon(options, log)               # returns when the mount answers
        program = nursery.start("tests.support.killing:some_function", log, "its", "arguments")
        os.kill(daemon, signal.SIGKILL)
        nursery.wait(daemon)

The forking process has one thread, which the test process may not have.
"""

import contextlib
import importlib
import json
import os
import signal
import subprocess
import sys
import traceback
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any, Self

from icefs.daemon.options import MountOptions
from tests.support.mounting import require_fuse, scratch_directory, unmount

_ROOT = Path(__file__).parents[2]


class Nursery:
    """The process that forks, and what it has forked."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", "from tests.support.killing import _serve; _serve()"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=_ROOT,
            env={**os.environ, "OPENBLAS_NUM_THREADS": "1"},
            text=True,
        )
        self._alive: set[int] = set()

    def _ask(self, **request: Any) -> Any:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        answer = json.loads(self._process.stdout.readline())
        assert "error" not in answer, answer["error"]
        return answer["value"]

    def start(self, function: str, log: Path, *args: Any, waits: bool = False) -> int:
        """Runs `module:function(report, *args)` in a process of its own; returns its id.

        Args:
            function: What runs; `report` is to be called when it is ready.
            log: Where its stderr goes.
            args: Arguments, in JSON.
            waits: Whether to wait until it is ready.
        """
        pid: int = self._ask(function=function, log=str(log), args=args, waits=waits)
        self._alive.add(pid)
        return pid

    def daemon(self, options: MountOptions, log: Path, prepare: str = "", *args: Any) -> int:
        """Starts a daemon; returns its process id when its mount answers.

        Args:
            options: What to mount where.
            log: Its log.
            prepare: `module:function`, called in the daemon before it starts.
            args: Its arguments.
        """
        return self.start("tests.support.killing:_daemon", log, asdict(options), prepare, args, waits=True)

    def wait(self, pid: int) -> int:
        """Waits for the end of a process; returns its exit code, negative for a signal."""
        code: int = self._ask(wait=pid)
        self._alive.discard(pid)
        return code

    def kill(self, pid: int) -> None:
        """Kills a process as `kill -9` does, and waits for its end."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        self.wait(pid)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        for pid in list(self._alive):
            self.kill(pid)
        self._process.communicate()


def _serve() -> None:
    """Is the forking process: answers requests from stdin until it ends."""
    importlib.import_module("icefs.daemon.serve")
    for line in sys.stdin:
        request = json.loads(line)
        if "wait" in request:
            answer: dict[str, Any] = {"value": os.waitstatus_to_exitcode(os.waitpid(request["wait"], 0)[1])}
        else:
            answer = _fork(request)
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()


def _fork(request: dict[str, Any]) -> dict[str, Any]:
    reader, writer = os.pipe()
    pid = os.fork()
    if not pid:
        code = 70
        try:
            os.close(reader)
            os.setsid()
            log = os.open(request["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
            null = os.open(os.devnull, os.O_RDWR)
            for old, new in ((null, 0), (log, 1), (log, 2)):
                os.dup2(old, new)
            code = _named(request["function"])(lambda: os.close(writer), *request["args"]) or 0
        except BaseException:  # the child must never come back
            traceback.print_exc()
        finally:
            os._exit(code)
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        if request["waits"]:
            pipe.read()
    return {"value": pid}


def _named(name: str) -> Callable[..., Any]:
    module, _, function = name.partition(":")
    found: Callable[..., Any] = getattr(importlib.import_module(module), function)
    return found


def _daemon(report: Callable[[], None], options: dict[str, Any], prepare: str, args: list[Any]) -> int:
    from icefs.daemon.spawn import run  # in the forked process alone

    check_trees()
    if prepare:
        _named(prepare)(*args)
    return run(MountOptions.from_json(json.dumps(options)), report)


def check_trees() -> None:
    """Has the working trees of this process checked whenever one was opened, and before it is closed."""
    from icefs.worktree.tree import WorkTree

    opening, closing = WorkTree.__init__, WorkTree.close

    def opened(self: Any, *args: Any) -> None:
        opening(self, *args)
        self.check_invariants()
        assert self.recovery.lost == [], self.recovery.lost

    def closed(self: Any) -> None:
        self.check_invariants()
        closing(self)

    WorkTree.__init__, WorkTree.close = opened, closed  # type: ignore[method-assign,assignment]


class Place:
    """A repository's branch mounted again and again at one place, by daemons that do not end well.

    Attributes:
        nursery: What starts the daemons.
        root: A directory for the test.
        path: The mountpoint.
        repository: Where the repository is.
        log: The daemons' log.
        daemon: The process id of the daemon; 0 if there is none.
    """

    def __init__(self, nursery: Nursery, root: Path) -> None:
        self.nursery = nursery
        self.root = root
        self.path = root / "mnt"
        self.repository = root / "repo"
        self.state_dir = root / "trees"
        self.log = root / "log"
        self.daemon = 0
        self.path.mkdir()

    def mount(self, prepare: str = "", *args: Any, **options: Any) -> None:
        """Starts a daemon (see `Nursery.daemon`)."""
        chosen = {"branch": "main", "poll_interval_s": 0.0, "state_dir": str(self.state_dir), **options}
        asked = MountOptions(
            repository=str(self.repository), mountpoint=str(self.path), log_file=str(self.log), **chosen
        )
        self.daemon = self.nursery.daemon(asked, self.log, prepare, *args)
        assert os.path.ismount(self.path), self.log.read_text()

    def kill(self) -> None:
        """Kills the daemon."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.daemon, signal.SIGKILL)

    def clear(self) -> int:
        """Waits until the daemon has ended and takes its dead mount away; returns the exit code."""
        daemon, self.daemon = self.daemon, 0
        code = self.nursery.wait(daemon)
        subprocess.run(["fusermount3", "-uz", self.path], check=False, capture_output=True)
        return code

    def unmount(self) -> None:
        """Unmounts in order."""
        assert self.leave() == 0, self.log.read_text()

    def leave(self) -> int:
        """Unmounts; returns the daemon's exit code."""
        unmount(self.path)
        daemon, self.daemon = self.daemon, 0
        return self.nursery.wait(daemon)

    def control(self, name: str) -> Any:
        """Reads a JSON control file."""
        return json.loads((self.path / ".icefs" / name).read_text())


@contextlib.contextmanager
def killing_place() -> Iterator[Place]:
    """Makes a place to mount at, cleared away at the end."""
    require_fuse()
    with scratch_directory() as scratch, Nursery() as nursery:
        place = Place(nursery, Path(scratch))
        try:
            yield place
        finally:
            if place.daemon:
                place.kill()
                place.clear()


def rounds(default: int) -> int:
    """Returns how often a test with random kills repeats: ICEFS_TEST_ROUNDS, or as often as there is time for."""
    return int(os.environ.get("ICEFS_TEST_ROUNDS", default))
