"""Columns of byte strings, and moving many of them at once.

A `ByteColumn` keeps n byte strings as one `bytes` and n + 1 bounds. Collecting and placing strings of different
lengths is done length by length: all strings of one length are opaque items of that size that may start at every
byte, so that numpy moves each with one memcpy (about 5 ms a million), and no Python object is made for any.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any, Self

import numpy as np
import numpy.typing as npt

type Int64Array = npt.NDArray[np.int64]
type ByteArray = npt.NDArray[np.uint8]


class ByteColumn(Sequence[bytes]):
    """An immutable sequence of byte strings, kept as one.

    Attributes:
        blob: All strings, one behind the other.
        bounds: `int64[n + 1]`: string i is `blob[bounds[i]:bounds[i + 1]]`.
    """

    __slots__ = ("blob", "bounds")

    def __init__(self, blob: bytes, bounds: Int64Array) -> None:
        self.blob = blob
        self.bounds = bounds
        bounds.flags.writeable = False

    @classmethod
    def from_items(cls, items: Iterable[bytes]) -> Self:
        """Packs byte strings."""
        parts = list(items)
        return cls(b"".join(parts), _bounds(np.fromiter(map(len, parts), np.int64, len(parts))))

    @classmethod
    def empty(cls, count: int) -> Self:
        """Makes a column of `count` empty strings."""
        return cls(b"", np.zeros(count + 1, np.int64))

    @classmethod
    def gather(cls, source: bytes, starts: Int64Array, lengths: Int64Array) -> Self:
        """Copies the parts of `source` at `starts` that have `lengths`; they must lie inside of it."""
        bounds = _bounds(lengths)
        out = np.empty(int(bounds[-1]), np.uint8)
        for length, rows in _by_length(lengths):
            if len(rows) == 1:
                to, at = int(bounds[rows[0]]), int(starts[rows[0]])
                out[to : to + length] = np.frombuffer(source, np.uint8, length, at)
            else:
                _items(out, length)[bounds[rows]] = _items(source, length)[starts[rows]]
        return cls(out.tobytes(), bounds)

    @classmethod
    def concat(cls, columns: Sequence["ByteColumn"]) -> Self:
        """Joins columns end to end."""
        shift, bounds = 0, [np.zeros(1, np.int64)]
        for column in columns:
            bounds.append(column.bounds[1:] + shift)
            shift += len(column.blob)
        return cls(b"".join([column.blob for column in columns]), np.concatenate(bounds))

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.blob, self.bounds)

    @property
    def lengths(self) -> Int64Array:
        """The length of each string."""
        return np.diff(self.bounds)

    @property
    def nbytes(self) -> int:
        """Memory that it takes."""
        return len(self.blob) + self.bounds.nbytes

    def __len__(self) -> int:
        return len(self.bounds) - 1

    def __getitem__(self, index: int) -> bytes:  # type: ignore[override]
        return self.blob[self.bounds[index] : self.bounds[index + 1]]

    def __iter__(self) -> Iterator[bytes]:
        bounds, blob = self.bounds.tolist(), self.blob
        return (blob[start:end] for start, end in pairwise(bounds))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, ByteColumn):
            return NotImplemented
        return self.blob == other.blob and np.array_equal(self.bounds, other.bounds)

    __hash__ = None  # type: ignore[assignment]

    def take(self, rows: Int64Array) -> "ByteColumn":
        """Returns the strings at `rows`, in that order."""
        starts = self.bounds[rows]
        return ByteColumn.gather(self.blob, starts, self.bounds[rows + 1] - starts)

    def slice(self, start: int, end: int) -> "ByteColumn":
        """Returns the strings from `start` to `end`."""
        if start == 0 and end == len(self):
            return self
        bounds = self.bounds[start : end + 1]
        return ByteColumn(self.blob[bounds[0] : bounds[-1]], bounds - bounds[0])

    def place(self, out: ByteArray, positions: Int64Array) -> None:
        """Writes string i to `out[positions[i]:]`."""
        place(out, positions, self.blob, self.bounds[:-1], self.lengths)

    def is_utf8(self) -> bool:
        """Tells whether each string is UTF-8 by itself."""
        if self.blob.isascii():
            return True
        try:
            self.blob.decode()
        except UnicodeDecodeError:
            return False
        # The whole may be valid where two strings share a character: none may begin inside of one.
        starts = self.bounds[:-1][np.diff(self.bounds) > 0]
        return not bool((np.frombuffer(self.blob, np.uint8)[starts] & 0xC0 == 0x80).any())


class BuiltMapping[Key, Value](Mapping[Key, Value]):
    """An immutable mapping whose values are built at the first access, and then kept.

    Two threads that ask for the same value first may both build it; either is as good.
    """

    __slots__ = ("_build", "_built", "_numbers")

    def __init__(self, numbers: dict[Key, int], build: Callable[[Key, int], Value]) -> None:
        """Takes the number of each key, which `build` gets with it; `build` must not fail."""
        self._numbers = numbers
        self._build = build
        self._built: dict[Key, Value] = {}

    def __len__(self) -> int:
        return len(self._numbers)

    def __iter__(self) -> Iterator[Key]:
        return iter(self._numbers)

    def __contains__(self, key: object) -> bool:
        return key in self._numbers

    def __getitem__(self, key: Key) -> Value:
        value = self._built.get(key)
        if value is None:
            value = self._built[key] = self._build(key, self._numbers[key])
        return value


def place(out: ByteArray, positions: Int64Array, source: bytes, starts: Int64Array, lengths: Int64Array) -> None:
    """Copies the parts of `source` at `starts` that have `lengths` to `positions` in `out`."""
    for length, rows in _by_length(lengths):
        _items(out, length)[positions[rows]] = _items(source, length)[starts[rows]]


def place_rows(out: ByteArray, positions: Int64Array, rows: npt.NDArray[np.generic]) -> None:
    """Writes item i of `rows`, scalars or records, to `out[positions[i]:]`."""
    if len(rows):
        _items(out, rows.dtype.itemsize)[positions] = rows.view(f"V{rows.dtype.itemsize}")


def _items(buffer: bytes | ByteArray, length: int) -> npt.NDArray[np.void]:
    return np.ndarray((len(buffer) - length + 1,), f"V{length}", buffer, strides=(1,))


def _bounds(lengths: Int64Array) -> Int64Array:
    bounds = np.zeros(len(lengths) + 1, np.int64)
    np.cumsum(lengths, out=bounds[1:])
    return bounds


def _by_length(lengths: Int64Array) -> Iterator[tuple[int, Int64Array]]:
    """Yields each length but 0, and the rows that have it."""
    if not len(lengths):
        return
    first = int(lengths[0])
    if (lengths == first).all():
        if first:
            yield first, np.arange(len(lengths))
        return
    # Sixteen-bit keys are sorted by radix, eight times faster; most lengths fit.
    keys = lengths.astype(np.uint16) if int(lengths.max()) < 1 << 16 else lengths
    order = np.argsort(keys, kind="stable")
    ordered = lengths[order]
    cuts = np.flatnonzero(ordered[1:] != ordered[:-1]) + 1
    for rows in np.split(order, cuts):
        length = int(lengths[rows[0]])
        if length:
            yield length, rows
