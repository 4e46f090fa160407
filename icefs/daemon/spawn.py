"""Starts daemons: in this process, or in one of their own that outlives the command.

    spawn(options)  →  a new process, detached; returns when its mount answers, or raises what went wrong there
    run(options)    →  in this process, until unmounted

The new process is a fresh interpreter rather than a fork: it holds nothing of the command line's, and no thread of
a calling program's. Options go in through its stdin as JSON; a pipe brings back one line, the error or "ready".
Nothing heavy is imported here, so that the command has little to do before the daemon starts.
"""

import base64
import contextlib
import errno
import json
import logging
import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any, Final

from icefs.daemon import log_files, logs
from icefs.daemon.apart import check_places
from icefs.daemon.options import MountOptions, default_log_file
from icefs.errors import IcefsError, InternalError, StorageError
from icefs.private import make_private

_STATUS_FD: Final = "ICEFS_STATUS_FD"
MAX_LOG_BYTES: Final = 16 << 20


def run(options: MountOptions, ready: Callable[[], None], reread: Callable[[], MountOptions] | None = None) -> int:
    """Mounts and serves in this process; returns the exit code when it was unmounted.

    Args:
        options: What to mount where.
        ready: Called when the mount answers.
        reread: Reads the configuration again at a SIGHUP, which without it ends the mount.

    Raises:
        IcefsError: it cannot be mounted; nothing is.
    """
    # numpy's linear algebra would start a thread for each processor, which nothing here uses.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    from icefs.daemon.prepare import prepare
    from icefs.daemon.serve import register_stack_dump, serve

    check_places(options)
    options = options.resolved()
    _set_up_logging(options)
    register_stack_dump()
    prepared = prepare(options)
    try:
        serve(prepared, ready, reread)
    finally:
        prepared.close()
    return 0


def spawn(options: MountOptions) -> int:
    """Starts a daemon in the background.

    Returns:
        Its process id, once the mount answers.

    Raises:
        IcefsError: what the daemon raised; nothing is mounted.
    """
    check_places(options)
    options = options.resolved()
    assert options.log_file is not None  # `resolved` chose one
    log = open_log(Path(options.log_file))
    reader, writer = os.pipe()
    with open(reader, "rb") as status, log:
        try:
            daemon = _start(options, log, writer)
        finally:
            os.close(writer)
        try:
            line = status.readline()
        except BaseException:
            # Ctrl-C: what nobody waits for any more is not to be mounted later.
            daemon.terminate()
            raise
    if not line:
        raise InternalError(
            f"the daemon ended before its mount answered: {_last_line(options.log_file)}",
            hint=f"see {options.log_file}",
        )
    told = json.loads(line)
    if "error" in told:
        daemon.wait()
        error = pickle.loads(base64.b64decode(told["error"]))
        raise error
    _wait_until_it_answers(options.mountpoint, options.log_file)
    daemon.returncode = 0  # it outlives us on purpose: no warning that it still runs
    return daemon.pid


def _start(options: MountOptions, log: IO[bytes], writer: int) -> "subprocess.Popen[bytes]":
    root = str(Path(__file__).parents[2])
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")])),
        _STATUS_FD: str(writer),
    }
    # The last two arguments are for readers of `ps`.
    daemon = subprocess.Popen(
        [sys.executable, "-P", "-m", "icefs.daemon.spawn", shown_location(options.repository), options.mountpoint],
        stdin=subprocess.PIPE,
        stdout=log,
        stderr=log,
        env=environment,
        cwd="/",
        pass_fds=[writer],
    )
    assert daemon.stdin is not None  # a pipe
    with daemon.stdin as stdin:
        stdin.write(options.to_json().encode())
    return daemon


def shown_location(repository: str) -> str:
    """Returns a location without parts that could be secret."""
    scheme, separator, rest = repository.partition("://")
    if not separator:
        return repository
    authority, slash, path = rest.partition("?")[0].partition("/")
    return f"{scheme}://{authority.rpartition('@')[2]}{slash}{path}"


def _wait_until_it_answers(mountpoint: str, log_file: str) -> None:
    try:
        Path(mountpoint, ".icefs", "version").read_bytes()
    except OSError as error:
        raise StorageError(
            f"the mount at {mountpoint} does not answer: {os.strerror(error.errno or errno.EIO)}",
            hint=f"see {log_file}",
        ) from error


def open_log(path: Path) -> IO[bytes]:
    """Opens a log file to append to, with its directory; one that has grown too large is put aside first.

    Raises:
        StorageError: it cannot be written.
    """
    try:
        if path.parent == default_log_file("/").parent:
            make_private(path.parent)  # logs hold paths and repositories
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists() and path.stat().st_size > MAX_LOG_BYTES:
            path.replace(path.with_name(path.name + ".1"))
        file = os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), "ab", buffering=0)
    except OSError as error:
        raise StorageError(
            f"cannot write the log file {path}: {os.strerror(error.errno or errno.EIO)}", hint="choose a --log-file"
        ) from error
    log_files.hold(file.fileno())
    if path.parent == default_log_file("/").parent:
        with contextlib.suppress(OSError):  # another user's, or being deleted by another command
            os.utime(path)
            log_files.keep_logs_within(path.parent, path)
    return file


def _last_line(log_file: str) -> str:
    try:
        lines = Path(log_file).read_text(errors="replace").strip().splitlines()
    except OSError:
        return "its log file cannot be read"
    return lines[-1] if lines else "its log file is empty"


def _set_up_logging(options: MountOptions) -> None:
    """Sets up logging to stderr, which is a daemon's log file, and to the log file of a mount in the foreground."""
    if options.foreground and options.log_file is not None:
        open_log(Path(options.log_file)).close()
    logs.set_up(
        level=options.log_level,
        kind=options.log_format,
        mount=options.mountpoint,
        branch=options.branch,
        log_file=options.log_file,
        foreground=options.foreground,
    )


def main() -> int:
    """Runs the daemon: reads its options from stdin, reports through a pipe, and serves."""
    status_fd = int(os.environ.pop(_STATUS_FD))
    os.set_inheritable(status_fd, False)
    options = MountOptions.from_json(sys.stdin.buffer.read())
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 0)
    os.close(null)

    reported: list[dict[str, Any]] = []

    def report(value: dict[str, Any]) -> None:
        reported.append(value)
        os.write(status_fd, json.dumps(value).encode() + b"\n")
        os.close(status_fd)

    def ready() -> None:
        # A session of its own only now: before a mountpoint is mounted, systemd's automounts let only the process
        # group that they have started reach it.
        os.setsid()
        report({"ready": os.getpid()})

    try:
        return run(options, ready)
    except IcefsError as error:
        if reported:
            raise  # the command has its answer already: the log has the error
        report({"error": base64.b64encode(pickle.dumps(error)).decode()})
        return 1


def _die(*failure: Any) -> None:
    """Ends the process after an unexpected exception, without waiting for worker threads that may hang."""
    sys.__excepthook__(*failure)
    os._exit(70)


if __name__ == "__main__":
    sys.excepthook = _die
    code = main()
    logging.shutdown()
    os._exit(code)
