"""Log records, as loggers make them."""

import logging
from typing import Any, Final

KEY_ID: Final = "AKIA" + "ABCDEFGHIJKLMNOP"
"""An access key id as AWS makes them, which no log may show."""


def record(message: str, *args: object, level: int = logging.WARNING, **extra: Any) -> logging.LogRecord:
    """Makes a record; `extra` become its attributes."""
    made = logging.LogRecord("icefs.x", level, __file__, 1, message, args, extra.pop("exc_info", None))
    made.__dict__.update(extra)
    return made


class KeptLines(logging.Handler):
    """Keeps the messages that it handles, in `lines`."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Keeps a message."""
        self.lines.append(record.getMessage())
