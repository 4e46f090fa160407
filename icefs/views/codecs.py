"""The codecs of an array, by zarr-python, which is imported with this module and by no other one of views.

Each array has a chain of codecs. Where the chain is sharding alone, the inner chunks are decoded one by one, and the
chain is that of the inner chunks. Source: Zarr v3 "Codecs", "sharding_indexed".
"""

import asyncio
import contextlib
import json
import threading
import warnings
from collections.abc import Iterator
from functools import lru_cache
from math import prod
from typing import Any, Final

import numcodecs
import numpy as np
from zarr.abc.codec import BytesBytesCodec, Codec, SupportsSyncCodec
from zarr.codecs.bytes import BytesCodec
from zarr.codecs.sharding import ShardingCodec
from zarr.core.array_spec import ArrayConfig, ArraySpec
from zarr.core.buffer import Buffer, NDBuffer, default_buffer_prototype
from zarr.core.dtype import UInt64
from zarr.core.metadata.v3 import ArrayV3Metadata

from icefs.errors import NotShownError
from icefs.paths import ROOT_NODE, NodePath
from icefs.views.inflation import INFLATE
from icefs.views.raw_pieces import RawPieces
from icefs.words import plural

MAX_CHUNK_BYTES: Final = 1 << 30
"""Arrays whose chunks are larger when they are decoded are not shown."""

# Compressors may make a chunk larger that does not compress.
_MAX_OVERHEAD: Final = 1 << 16
_VARIABLE: Final = frozenset({"vlen-utf8", "vlen-bytes"})
_NO_CHUNK: Final = (1 << 64) - 1

# `warnings.catch_warnings` changes what all threads see.
_warnings_lock = threading.Lock()


class Chain:
    """A chain of codecs for chunks of one shape.

    Immutable, and safe to use from any thread.

    Attributes:
        max_encoded_bytes: The most bytes that an encoded chunk can need.
    """

    def __init__(self, codecs: tuple[Codec, ...], spec: ArraySpec, max_bytes: int) -> None:
        """Takes codecs that know their array's data type, and the chunks as they come out of them.

        Args:
            codecs: The codecs, in the order of encoding.
            spec: The shape, data type and fill value of the chunks.
            max_bytes: The most bytes that any codec may make of a chunk whose data type has no fixed size.
        """
        self._steps: list[tuple[Codec, ArraySpec, int]] = []
        limit, has_known_size = max_bytes, not any(isinstance(codec, ShardingCodec) for codec in codecs)
        for codec in codecs:
            self._steps.insert(0, (codec, spec, limit))
            spec = codec.resolve_metadata(spec)
            dtype = np.dtype(spec.dtype.to_native_dtype())
            if has_known_size and dtype.kind not in {"O", "T"}:
                size = prod(spec.shape) * dtype.itemsize
                limit = size + size // 8 + _MAX_OVERHEAD
        self.max_encoded_bytes = limit

    def decode(self, data: bytes) -> np.ndarray:
        """Decodes a chunk; raises whatever the codecs raise."""
        value: Buffer | NDBuffer = default_buffer_prototype().buffer.from_bytes(data)
        for codec, spec, limit in self._steps:
            if isinstance(value, Buffer):
                inflated = _checked(codec, memoryview(value.as_numpy_array()), spec, limit)
                if inflated is not None:
                    value = spec.prototype.buffer.from_bytes(inflated)
                    continue
            value = _decode(codec, value, spec)
        assert isinstance(value, NDBuffer)
        return value.as_numpy_array()


def _checked(codec: Codec, data: memoryview, spec: ArraySpec, limit: int) -> bytes | None:
    """Refuses bytes of which a codec would make more than the chunk can need.

    Returns:
        What the codec makes of them, if that had to be found out.

    Raises:
        ValueError: they would become too many, or do not decode.
    """
    name = str(codec.to_dict().get("name"))
    if name in _VARIABLE:
        # numcodecs makes room for as many items as the first four bytes say.
        count, size = int.from_bytes(data[:4], "little"), prod(spec.shape)
        if count != size:
            raise ValueError(f"it has {plural(count, 'item')}, and not {size}")
    if isinstance(codec, BytesBytesCodec) and name in INFLATE:
        return INFLATE[name](data, limit)
    return None


def _decode(codec: Any, value: Buffer | NDBuffer, spec: ArraySpec) -> Buffer | NDBuffer:
    # Sharding within something else may have codecs inside that can only be awaited.
    if isinstance(codec, SupportsSyncCodec) and not isinstance(codec, ShardingCodec):
        found: Buffer | NDBuffer | None = codec._decode_sync(value, spec)
    else:
        (found,) = asyncio.run(codec.decode([(value, spec)]))
    if found is None:
        raise ValueError(f"{type(codec).__name__} made nothing of it")
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
            raise NotShownError(f"{path}: {error}", path=path, reason=str(error)) from None
        except Exception as error:  # metadata is not trusted, and codecs are anybody's
            reason = f"{error}" or type(error).__name__
            raise NotShownError(f"{path}: {reason}", path=path, reason=reason) from error

    def _read(self, document: dict[str, Any], max_chunk_bytes: int) -> None:
        grid = document["chunk_grid"]["name"]
        if grid != "regular":
            raise NotShownError(f"a chunk grid of the kind {grid!r}")
        metadata = ArrayV3Metadata.from_dict(document)
        if metadata.storage_transformers:
            raise NotShownError("storage transformers")
        for name, configuration in _named_codecs(document["codecs"]):
            if name.startswith("numcodecs."):
                # zarr-python would find out that a codec is not installed when the first chunk is decoded.
                numcodecs.get_codec({"id": name.removeprefix("numcodecs."), **configuration})
        self.shape: tuple[int, ...] = tuple(metadata.shape)
        self.dtype: np.dtype[np.generic] = np.dtype(metadata.data_type.to_native_dtype())
        whole = tuple(int(length) for length in document["chunk_grid"]["configuration"]["chunk_shape"])
        if min(whole, default=1) < 1:
            raise NotShownError("chunks of no length")
        codecs: tuple[Codec, ...] = metadata.codecs
        sharding = codecs[0] if len(codecs) == 1 else None
        self._index: Chain | None = None
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
        self.chunk_bytes = prod(self.chunk_shape) * itemsize
        _check_size("chunks", self.chunk_bytes, max_chunk_bytes)
        fill_value = metadata.fill_value
        self.fill_value = np.empty((), self.dtype)
        self.fill_value[()] = fill_value
        self._missing = np.broadcast_to(self.fill_value, self.chunk_shape)
        spec = _spec(self.chunk_shape, metadata.data_type, fill_value)
        self._chain = Chain(codecs, spec, max_chunk_bytes)
        if isinstance(sharding, ShardingCodec) and self.chunks_per_shard is not None:
            _check_size("shard indices", 16 * prod(self.chunks_per_shard), max_chunk_bytes)
            self._read_index(sharding, self.chunks_per_shard)

    def _read_index(self, sharding: ShardingCodec, chunks_per_shard: tuple[int, ...]) -> None:
        spec = _spec((*chunks_per_shard, 2), UInt64(endianness="little"), _NO_CHUNK)
        codecs, step, size = [], spec, 16 * prod(chunks_per_shard)
        for codec in sharding.index_codecs:
            evolved = codec.evolve_from_array_spec(step)
            size = evolved.compute_encoded_size(size, step)
            step = evolved.resolve_metadata(step)
            codecs.append(evolved)
        self._index = Chain(tuple(codecs), spec, size)
        self.index_range = (0, size) if str(sharding.index_location) == "start" else (-size, None)

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
        assert self.chunks_per_shard is not None
        return self._index.decode(data).reshape(*self.chunks_per_shard, 2)

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
