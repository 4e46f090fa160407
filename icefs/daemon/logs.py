"""The daemon's log: what a line looks like, where it goes, and what is never in it.

    a record ──► Repeats ──► a handler ──► a formatter ──► redact ──► file, terminal or journal
                   │
                   └ the same line again within a minute is counted, and the count is told later

Lines are text, or JSON objects for programs. The journal gets entries with fields (`journal`), or lines that begin
with `<N>`, the priority that systemd reads there. A log file may be renamed away at any time (logrotate): the next
line goes into a new one. A daemon holds a shared lock (flock) on its log file; those of the default directory that
nobody holds have a limit (`keep_logs_within`).

Whoever logs may say in `extra` which lines are the same although their words differ (`repeat_key`), and give the facts
that a line is made of (`facts`), which JSON repeats as `facts`.
"""

import contextlib
import fcntl
import io
import json
import logging
import os
import re
import sys
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from logging.handlers import WatchedFileHandler
from pathlib import Path
from typing import Any, Final
from urllib.parse import unquote

from icefs.bounded import Limits, keep_within
from icefs.daemon.journal import JournalHandler, is_journal, priority
from icefs.log_context import current_branch
from icefs.words import visible

FORMATS: Final = ("text", "json")
LIMITS: Final = Limits(max_bytes=256 << 20, max_files=200, max_unused_s=90 * 86400)
"""Of the logs in the default directory; that of a running daemon stays whatever they say."""

_AGAIN_S: Final = 60.0
_KNOWN_LINES: Final = 512
_HIDDEN: Final = "***"
_SECRET_VARIABLES: Final = ("AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_ACCESS_KEY_ID")
_MIN_SECRET: Final = 8

_SECRET_NAME: Final = r"[\w.-]*(?:secret|token|passw(?:or)?d|signature|credential|access[_-]?key|api[_-]?key)[\w-]*"
_SECRETS: Final = (
    # https://user:password@host
    (re.compile(r"(?<=://)[^/\s?#\"']*@"), f"{_HIDDEN}@"),
    # Authorization: AWS4-HMAC-SHA256 Credential=…, Signature=…
    (re.compile(r"(?i)(authorization[\"']?\s*[:=]\s*[\"']?)(?:[^\"'\r\n]+)"), rf"\1{_HIDDEN}"),
    # ?X-Amz-Signature=…&sig=…
    (re.compile(rf"(?i)([?&](?:{_SECRET_NAME}|sig|key|auth)=)[^&\s\"'#]+"), rf"\1{_HIDDEN}"),
    # secret_access_key='…'
    (re.compile(rf"(?i)(\b{_SECRET_NAME}\s*=\s*[\"']?)[^\s\"',;&}}]+"), rf"\1{_HIDDEN}"),
    # "SessionToken": "…"
    (re.compile(rf"(?i)([\"']{_SECRET_NAME}[\"']\s*:\s*[\"']?)[^\s\"',;&}}]+"), rf"\1{_HIDDEN}"),
    # x-amz-security-token: …
    (re.compile(r"(?i)(\bx-amz-security-token\s*:\s*)\S+"), rf"\1{_HIDDEN}"),
    # The ids of AWS keys, wherever they are.
    (re.compile(r"\b(?:AKIA|ASIA|AROA|AIDA)[A-Z0-9]{16}\b"), _HIDDEN),
)


def redact_secrets(text: str, secrets: Sequence[str] = ()) -> str:
    """Takes out of a log line what gives access: passwords in URLs, signatures, keys, and secrets known by value."""
    for secret in secrets:
        text = text.replace(secret, _HIDDEN)
    for pattern, hidden in _SECRETS:
        text = pattern.sub(hidden, text)
    return text


def secrets_of(environment: Mapping[str, str]) -> list[str]:
    """Returns the secrets that an environment holds, the longest first."""
    found = {environment.get(name, "") for name in _SECRET_VARIABLES}
    return sorted((secret for secret in found if len(secret) >= _MIN_SECRET), key=len, reverse=True)


class LineFormatter(logging.Formatter):
    """Formats records; every line knows its mount, and its branch where there is one.

    Attributes:
        mount: The mountpoint.
        branch: The branch, where the mount shows one alone.
    """

    def __init__(
        self, kind: str, mount: str, branch: str | None, *, journal: bool = False, secrets: Sequence[str] = ()
    ) -> None:
        """Takes how lines look.

        Args:
            kind: One of `FORMATS`.
            mount: The mountpoint.
            branch: The branch that lines are about unless they know better.
            journal: The lines go to systemd's journal, which has times of its own.
            secrets: What must not appear.
        """
        super().__init__()
        self.mount = mount
        self.branch = branch
        self._kind = kind
        self._journal = journal
        self._secrets = tuple(secrets)

    def format(self, record: logging.LogRecord) -> str:
        """Returns a record's line, or lines."""
        text = self._plain(record, self._branch_of(record))
        if self._journal:
            mark = f"<{priority(record.levelno)}>"
            text = "\n".join(mark + line for line in text.split("\n"))
        return text

    def journal_fields(self, record: logging.LogRecord) -> dict[str, str]:
        """Returns a record as the fields of an entry of the journal."""
        branch = self._branch_of(record)
        fields = {
            "MESSAGE": self._plain(record, branch),
            "PRIORITY": str(priority(record.levelno)),
            "SYSLOG_IDENTIFIER": "icefs",
            "LOGGER": record.name,
            "ICEFS_MOUNT": self.mount,
        }
        if branch:
            fields["ICEFS_BRANCH"] = branch
        for name, value in getattr(record, "facts", {}).items():
            fields[f"ICEFS_{name.upper()}"] = self._clean(str(value))
        return fields

    def _branch_of(self, record: logging.LogRecord) -> str | None:
        return getattr(record, "branch", None) or current_branch() or self.branch

    def _plain(self, record: logging.LogRecord, branch: str | None) -> str:
        return self._json(record, branch) if self._kind == "json" else self._text(record, branch)

    def _text(self, record: logging.LogRecord, branch: str | None) -> str:
        about = f"{self.mount} {branch}" if branch else self.mount
        line = f"{record.levelname} {record.name} [{visible(about)}]: {visible(record.getMessage())}"
        if not self._journal:
            line = f"{self.formatTime(record)} {line}"
        trace = self._trace(record)
        return self._clean(f"{line}\n{trace}" if trace else line)

    def _json(self, record: logging.LogRecord, branch: str | None) -> str:
        seconds, micros = divmod(round(record.created * 1e6), 1_000_000)
        facts: dict[str, Any] = {
            "time": f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(seconds))}.{micros:06}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "mount": self.mount,
            "branch": branch,
            "message": record.getMessage(),
        }
        repeated = getattr(record, "repeated", None)
        if repeated is not None:
            facts["repeated"] = repeated
        own = getattr(record, "facts", None)
        if own:
            facts["facts"] = {name: self._clean(one) if isinstance(one, str) else one for name, one in own.items()}
        trace = self._trace(record)
        if trace:
            facts["trace"] = trace
        clean = {key: self._clean(value) if isinstance(value, str) else value for key, value in facts.items()}
        return json.dumps(clean, ensure_ascii=False)

    def _clean(self, text: str) -> str:
        """Takes secrets out; before quotes are escaped, for they end what is taken out."""
        return redact_secrets(text, self._secrets)

    def _trace(self, record: logging.LogRecord) -> str:
        return self.formatException(record.exc_info) if record.exc_info else ""


class Repeats(logging.Handler):
    """Passes records on, but the same one again within a minute only as a count.

    Records of level DEBUG pass: who wants them wants all of them.
    """

    def __init__(self, targets: Sequence[logging.Handler], clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._targets = tuple(targets)
        self._clock = clock
        self._known: OrderedDict[tuple[str, int, str], tuple[float, logging.LogRecord, int]] = OrderedDict()

    def emit(self, record: logging.LogRecord) -> None:
        """Passes a record on, or counts it."""
        if record.levelno <= logging.DEBUG:
            self._pass_on(record)
            return
        now = self._clock()
        self._tell(now)
        key = record.name, record.levelno, getattr(record, "repeat_key", None) or record.getMessage()
        known = self._known.get(key)
        if known is not None:
            self._known[key] = known[0], record, known[2] + 1
            return
        self._known[key] = now, record, 0
        if len(self._known) > _KNOWN_LINES:
            _, (_, oldest, count) = self._known.popitem(last=False)
            self._summarise(oldest, count)
        self._pass_on(record)

    def tick(self) -> None:
        """Tells of what was repeated, where a minute is over."""
        self.acquire()
        try:
            self._tell(self._clock())
        finally:
            self.release()

    def flush(self) -> None:
        """Tells of everything that was repeated so far."""
        self.acquire()
        try:
            self._tell(float("inf"))
        finally:
            self.release()
        for target in self._targets:
            target.flush()

    def close(self) -> None:
        """Tells of everything, and closes the handlers."""
        self.flush()
        for target in self._targets:
            target.close()
        super().close()

    def _tell(self, now: float) -> None:
        while self._known:
            key, (first, record, count) = next(iter(self._known.items()))
            if now - first < _AGAIN_S:
                return
            del self._known[key]
            self._summarise(record, count)

    def _summarise(self, record: logging.LogRecord, count: int) -> None:
        if not count:
            return
        times = "time" if count == 1 else "times"
        told = f"repeated {count} {times}"
        if getattr(record, "repeat_key", None):
            told = f"the last of {count} more of its kind"
        summary = logging.makeLogRecord(
            {
                **record.__dict__,
                "msg": f"{record.getMessage()} … {told}",
                "args": None,
                "exc_info": None,
                "repeated": count,
            }
        )
        self._pass_on(summary)

    def _pass_on(self, record: logging.LogRecord) -> None:
        for target in self._targets:
            target.handle(record)


class LogFile(WatchedFileHandler):
    """A log file that may be renamed or removed: the next line goes into a new one of its name.

    With `takes_stderr` so does what is written to stderr: tracebacks of the end, the stacks of SIGUSR1.
    """

    def __init__(self, path: str, *, takes_stderr: bool) -> None:
        self._takes_stderr = takes_stderr
        super().__init__(path, encoding="utf-8", errors="backslashreplace")

    def _open(self) -> io.TextIOWrapper:
        stream = super()._open()
        hold(stream.fileno())
        return stream

    def reopenIfNeeded(self) -> None:
        """Opens the file anew if its name leads elsewhere now."""
        before = self.stream
        super().reopenIfNeeded()
        if self._takes_stderr and self.stream is not before and self.stream is not None:
            os.dup2(self.stream.fileno(), 2)


def hold(descriptor: int) -> None:
    """Marks an open log file as one that a daemon writes, for as long as it is open."""
    with contextlib.suppress(OSError):  # without locks it looks unused, and is made anew when it was deleted
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)


def keep_logs_within(directory: Path, own: Path) -> None:
    """Deletes logs that are over the limits, but for one's own and those that daemons hold.

    Raises:
        OSError: the directory cannot be read or changed.
    """
    for pattern in ("*.log", "*.log.1"):
        keep_within(directory, pattern, LIMITS, own=own, is_free=_is_free)


def _is_free(path: Path) -> bool:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        finally:
            os.close(descriptor)
    except OSError:
        return False
    return True


def set_up(*, level: str, kind: str, mount: str, branch: str | None, log_file: str | None, foreground: bool) -> Repeats:
    """Begins to log.

    Args:
        level: The least important level that is logged.
        kind: One of `FORMATS`.
        mount: The mountpoint.
        branch: The branch that the mount shows, if it is one alone.
        log_file: A file to log to.
        foreground: Logs to stderr, too. A daemon in the background logs to stderr alone, which is that file.
    """
    secrets = secrets_of(os.environ)
    targets: list[logging.Handler] = []
    is_stderr = log_file is not None and _is_file(log_file, 2)
    if log_file is not None and (foreground or is_stderr):
        targets.append(LogFile(log_file, takes_stderr=is_stderr))
        targets[0].setFormatter(LineFormatter(kind, mount, branch, secrets=secrets))
    if not is_stderr:
        terminal: logging.Handler = logging.StreamHandler(sys.stderr)
        to_journal = is_journal(os.environ)
        lines = LineFormatter(kind, mount, branch, journal=to_journal, secrets=secrets)
        terminal.setFormatter(lines)
        targets.append(JournalHandler(lines.journal_fields, terminal) if to_journal else terminal)
    repeats = Repeats(targets)
    repeats.addFilter(_keeps_to_its_words)
    logging.basicConfig(level=level.upper(), handlers=[repeats], force=True)
    logging.getLogger("botocore").setLevel(logging.WARNING)  # it tells where it found credentials
    return repeats


def _keeps_to_its_words(record: logging.LogRecord) -> bool:
    """Takes tracebacks off what botocore logs: in them is what a credential_process printed, which may be keys."""
    if record.name.partition(".")[0] == "botocore":
        record.exc_info = record.exc_text = None
    return True


def _is_file(path: str, descriptor: int) -> bool:
    try:
        return os.path.samestat(os.stat(path), os.fstat(descriptor))
    except OSError:
        return False


def tick() -> None:
    """Tells of repeated lines, where a minute is over."""
    for handler in logging.getLogger().handlers:
        if isinstance(handler, Repeats):
            handler.tick()


def branch_in(path: str) -> str | None:
    """Returns the branch that a path below the mountpoint of a whole repository lies in."""
    first, _, rest = path.removeprefix("/").partition("/")
    return unquote(rest.partition("/")[0]) or None if first == "branches" else None
