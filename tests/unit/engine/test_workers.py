import threading

import pytest

from icefs.engine.read.workers import Workers


@pytest.fixture
def workers():
    pool = Workers(3)
    yield pool
    pool.close()


def test_results_come_in_order(workers):
    assert workers.map(lambda n: n * n, range(50)) == [n * n for n in range(50)]
    assert list(workers.map_ahead(lambda n: -n, iter(range(50)), window=3)) == [-n for n in range(50)]
    assert workers.map(str, []) == []
    assert list(workers.map_ahead(str, [7], window=1)) == ["7"]


def test_items_run_side_by_side_but_not_more_than_allowed(workers):
    barrier = threading.Barrier(3, timeout=10)
    running, most = [], []

    def task(_):
        running.append(1)
        most.append(len(running))
        barrier.wait()  # passes only if three run at once
        running.pop()

    workers.map(task, range(9))
    assert max(most) == 3


def test_one_item_runs_in_the_calling_thread(workers):
    assert workers.map(lambda _: threading.current_thread(), [0]) == [threading.current_thread()]


def test_a_worker_may_use_the_pool_without_waiting_for_itself(workers):
    def outer(n):
        return sum(workers.map(lambda m: n + m, range(10)))

    assert workers.map(outer, range(12)) == [sum(range(n, n + 10)) for n in range(12)]


def test_the_first_error_is_raised_and_the_pool_goes_on(workers):
    def task(n):
        if n % 5 == 4:
            raise ValueError(n)
        return n

    with pytest.raises(ValueError, match="4"):
        workers.map(task, range(20))
    assert workers.map(task, range(3)) == [0, 1, 2]


def test_only_a_window_is_started_ahead(workers):
    started = []
    results = workers.map_ahead(lambda n: started.append(n) or n, range(100), window=4)
    assert next(results) == 0
    assert len(started) <= 5
    results.close()
    assert len(started) <= 5


def test_closing_is_not_the_end(workers):
    assert workers.map(str, range(3)) == ["0", "1", "2"]
    workers.close()
    workers.close()
    assert workers.map(str, range(3)) == ["0", "1", "2"]
    assert workers.submit(pow, 2, 3).result(10) == 8


def test_what_runs_or_waits_is_counted():
    workers = Workers(1)
    gate, ended = threading.Event(), threading.Event()
    first = workers.submit(gate.wait, 10)
    second = workers.submit(ended.set)
    assert workers.pending == 2
    gate.set()
    assert first.result(10)
    second.result(10)
    assert ended.is_set()
    workers.close()  # after which every callback has run
    assert workers.pending == 0
    with pytest.raises(ZeroDivisionError):
        workers.submit(lambda: 1 // 0).result(10)
    workers.close()
    assert workers.pending == 0
