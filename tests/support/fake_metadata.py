"""What machines in a cloud get their S3 keys from: the instance metadata service, and the token service (STS)."""

import json
import threading
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self
from urllib.parse import parse_qs

_ROLE = "/latest/meta-data/iam/security-credentials/"


class FakeMetadata:
    """Gives out keys, another one each time, that are good for `lifetime_s`.

    Attributes:
        given: The key ids that were given out, in order.
        asked: What was asked of the token service.
    """

    def __init__(self, *, lifetime_s: float = 3600.0) -> None:
        self.lifetime_s = lifetime_s
        self.given: list[str] = []
        self.asked: list[dict[str, str]] = []

    def __enter__(self) -> Self:
        owner = self

        class Handler(_Handler):
            metadata = owner

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def keys(self) -> tuple[str, str]:
        """Makes a key id, and the time when it expires."""
        self.given.append(f"ICEFSFAKEKEY{len(self.given)}")
        expires = datetime.now(UTC) + timedelta(seconds=self.lifetime_s)
        return self.given[-1], expires.strftime("%Y-%m-%dT%H:%M:%SZ")


class _Handler(BaseHTTPRequestHandler):
    metadata: FakeMetadata

    def log_message(self, *_: Any) -> None:
        pass

    def _answer(self, body: str, kind: str = "text/plain") -> None:
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body.encode())

    def do_PUT(self) -> None:
        self._answer("a-session-of-the-metadata-service")

    def do_GET(self) -> None:
        if self.path == _ROLE:
            self._answer("the-role")
            return
        key_id, expires = self.metadata.keys()
        told = {
            "Code": "Success",
            "Type": "AWS-HMAC",
            "AccessKeyId": key_id,
            "SecretAccessKey": "fake-secret",
            "Token": "fake-token",
            "LastUpdated": expires,
            "Expiration": expires,
        }
        self._answer(json.dumps(told), "application/json")

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"])).decode()
        self.metadata.asked.append({name: values[0] for name, values in parse_qs(body).items()})
        key_id, expires = self.metadata.keys()
        self._answer(
            '<AssumeRoleWithWebIdentityResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/">'
            "<AssumeRoleWithWebIdentityResult><Credentials>"
            f"<AccessKeyId>{key_id}</AccessKeyId><SecretAccessKey>fake-secret</SecretAccessKey>"
            f"<SessionToken>fake-token</SessionToken><Expiration>{expires}</Expiration>"
            "</Credentials></AssumeRoleWithWebIdentityResult></AssumeRoleWithWebIdentityResponse>",
            "text/xml",
        )
