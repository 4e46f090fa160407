"""Opens the arrays of a hierarchy; zarr-python is imported with the first one."""

import os
import threading
from dataclasses import dataclass
from typing import Final, override

from icefs.engine.read.workers import Workers
from icefs.errors import NodeNotFoundError, NotShownError
from icefs.paths import NodePath
from icefs.views.chunk_cache import DEFAULT_BYTES, ChunkCache, Gate
from icefs.views.interface import Decoder, Elements, Hierarchy
from icefs.zarr.keys import metadata_key

_WORKERS: Final = 8


@dataclass(frozen=True, slots=True)
class DecodingLimits:
    """How much decoding may take.

    Attributes:
        cache_bytes: What decoded chunks may take that are kept; as much again may be in work.
        max_chunk_bytes: Arrays whose chunks are larger when they are decoded are not shown.
        max_workers: How many threads fetch and decode ahead of readers; None for as many as there are processors, but
            at least eight, since a store far away answers as many requests at once.
    """

    cache_bytes: int = DEFAULT_BYTES
    max_chunk_bytes: int = 1 << 30
    max_workers: int | None = None


class Decoding:
    """What all views of a mount decode with: one cache, one limit, and threads.

    Nothing of it takes memory or a thread before the first chunk is decoded.

    Safe to use from any thread.

    Attributes:
        limits: How much it may take.
        cache: The decoded chunks.
        gate: Limits what is being decoded.
        workers: Decode ahead of readers.
    """

    def __init__(self, limits: DecodingLimits | None = None) -> None:
        self.limits = limits or DecodingLimits()
        self.cache = ChunkCache(self.limits.cache_bytes)
        self.gate = Gate(self.limits.cache_bytes)
        self.workers = Workers(self.limits.max_workers or max(_WORKERS, os.cpu_count() or 1), "icefs-decode")

    def close(self) -> None:
        """Ends the threads and forgets the chunks."""
        self.workers.close()
        self.cache.clear()


class ZarrDecoder(Decoder):
    """Opens the arrays of one hierarchy, each once.

    Safe to use from any thread; `_lock` guards `_opened`.
    """

    def __init__(self, hierarchy: Hierarchy, decoding: Decoding) -> None:
        """Takes the hierarchy, and what its mount decodes with."""
        self._hierarchy = hierarchy
        self._decoding = decoding
        self._lock = threading.Lock()
        self._opened: dict[NodePath, Elements | NotShownError] = {}

    @override
    def open(self, array: NodePath) -> Elements:
        with self._lock:
            opened = self._opened.get(array)
        if opened is None:
            try:
                opened = self._open(array)
            except NotShownError as error:
                opened = error.with_traceback(None)
            with self._lock:
                opened = self._opened.setdefault(array, opened)
        if isinstance(opened, NotShownError):
            raise NotShownError(opened.own_message, opened.kind, hint=opened.hint, **opened.facts)
        return opened

    def _open(self, array: NodePath) -> Elements:
        # zarr-python takes half a second to import, and a mount whose views nobody reads does not need it.
        from icefs.views.chunk_source import ChunkSource
        from icefs.views.codecs import codec_of
        from icefs.views.elements import ArrayElements

        document = self._hierarchy.read(metadata_key(array))
        if document is None:
            raise NodeNotFoundError(f"no array at {array}", path=array)
        decoding = self._decoding
        codec = codec_of(array, document, decoding.limits.max_chunk_bytes)
        source = ChunkSource(self._hierarchy, array, document, codec, decoding.cache, decoding.gate)
        return ArrayElements(source, decoding.workers)
