"""Malformed and missing keys, byte ranges, listings of what does not exist: both libraries side by side.

Each case is asked of both; what the official library answers is checked too, so that a change there is noticed.
"""

import asyncio
from typing import Any

import pytest
from zarr.abc.store import ByteRequest, OffsetByteRequest, RangeByteRequest, SuffixByteRequest
from zarr.core.buffer import Buffer, default_buffer_prototype

from tests.conformance.official import GROUP, GeneratedRepo, array_json, commit, create, open_official
from tests.conformance.oracle import error_facts
from tests.conformance.reading import collect, open_icefs

PROTOTYPE = default_buffer_prototype()
PANIC = ("RustPanic", None)
INVALID = ("InvalidInputError", "invalid-key")
OUT_OF_RANGE = ("InvalidInputError", "invalid-byte-range")
NOT_AN_ARRAY = ("InvalidInputError", "not-an-array")
V2_KEY = ("NodeNotFoundError", "key-not-found")


@pytest.fixture(scope="module", params=[1, 2])
def stores(request, tmp_path_factory) -> tuple[Any, Any]:
    path = tmp_path_factory.mktemp("keys") / "repo"
    items = {"zarr.json": GROUP, "a/zarr.json": array_json([4, 4], [2, 2]), "a/c/0/0": b"0123456789"}
    items |= {"s/zarr.json": array_json([], []), "s/c": b"s", "z/zarr.json": array_json([4], [2])}
    items |= {"g/h/zarr.json": GROUP, "n/zarr.json": array_json([4], [4]), "n/c/0": b"n" * 1000}
    commit(create(path, request.param), "all", items)
    generated = GeneratedRepo("keys", path, request.param)
    official = open_official(generated).readonly_session("main").store
    return official, open_icefs(generated).readonly_session("main").store


def answer(call: Any) -> Any:
    """Runs a coroutine; returns its value, or the class and kind of its error."""

    async def run() -> Any:
        return await call()

    try:
        found = asyncio.run(run())
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt):
            raise
        return error_facts(error)
    return found.to_bytes() if isinstance(found, Buffer) else found


# key: (official get, official exists), and ours where they differ.
KEYS: dict[str, tuple[Any, ...]] = {
    "a/c/0/0": (b"0123456789", True),
    "/a//c/0/0": (b"0123456789", True),
    "a/c/1/1": (None, False),
    "a/c/9/9": (None, False),
    "a/c": (None, False),
    "a/c/0": (None, False),
    "s/c": (b"s", True),
    "s/c/0": (None, False),
    "z/c/0": (None, False),
    "nothing/c/0": (None, False),
    "nothing/zarr.json": (None, False),
    "g/zarr.json": (None, False),
    "a/zarr.json/c/0": (None, False),
    "abc/0/1": (None, False, None, False),  # Divergence 13: the same answer by another way
    "README.md": (INVALID, INVALID),
    "": (INVALID, INVALID),
    "a": (INVALID, INVALID),
    "a/c/-1/0": (INVALID, INVALID, None, False),
    "a/c/0/-1": (INVALID, INVALID),
    "a/c/0/1a": (INVALID, INVALID),
    "a/c/0/１": (INVALID, INVALID),
    "a/c/0/4294967296": (INVALID, INVALID),
    "a/../a/c/0/0": (INVALID, INVALID),
    "zarr.json.aux.xml": (INVALID, INVALID),
    "a/0.__lock": (INVALID, INVALID),
    "a/zarr.5f3b.partial": (INVALID, INVALID),
    "a/./c/0/0": (b"0123456789", True, INVALID, INVALID),  # Divergence 26
    "a/c/0/0/": (INVALID, INVALID, b"0123456789", True),  # Divergence 26
    "zarr.json/": (INVALID, INVALID, GROUP, True),  # Divergence 26
    "a/c/0.0": (INVALID, INVALID, None, False),  # Divergence 26
    "a/0.0": (INVALID, INVALID, None, False),  # Divergence 26
    "a/c.0.0": (INVALID, INVALID, None, False),  # Divergence 26
    "a/0/0": (INVALID, INVALID, None, False),  # Divergence 26
    "a/c/00/0": (b"0123456789", True, None, False),  # Divergence 12
    "a/c/0/+0": (b"0123456789", True, INVALID, INVALID),  # Divergence 12
    "c": (NOT_AN_ARRAY, NOT_AN_ARRAY, None, False),  # Divergence 24
    "c/0": (NOT_AN_ARRAY, NOT_AN_ARRAY, None, False),  # Divergence 24
    ".zgroup": (None, V2_KEY, None, False),  # Divergence 23
    "a/.zarray": (None, V2_KEY, None, False),  # Divergence 23
    "a/.zattrs": (None, V2_KEY, None, False),  # Divergence 23
}


@pytest.mark.parametrize("key", list(KEYS))
def test_keys(stores, key):
    official, ours = stores
    expected = KEYS[key]
    assert answer(lambda: official.get(key, PROTOTYPE)) == expected[0]
    assert answer(lambda: official.exists(key)) == expected[1]
    get, exists = expected[-2:]
    assert answer(lambda: ours.get(key, PROTOTYPE)) == get
    assert answer(lambda: ours.exists(key)) == exists
    size = answer(lambda: ours.getsize(key))
    if isinstance(get, bytes):
        assert size == len(get)
    elif get is None:
        assert size == V2_KEY, "Divergence 22: a missing key has no size"
    else:
        assert size == get


def test_the_size_of_a_missing_chunk(stores):
    assert answer(lambda: stores[0].getsize("a/c/1/1")) == 0, "Divergence 22"


# byte range: of the chunk "0123456789" officially and, where that differs, in icefs; the same of the root's zarr.json.
RANGES: list[tuple[ByteRequest, tuple[Any, ...], tuple[Any, ...]]] = [
    (RangeByteRequest(0, 4), (b"0123",), (GROUP[:4],)),
    (RangeByteRequest(0, 10), (b"0123456789",), (GROUP[:10],)),
    (RangeByteRequest(4, 4), (b"",), (b"",)),
    (OffsetByteRequest(0), (b"0123456789",), (GROUP,)),
    (OffsetByteRequest(7), (b"789",), (GROUP[7:],)),
    (SuffixByteRequest(10), (b"0123456789",), (GROUP[:-10], GROUP[-10:])),  # Divergence 19
    (SuffixByteRequest(3), (b"789",), (GROUP[:-3], GROUP[-3:])),  # Divergence 19
    (SuffixByteRequest(0), (b"",), (GROUP, b"")),  # Divergence 19
    (RangeByteRequest(5, 1000), (OUT_OF_RANGE, b"56789"), (PANIC, GROUP[5:])),  # Divergence 18
    (SuffixByteRequest(1000), (OUT_OF_RANGE, b"0123456789"), (PANIC, GROUP)),  # Divergence 21
    (OffsetByteRequest(1000), (OUT_OF_RANGE,), (PANIC, OUT_OF_RANGE)),  # Divergence 20
    (RangeByteRequest(999, 1000), (OUT_OF_RANGE,), (PANIC, OUT_OF_RANGE)),  # Divergence 20
    (RangeByteRequest(4, 3), (PANIC, OUT_OF_RANGE), (PANIC, OUT_OF_RANGE)),  # Divergence 20
]


@pytest.mark.parametrize(("byte_range", "chunk", "metadata"), RANGES, ids=str)
def test_byte_ranges(stores, byte_range, chunk, metadata, capfd):
    for key, expected in (("a/c/0/0", chunk), ("zarr.json", metadata)):
        for store, wanted in zip(stores, (expected[0], expected[-1]), strict=True):
            assert answer(lambda: store.get(key, PROTOTYPE, byte_range)) == wanted, (type(store), key)  # noqa: B023


def test_missing_keys_among_partial_values(stores):
    official, ours = stores
    wanted = [("a/c/1/1", None), ("a/c/0/0", None)]
    assert answer(lambda: official.get_partial_values(PROTOTYPE, wanted)) == ("TypeError", None), "Divergence 25"
    missing, found = answer(lambda: ours.get_partial_values(PROTOTYPE, wanted))
    assert missing is None
    assert found.to_bytes() == b"0123456789"


BAD_PREFIX = ("InvalidInputError", "bad-key-prefix")

# prefix: official list_dir, list_prefix, and ours where they differ.
LISTINGS: dict[str, tuple[Any, ...]] = {
    "": (["a", "n", "s", "z", "zarr.json"], 9, ["a", "g", "n", "s", "z", "zarr.json"], 9),  # Divergence 15
    "a": (["c", "zarr.json"], 2),
    "a/": (["c", "zarr.json"], 2),
    "/a": (["c", "zarr.json"], 0, ["c", "zarr.json"], 2),  # Divergence 17
    "s": (["c", "zarr.json"], 2),
    "z": (["c", "zarr.json"], 1, ["zarr.json"], 1),  # Divergence 14
    "g/h": (["zarr.json"], 1),
    "a/c": (["0"], BAD_PREFIX, ["0"], 1),  # Divergence 16
    "a/c/0": (["0"], BAD_PREFIX, ["0"], 1),
    "a/c/7": ([], BAD_PREFIX, [], 0),
    "a/c/0/0": ([], BAD_PREFIX, [], 0),
    "g": ([], BAD_PREFIX, ["h"], 1),  # Divergences 15 and 16
    "nothing": ([], BAD_PREFIX, [], 0),
    "a/zarr.json": ([], BAD_PREFIX, [], 0),
}


@pytest.mark.parametrize("prefix", list(LISTINGS))
def test_listings(stores, prefix):
    expected = LISTINGS[prefix]

    async def names(store: Any) -> list[str]:
        return sorted(await collect(store.list_dir(prefix)))

    async def count(store: Any) -> int:
        return len(await collect(store.list_prefix(prefix)))

    for store, (wanted_names, wanted_count) in zip(stores, (expected[:2], expected[-2:]), strict=True):
        assert answer(lambda: names(store)) == wanted_names  # noqa: B023
        assert answer(lambda: count(store)) == wanted_count  # noqa: B023
    assert answer(lambda: stores[1].is_empty(prefix)) is (expected[-1] == 0)


def test_equality(stores, tmp_path):
    official, ours = stores
    assert official.session.store == official
    assert ours.session.store == ours
    copy = official.session.snapshot_id
    assert copy == ours.session.snapshot_id
    assert ours.with_read_only() == ours, "Divergence 33"


@pytest.mark.parametrize("name", ["hostile-names-v2", "names-v1", "names-v2"])
def test_the_chunk_key_encoding_does_not_matter_to_the_official_store(oracle_of, name):
    """Divergence 10 needs arrays of other encodings; everywhere else the keys are the same."""
    assert all(not content.official_keys for content in oracle_of(name).contents.values())
