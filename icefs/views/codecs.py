"""The codecs of an array, by zarr-python, which is imported with this module and by no other one of views.

Each array has a chain of codecs. Where the chain is sharding alone, the inner chunks are decoded one by one, and the
chain is that of the inner chunks. Source: Zarr v3 "Codecs", "sharding_indexed".
"""

import asyncio
import contextlib
import json
import threading
import warnings
from collections.abc import Iterator, Mapping
from functools import lru_cache
from math import prod
from operator import mod, mul
from typing import Any, Final, Protocol, runtime_checkable

import numcodecs
import numcodecs.errors
import numpy as np
import zarr.errors
from zarr.abc.codec import BytesBytesCodec, Codec
from zarr.codecs.bytes import BytesCodec
from zarr.codecs.sharding import ShardingCodec
from zarr.core.array_spec import ArrayConfig, ArraySpec
from zarr.core.buffer import Buffer, NDBuffer, default_buffer_prototype
from zarr.core.dtype import UInt64
from zarr.core.metadata.v3 import ArrayV3Metadata
from zarr.registry import get_codec_class

from icefs.errors import NotShownError
from icefs.paths import ROOT_NODE, NodePath
from icefs.views.inflation import INFLATE, inflate_pcodec
from icefs.views.raw_pieces import RawPieces
from icefs.words import plural

MAX_CHUNK_BYTES: Final = 1 << 30
"""Arrays whose chunks are larger when they are decoded are not shown."""

# Compressors may make a chunk larger that does not compress.
_MAX_OVERHEAD: Final = 1 << 16
_VARIABLE: Final = frozenset({"vlen-utf8", "vlen-bytes"})
_PCODEC: Final = "numcodecs.pcodec"
# Make no more than a few times the bytes that they get; most have no fixed size, or do not say it.
_PROPORTIONATE: Final = _VARIABLE | {
    f"numcodecs.{name}"
    for name in (
        *("shuffle", "delta", "bitround", "fixedscaleoffset", "quantize", "packbits", "astype"),
        *("crc32", "crc32c", "adler32", "fletcher32", "jenkins_lookup3"),
    )
}
_NO_CHUNK: Final = (1 << 64) - 1
# What decides how bytes are decoded.
_DECISIVE: Final = ("data_type", "chunk_grid", "codecs", "fill_value")

# `warnings.catch_warnings` changes what all threads see.
_warnings_lock = threading.Lock()


@runtime_checkable
class _Synchronous(Protocol):
    """A codec that decodes without an event loop; zarr-python 3.1 has none, and no such protocol."""

    def _decode_sync(self, chunk_data: Any, chunk_spec: ArraySpec) -> Buffer | NDBuffer | None: ...


class Chain:
    """A chain of codecs for chunks of one shape.

    Immutable, and safe to use from any thread.

    Attributes:
        max_encoded_bytes: The most bytes that an encoded chunk can need.
    """

    def __init__(self, codecs: tuple[Codec, ...], spec: ArraySpec, max_bytes: int) -> None:
        """Takes codecs that know their array's data type, and the chunks as they come out of them.

        The size that a chunk can need bounds the result of each codec. So a codec runs only if it has a fixed size, or
        is one of those known here: compressors with a limit, pcodec into an array of the chunk's size, others of which
        the result grows no faster than the bytes, and sharding, whose inner chunks have a chain of their own.

        Args:
            codecs: The codecs, in the order of encoding.
            spec: The shape, data type and fill value of the chunks.
            max_bytes: The most bytes that any codec may make of a chunk whose data type has no fixed size.

        Raises:
            NotShownError: a codec may make any number of bytes of a chunk, or the index of a shard is too large.
        """
        self._steps: list[_Step] = []
        limit, is_sharded = max_bytes, False
        for codec in codecs:
            step = _Step(codec, spec, limit, max_bytes)
            self._steps.insert(0, step)
            spec = codec.resolve_metadata(spec)
            dtype = np.dtype(spec.dtype.to_native_dtype())
            if step.shards is not None:
                limit, is_sharded = min(max_bytes, step.shards.max_encoded_bytes), True
            elif is_sharded:
                limit = min(max_bytes, _with_overhead(limit))
            elif dtype.kind not in {"O", "T"}:
                limit = _with_overhead(prod(spec.shape) * dtype.itemsize)
        self.max_encoded_bytes: int = limit

    def decode(self, data: bytes | memoryview) -> np.ndarray:
        """Decodes a chunk; raises whatever the codecs raise, and `TooLargeError`."""
        value: Buffer | NDBuffer = default_buffer_prototype().buffer.from_bytes(data)
        for step in self._steps:
            value = step.decode(value)
        assert isinstance(value, NDBuffer)
        return value.as_numpy_array()


def _with_overhead(size: int) -> int:
    return size + size // 8 + _MAX_OVERHEAD


class _Step:
    """One codec of a chain.

    Attributes:
        shards: Decodes whole shards, if the codec is sharding.
    """

    def __init__(self, codec: Codec, spec: ArraySpec, limit: int, max_bytes: int) -> None:
        """Takes a codec, the chunks that it decodes into, the most bytes of them, and what `Chain` takes."""
        described = codec.to_dict()
        configuration = described.get("configuration")
        self._name = str(described.get("name"))
        self._configuration = configuration if isinstance(configuration, Mapping) else {}
        self._codec, self._spec, self._limit = codec, spec, limit
        self.shards = _Shards(codec, spec, max_bytes) if isinstance(codec, ShardingCodec) else None
        self._inflate = INFLATE.get(self._name) if isinstance(codec, BytesBytesCodec) else None
        is_bounded = self.shards is not None or self._inflate is not None
        # Last, as some codecs of zarr-python 3.1 do not say whether their size is fixed.
        if not (is_bounded or self._name == _PCODEC or self._name in _PROPORTIONATE or codec.is_fixed_size):
            raise NotShownError(f"the codec {self._name!r}, which may make any number of bytes of a chunk")

    def decode(self, value: Buffer | NDBuffer) -> Buffer | NDBuffer:
        """Decodes what the codec made; raises whatever it raises, and ValueError where that would be too much."""
        if isinstance(value, Buffer):
            data, prototype = memoryview(value.as_numpy_array()), self._spec.prototype
            if self.shards is not None:
                return prototype.nd_buffer.from_ndarray_like(self.shards.decode(data))
            if self._name == _PCODEC:
                found = np.empty(self._spec.shape, self._spec.dtype.to_native_dtype())
                inflate_pcodec(data, found)
                return prototype.nd_buffer.from_ndarray_like(found)
            if self._name in _VARIABLE:
                _check_count(data, prod(self._spec.shape))
            inflated = None if self._inflate is None else self._inflate(data, self._limit, self._configuration)
            if inflated is not None:
                return prototype.buffer.from_bytes(inflated)
        return _decode(self._codec, value, self._spec)


def _check_count(data: memoryview, expected: int) -> None:
    # numcodecs makes room for as many items as the first four bytes say.
    count = int.from_bytes(data[:4], "little")
    if count != expected:
        raise ValueError(f"it has {plural(count, 'item')}, and not {expected}")


def _decode(codec: Any, value: Buffer | NDBuffer, spec: ArraySpec) -> Buffer | NDBuffer:
    found: Buffer | NDBuffer | None
    if isinstance(codec, _Synchronous):
        found = codec._decode_sync(value, spec)
    else:
        (found,) = asyncio.run(codec.decode([(value, spec)]))
    if found is None:
        raise ValueError(f"{type(codec).__name__} made nothing of it")
    return found


class _ShardIndex:
    """Decodes the indices of shards.

    Attributes:
        byte_range: The first byte of the index in a shard, and one past its last; as `Hierarchy.read` takes them.
        size: Its bytes.
    """

    def __init__(self, sharding: ShardingCodec, chunks_per_shard: tuple[int, ...], max_bytes: int) -> None:
        self._shape = (*chunks_per_shard, 2)
        self.size = 8 * prod(self._shape)
        _check_size("shard indices", self.size, max_bytes)
        spec = step = _spec(self._shape, UInt64(endianness="little"), _NO_CHUNK)
        codecs = []
        for codec in sharding.index_codecs:
            evolved = codec.evolve_from_array_spec(step)
            self.size = evolved.compute_encoded_size(self.size, step)
            step = evolved.resolve_metadata(step)
            codecs.append(evolved)
        self._chain = Chain(tuple(codecs), spec, self.size)
        is_first = str(sharding.index_location) == "start"
        self.byte_range: tuple[int, int | None] = (0, self.size) if is_first else (-self.size, None)

    def decode(self, data: bytes | memoryview) -> np.ndarray:
        """Decodes offsets and lengths, of shape `(*chunks_per_shard, 2)`; raises as `Chain.decode`."""
        return self._chain.decode(data).reshape(self._shape)


class _Shards:
    """Decodes whole shards, as the chunks of an array are where shards are in other codecs or in shards.

    zarr-python would run the codecs of inner chunks without limits.

    Attributes:
        max_encoded_bytes: The most bytes that a shard can need.
    """

    def __init__(self, sharding: ShardingCodec, spec: ArraySpec, max_bytes: int) -> None:
        """Takes the codec, the decoded shards, and what `Chain` takes; raises as it does."""
        self._inner = tuple(sharding.chunk_shape)
        if min(self._inner, default=1) < 1 or any(map(mod, spec.shape, self._inner)):
            raise NotShownError("inner chunks that do not divide their shards")
        self._grid = tuple(whole // inner for whole, inner in zip(spec.shape, self._inner, strict=True))
        self._index = _ShardIndex(sharding, self._grid, max_bytes)
        self._chunks = Chain(sharding.codecs, _spec(self._inner, spec.dtype, spec.fill_value), max_bytes)
        self._missing = np.empty((), spec.dtype.to_native_dtype())
        self._missing[()] = spec.fill_value
        self.max_encoded_bytes: int = self._index.size + prod(self._grid) * self._chunks.max_encoded_bytes

    def decode(self, data: memoryview) -> np.ndarray:
        """Decodes a shard; raises whatever the codecs raise, and ValueError where an inner chunk is none."""
        index = self._index.decode(data[slice(*self._index.byte_range)])
        found = np.full(tuple(map(mul, self._grid, self._inner)), self._missing)
        for place in np.ndindex(self._grid):
            start, length = map(int, index[place])
            if start == length == _NO_CHUNK:
                continue
            if start + length > len(data) or length > self._chunks.max_encoded_bytes:
                raise ValueError(f"its inner chunk {place} has {plural(length, 'byte')} from {start} on")
            chunk = self._chunks.decode(data[start : start + length])
            if chunk.shape != self._inner:
                raise ValueError(f"its inner chunk {place} has the shape {chunk.shape}, and not {self._inner}")
            found[tuple(slice(at * size, (at + 1) * size) for at, size in zip(place, self._inner, strict=True))] = chunk
        return found


class ArrayCodec:
    """Decodes the chunks of one array.

    Immutable, and safe to use from any thread.

    Attributes:
        shape: The array's shape.
        dtype: The array's data type, in this machine's byte order.
        chunk_shape: The shape of what is decoded at once; of the inner chunks of shards.
        chunks_per_shard: How many inner chunks a shard, or pieces a raw chunk, has along each axis; None if there are
            neither.
        raw_pieces: How large chunks without compression are cut; each piece is like an inner chunk. None if they are
            not.
        index_range: The first byte of a shard's index, and one past its last; as `Hierarchy.read` takes them.
        chunk_bytes: What a decoded chunk takes.
        fill_value: One element, of no dimensions.
        means: Equal for codecs that make the same of the same bytes; arrays that differ in shape alone have them.
    """

    def __init__(self, path: NodePath, document: bytes, max_chunk_bytes: int = MAX_CHUNK_BYTES) -> None:
        """Reads an array's `zarr.json`.

        Raises:
            NotShownError: its data type, one of its codecs, or something else in it is not known here, or its chunks
                are too large.
        """
        try:
            with _warnings_lock, warnings.catch_warnings():
                warnings.simplefilter("ignore")
                self._read(json.loads(document), max_chunk_bytes)
        except NotShownError as error:
            raise NotShownError(error.own_message, path=path) from None
        except Exception as error:  # metadata is not trusted, and codecs are anybody's
            raise NotShownError(
                getattr(error, "own_message", None) or str(error) or type(error).__name__, path=path
            ) from error

    def _read(self, document: dict[str, Any], max_chunk_bytes: int) -> None:
        grid = document["chunk_grid"]["name"]
        if grid != "regular":
            raise NotShownError(f"a chunk grid of the kind {grid!r}")
        for name, configuration in _named_codecs(document["codecs"]):
            _check_installed(name, configuration)
        metadata = ArrayV3Metadata.from_dict(document)
        if metadata.storage_transformers:
            raise NotShownError("storage transformers")
        self.shape: tuple[int, ...] = tuple(metadata.shape)
        self.dtype: np.dtype[np.generic] = np.dtype(metadata.data_type.to_native_dtype())
        whole = tuple(int(length) for length in document["chunk_grid"]["configuration"]["chunk_shape"])
        if min(whole, default=1) < 1:
            raise NotShownError("chunks of no length")
        codecs: tuple[Codec, ...] = metadata.codecs
        sharding = codecs[0] if len(codecs) == 1 else None
        self._index: _ShardIndex | None = None
        self.chunks_per_shard: tuple[int, ...] | None = None
        self.index_range: tuple[int, int | None] = (0, 0)
        self.chunk_shape = whole
        if isinstance(sharding, ShardingCodec):
            self.chunk_shape = tuple(sharding.chunk_shape)
            codecs = sharding.codecs
            self.chunks_per_shard = tuple(
                length // inner for length, inner in zip(whole, self.chunk_shape, strict=True)
            )
        itemsize = max(1, self.dtype.itemsize)
        self.raw_pieces: RawPieces | None = None
        if len(codecs) == 1 and isinstance(codecs[0], BytesCodec) and sharding is codecs[0]:
            self.raw_pieces = RawPieces.of(self.shape, whole, itemsize)
        if self.raw_pieces is not None:
            self.chunk_shape, self.chunks_per_shard = self.raw_pieces.shape, self.raw_pieces.per_chunk
        self.means = (json.dumps([document.get(name) for name in _DECISIVE], sort_keys=True), self.chunk_shape)
        self.chunk_bytes = prod(self.chunk_shape) * itemsize
        _check_size("chunks", self.chunk_bytes, max_chunk_bytes)
        fill_value = metadata.fill_value
        self.fill_value = np.empty((), self.dtype)
        self.fill_value[()] = fill_value
        self._missing = np.broadcast_to(self.fill_value, self.chunk_shape)
        spec = _spec(self.chunk_shape, metadata.data_type, fill_value)
        self._chain = Chain(codecs, spec, max_chunk_bytes)
        if isinstance(sharding, ShardingCodec) and self.chunks_per_shard is not None:
            self._index = _ShardIndex(sharding, self.chunks_per_shard, max_chunk_bytes)
            self.index_range = self._index.byte_range

    @property
    def max_encoded_bytes(self) -> int:
        """The most bytes that an encoded chunk can need."""
        return self._chain.max_encoded_bytes

    def decode(self, data: bytes) -> np.ndarray:
        """Decodes a chunk into an array of `chunk_shape`, in C order and not to be written to.

        Raises whatever the codecs raise, and ValueError where they make something else.
        """
        found = self._chain.decode(data)
        if found.shape != self.chunk_shape:
            raise ValueError(f"it has the shape {found.shape}, and not {self.chunk_shape}")
        found = np.ascontiguousarray(found, self.dtype).reshape(self.chunk_shape)
        found.flags.writeable = False
        return found

    def decode_index(self, data: bytes) -> np.ndarray:
        """Decodes a shard's index into offsets and lengths, of shape `(*chunks_per_shard, 2)`; raises as `decode`."""
        assert self._index is not None
        return self._index.decode(data)

    def missing(self) -> np.ndarray:
        """Returns a chunk of fill values, which takes no memory."""
        return self._missing


def codec_of(path: NodePath, document: bytes, max_chunk_bytes: int) -> ArrayCodec:
    """Returns what decodes an array; the same for arrays that differ in nothing but attributes.

    Groups of hundreds of such arrays are common, and zarr-python takes long over each.

    Raises:
        NotShownError: as `ArrayCodec`.
    """
    alike = _without_attributes(document)
    if alike is not None:
        with contextlib.suppress(NotShownError):  # below with the array's own path
            return _shared(alike, max_chunk_bytes)
    return ArrayCodec(path, document, max_chunk_bytes)


@lru_cache(maxsize=256)
def _shared(document: str, max_chunk_bytes: int) -> ArrayCodec:
    return ArrayCodec(ROOT_NODE, document.encode(), max_chunk_bytes)


def _without_attributes(document: bytes) -> str | None:
    """Returns an array's `zarr.json` without attributes; None if it is malformed."""
    try:
        found = json.loads(document)
        if not isinstance(found, dict) or not isinstance(found.pop("attributes", {}), dict):
            return None
        return json.dumps(found)
    except (ValueError, RecursionError):
        return None


def _spec(shape: tuple[int, ...], dtype: Any, fill_value: Any) -> ArraySpec:
    return ArraySpec(shape, dtype, fill_value, ArrayConfig.from_dict({"order": "C"}), default_buffer_prototype())


def _check_size(what: str, size: int, limit: int) -> None:
    if size > limit:
        raise NotShownError(f"{what} of {plural(size, 'byte')}, and {limit} are the most that is decoded at once")


def _check_installed(name: str, configuration: Mapping[str, Any]) -> None:
    """Raises NotShownError if a codec is not installed, and what a codec raises that takes no such configuration."""
    numcodecs_name = name.removeprefix("numcodecs.")
    try:
        if numcodecs_name != name:
            # zarr-python would find this out when the first chunk is decoded.
            numcodecs.get_codec({"id": numcodecs_name, **configuration})
        else:
            get_codec_class(name)
    # zarr-python 3.1 has a KeyError.
    except (numcodecs.errors.UnknownCodecError, zarr.errors.UnknownCodecError, KeyError) as error:
        raise NotShownError(f"its codec {name!r} is not installed") from error


def _named_codecs(documents: Any) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yields the name and configuration of all codecs, those inside of shards too."""
    for document in documents:
        if isinstance(document, str):
            yield document, {}
            continue
        configuration = document.get("configuration") or {}
        yield document["name"], configuration
        if document["name"] == "sharding_indexed":
            yield from _named_codecs(configuration.get("codecs", ()))
