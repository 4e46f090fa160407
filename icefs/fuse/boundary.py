"""The boundary around every handler: it counts and times a request, and turns whatever fails into an errno.

    request ──► read its arguments ──► a method of the file system ──► answer
                        │                         │
                        └───────── raises ────────┴──► `Recorder.failed` ──► FuseError

Nothing but `FuseError` leaves a handler, and trio's cancellation: any other exception would end the mount. Which errno
an error of the file system means is not known here; the `Recorder` says so.
"""

import errno
from collections.abc import Awaitable, Callable, Coroutine
from functools import partial
from time import perf_counter_ns
from typing import Any, Final, Protocol

import trio

from icefs.vfs.interface import Subject, Vfs

OPERATIONS: Final[tuple[str, ...]] = (
    "lookup", "getattr", "setattr", "readlink", "mknod", "mkdir", "unlink", "rmdir", "symlink", "rename", "link",
    "open", "create", "read", "write", "flush", "release", "fsync", "opendir", "readdir", "releasedir", "fsyncdir",
    "statfs", "setxattr", "getxattr", "listxattr", "removexattr", "forget", "fallocate", "ioctl",
)  # fmt: skip
"""The operations, each a method of `Vfs`, in the order of the counters."""

_NUMBERS: Final = {name: number for number, name in enumerate(OPERATIONS)}

# The first argument of these is a handle; of the others, an inode number.
_BY_HANDLE: Final = frozenset(
    ("read", "write", "fallocate", "ioctl", "flush", "release", "fsync", "readdir", "releasedir", "fsyncdir")
)
_PATHLESS: Final = frozenset(("statfs", "forget"))
# The second argument of these is a name in the directory that the first names.
_NAMED: Final = frozenset(("lookup", "mknod", "mkdir", "unlink", "rmdir", "symlink", "rename", "create"))

type Handler = Callable[..., Coroutine[Any, Any, Any]]


class FuseError(Exception):
    """The answer to a request that fails.

    Attributes:
        errno: What the system call fails with.
        reason: Why, for the log. Empty if programs ask expecting this answer, such as ENODATA: then it is counted as
            an answer, not as a failure.
    """

    def __init__(self, number: int, reason: str = "") -> None:
        super().__init__(reason or errno.errorcode.get(number, str(number)))
        self.errno = number
        self.reason = reason


class Recorder(Protocol):
    """Counts requests, and knows what failures mean."""

    def record(self, operation: int, started_ns: int, elapsed_ns: int, error: int, subject: Subject) -> None:
        """Counts a request that was answered, or that failed with the errno `error`.

        Args:
            operation: The position in `OPERATIONS`.
            started_ns: When it began, by `perf_counter_ns`.
            elapsed_ns: How long it took.
            error: 0, or the errno.
            subject: What it was about.
        """

    def failed(self, operation: int, error: BaseException, where: Callable[[], str]) -> int:
        """Logs and counts a failure. Never raises.

        Args:
            operation: The position in `OPERATIONS`.
            error: What was raised; also a `FuseError` with a reason, or `trio.Cancelled`.
            where: Returns the path that the request is about.

        Returns:
            The errno to answer with.
        """


type _About = Callable[[tuple[Any, ...], Any], Subject]


def _about_name(args: tuple[Any, ...], result: object) -> Subject:
    return args[0], args[1], 0


def _about_first(args: tuple[Any, ...], result: object) -> Subject:
    return args[0], None, 0


# The subjects of operations, from their arguments and their result, which is None after a failure. They hold no
# buffers, which are large, and no paths: a reader of the access log finds these.
_SUBJECTS: Final[dict[str, _About]] = {
    **dict.fromkeys(("lookup", "mknod", "mkdir", "unlink", "rmdir", "symlink", "setxattr", "getxattr"), _about_name),
    "rename": lambda args, result: (args[0], f"{args[1]} -> {args[3]}", 0),
    "link": lambda args, result: (args[1], args[2], 0),
    "open": lambda args, result: (args[0], result and result[0], 0),
    "create": lambda args, result: (args[0], args[1] if result is None else (args[1], result[0]), 0),
    "opendir": lambda args, result: (args[0], result, 0),
    "read": lambda args, result: (args[0], None, 0 if result is None else len(result)),
    "write": lambda args, result: (args[0], None, result or 0),
    "statfs": lambda args, result: (0, None, 0),
}


class Boundary:
    """Makes the handlers of one mount."""

    def __init__(self, vfs: Vfs, recorder: Recorder) -> None:
        self._vfs = vfs
        self._recorder = recorder

    def guard(
        self, operation: str, read: Callable[..., tuple[Any, ...]], method: Callable[..., Awaitable[Any]]
    ) -> Handler:
        """Returns a handler that answers with what `method` returns.

        Args:
            operation: One of `OPERATIONS`.
            read: Returns the arguments of `method`, from those of the handler, the first of which is an inode number
                or a handle.
            method: Answers.
        """
        number = _NUMBERS[operation]
        subject: _About = _SUBJECTS.get(operation, _about_first)
        record, failed, describe = self._recorder.record, self._recorder.failed, self._describe

        async def handler(*given: Any) -> Any:
            started = perf_counter_ns()
            args: tuple[Any, ...] | None = None
            try:
                args = read(*given)
                result = await method(*args)
            except FuseError as error:
                code = error.errno
                if error.reason:
                    failed(number, error, partial(describe, operation, given if args is None else args))
            except Exception as error:  # noqa: BLE001  (the boundary that keeps the mount up)
                code = failed(number, error, partial(describe, operation, given if args is None else args))
            except trio.Cancelled as cut:  # a program is being killed, or the whole mount ends
                code = failed(number, cut, str)
                record(number, started, perf_counter_ns() - started, code, subject(args or given, None))
                raise
            else:
                record(number, started, perf_counter_ns() - started, 0, subject(args, result))
                return result
            about = (given[0] if given else 0, None, 0) if args is None else subject(args, None)
            record(number, started, perf_counter_ns() - started, code, about)
            raise FuseError(code)

        return handler

    def guard_forget(self, read: Callable[..., tuple[Any, ...]]) -> Handler:
        """Returns a handler of `forget`, which has no answer, so that it raises nothing at all.

        Args:
            read: Returns pairs of an inode number and a count.
        """
        forget, failed = self._vfs.forget, self._recorder.failed

        async def handler(*given: Any) -> None:
            try:
                for ino, count in read(*given):
                    forget(ino, count)
            except Exception as error:  # noqa: BLE001  (as above)
                failed(_NUMBERS["forget"], error, str)

        return handler

    def _describe(self, operation: str, args: tuple[Any, ...]) -> str:
        """Returns the path that a request is about; its arguments may be those of the handler."""
        if operation in _PATHLESS or not args:
            return ""
        if operation in _BY_HANDLE:
            return self._vfs.describe_handle(args[0])
        where = self._vfs.describe_inode(args[0])
        if operation in _NAMED and isinstance(args[1], str):
            return f"{where.rstrip('/')}/{args[1]}"
        return where
