"""Directories of files that icefs leaves behind on this machine, each with a limit."""

import contextlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Limits:
    """How much of a kind of file stays.

    Attributes:
        max_bytes: What all of them may take together.
        max_files: How many there may be.
        max_unused_s: For how many seconds after its last change a file stays.
    """

    max_bytes: float = float("inf")
    max_files: float = float("inf")
    max_unused_s: float = float("inf")


def keep_within(
    directory: Path,
    pattern: str,
    limits: Limits,
    *,
    own: Path | None = None,
    suffixes: Sequence[str] = ("",),
    is_free: Callable[[Path], bool] = lambda path: True,
) -> None:
    """Deletes the files of a directory that are over its limits: those first that were changed longest ago.

    Args:
        directory: The directory.
        pattern: Which of its files count.
        limits: What stays.
        own: A file that stays whatever the limits say, and counts.
        suffixes: What belongs to one file: its name with each of these.
        is_free: Tells whether nobody uses a file; one in use stays.

    Raises:
        OSError: the directory cannot be read or changed.
    """
    changed = {}
    for path in directory.glob(pattern):
        with contextlib.suppress(FileNotFoundError):
            if path != own:
                changed[path] = path.stat().st_mtime
    total, count = (0, 0) if own is None else (_size(own, suffixes), 1)
    for path, changed_at in sorted(changed.items(), key=lambda one: -one[1]):
        size = _size(path, suffixes)
        is_over = total + size > limits.max_bytes or count >= limits.max_files
        if (is_over or time.time() - changed_at > limits.max_unused_s) and is_free(path):
            for suffix in suffixes:
                Path(f"{path}{suffix}").unlink(missing_ok=True)
        else:
            total += size
            count += 1


def _size(path: Path, suffixes: Sequence[str]) -> int:
    total = 0
    for suffix in suffixes:
        with contextlib.suppress(FileNotFoundError):
            total += Path(f"{path}{suffix}").stat().st_size
    return total
