"""Ranges that are read on one thread: right or not at all, whatever the service does."""

import dataclasses
import datetime
import random
import re
import socket
import ssl
import threading
from queue import Queue

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from icefs.errors import ThrottledError, UnreachableError
from icefs.storage import range_reads
from icefs.storage.range_reads import Endpoint, RangeReads

DATA = random.Random(1).randbytes(3 << 20)
_WANTED = re.compile(rb"bytes=(\d+)-(\d+)")


def ranged(start, end, *, body=None, status=b"206 Partial Content", more=b""):
    """Returns the answer with a range of DATA."""
    body = DATA[start:end] if body is None else body
    head = b"HTTP/1.1 %b\r\nServer: x\r\nContent-Length: %d\r\n" % (status, end - start)
    return head + b"Content-Range: bytes %d-%d/%d\r\n%b\r\n" % (start, end - 1, len(DATA), more) + body


class Service:
    """Takes connections, and answers each request with what a function makes of its range, in pieces of any size."""

    def __init__(self, answer=ranged, *, pieces=None, tls=None):
        self.answer = answer
        self.connections = 0
        self._pieces = pieces
        self._tls = tls
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self):
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            self.connections += 1
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client):
        try:
            with self._tls.wrap_socket(client, server_side=True) if self._tls is not None else client as sock:
                received = b""
                while data := sock.recv(4096):
                    received += data
                    while b"\r\n\r\n" in received:
                        request, _, received = received.partition(b"\r\n\r\n")
                        start, last = map(int, _WANTED.search(request).groups())
                        answer = self.answer(start, last + 1)
                        if answer is None:
                            return
                        step = self._pieces or len(answer)
                        for at in range(0, len(answer), step):
                            sock.sendall(answer[at : at + step])
        except OSError:
            pass  # the other side has closed it

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._listener.close()

    def endpoint(self, *, connections=4, tls=None, timeout_s=30.0, host="127.0.0.1"):
        return Endpoint(host, self.port, tls, connections, 5.0, timeout_s)


def request(start, end):
    return lambda: b"GET /x HTTP/1.1\r\nHost: x\r\nRange: bytes=%d-%d\r\n\r\n" % (start, end - 1)


def read(reads, start, end):
    """Reads a range; returns the bytes, or None where they did not come this way."""
    return read_or_why(reads, start, end)[0]


def read_or_why(reads, start, end):
    """Reads a range; returns the bytes, and the errors that it got."""
    answers, failures = Queue(), []
    assert reads.start(request(start, end), start, end, answers.put, failures.append)
    data = answers.get(timeout=20)
    assert answers.empty()
    return data, failures


@pytest.fixture
def no_pause(monkeypatch):
    monkeypatch.setattr(range_reads, "_PAUSE_S", 0.0)


@pytest.mark.parametrize("pieces", [None, 7, 1000, 40_000])
def test_many_ranges_at_once_come_whole(pieces):
    draw = random.Random(2)
    largest = 2000 if pieces == 7 else 300_000
    spans = [(at, at + draw.randrange(1, largest)) for at in draw.sample(range(1 << 20), 60)]
    spans += [] if pieces == 7 else [(0, len(DATA)), (5, 6)]
    with Service(pieces=pieces) as service:
        reads, answers = RangeReads(service.endpoint()), Queue()
        for span in spans:
            assert reads.start(request(*span), *span, lambda data, span=span: answers.put((span, data)))
        got = dict(answers.get(timeout=20) for _ in spans)
        assert got == {(start, end): DATA[start:end] for start, end in spans}
        assert service.connections <= 4
        reads.close()


def authority(tmp_path):
    """Makes a certificate for 127.0.0.1; returns the paths of it and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .sign(key, hashes.SHA256())
    )
    paths = tmp_path / "certificate.pem", tmp_path / "key.pem"
    paths[0].write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    formats = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    paths[1].write_bytes(key.private_bytes(*formats))
    return paths


def test_ranges_come_over_tls_from_whom_the_certificate_names(tmp_path, no_pause):
    certificate, key = authority(tmp_path)
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(certificate, key)
    with Service(tls=server, pieces=50_000) as service:
        trusting = ssl.create_default_context(cafile=certificate)
        reads = RangeReads(service.endpoint(tls=trusting, host="localhost"))
        for start, end in ((0, 1), (10, 300_000), (0, len(DATA)), (7, 9)):
            assert read(reads, start, end) == DATA[start:end]
        assert service.connections == 1
        reads.close()
        for tls, host in ((ssl.create_default_context(), "localhost"), (trusting, "127.0.0.1")):
            reads = RangeReads(service.endpoint(tls=tls, host=host))
            assert read(reads, 0, 10) is None
            reads.close()


@pytest.mark.parametrize(
    "answer",
    [
        lambda start, end: None,
        lambda start, end: b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n",
        lambda start, end: b"HTTP/1.1 503 Slow Down\r\nContent-Length: 3\r\n\r\nxxx",
        lambda start, end: b"\0" * 100 + b"\r\n\r\n",
        lambda start, end: b"x" * (1 << 20),
        lambda start, end: ranged(start, end, body=DATA[start:end] + b"x"),
        lambda start, end: ranged(start, end + 1),
        lambda start, end: ranged(start + 1, end + 1),
        lambda start, end: ranged(start, end, more=b"Transfer-Encoding: chunked\r\n"),
        lambda start, end: ranged(start, end).replace(b"Content-Range", b"X-Range"),
        lambda start, end: ranged(start, end).replace(b"Content-Length", b"X-Length"),
        lambda start, end: ranged(start, end).replace(b"Content-Length: ", b"Content-Length: -"),
    ],
)
def test_any_other_answer_is_left_to_others(answer, no_pause):
    with Service(answer) as service:
        reads = RangeReads(service.endpoint())
        assert read(reads, 100, 200) is None
        service.answer = ranged
        assert read(reads, 100, 200) == DATA[100:200]
        reads.close()


@pytest.mark.parametrize(
    ("answer", "cls", "facts"),
    [
        (lambda start, end: None, UnreachableError, {"cause": "ConnectionResetError"}),
        (lambda start, end: b"HTTP/1.1 503 Slow Down\r\nContent-Length: 0\r\n\r\n", ThrottledError, {"status": 503}),
        (lambda start, end: b"HTTP/1.1 500 Oh\r\nContent-Length: 0\r\n\r\n", UnreachableError, {"status": 500}),
        (lambda start, end: b"\0" * 100 + b"\r\n\r\n", UnreachableError, {"cause": "ProtocolError"}),
        (lambda start, end: ranged(start, end)[:-1], UnreachableError, {"cause": "TimeoutError"}),
    ],
)
def test_what_may_pass_is_told_as_a_try(answer, cls, facts, monkeypatch):
    monkeypatch.setattr(range_reads, "_TICK_S", 0.05)
    with Service(answer) as service:
        reads = RangeReads(service.endpoint(timeout_s=0.1))
        data, [error] = read_or_why(reads, 100, 200)
        assert data is None
        assert (type(error), error.facts) == (cls, facts)
        assert error.is_transient
        reads.close()


@pytest.mark.parametrize("status", [b"404 Not Found", b"403 Forbidden", b"301 Moved", b"200 OK"])
def test_what_will_not_pass_is_no_try(status, no_pause):
    with Service(lambda start, end: b"HTTP/1.1 %b\r\nContent-Length: 0\r\n\r\n" % status) as service:
        reads = RangeReads(service.endpoint())
        assert read_or_why(reads, 100, 200) == (None, [])
        reads.close()


def test_a_broken_off_answer_is_no_answer(no_pause):
    broken = threading.Event()

    def answer(start, end):
        if broken.is_set():
            return ranged(start, end)
        broken.set()
        return ranged(start, end)[:-10]

    with Service(answer) as service:
        reads = RangeReads(service.endpoint(timeout_s=0.1))
        assert read(reads, 0, 1000) is None
        assert read(reads, 0, 1000) == DATA[:1000]
        reads.close()


def test_a_service_that_knows_no_ranges_is_not_asked_again(no_pause):
    with Service(lambda start, end: ranged(0, 1000, status=b"200 OK")) as service:
        reads = RangeReads(service.endpoint())
        assert read(reads, 0, 1000) is None
        assert not reads.start(request(0, 1), 0, 1, pytest.fail)
        reads.close()


def test_after_a_failure_nothing_is_begun_for_a_while():
    with Service(lambda start, end: None) as service:
        reads = RangeReads(service.endpoint())
        assert read(reads, 0, 1) is None
        assert not reads.start(request(0, 1), 0, 1, pytest.fail)
        assert service.connections == 1
        reads.close()


def test_a_connection_that_was_closed_when_it_was_used_again_is_replaced():
    """A service may close what is idle just when the next request is sent; that is no failure."""
    served = []

    def answer(start, end):
        served.append((start, end))
        return None if len(served) == 2 else ranged(start, end)

    with Service(answer) as service:
        reads = RangeReads(service.endpoint())
        assert read(reads, 0, 10) == DATA[:10]
        assert read(reads, 10, 20) == DATA[10:20]
        assert service.connections == 2
        assert served == [(0, 10), (10, 20), (10, 20)]
        reads.close()


def test_an_answer_may_be_the_last_of_its_connection():
    with Service(lambda start, end: ranged(start, end, more=b"Connection: close\r\n")) as service:
        reads = RangeReads(service.endpoint())
        for _ in range(3):
            assert read(reads, 0, 10) == DATA[:10]
        assert service.connections == 3
        reads.close()


def test_what_cannot_be_reached_or_asked_is_left_to_others(no_pause):
    with Service() as service:
        endpoint = service.endpoint()
        reads = RangeReads(service.endpoint(host="no-such-host.invalid"))
        assert read(reads, 0, 1) is None
        reads.close()
        reads, answers = RangeReads(endpoint), Queue()

        def no_keys():
            raise RuntimeError

        assert reads.start(no_keys, 0, 1, answers.put)
        assert answers.get(timeout=20) is None
        assert read(reads, 0, 1) == DATA[:1]
        reads.close()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    reads = RangeReads(dataclasses.replace(endpoint, port=port))
    assert read(reads, 0, 1) is None
    reads.close()


def test_closing_gives_up_what_is_under_way():
    asked, answers = threading.Event(), Queue()

    def answer(start, end):
        asked.set()
        return b"HTTP/1.1 206 Partial Content\r\n"

    with Service(answer) as service:
        reads = RangeReads(service.endpoint(connections=1))
        for _ in range(3):
            assert reads.start(request(0, 10), 0, 10, answers.put)
        asked.wait(20)
        reads.close()
        assert [answers.get_nowait() for _ in range(3)] == [None] * 3
        assert not reads.start(request(0, 10), 0, 10, pytest.fail)
        reads.close()
