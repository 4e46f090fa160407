"""The store that is far away: a real S3 server behind a relay whose latency can be set, and programs run against it."""

import atexit
import functools
import os
import subprocess
import sys
from pathlib import Path

from tests.support.delay_proxy import DelayProxy
from tests.support.s3_server import SeaweedServer

BUCKET = "icefs-bench"

type Counts = tuple[int, int, int]
"""Requests, bytes sent, bytes received."""

_COMMON = """
import asyncio, os, sys, time, zarr
prefix, endpoint = sys.argv[1], sys.argv[2]
def official():
    import icechunk
    return icechunk.s3_storage(bucket="BUCKET", prefix=prefix, endpoint_url=endpoint, region="us-east-1",
                               allow_http=True, force_path_style=True, from_env=True)
def told(*seconds):
    print(*seconds, flush=True)
    os._exit(0)  # the official library's threads sometimes crash at a regular end
""".replace("BUCKET", BUCKET)


@functools.cache
def server() -> SeaweedServer:
    """Starts the server that all rows share."""
    started = SeaweedServer().__enter__()
    atexit.register(started.__exit__)
    started.make_bucket(BUCKET)
    os.environ.update(started.environment())
    return started


@functools.cache
def relay() -> DelayProxy:
    """Starts the relay in front of it; one for all, as the library caches by the endpoint's address."""
    started = DelayProxy(server().endpoint_url).__enter__()
    atexit.register(started.__exit__)
    return started


def far_away(delay_ms: int) -> DelayProxy:
    """Sets the latency, and returns the relay."""
    started = relay()
    started.set_delay(delay_ms / 1000)
    return started


def location(prefix: str) -> str:
    """Returns what to mount."""
    return f"s3://{BUCKET}/{prefix}?endpoint_url={relay().endpoint_url}"


def run(program: str, *arguments: object, **constants: object) -> list[float]:
    """Runs a program in a process of its own, its upper-case constants filled in; returns what it told.

    The first two arguments are `prefix` and `endpoint` in it.
    """
    source = _COMMON + program
    for name, value in constants.items():
        source = source.replace(name, str(value))
    command = [sys.executable, "-c", source, *map(str, arguments)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2])
    return [float(number) for number in done.stdout.split()]


def told(what: str, counts: Counts) -> str:
    """Says what went over the relay."""
    requests, sent, received = counts
    return f"{what} {requests} requests, {(sent + received) / 1e6:.0f} MB"
