"""Log lines that repeat are counted, and their number is logged later."""

import logging

from icefs.daemon.repeats import Repeats
from tests.support.log_records import KeptLines, record


def test_repeats_are_counted_and_told_later():
    now, kept = [0.0], KeptLines()
    repeats = Repeats([kept], lambda: now[0])
    for _ in range(1000):
        repeats.handle(record("a %d", 1))
    repeats.handle(record("b"))
    assert kept.lines == ["a 1", "b"]
    now[0] = 59.0
    repeats.tick()
    assert kept.lines == ["a 1", "b"]
    now[0] = 60.0
    repeats.tick()
    assert kept.lines == ["a 1", "b", "a 1 … repeated 999 times"]
    repeats.handle(record("a %d", 1))
    repeats.handle(record("a %d", 1))
    repeats.close()
    assert kept.lines[3:] == ["a 1", "a 1 … repeated 1 time"]


def test_lines_of_one_kind_are_counted_although_their_words_differ():
    now, kept = [0.0], KeptLines()
    repeats = Repeats([kept], lambda: now[0])
    for number in range(5):
        repeats.handle(record("try %d", number, repeat_key="tries"))
    repeats.handle(record("try %d", 7, repeat_key="other tries"))
    now[0] = 60.0
    repeats.tick()
    assert kept.lines == ["try 0", "try 7", "try 4 … the last of 4 more of its kind"]


def test_details_are_never_left_out():
    kept = KeptLines()
    repeats = Repeats([kept], lambda: 0.0)
    for _ in range(3):
        repeats.handle(record("a", level=logging.DEBUG))
    assert kept.lines == ["a"] * 3


def test_lines_that_are_known_are_bounded():
    kept = KeptLines()
    repeats = Repeats([kept], lambda: 0.0)
    repeats.handle(record("first"))
    repeats.handle(record("first"))
    for number in range(5000):
        repeats.handle(record("%d", number))
    assert "first … repeated 1 time" in kept.lines
    repeats.handle(record("%d", 4999))
    repeats.handle(record("%d", 4000))
    assert kept.lines.count("4999") == 1
    assert kept.lines.count("4000") == 2, "at most 512 are known"
