"""Identifiers of snapshots, manifests, chunks and nodes: random bytes, written in Crockford's base 32.

Twelve bytes (20 characters) for objects, eight bytes (13 characters) for nodes, no padding: bits are taken from
the most significant end, and the last character is filled with zero bits. Decoding ignores case, as the official
library does.

Source: spec 2.1 "Object ids"; format notes §7.8.
"""

import os
from collections.abc import Callable
from typing import ClassVar, Self

from icefs.errors import InvalidInputError

_ALPHABET = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
_PAIRS = [first + second for first in _ALPHABET for second in _ALPHABET]
# Crockford's decoding aliases: I and L read as 1, O as 0.
_VALUES = {char: value for value, char in enumerate(_ALPHABET)} | {"I": 1, "L": 1, "O": 0}


class ObjectId(bytes):
    """An id of `SIZE` bytes that knows its text form; compares, sorts and hashes as its bytes."""

    SIZE: ClassVar[int] = 12
    __slots__ = ()

    def __new__(cls, raw: bytes | bytearray | memoryview) -> Self:
        """Takes exactly `SIZE` raw bytes."""
        self = super().__new__(cls, raw)
        if len(self) != cls.SIZE:
            raise InvalidInputError(f"{cls.__name__} has {cls.SIZE} bytes, not {len(self)}", kind="invalid-snapshot-id")
        return self

    @classmethod
    def random(cls, randbytes: Callable[[int], bytes] = os.urandom) -> Self:
        """Draws a new id."""
        return cls(randbytes(cls.SIZE))

    @classmethod
    def parse(cls, text: str) -> Self:
        """Reads the text form.

        Raises:
            InvalidInputError: wrong length, or a character outside the alphabet.
        """
        bits = cls.SIZE * 8
        length = -(-bits // 5)
        try:
            # upper() makes several characters of some that are not ASCII.
            if len(text) != length or not text.isascii():
                raise KeyError(text)
            number = 0
            for char in text.upper():
                number = number << 5 | _VALUES[char]
        except KeyError:
            raise InvalidInputError(
                f"{text!r} is not an id: {length} characters of {_ALPHABET} are expected",
                kind="invalid-snapshot-id",
                text=text,
            ) from None
        return cls((number >> (length * 5 - bits)).to_bytes(cls.SIZE, "big"))

    def __str__(self) -> str:
        bits = self.SIZE * 8
        length = -(-bits // 5)
        number = int.from_bytes(self, "big") << (length * 5 - bits)
        odd = length & 1
        # Two characters at a time: an id is written for each chunk file that is opened.
        text = "".join([_PAIRS[number >> shift & 1023] for shift in range((length + odd - 2) * 5, -1, -10)])
        return text[odd:]

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self})"


class SnapshotId(ObjectId):
    """Names a snapshot, and its transaction log."""

    __slots__ = ()


class ManifestId(ObjectId):
    """Names a manifest."""

    __slots__ = ()


class ChunkId(ObjectId):
    """Names a chunk object."""

    __slots__ = ()


class NodeId(ObjectId):
    """Names a group or array for its whole life, through moves."""

    SIZE: ClassVar[int] = 8
    __slots__ = ()


INITIAL_SNAPSHOT_ID = SnapshotId(bytes.fromhex("0b1cc8d6787580f0e33a6534"))
"""The first snapshot of every repository, `1CECHNKREP0F1RSTCMT0`."""
