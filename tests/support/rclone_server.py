"""An S3 server for tests that knows no conditions: `rclone serve s3`, from its wheel."""

import contextlib
import os
import shutil
import sysconfig
import tempfile
from collections.abc import Iterator
from pathlib import Path

from tests.support.server_process import answers, end, free_ports, start_server

PROGRAM = Path(sysconfig.get_path("scripts")) / "rclone"

_STARTS = 3


@contextlib.contextmanager
def rclone_server(bucket: str) -> Iterator[str]:
    """Runs a server with one bucket, and gives its URL."""
    with contextlib.ExitStack() as stack:
        directory = Path(tempfile.mkdtemp(prefix="icefs-rclone-"))
        stack.callback(shutil.rmtree, directory, ignore_errors=True)
        (directory / "data" / bucket).mkdir(parents=True)
        for _ in range(_STARTS):
            [port] = free_ports(1)
            process = start_server(
                [PROGRAM, "serve", "s3", directory / "data", "--addr", f"127.0.0.1:{port}", "--vfs-cache-mode=full"],
                directory=directory,
                log=directory / "log",
                environment={"PATH": os.environ["PATH"], "HOME": str(directory), "RCLONE_CONFIG": "/notfound"},
            )
            stack.callback(end, process)
            if answers(process, f"http://127.0.0.1:{port}"):
                yield f"http://127.0.0.1:{port}"
                return
        log = (directory / "log").read_text(errors="replace")
        raise RuntimeError(f"rclone did not start:\n{log[-4000:]}")
