"""A second S3 server for tests: ministack, from the environment that scripts/setup.sh makes for it.

It knows If-Match and If-None-Match, and checks no signatures. It keeps its objects in memory.
"""

import contextlib
import os
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Self

from tests.support.server_process import answers, end, free_ports, start_server

PROGRAM = Path(__file__).parents[2] / ".cache/ministack/bin/ministack"

_STARTS = 3


class MinistackServer:
    """An S3 server in a process of its own. Start it in a thread that lives on.

    Attributes:
        endpoint_url: Where it is, once it has started.
    """

    endpoint_url: str

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as stack:
            directory = Path(tempfile.mkdtemp(prefix="icefs-ministack-"))
            stack.callback(shutil.rmtree, directory, ignore_errors=True)
            for _ in range(_STARTS):
                process = self._start(directory)
                stack.callback(end, process)
                if answers(process, self.endpoint_url):
                    self._stack = stack.pop_all()
                    return self
            log = (directory / "log").read_text(errors="replace")
            raise RuntimeError(f"ministack did not start:\n{log[-4000:]}")

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def _start(self, directory: Path) -> subprocess.Popen[bytes]:
        [port] = free_ports(1)
        self.endpoint_url = f"http://127.0.0.1:{port}"
        environment = {
            "PATH": os.environ["PATH"],
            "TMPDIR": str(directory),
            "S3_DATA_DIR": str(directory / "s3"),
            "BIND_HOST": "127.0.0.1",
            "GATEWAY_PORT": str(port),
            "SERVICES": "s3",
            "LOG_LEVEL": "WARNING",
        }
        return start_server([PROGRAM], directory=directory, log=directory / "log", environment=environment)
