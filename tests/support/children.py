"""Child processes that end with the test that started them."""

import contextlib
import subprocess
from collections.abc import Iterator, Sequence
from typing import Any


@contextlib.contextmanager
def running(command: Sequence[Any], **options: Any) -> Iterator[subprocess.Popen[Any]]:
    """Runs a child as long as the block: one that is still there at its end, or when it fails, is killed.

    `with subprocess.Popen(…)` waits instead, so that a failing assertion hangs until the child ends by itself.

    Args:
        command: Program and arguments.
        options: Of `subprocess.Popen`.
    """
    with subprocess.Popen(command, **options) as process:
        try:
            yield process
        finally:
            process.kill()
