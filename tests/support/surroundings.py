"""The same surroundings for every run of the tests, however it was started.

A background job of a shell ignores SIGINT and SIGQUIT, `nohup` ignores SIGHUP, a service has a narrow umask, a
developer has AWS keys, a proxy and a coloured terminal. Ignored signals and the environment go to a process's
children, so a test that interrupts a program, or looks at what it prints, would depend on how the run was started.
"""

import os
import signal
import tempfile
from pathlib import Path

from icefs.locks import CHECK_VARIABLE

# Of a user: what icefs, the AWS libraries, click, rich and Python look at.
_FOREIGN = (
    "AWS_", "AZURE_", "GOOGLE_", "BOTO_", "ICECHUNK_", "ICEFS_LOG", "RUST_LOG", "XDG_", "LC_",
    "COLUMNS", "LINES", "NO_COLOR", "FORCE_COLOR", "CLICOLOR", "TTY_", "PAGER", "LESS", "MANPAGER", "MANPATH",
    "PYTHONWARNINGS", "PYTHONOPTIMIZE", "PYTHONUNBUFFERED", "PYTHONDEVMODE", "PYTHONDONTWRITEBYTECODE",
    "PYTHONSAFEPATH",
    "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY", "SSL_CERT_", "REQUESTS_CA_BUNDLE", "LISTEN_", "NOTIFY_SOCKET",
    "JOURNAL_STREAM", "INVOCATION_ID", "SLURM_",
)  # fmt: skip
# Signals whose disposition a parent may have changed. Python itself ignores SIGPIPE and SIGXFSZ.
_SIGNALS = (
    signal.SIGINT, signal.SIGQUIT, signal.SIGHUP, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2, signal.SIGALRM,
    signal.SIGCHLD, signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU,
)  # fmt: skip


def normalise() -> None:
    """Gives this process, and so its children, default signals, the usual umask and a user's plain environment.

    The directories of the XDG specification are fresh ones, so that no test reads or fills those of the developer.
    Locks check their order, here and in daemons.
    """
    for number in _SIGNALS:
        if signal.getsignal(number) == signal.SIG_IGN:
            signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    os.umask(0o022)
    for name in list(os.environ):
        if name.upper().startswith(_FOREIGN):
            del os.environ[name]
    os.environ.update(LANG="C.UTF-8", TZ="UTC", TERM="xterm-256color", AWS_EC2_METADATA_DISABLED="true")
    global _HOME
    _HOME = tempfile.TemporaryDirectory(prefix="icefs-test-home-", ignore_cleanup_errors=True)
    for name in ("CONFIG", "STATE", "CACHE", "DATA"):
        os.environ[f"XDG_{name}_HOME"] = str(Path(_HOME.name, name.lower()))
    for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
        os.environ[name] = str(Path(_HOME.name, name.lower()))
    os.environ[CHECK_VARIABLE] = str(Path(_HOME.name, "lock-order"))
    _fill_standard_descriptors()


_HOME: tempfile.TemporaryDirectory[str] | None = None


def take_lock_violations() -> str:
    """Returns what was reported since the last call of threads that took locks against the order."""
    report = Path(os.environ[CHECK_VARIABLE])
    if not report.exists():
        return ""
    found = report.read_text()
    report.unlink()
    return found


def _fill_standard_descriptors() -> None:
    """Opens /dev/null where a standard descriptor is closed: the next file that is opened would become it."""
    for fd in range(3):
        try:
            os.fstat(fd)
        except OSError:
            assert os.open(os.devnull, os.O_RDWR) == fd
