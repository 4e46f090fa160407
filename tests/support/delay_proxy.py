"""A relay in front of a store that is far away: in a process of its own, so that it slows nobody down.

    with DelayProxy(server.endpoint_url, delay_s=0.02) as proxy:
        S3Storage(…endpoint_url=proxy.endpoint_url…)
        proxy.take_counts()

It does not read what it passes on: a request is what a client sends after an answer, and is held up before it goes
on. `python -m tests.support.delay_proxy PORT MILLISECONDS` prints the port that it listens on, and for each line of
its input how many requests and bytes there were since the last; a line with a number changes the latency first.
"""

import contextlib
import json
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Self
from urllib.parse import urlsplit

_PIECE = 1 << 18


class _Counts:
    def __init__(self, delay_s: float) -> None:
        self.delay_s = delay_s
        self.requests = self.sent = self.received = 0


def _relay(client: socket.socket, port: int, counts: _Counts) -> None:
    with client, socket.create_connection(("127.0.0.1", port)) as server:
        for end in (client, server):
            end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        answered = [True]

        def back() -> None:
            buffer = bytearray(_PIECE)
            view = memoryview(buffer)
            with contextlib.suppress(OSError):
                while size := server.recv_into(buffer):
                    answered[0] = True
                    counts.received += size
                    client.sendall(view[:size])
                client.shutdown(socket.SHUT_WR)

        thread = threading.Thread(target=back, daemon=True)
        thread.start()
        with contextlib.suppress(OSError):
            while data := client.recv(_PIECE):
                if answered[0]:
                    answered[0] = False
                    counts.requests += 1
                    time.sleep(counts.delay_s)
                counts.sent += len(data)
                server.sendall(data)
            server.shutdown(socket.SHUT_WR)
        thread.join()


def _serve(port: int, delay_s: float) -> None:
    counts = _Counts(delay_s)
    listener = socket.create_server(("127.0.0.1", 0), backlog=256)
    print(listener.getsockname()[1], flush=True)

    def accept() -> None:
        while True:
            client, _ = listener.accept()
            threading.Thread(target=_relay, args=(client, port, counts), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    for line in sys.stdin:
        if line.strip():
            counts.delay_s = float(line)
        print(json.dumps([counts.requests, counts.sent, counts.received]), flush=True)
        counts.requests = counts.sent = counts.received = 0


class DelayProxy:
    """Starts the relay; see the module."""

    def __init__(self, upstream: str, *, delay_s: float = 0.0) -> None:
        self._command = [sys.executable, "-m", "tests.support.delay_proxy"]
        self._command += [str(urlsplit(upstream).port), str(delay_s * 1000)]

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(
            self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2]
        )
        self.endpoint_url = f"http://127.0.0.1:{int(self._process.stdout.readline())}"
        return self

    def __exit__(self, *_: object) -> None:
        self._process.stdin.close()
        self._process.wait(timeout=10)
        self._process.stdout.close()

    def set_delay(self, delay_s: float) -> None:
        """Changes the latency, and begins to count again."""
        self._ask(str(delay_s))

    def take_counts(self) -> tuple[int, int, int]:
        """Returns how many requests, bytes sent and bytes received there were since the last time."""
        return self._ask("")

    def _ask(self, line: str) -> tuple[int, int, int]:
        self._process.stdin.write(line + "\n")
        self._process.stdin.flush()
        requests, sent, received = json.loads(self._process.stdout.readline())
        return requests, sent, received


if __name__ == "__main__":
    _serve(int(sys.argv[1]), float(sys.argv[2]) / 1000)
