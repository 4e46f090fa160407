"""Connections that say nothing keep no scrape out."""

import socket

import trio

from icefs.daemon.metrics import listen, serve_metrics


class Follower:
    problem = None


class Healthy:
    """As much of a mount as `/healthz` asks."""

    follower = Follower()


async def test_idle_connections_do_not_keep_others_out():
    """More than are answered at once, and new ones as soon as one is closed."""
    listener = listen("127.0.0.1:0")
    port = listener.getsockname()[1]
    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve_metrics, listener, Healthy())
        with trio.fail_after(20):
            idle = []
            for _ in range(5):
                idle += [await trio.open_tcp_stream("127.0.0.1", port) for _ in range(20)]
                async with await trio.open_tcp_stream("127.0.0.1", port) as scrape:
                    with trio.fail_after(3):
                        await scrape.send_all(b"GET /healthz HTTP/1.1\r\n\r\n")
                        answer = await scrape.receive_some(4096)
                assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
            for stream in idle:
                await stream.aclose()
        nursery.cancel_scope.cancel()
    assert isinstance(listener, socket.socket)
