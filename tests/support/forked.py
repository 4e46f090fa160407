"""Runs a function in a process of its own, to be killed."""

import os
import signal
import traceback
from collections.abc import Callable


class Child:
    """A forked process that reports lines over a pipe.

    Attributes:
        pid: Its process id.
    """

    def __init__(self, work: Callable[[Callable[[str], None]], None]) -> None:
        """Starts `work(report)`; `report` returns when the line is in the pipe, so that it survives the child."""
        self._read_fd, write_fd = os.pipe()
        self.pid = os.fork()
        if not self.pid:
            os.close(self._read_fd)
            code = 1
            try:
                work(lambda line: _write_line(write_fd, line))
                code = 0
            except BaseException:  # the child must never return into pytest
                _write_line(write_fd, "! " + traceback.format_exc().replace("\n", " | "))
            finally:
                os._exit(code)
        os.close(write_fd)
        self._file = os.fdopen(self._read_fd)

    def lines(self, limit: int | None = None) -> list[str]:
        """Returns lines until the end, or so many; raises what the child raised."""
        found: list[str] = []
        while limit is None or len(found) < limit:
            line = self._file.readline()
            if not line.endswith("\n"):
                break
            assert not line.startswith("!"), line
            found.append(line[:-1])
        return found

    def kill(self) -> None:
        """Ends it as `kill -9` does."""
        os.kill(self.pid, signal.SIGKILL)

    def wait(self) -> int:
        """Waits for its end; returns the wait status."""
        status = os.waitpid(self.pid, 0)[1]
        self._file.close()
        return status


def _write_line(fd: int, line: str) -> None:
    os.write(fd, f"{line}\n".encode())
