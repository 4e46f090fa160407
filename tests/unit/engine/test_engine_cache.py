import gc
import threading
import tracemalloc

import pytest

from icefs.engine.read.cache import WeightedCache
from icefs.engine.repository import Repository
from tests.support.repo_builder import RepoBuilder, inline


def test_a_value_is_loaded_once():
    cache = WeightedCache(10)
    loads = []
    for _ in range(3):
        assert cache.get("a", lambda: (loads.append(1) or "value", 2)) == "value"
    assert loads == [1]
    assert (cache.hits, cache.misses, cache.weight, len(cache)) == (2, 1, 2, 1)
    assert cache.peek("a") == "value"
    assert cache.peek("b") is None


def test_what_was_used_longest_ago_goes_first():
    cache = WeightedCache(10)
    for key in "abcde":
        cache.get(key, lambda key=key: (key, 2))
    cache.get("a", lambda: pytest.fail("it is in the cache"))
    cache.put("f", "f", 3)
    cache.check_invariants()
    assert [key for key in "abcdef" if cache.peek(key)] == ["a", "d", "e", "f"]


def test_one_value_may_be_heavier_than_all_that_is_allowed():
    cache = WeightedCache(10)
    cache.put("a", "a", 5)
    cache.put("big", "big", 1000)
    assert cache.peek("a") is None
    assert cache.peek("big") == "big"
    cache.check_invariants()
    cache.put("b", "b", 1)
    assert cache.peek("big") is None
    assert cache.weight == 1


def test_replacing_discarding_and_clearing_keep_the_weight_right():
    cache = WeightedCache(10)
    cache.put("a", "a", 5)
    cache.put("a", "A", 2)
    cache.put("b", "b", 3)
    cache.discard("nothing")
    cache.discard("a")
    cache.check_invariants()
    assert cache.weight == 3
    cache.clear()
    cache.check_invariants()
    assert len(cache) == cache.weight == 0


def test_an_error_is_not_kept():
    cache = WeightedCache(10)

    def fail():
        raise OSError("once")

    with pytest.raises(OSError, match="once"):
        cache.get("a", fail)
    assert cache.get("a", lambda: ("value", 1)) == "value"


@pytest.mark.parametrize("outcome", ["value", OSError("broken")])
def test_threads_that_ask_at_once_share_one_load(outcome):
    cache = WeightedCache(10)
    started, go_on = threading.Event(), threading.Event()
    loads, found = [], []

    def load():
        loads.append(1)
        started.set()
        assert go_on.wait(10)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome, 1

    def ask():
        try:
            found.append(cache.get("a", load))
        except OSError as error:
            found.append(error)

    threads = [threading.Thread(target=ask) for _ in range(4)]
    threads[0].start()
    assert started.wait(10)
    for thread in threads[1:]:
        thread.start()
    assert cache.get("other", lambda: ("free", 1)) == "free", "a load blocks its own key only"
    go_on.set()
    for thread in threads:
        thread.join(10)
    assert found == [outcome] * 4
    assert loads == [1] or isinstance(outcome, Exception)


def test_an_interrupted_load_does_not_fail_the_others():
    cache = WeightedCache(10)
    started, go_on = threading.Event(), threading.Event()
    found = []

    def interrupted():
        started.set()
        assert go_on.wait(10)
        raise KeyboardInterrupt

    def first():
        with pytest.raises(KeyboardInterrupt):
            cache.get("a", interrupted)

    def second():
        found.append(cache.get("a", lambda: ("value", 1)))

    threads = [threading.Thread(target=first)]
    threads[0].start()
    assert started.wait(10)
    threads.append(threading.Thread(target=second))
    threads[1].start()
    go_on.set()
    for thread in threads:
        thread.join(10)
    assert found == ["value"]


@pytest.mark.parametrize(("kind", "bytes_each"), [("snapshots", 500), ("manifests", 64), ("transaction_logs", 50)])
def test_a_million_small_files_do_not_weigh_as_if_they_took_no_memory(kind, bytes_each):
    builder = RepoBuilder()
    count = 200
    ids = [builder.commit([builder.array("/a", 1, (4,), inline((number % 4,)))]) for number in range(count)]
    assets = Repository.open(builder.publish()).assets
    manifests = {info for one in ids for info in assets.fetch_snapshot(one).manifest_files}
    fetch, wanted = {
        "snapshots": (assets.fetch_snapshot, ids),
        "manifests": (assets.fetch_manifest, sorted(manifests)),
        "transaction_logs": (assets.fetch_transaction_log, ids[1:]),
    }[kind]
    cache = getattr(assets, kind)
    cache.clear()
    tracemalloc.start()
    try:
        for one in wanted:
            fetch(one)
        gc.collect()
        used = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    assert len(cache) == len(wanted) >= count - 1
    assert used < 1.5 * bytes_each * cache.weight, (used, cache.weight)
