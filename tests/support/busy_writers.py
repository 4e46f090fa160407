"""Programs that rewrite, rename and remove chunks without a pause, each with a ledger of what it did when.

A ledger has a line before each operation, which says what the chunks hold after it, and a line after it. So of any
commit it is known which moments of each program it may show, and that it shows one of them: nothing that was done
before the commit was asked for may be missing, and nothing that was done later without all that was done before.
"""

import ctypes
import json
import os
import random
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

SIZES = (20, 300, 700, 5000, 40_000)
COLUMNS = 12
WRITERS = 3
TURNS = 3
"""How many rows of chunks a program has."""

_RENAME_EXCHANGE = 2
_libc = ctypes.CDLL(None, use_errno=True)

type State = dict[str, int]
"""What each chunk holds, by its key below the array's `c`."""


def content(number: int) -> bytes:
    """Returns the bytes that an operation of a program writes."""
    size = SIZES[number % len(SIZES)]
    return number.to_bytes(8, "little") + bytes([number % 251]) * size


def number_of(data: bytes) -> int:
    """Returns which operation wrote some bytes; they must be all of its bytes."""
    number = int.from_bytes(data[:8], "little")
    assert data == content(number), f"not the bytes of operation {number}: {len(data)}, {data[:40]!r}"
    return number


def rewrite(report: Callable[[], None], chunks: str, ledger: str, stop: str, writer: int, seed: int) -> None:
    """Changes chunks until there is a file at `stop`."""
    _Writer(Path(chunks), Path(ledger), writer, random.Random(f"{seed} {writer}")).run(report, stop)


class _Writer:
    def __init__(self, chunks: Path, ledger: Path, writer: int, rng: random.Random) -> None:
        self._chunks = chunks
        self._ledger = open(ledger, "ab", buffering=0)  # noqa: SIM115  (for as long as the process lives)
        self._rows = [str(writer * TURNS + turn) for turn in range(TURNS)]
        self._rng = rng
        self._state: State = {}
        self._count = 0

    def run(self, report: Callable[[], None], stop: str) -> None:
        for row in self._rows:
            (self._chunks / row).mkdir()
        report()
        while not os.path.exists(stop):
            for _ in range(20):
                self._step()

    def _step(self) -> None:
        self._count += 1
        rng = self._rng
        key, other = (f"{rng.choice(self._rows)}/{rng.randrange(COLUMNS)}" for _ in range(2))
        kind = rng.choice(["replace", "replace", "replace", "create", "in place", "in place", "rename", "swap", "row"])
        if key not in self._state and kind != "row":
            kind = rng.choice(["replace", "create"])
        elif kind == "create":
            self._do({key: None}, (self._chunks / key).unlink)
            return
        number = self._count
        data = content(number)
        match kind:
            case "replace":
                self._do({key: number}, lambda: self._replace(key, data))
            case "create":
                self._do({key: number}, lambda: self._link(key, data))
            case "in place":
                number = self._count - self._count % len(SIZES) + self._state[key] % len(SIZES)  # as long as before
                self._do({key: number}, lambda: self._write_in_place(key, content(number)))
            case "rename" if key != other:
                change = {other: self._state[key], key: None}
                self._do(change, lambda: os.rename(self._chunks / key, self._chunks / other))
            case "swap" if key != other and other in self._state:
                change = {other: self._state[key], key: self._state[other]}
                self._do(change, lambda: self._exchange(key, other))
            case "row" if rng.random() < 0.2:
                one, two = rng.sample(self._rows, 2)
                change = {f"{one}/{column}": self._state.get(f"{two}/{column}") for column in range(COLUMNS)}
                change |= {f"{two}/{column}": self._state.get(f"{one}/{column}") for column in range(COLUMNS)}
                self._do(change, lambda: self._exchange(one, two))

    def _do(self, change: Mapping[str, int | None], action: Callable[[], Any]) -> None:
        self._ledger.write(json.dumps(change).encode() + b"\n")
        action()
        self._ledger.write(b"done\n")
        apply(self._state, change)

    def _replace(self, key: str, data: bytes) -> None:
        temporary = self._chunks / f"{key}.partial"
        temporary.write_bytes(data)
        os.replace(temporary, self._chunks / key)

    def _link(self, key: str, data: bytes) -> None:
        temporary = self._chunks / f"{key}.partial"
        temporary.write_bytes(data)
        os.link(temporary, self._chunks / key)
        temporary.unlink()

    def _write_in_place(self, key: str, data: bytes) -> None:
        fd = os.open(self._chunks / key, os.O_RDWR)
        try:
            assert os.pwrite(fd, data, 0) == len(data)
        finally:
            os.close(fd)

    def _exchange(self, one: str, two: str) -> None:
        old, new = (os.fsencode(self._chunks / name) for name in (one, two))
        if _libc.renameat2(-100, old, -100, new, _RENAME_EXCHANGE):
            raise OSError(ctypes.get_errno(), "renameat2")


def apply(state: State, change: Mapping[str, int | None]) -> None:
    """Does to a state what an operation does."""
    for key, number in change.items():
        if number is None:
            state.pop(key, None)
        else:
            state[key] = number


class Ledger:
    """What one program did, as far as it has told."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def done(self) -> int:
        """Returns how many operations have ended."""
        return self._path.read_bytes().count(b"done\n")

    def check(self, found: Mapping[str, int], since: int) -> int:
        """Finds the moment that was committed, of those after `since` operations; returns its number."""
        lines = self._path.read_bytes().splitlines()
        changes = [json.loads(line) for line in lines if line.startswith(b"{") and line.endswith(b"}")]
        state: State = {}
        best: tuple[int, str] = (1 << 30, "")
        for moment in range(len(changes) + 1):
            if moment:
                apply(state, changes[moment - 1])
            if moment < since:
                continue
            if state == found:
                return moment
            wrong = sorted(key for key in state.keys() | found.keys() if state.get(key) != found.get(key))
            best = min(best, (len(wrong), f"moment {moment}: {[(k, state.get(k), found.get(k)) for k in wrong]}"))
        raise AssertionError(f"the commit shows none of the moments {since} to {len(changes)}; nearest {best[1]}")
