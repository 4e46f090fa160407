"""An HTTP proxy in front of an S3 server that throttles, breaks off, loses answers and is slow, on demand.

    with FaultProxy(server.endpoint_url) as proxy:
        proxy.plan("throttle", method="PUT", times=2)
        S3Storage(bucket, "", server.options(endpoint_url=proxy.endpoint_url))

Requests are passed on with their own Host header, so their signatures stay valid.
"""

import contextlib
import http.client
import select
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self
from urllib.parse import urlsplit

FAULTS = {
    "throttle": "503 SlowDown, and nothing happened",
    "too many": "429 with Retry-After, and nothing happened",
    "error": "500 InternalError, and nothing happened",
    "refuse": "the connection ends before the request is passed on",
    "lose": "the request is passed on, and the connection ends instead of the answer",
    "truncate": "the answer's body ends half-way",
    "conflict": "409 ConditionalRequestConflict, and nothing happened",
    "expire": "400 ExpiredToken, and nothing happened",
    "hide": "404 NoSuchBucket, and nothing happened",
    "mismatch": "412 PreconditionFailed, and nothing happened",
    "deny": "403 AccessDenied, and nothing happened",
    "lack": "501 NotImplemented, and nothing happened",
    "absent": "404 NoSuchKey, and nothing happened",
    "late": "the connection ends without an answer, and the request is passed on when `land` is called",
    "hang": "the request is not passed on, and nothing is ever answered",
    "trickle": "the answer's body comes a byte at a time, for as long as the client waits",
    "stall": "the request is passed on, and nothing is ever answered",
    "wait": "the request is passed on when `go_on` is called",
    "change": "an action runs after the request was carried out and before it is answered",
    "act": "an action runs after the request was carried out and before the connection ends without an answer",
}
_ANSWERS = {
    "throttle": (503, "SlowDown"),
    "too many": (429, "TooManyRequests"),
    "error": (500, "InternalError"),
    "conflict": (409, "ConditionalRequestConflict"),
    "expire": (400, "ExpiredToken"),
    "hide": (404, "NoSuchBucket"),
    "mismatch": (412, "PreconditionFailed"),
    "deny": (403, "AccessDenied"),
    "lack": (501, "NotImplemented"),
    "absent": (404, "NoSuchKey"),
}
_NOT_PASSED_ON = {"refuse", "late", "hang"}
_SHOWN = 2048
_CONDITIONS = {"if-match", "if-none-match", "x-amz-copy-source-if-match"}


@dataclass
class Plan:
    """Which requests meet which fault."""

    fault: str
    method: str | None
    path: str
    skip: int
    times: int | None
    action: Callable[[], object] | None
    conditional: bool = False
    header: str | None = None
    fired: int = 0

    def is_about(self, request: "Request") -> bool:
        """Tells whether a request is one of those that are counted."""
        return (
            self.method in (None, request.method)
            and self.path in request.path
            and (not self.conditional or request.is_conditional_write)
            and (self.header is None or self.header in {name.lower() for name in request.headers})
        )


@dataclass(frozen=True)
class Request:
    """A request that came by.

    Attributes:
        method: Its method.
        path: Its path, with the query.
        headers: By their names as they were sent.
        beginning: The first bytes of its body.
    """

    method: str
    path: str
    headers: dict[str, str]
    beginning: bytes = b""

    @property
    def is_conditional_write(self) -> bool:
        """Whether it writes on a condition."""
        names = {name.lower() for name in self.headers}
        return self.method == "PUT" and not names.isdisjoint(_CONDITIONS)


class FaultProxy:
    """Listens on a free port of this machine; see `FAULTS` for what it can do.

    Attributes:
        requests: Those that came by.
        plans: The faults that are planned.
        delay_s: How long each request waits.
        weakens_tags: Whether entity tags become weak.
        drops: The headers that are not passed on, in lower case. A server that checks signatures refuses the rest.
    """

    def __init__(self, upstream: str, *, delay_s: float = 0.0) -> None:
        parts = urlsplit(upstream)
        self._upstream = (parts.hostname or "", parts.port or 80)
        self.plans: list[Plan] = []
        self._lock = threading.Lock()
        self._idle = threading.Condition()
        self._under_way = 0
        self.delay_s = delay_s
        self.weakens_tags = False
        self.drops: frozenset[str] = frozenset()
        self.requests: list[Request] = []
        self.is_closed = False
        self.held: list[tuple[Request, bytes]] = []
        self.may_go_on = threading.Event()

    def go_on(self) -> None:
        """Passes on the requests that wait, and lets none wait from now on."""
        self.may_go_on.set()

    def land(self) -> list[int]:
        """Passes on the requests that were held back; returns what the server answers."""
        held, self.held = self.held, []
        return [self.forward(request, body)[0] for request, body in held]

    def plan(
        self,
        fault: str,
        *,
        method: str | None = None,
        path: str = "",
        skip: int = 0,
        times: int | None = 1,
        action: Callable[[], object] | None = None,
        conditional: bool = False,
        header: str | None = None,
    ) -> Plan:
        """Plans a fault for requests of the method whose path contains `path`, after the first `skip` of them.

        With `conditional`, writes on a condition alone are counted; with `header`, requests that have it.
        """
        assert fault in FAULTS
        plan = Plan(fault, method, path, skip, times, action, conditional, header)
        with self._lock:
            self.plans.append(plan)
        return plan

    def clear(self) -> None:
        """Forgets all plans and requests."""
        with self._lock:
            self.plans.clear()
            self.requests.clear()

    def __enter__(self) -> Self:
        proxy = self

        class Handler(_Handler):
            owner = proxy

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.endpoint_url = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.is_closed = True
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    @contextlib.contextmanager
    def under_way(self) -> Iterator[None]:
        """Counts a request from its arrival until the server has carried it out, if it is to."""
        with self._idle:
            self._under_way += 1
        try:
            yield
        finally:
            with self._idle:
                self._under_way -= 1
                self._idle.notify_all()

    def wait_idle(self) -> None:
        """Waits until no request can reach the server any more whose client has given up."""
        with self._idle:
            assert self._idle.wait_for(lambda: not self._under_way, 60), f"{self._under_way} requests are under way"

    def meet(self, request: Request) -> Plan | None:
        with self._lock:
            self.requests.append(request)
            for plan in self.plans:
                if not plan.is_about(request):
                    continue
                if plan.skip:
                    plan.skip -= 1
                elif plan.times is None or plan.fired < plan.times:
                    plan.fired += 1
                    return plan
        return None

    def forward(self, request: Request, body: bytes) -> tuple[int, list[tuple[str, str]], bytes]:
        connection = http.client.HTTPConnection(*self._upstream, timeout=60)
        with contextlib.closing(connection):
            connection.putrequest(request.method, request.path, skip_host=True, skip_accept_encoding=True)
            for name, value in request.headers.items():
                if name.lower() != "expect" and name.lower() not in self.drops:
                    connection.putheader(name, value)
            connection.endheaders(body or None)
            response = connection.getresponse()
            return response.status, response.getheaders(), response.read()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # else each answer waits 40 ms for an acknowledgement
    owner: FaultProxy

    def log_message(self, *_: Any) -> None:
        pass

    def handle_request(self) -> None:
        answer = None
        with self.owner.under_way():
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            request = Request(self.command, self.path, dict(self.headers.items()), body[:_SHOWN])
            plan = self.owner.meet(request)
            fault = plan.fault if plan is not None else None
            if self.owner.delay_s:
                time.sleep(self.owner.delay_s)
            if fault == "wait":
                while not self.owner.is_closed and not self.owner.may_go_on.wait(0.1):
                    pass
            if fault not in _ANSWERS and fault not in _NOT_PASSED_ON:
                answer = self.owner.forward(request, body)
                if plan is not None and plan.action is not None:
                    plan.action()
        if fault in _ANSWERS:
            status, code = _ANSWERS[fault]
            xml = f"<Error><Code>{code}</Code><Message>planned</Message></Error>".encode()
            self._answer(status, [("Content-Type", "application/xml"), ("Retry-After", "1")], xml)
        elif fault == "refuse":
            self.close_connection = True
        elif fault == "late":
            self.owner.held.append((request, body))
            self.close_connection = True
        elif fault == "hang":
            self._say_nothing()
        else:
            assert answer is not None
            status, headers, data = answer
            if fault in ("lose", "act"):
                self.close_connection = True
            elif fault == "stall":
                self._say_nothing()
            elif fault == "trickle":
                self._answer(status, headers, b"", length=len(data))
                self._trickle(data)
            elif fault == "truncate":
                self._answer(status, headers, data[: len(data) // 2], length=len(data))
                self.close_connection = True
            else:
                self._answer(status, headers, data)

    def _say_nothing(self) -> None:
        """Waits until the client gives up."""
        while not self.owner.is_closed and not select.select([self.connection], [], [], 0.1)[0]:
            pass
        self.close_connection = True

    def _trickle(self, data: bytes) -> None:
        for at in range(len(data)):
            if self.owner.is_closed or select.select([self.connection], [], [], 0.05)[0]:
                break
            self.wfile.write(data[at : at + 1])
            self.wfile.flush()
        self.close_connection = True

    def _answer(self, status: int, headers: list[tuple[str, str]], data: bytes, *, length: int | None = None) -> None:
        self.send_response_only(status)
        for name, value in headers:
            if name.lower() not in ("content-length", "transfer-encoding", "connection"):
                is_weakened = self.owner.weakens_tags and name.lower() == "etag"
                self.send_header(name, f"W/{value}" if is_weakened else value)
        if self.command == "HEAD":
            for name, value in headers:
                if name.lower() == "content-length":
                    self.send_header(name, value)
        elif status not in (204, 304):
            self.send_header("Content-Length", str(len(data) if length is None else length))
        self.end_headers()
        if self.command != "HEAD" and status not in (204, 304):
            self.wfile.write(data)

    do_GET = do_PUT = do_HEAD = do_POST = do_DELETE = handle_request
