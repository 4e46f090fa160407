"""The cache of decoded chunks: its limit, one decode for each, and failures."""

import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from icefs.errors import DecodeError
from icefs.views.chunk_cache import ChunkCache, Gate, size_of


def chunk(size):
    return np.zeros(size, np.uint8)


def test_those_used_last_stay():
    cache = ChunkCache(9_999)
    for name in "abc":
        cache.get(name, lambda: chunk(2500))
    cache.get("a", pytest.fail)
    cache.get("d", lambda: chunk(2500))
    assert [name for name in "abcd" if cache.has(name)] == ["a", "c", "d"]
    assert cache.used_bytes == 7500
    cache.clear()
    assert not cache.has("d")
    assert cache.used_bytes == 0


def test_one_larger_than_the_limit_stays_until_the_next():
    cache = ChunkCache(1000)
    cache.get("small", lambda: chunk(10))
    large = cache.get("large", lambda: chunk(5000))
    assert cache.get("large", pytest.fail) is large
    assert cache.peek("large") is large
    assert cache.peek("small") is None
    cache.get("other", lambda: chunk(10))
    assert cache.peek("large") is None


def test_as_many_stay_as_fit_exactly():
    cache = ChunkCache(4 * 2500)
    for name in "abcd" * 2:
        cache.get(name, lambda: chunk(2500))
    assert [name for name in "abcd" if cache.has(name)] == list("abcd")
    for number in range(100):
        cache.get(number, lambda: chunk(1))
    assert cache.used_bytes <= cache.max_bytes
    assert not cache.has(79)


def test_sixteen_threads_and_one_decode():
    cache, decoded = ChunkCache(), []
    at_once, may_end = threading.Barrier(17), threading.Event()

    def decode():
        decoded.append(threading.get_ident())
        assert may_end.wait(30)
        return chunk(10)

    def read():
        at_once.wait(30)
        return cache.get("a", decode)

    with ThreadPoolExecutor(16) as pool:
        futures = [pool.submit(read) for _ in range(16)]
        at_once.wait(30)
        may_end.set()
        found = {id(future.result(30)) for future in futures}
    assert len(decoded) == len(found) == 1


def test_all_that_wait_get_the_error_and_the_next_tries_again():
    cache, is_decoding, may_fail = ChunkCache(), threading.Event(), threading.Event()

    def fail():
        is_decoding.set()
        assert may_fail.wait(30)
        raise DecodeError("no")

    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(cache.get, "a", fail)
        assert is_decoding.wait(30)
        cache.load("a", pytest.fail)  # another thread is at it: nothing to do
        second = pool.submit(cache.get, "a", lambda: chunk(1))
        may_fail.set()
        assert isinstance(first.exception(30), DecodeError)
        # The second either waited for the first, or came after it.
        assert second.exception(30) is None or isinstance(second.exception(30), DecodeError)
    assert cache.get("a", lambda: chunk(3)).size in {1, 3}


def test_sizes():
    assert size_of(np.broadcast_to(np.int64(3), (1000, 1000))) == 8
    assert size_of(np.zeros((10, 10), "f4")) == 400
    assert size_of(np.zeros((10, 10), "f4").T) == 400
    assert size_of(np.zeros((0, 3))) == 0
    assert size_of(np.array("x" * 1000, np.dtypes.StringDType())) > 1000
    assert size_of(np.array([b"x" * 1000], object)) > 1000


def test_a_gate_lets_so_much_pass_and_a_larger_one_alone():
    gate, order = Gate(100), []
    with ThreadPoolExecutor(2) as pool:
        with gate.passing(60), gate.passing(40):

            def enter(size):
                with gate.passing(size):
                    order.append(size)

            waiting = [pool.submit(enter, 1), pool.submit(enter, 500)]
            assert not order
        for future in waiting:
            future.result(30)
    assert sorted(order) == [1, 500]
