"""Chunk references: Hypothesis strategies, and a few fixed arrays that have every kind and every optional field."""

from random import Random
from typing import TYPE_CHECKING

import numpy as np
from hypothesis import strategies as st

from icefs.format.chunk_indices import ChunkIndices
from icefs.format.ids import ChunkId, NodeId
from icefs.format.manifest.refs import ArrayRefs, ChunkKind, ChunkRef, InlineRef, NativeRef, VirtualRef

if TYPE_CHECKING:
    from collections.abc import Callable

type Index = tuple[int, ...]

UINT64 = st.integers(0, 2**64 - 1)
SMALL = st.integers(0, 3)
"""Few coordinates, so that indices collide and share prefixes."""
ANY_COORDINATE = st.one_of(SMALL, st.integers(0, 2**32 - 1), st.just(2**32 - 1))
NODE_IDS = st.binary(min_size=8, max_size=8).map(NodeId)

inline_refs = st.builds(InlineRef, st.one_of(st.just(b""), st.binary(max_size=40)))
native_refs = st.builds(
    NativeRef, st.binary(min_size=12, max_size=12).map(ChunkId), st.one_of(st.just(0), UINT64), UINT64
)
virtual_refs = st.builds(
    VirtualRef,
    st.one_of(st.text(max_size=12), st.sampled_from(["s3://bucket/key.nc", "vcc://name/päth", "x" * 2000])),
    UINT64,
    UINT64,
    st.one_of(st.none(), st.just(""), st.text(max_size=8)),
    st.one_of(st.just(0), st.integers(1, 2**32 - 1)),
)
chunk_refs: st.SearchStrategy[ChunkRef] = st.one_of(inline_refs, native_refs, virtual_refs)


def index_maps(ndim: int, coordinate: st.SearchStrategy[int] = SMALL) -> st.SearchStrategy[dict[Index, ChunkRef]]:
    """Chunk references by index: the model of an `ArrayRefs`."""
    return st.dictionaries(st.tuples(*[coordinate] * ndim), chunk_refs, max_size=12)


def index_sets(ndim: int, coordinate: st.SearchStrategy[int] = SMALL) -> st.SearchStrategy[set[Index]]:
    """Sets of chunk indices: the model of a `ChunkIndices`."""
    return st.sets(st.tuples(*[coordinate] * ndim), max_size=12)


def as_map(refs: ArrayRefs) -> dict[Index, ChunkRef]:
    """The model of `refs`, in the order of its rows."""
    return {refs.index(row): refs.ref(row) for row in range(len(refs))}


def sample_arrays(count: int = 60, seed: int = 0) -> list[ArrayRefs]:
    """Makes arrays of each kind of reference alone, of all kinds, a scalar, and one with far coordinates."""
    random = Random(seed)
    makers: list[tuple[str, Callable[[int], ChunkRef]]] = [
        ("inline", lambda _: InlineRef(random.randbytes(random.randrange(30)))),
        ("native", lambda _: NativeRef(ChunkId(random.randbytes(12)), 0, random.randrange(1, 10**6))),
        (
            "offset",
            lambda _: NativeRef(ChunkId(random.randbytes(12)), random.randrange(10**9), random.randrange(10**6)),
        ),
        ("virtual", lambda row: _virtual(random, row)),
        ("mixed", lambda row: makers[row % 4][1](row)),
    ]
    arrays = []
    for number, (_, make) in enumerate(makers):
        ndim = 1 + number % 3
        indices = sorted({tuple(random.randrange(6) for _ in range(ndim)) for _ in range(count)})
        arrays.append(_array(number, ndim, [(index, make(row)) for row, index in enumerate(indices)]))
    arrays.append(_array(5, 0, [((), InlineRef(b"scalar"))]))
    arrays.append(_array(6, 2, [((2**32 - 1, 0), _virtual(random, 3)), ((7, 2**32 - 1), InlineRef(b""))]))
    return arrays


def sample_indices() -> dict[NodeId, ChunkIndices]:
    """The chunk indices of `sample_arrays`, and an array without any."""
    found = {refs.node_id: refs.indices for refs in sample_arrays()}
    found[NodeId(bytes(7) + b"\xff")] = ChunkIndices([np.zeros(0, np.uint32)])
    return found


def kinds_in(refs: ArrayRefs) -> set[ChunkKind]:
    """Which kinds of references there are."""
    return {ChunkKind(kind) for kind in np.unique(refs.kinds).tolist()}


def _virtual(random: Random, row: int) -> VirtualRef:
    etag = f'"{random.randrange(10**6)}"' if row & 1 else None
    modified = random.randrange(1, 2**32) if row & 2 else 0
    location = f"s3://bucket/füür/{random.randrange(10**6):06}.nc"
    return VirtualRef(location, random.randrange(2**40), random.randrange(2**20), etag, modified)


def _array(number: int, ndim: int, refs: list[tuple[Index, ChunkRef]]) -> ArrayRefs:
    return ArrayRefs.from_refs(NodeId(bytes(7) + bytes((number,))), ndim, refs)
