"""The bytes of variables with records, which lie in a file record by record.

| a[0] | b[0] | a[1] | b[1] | a[2] | …
"""

from collections.abc import Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final, override

import numpy as np

from icefs.views.interface import Source, Stretch
from icefs.views.ranges import Range, joined

# Smaller records are read whole, rather than that each variable's part is read or kept.
_MIN_RECORD_BYTES: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class RecordPart:
    """A variable's part of each record.

    Attributes:
        offset: Where it begins in the record.
        size: Its bytes, without padding.
        source: The bytes of all its records, one after the other.
    """

    offset: int
    size: int
    source: Source


class RecordSource(Source):
    """Records of several variables."""

    def __init__(self, parts: Sequence[RecordPart], record_size: int) -> None:
        """Takes the parts of a record, ordered by offset.

        Args:
            parts: The variables; all have the same number of records.
            record_size: The bytes of one record, with padding.
        """
        self._parts = [part for part in parts if part.size]
        self._record_size = record_size

    @override
    def read(self, start: int, stop: int) -> bytes | memoryview:
        first, last = start // self._record_size, -(-stop // self._record_size)
        if last - first <= 2:
            return self._pieces(start, stop, first, last)
        whole = np.zeros((last - first, self._record_size), np.uint8)
        for part in self._parts:
            data = part.source.read(first * part.size, last * part.size)
            whole[:, part.offset : part.offset + part.size] = np.frombuffer(data, np.uint8).reshape(-1, part.size)
        skipped = first * self._record_size
        return memoryview(whole.reshape(-1))[start - skipped : stop - skipped]

    def _pieces(self, start: int, stop: int, first: int, last: int) -> bytes | memoryview:
        """Reads from few records only what is asked for: a record may have gigabytes."""
        made = bytearray(stop - start)
        for record in range(first, last):
            for part in self._parts:
                begin = record * self._record_size + part.offset
                low, high = max(start, begin), min(stop, begin + part.size)
                if low < high:
                    own = record * part.size - begin
                    made[low - start : high - start] = part.source.read(low + own, high + own)
        return memoryview(made)

    @override
    def subject(self) -> Hashable:
        return "records", self._record_size

    @override
    def stretches(self, size: int, earlier: Source | None) -> Iterable[Stretch]:
        others = {}
        if isinstance(earlier, RecordSource):
            others = {(part.offset, part.size, part.source.subject()): part.source for part in earlier._parts}
        records = size // self._record_size
        found: list[Stretch] = []
        touched: list[Range] = []
        for part in self._parts:
            subject = part.source.subject()
            other = None if subject is None else others.get((part.offset, part.size, subject))
            for one in part.source.stretches(records * part.size, other):
                if self._record_size < _MIN_RECORD_BYTES:
                    touched.append((one.start // part.size, -(-one.stop // part.size)))
                else:
                    found += self._in_records(part, one)
        found += (Stretch(*(at * self._record_size for at in some)) for some in joined(sorted(touched)))
        return sorted(found, key=lambda stretch: stretch.start)

    def _in_records(self, part: RecordPart, stretch: Stretch) -> Iterator[Stretch]:
        """Yields the places in the records of a range of one variable's bytes."""
        is_kept = stretch.kept_at == stretch.start
        for record in range(stretch.start // part.size, -(-stretch.stop // part.size)):
            low = max(stretch.start, record * part.size)
            high = min(stretch.stop, (record + 1) * part.size)
            at = record * (self._record_size - part.size) + part.offset + low
            yield Stretch(at, at + high - low, at if is_kept else None)
