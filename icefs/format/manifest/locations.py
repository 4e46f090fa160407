"""The locations of virtual chunks: plain, or each compressed with a zstd dictionary that its manifest carries.

Compressed locations stay compressed until a caller asks for one. They are one zstd frame each; what a frame declares
is looked at before anything is allocated for it, and 1024 bytes is the most that a location may decompress to: the
official writer compresses longer ones and then cannot read them any more, so here they are left plain.

Source: spec 2.1 "Manifest files"; format notes §7.9.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import Final

import numpy as np
import numpy.typing as npt
import zstandard

from icefs.errors import FormatError
from icefs.format.flat.columns import ByteColumn

type Int64Array = npt.NDArray[np.int64]
type BoolArray = npt.NDArray[np.bool_]

MAX_COMPRESSIBLE_BYTES: Final = 1024
# zstd refuses to train when most samples are shorter than this.
_MIN_SAMPLE_BYTES = 8
# The most bytes that a frame without a declared size may decompress to.
_MAX_WINDOW_BYTES = 8 << 20


@dataclass(frozen=True, slots=True)
class LocationCompression:
    """When and how a manifest's locations are compressed; the official configuration's defaults.

    Attributes:
        min_num_chunks: Virtual references that a manifest has at least; with fewer, nothing is compressed.
        dictionary_max_training_samples: Locations that the dictionary is trained on.
        dictionary_max_size_bytes: The largest dictionary.
        compression_level: zstd's.
    """

    min_num_chunks: int = 1000
    dictionary_max_training_samples: int = 100
    dictionary_max_size_bytes: int = 2048
    compression_level: int = 3


class LocationDictionary:
    """A manifest's dictionary; decompresses single locations. May be used from several threads."""

    __slots__ = ("file", "raw")

    def __init__(self, raw: bytes, *, file: str) -> None:
        self.raw = raw
        self.file = file

    def decompress(self, frames: ByteColumn | Sequence[bytes]) -> list[bytes]:
        """Decompresses some locations (half a microsecond each, after ten for the dictionary).

        Raises:
            FormatError: damaged, longer than 1024 bytes, or not UTF-8.
        """
        try:
            # A decompressor cannot be shared between threads.
            decompressor = zstandard.ZstdDecompressor(
                dict_data=zstandard.ZstdCompressionDict(self.raw), max_window_size=_MAX_WINDOW_BYTES
            )
            size, decompress, limit = zstandard.frame_content_size, decompressor.decompress, MAX_COMPRESSIBLE_BYTES
            found = []
            for frame in frames:
                if size(frame) > limit:
                    raise self._error(f"a compressed location is longer than {limit} bytes")
                found.append(decompress(frame, max_output_size=limit, allow_extra_data=False))
        except zstandard.ZstdError as error:
            raise self._error(f"a compressed location is damaged ({error})") from None
        if not all(map(_is_utf8, found)):
            raise self._error("a location is not UTF-8")
        return found

    def _error(self, reason: str) -> FormatError:
        return FormatError(f"{self.file} is malformed: {reason}", file=self.file, reason=reason)


class Locations:
    """The locations of k virtual references, in order.

    Attributes:
        stored: The bytes of each location in the manifest.
        compressed: Which of them are compressed, or None where none is.
        dictionary: The zstd dictionary that they are compressed with.
    """

    __slots__ = ("compressed", "dictionary", "stored")

    def __init__(
        self, stored: ByteColumn, compressed: BoolArray | None = None, dictionary: LocationDictionary | None = None
    ) -> None:
        self.stored = stored
        self.compressed = compressed if compressed is not None and dictionary and compressed.any() else None
        self.dictionary = dictionary if self.compressed is not None else None

    def __len__(self) -> int:
        return len(self.stored)

    def get(self, position: int) -> str:
        """Returns one location.

        Raises:
            FormatError: it is compressed and cannot be decompressed.
        """
        stored = self.stored[position]
        if self.compressed is not None and self.dictionary is not None and self.compressed[position]:
            stored = self.dictionary.decompress((stored,))[0]
        return stored.decode()

    @property
    def nbytes(self) -> int:
        """Memory that they take."""
        return self.stored.nbytes + (0 if self.compressed is None else self.compressed.nbytes)

    def is_utf8(self) -> bool:
        """Tells whether those are UTF-8 that are not compressed."""
        if self.compressed is None:
            return self.stored.is_utf8()
        return self.stored.take(np.flatnonzero(~self.compressed)).is_utf8()

    def plain(self) -> ByteColumn:
        """Returns all locations, decompressed.

        Raises:
            FormatError: one of them cannot be decompressed.
        """
        if self.compressed is None or self.dictionary is None:
            return self.stored
        items = list(self.stored)
        chosen = np.flatnonzero(self.compressed)
        found = self.dictionary.decompress([items[position] for position in chosen.tolist()])
        for position, location in zip(chosen.tolist(), found, strict=True):
            items[position] = location
        return ByteColumn.from_items(items)

    def take(self, positions: Int64Array) -> "Locations":
        """Returns the locations at `positions`, in that order."""
        compressed = None if self.compressed is None else self.compressed[positions]
        return Locations(self.stored.take(positions), compressed, self.dictionary)

    def slice(self, start: int, end: int) -> "Locations":
        """Returns the locations from `start` to `end`."""
        compressed = None if self.compressed is None else self.compressed[start:end]
        return Locations(self.stored.slice(start, end), compressed, self.dictionary)

    @classmethod
    def concat(cls, parts: Sequence["Locations"]) -> "Locations":
        """Joins locations end to end; decompresses them where the dictionaries differ."""
        dictionaries = {part.dictionary.raw: part.dictionary for part in parts if part.dictionary is not None}
        if len(dictionaries) > 1:
            return cls(ByteColumn.concat([part.plain() for part in parts]))
        compressed = [
            part.compressed if part.compressed is not None else np.zeros(len(part), np.bool_) for part in parts
        ]
        stored = ByteColumn.concat([part.stored for part in parts])
        if not dictionaries:
            return cls(stored)
        return cls(stored, np.concatenate(compressed), next(iter(dictionaries.values())))


def train_dictionary(columns: Sequence[ByteColumn], settings: LocationCompression) -> bytes | None:
    """Trains a dictionary on a sample of the locations; None where compression is not worth it or not possible."""
    total = sum(map(len, columns))
    if total < max(1, settings.min_num_chunks) or settings.dictionary_max_training_samples < 1:
        return None
    # The sample depends on the locations alone, so that the same references make the same manifest.
    chosen = Random(total).sample(range(total), min(total, settings.dictionary_max_training_samples))
    samples: list[bytes | bytearray | memoryview[int]] = []
    for number in sorted(chosen):
        rest = number
        for column in columns:
            if rest < len(column):
                samples.append(column[rest])
                break
            rest -= len(column)
    if sum(len(sample) < _MIN_SAMPLE_BYTES for sample in samples) * 2 >= len(samples):
        return None
    # zstd wants more to train on than it makes of it.
    size_bytes = sum(map(len, samples))
    samples *= 1 + -(-settings.dictionary_max_size_bytes * 2 // size_bytes)
    try:
        return zstandard.train_dictionary(settings.dictionary_max_size_bytes, samples).as_bytes()
    except zstandard.ZstdError:
        # Too small a dictionary or too uniform a sample: plain locations are always right.
        return None


def compress_locations(plain: ByteColumn, dictionary: LocationDictionary, level: int) -> Locations:
    """Compresses the locations that may be compressed."""
    trained = zstandard.ZstdCompressionDict(dictionary.raw)
    trained.precompute_compress(level=level)
    compress = zstandard.ZstdCompressor(level=level, dict_data=trained).compress
    fits = plain.lengths <= MAX_COMPRESSIBLE_BYTES
    items = [compress(item) if short else item for item, short in zip(plain, fits.tolist(), strict=True)]
    return Locations(ByteColumn.from_items(items), fits, dictionary)


def _is_utf8(text: bytes) -> bool:
    try:
        text.decode()
    except UnicodeDecodeError:
        return False
    return True
