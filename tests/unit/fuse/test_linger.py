"""How the loop waits for the next request of a program that it has just answered."""

import os
import resource
import socket
import threading
import time

import pytest

from icefs.fuse.linger import Linger


class Clock:
    """Stands still, or goes on by `step` seconds each time that somebody looks."""

    def __init__(self, step=0.0):
        self.now = 0.0
        self.step = step

    def __call__(self):
        self.now += self.step
        return self.now


@pytest.fixture
def ends():
    asking, answering = socket.socketpair()
    with asking, answering:
        yield asking, answering.fileno()


@pytest.fixture(autouse=True)
def two_processors(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1})


def talking(ends, clock):
    asking, fd = ends
    linger = Linger(fd, clock)
    asking.send(b"x")
    assert linger.is_asked_soon()
    os.read(fd, 1)
    assert linger.is_talking
    return linger


def test_who_asks_at_once_is_looked_for_without_sleep_the_next_time(ends):
    linger = talking(ends, Clock())
    ends[0].send(b"x")
    assert linger.is_asked_soon()
    assert linger.is_talking


def test_a_request_that_comes_while_it_looks_is_seen(ends):
    linger = talking(ends, Clock())  # a clock that stands still: it looks until there is one
    later = threading.Timer(0.02, ends[0].send, [b"x"])
    later.start()
    assert linger.is_asked_soon()
    later.join()


def test_when_nobody_asks_it_soon_stops_looking(ends):
    linger = talking(ends, time.perf_counter)
    assert not linger.is_asked_soon()
    assert not linger.is_talking


def test_who_takes_longer_is_waited_for_asleep(ends):
    asking, fd = ends
    linger = Linger(fd, Clock(step=0.00015))
    asking.send(b"x")
    assert linger.is_asked_soon()
    assert not linger.is_talking


def test_an_empty_wait_is_short_and_takes_no_processor(ends):
    linger = Linger(ends[1])
    before = resource.getrusage(resource.RUSAGE_THREAD)
    assert not any(linger.is_asked_soon() for _ in range(20))
    after = resource.getrusage(resource.RUSAGE_THREAD)
    assert after.ru_nvcsw - before.ru_nvcsw >= 20  # it slept each time


def test_on_one_processor_it_never_looks_without_sleep(ends, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0})
    linger = Linger(ends[1], Clock())
    ends[0].send(b"x")
    assert linger.is_asked_soon()
    assert not linger.is_talking


def test_a_descriptor_that_select_cannot_watch_is_left_to_others():
    assert not Linger(5000).is_asked_soon()
