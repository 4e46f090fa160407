"""The daemon's log: what a line looks like, and where it goes.

    a record ──► Repeats ──► a handler ──► LineFormatter ──► redact_secrets ──► file, terminal or journal

Lines are text, or JSON objects for programs. The journal gets entries with fields (`journal`), or lines that begin
with `<N>`, the priority that systemd reads there.

Callers of the logger may give in `extra`: `repeat_key`, which is equal for lines that are the same although their words
differ; and `facts`, the values in a line, which JSON has as `facts` once more.
"""

import json
import logging
import os
import sys
import time
from collections.abc import Sequence
from typing import Any, Final
from urllib.parse import unquote

from icefs.daemon.journal import JournalHandler, is_journal, priority
from icefs.daemon.log_files import LogFile
from icefs.daemon.redaction import redact_secrets, secrets_of
from icefs.daemon.repeats import Repeats
from icefs.log_context import current_branch
from icefs.words import visible

FORMATS: Final = ("text", "json")


class LineFormatter(logging.Formatter):
    """Formats records; every line names its mount, and the branch that it is about, if any.

    Attributes:
        mount: The mountpoint.
        branch: The branch, if the mount shows one alone.
    """

    def __init__(
        self, kind: str, mount: str, branch: str | None, *, journal: bool = False, secrets: Sequence[str] = ()
    ) -> None:
        """Makes a formatter.

        Args:
            kind: One of `FORMATS`.
            mount: The mountpoint.
            branch: The branch that lines are about which name no other.
            journal: Whether lines go to systemd's journal, which has times of its own.
            secrets: Texts that must not appear.
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
        """Takes secrets out; before quotes are escaped, because a quote ends a secret."""
        return redact_secrets(text, self._secrets)

    def _trace(self, record: logging.LogRecord) -> str:
        return self.formatException(record.exc_info) if record.exc_info else ""


def set_up(*, level: str, kind: str, mount: str, branch: str | None, log_file: str | None, foreground: bool) -> Repeats:
    """Sets up the log.

    Args:
        level: The least important level that is logged.
        kind: One of `FORMATS`.
        mount: The mountpoint.
        branch: The branch, if the mount shows one alone.
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
    repeats.addFilter(_without_botocore_traces)
    logging.basicConfig(level=level.upper(), handlers=[repeats], force=True)
    for library in ("botocore", "azure", "google"):
        logging.getLogger(library).setLevel(logging.WARNING)  # at INFO they log where they found credentials
    return repeats


def _without_botocore_traces(record: logging.LogRecord) -> bool:
    """Takes tracebacks off botocore's records: they hold the output of a credential_process, which may be keys."""
    if record.name.partition(".")[0] == "botocore":
        record.exc_info = record.exc_text = None
    return True


def _is_file(path: str, descriptor: int) -> bool:
    try:
        return os.path.samestat(os.stat(path), os.fstat(descriptor))
    except OSError:
        return False


def tick() -> None:
    """Logs the counts of repeated lines whose minute is over."""
    for handler in logging.getLogger().handlers:
        if isinstance(handler, Repeats):
            handler.tick()


def branch_in(path: str) -> str | None:
    """Returns the branch that a path below the mountpoint of a whole repository lies in."""
    first, _, rest = path.removeprefix("/").partition("/")
    return unquote(rest.partition("/")[0]) or None if first == "branches" else None
