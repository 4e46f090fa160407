"""Repositories that are about nodes: their names, metadata, data types, chunk grids and chunk keys."""

import json
import unicodedata
from itertools import product
from pathlib import Path
from typing import Any

import icechunk as ic
import numpy as np
import zarr
from zarr.codecs import BloscCodec, BytesCodec, Crc32cCodec, GzipCodec, ShardingCodec, TransposeCodec, ZstdCodec

from tests.conformance.official import GROUP, GeneratedRepo, array_json, commit, create, put, put_all

ODD_NAMES = (
    "c",
    "c/c",
    "C",
    "0",
    "0/1",
    "ü x%41",
    "a b/ c ",
    "..x",
    "x.",
    "...",
    "v1.0.json",
    "line\nbreak",
    "tab\t",
    unicodedata.normalize("NFC", "Zoë"),
    unicodedata.normalize("NFD", "Zoë"),
    "😀",
    "__hidden",
    ".dot",
    "~",
    "a\\b",
    "con",
    "-rf",
    "*?[]{}|<>\"'`$&;!#",
    "x" * 255,
    "é" * 127,
    "/".join(f"d{level}" for level in range(40)),
)


def empty(path: Path, spec_version: int) -> GeneratedRepo:
    """Nothing but the initial snapshot: not even a root group."""
    create(path, spec_version)
    return GeneratedRepo("empty", path, spec_version)


def root_array(path: Path, spec_version: int) -> GeneratedRepo:
    """An array at the root, then a scalar there, then a group."""
    repo = create(path, spec_version)
    commit(repo, "array", {"zarr.json": array_json([3, 4], [2, 2]), "c/0/0": b"abcd", "c/1/1": b"e" * 600})
    for message, items in {
        "scalar": {"zarr.json": array_json([], []), "c": b"s"},
        "group": {"zarr.json": GROUP},
    }.items():
        session = repo.writable_session("main")
        session.store.sync_clear()
        put_all(session.store, items)
        session.commit(message)
    return GeneratedRepo("root-array", path, spec_version)


def names(path: Path, spec_version: int) -> GeneratedRepo:
    """Groups and arrays of odd names; parents that are no nodes."""
    repo = create(path, spec_version)
    commit(repo, "groups", {"zarr.json": GROUP} | {f"{name}/zarr.json": GROUP for name in ODD_NAMES})
    arrays: dict[str, bytes] = {}
    for number, name in enumerate(ODD_NAMES):
        prefix = f"{name}/array"
        arrays |= {f"{prefix}/zarr.json": array_json([4], [2]), f"{prefix}/c/1": bytes([number, 1])}
    for name in ("implicit/parents/a", "c/c/c/c", "implicit/c"):
        arrays |= {f"{name}/zarr.json": array_json([2, 2], [1, 1]), f"{name}/c/0/1": name.encode()}
    commit(repo, "arrays", arrays)
    # A node below an array: the official library checks nothing here.
    commit(repo, "below an array", {"c/c/array/sub/zarr.json": GROUP})
    return GeneratedRepo("names", path, spec_version)


def hostile_names(path: Path, spec_version: int) -> GeneratedRepo:
    """Nodes that cannot all be files and directories of one tree."""
    repo = create(path, spec_version)
    items = {f"{name}/zarr.json": GROUP for name in ("zarr.json", "a/zarr.json", "y" * 300, ".icefs", "a")}
    # A group in the place of the directory of the chunks, and one in that of a chunk.
    items |= {"b/zarr.json": array_json([4, 4], [2, 2]), "b/c/0/0": b"data", "b/c/1/1": b"more"}
    items |= {"b/c/zarr.json": GROUP, "b/c/0/0/zarr.json": GROUP}
    commit(repo, "hostile", items)
    return GeneratedRepo("hostile-names", path, spec_version, mountable=False)


def many_nodes(path: Path, spec_version: int) -> GeneratedRepo:
    """More than a thousand nodes in one snapshot."""
    repo = create(path, spec_version)
    items = {"zarr.json": GROUP}
    for number in range(1200):
        items[f"g{number % 12}/n{number}/zarr.json"] = array_json([number], [7]) if number % 3 else GROUP
    commit(repo, "many", items)
    return GeneratedRepo("many-nodes", path, spec_version)


_DTYPES: dict[str, Any] = {
    "bool": np.array([True, False, True, True]),
    **{
        f"{kind}{bits}": np.array([0, 1, 77, 127], f"{kind}{bits}")
        for kind, bits in product(("int", "uint"), (8, 16, 32, 64))
    },
    **{f"float{bits}": np.array([0, -1.5, np.nan, np.inf], f"float{bits}") for bits in (16, 32, 64)},
    "complex64": np.array([1 + 2j, -3j, 0, 4], "complex64"),
    "complex128": np.array([1 + 2j, -3j, np.nan, 4], "complex128"),
    "big_int16": np.array([1, 2, 3, 4], ">i2"),
    "big_float64": np.array([1, 2, 3, 4.5], ">f8"),
    "fixed_utf32": np.array(["ä", "bb", "", "😀"], "U3"),
    "null_terminated": np.array([b"a", b"bb", b"", b"ccc"], "S3"),
    "raw": np.array([b"\x00\x01", b"ab", b"\xff\xfe", b"zz"], "V2"),
    "datetime64": np.array(["2020-01-01", "NaT", "1970-01-01", "2262-01-01"], "datetime64[ns]"),
    "timedelta64": np.array([1, -5, 0, 10**9], "timedelta64[s]"),
    "structured": np.array([(1, 2.5), (3, 4.5), (0, 0), (9, -1)], [("a", "<i4"), ("b", "<f8")]),
}

_CODECS: dict[str, dict[str, Any]] = {
    "raw": {"compressors": None},
    "gzip": {"compressors": GzipCodec(level=1)},
    "zstd": {"compressors": ZstdCodec(level=1, checksum=True)},
    "blosc": {"compressors": BloscCodec()},
    "crc": {"compressors": Crc32cCodec()},
    "transposed": {"filters": TransposeCodec(order=(1, 0)), "compressors": None},
    "big": {"serializer": BytesCodec(endian="big"), "compressors": None},
}


def dtypes(path: Path, spec_version: int) -> GeneratedRepo:
    """Every data type, codec and shard layout that zarr-python writes; scalars and empty arrays."""
    repo = create(path, spec_version)
    session = repo.writable_session("main")
    root = zarr.create_group(session.store)
    for name, values in _DTYPES.items():
        root.create_array(f"types/{name}", data=values, chunks=(2,))
        root.create_array(f"scalars/{name}", data=values[1:2].reshape(()))
    text = root.create_array("types/string", shape=(4,), chunks=(2,), dtype=str)
    text[:] = np.array(["", "häßlich", "x" * 700, "\n"], dtype=object)
    values = np.arange(36, dtype="float32").reshape(6, 6)
    for name, how in _CODECS.items():
        root.create_array(f"codecs/{name}", data=values, chunks=(4, 4), **how)
    big = np.arange(32 * 32, dtype="uint16").reshape(32, 32)
    for place in ("start", "end"):
        codec = ShardingCodec(chunk_shape=(4, 4), index_location=place)
        array = root.create_array(
            f"shards/{place}", shape=big.shape, dtype=big.dtype, chunks=(16, 16), serializer=codec, compressors=None
        )
        array[:20, :20] = big[:20, :20]
    root.create_array("shards/plain", data=big, chunks=(4, 4), shards=(16, 32), dimension_names=("y", "x"))
    for name, shape in {"none": (0,), "some": (0, 5), "all": (0, 0, 0)}.items():
        root.create_array(f"zero/{name}", shape=shape, chunks=(1,) * len(shape), dtype="i4")
    session.commit("everything", {"author": "conformance"})
    return GeneratedRepo("dtypes", path, spec_version)


def encodings(path: Path, spec_version: int) -> GeneratedRepo:
    """Arrays of every chunk key encoding.

    The official store takes `c/0/1` for a chunk whatever the array's metadata says, and nothing else; so chunks of
    all of these arrays exist in the repository, and icefs shows them under the keys that the metadata names.
    """
    repo = create(path, spec_version)
    items = {"zarr.json": GROUP}
    for name, separator in (
        ("default", "/"),
        ("default", "."),
        ("v2", "/"),
        ("v2", "."),
        ("default", None),
        ("v2", None),
    ):
        for ndim in range(4):
            array = f"{name}-{ {'/': 'slash', '.': 'dot', None: 'none'}[separator] }-{ndim}"
            items[f"{array}/zarr.json"] = array_json([25] * ndim, [2] * ndim, encoding=(name, separator))
            for index in {(0,) * ndim, (1,) * ndim, (12, 3, 0)[:ndim]}:
                items["/".join([array, "c", *map(str, index)])] = f"{array}{index}".encode()
    items |= {"empty-v2/zarr.json": array_json([4, 4], [2, 2], encoding=("v2", "."))}
    items |= {"missing/zarr.json": array_json([4], [2], encoding=None), "missing/c/1": b"no encoding"}
    commit(repo, "all encodings", items)
    return GeneratedRepo("encodings", path, spec_version)


def oddities(path: Path, spec_version: int) -> GeneratedRepo:
    """Metadata that is unusual, wrong or huge but accepted; values of every kind in the commit's metadata."""
    repo = create(path, spec_version)
    spaced = b'\n  {"node_type" : "group",\t"zarr_format":3 , "unknown": {"must_understand": false}}\r\n\n'
    attributes = {"nested": [{"a": [None, True, 1.5, -(2**63), 2**64 - 1, "ü\u0000\n"]}], "": "", "long": "x" * 5000}
    items: dict[str, bytes] = {
        "zarr.json": spaced,
        "attributes/zarr.json": json.dumps({"zarr_format": 3, "node_type": "group", "attributes": attributes}).encode(),
        "nan/zarr.json": array_json([2], [1], fill_value="NaN", attributes={"escaped": "\\u00e9 \ud83d\ude00"}),
        "v2-format/zarr.json": b'{"zarr_format":2,"node_type":"group"}',
        "no-format/zarr.json": b'{"node_type":"group"}',
        "duplicate/zarr.json": b'{"zarr_format":3,"node_type":"group","attributes":{"a":1},"attributes":{"a":2}}',
        "bare/zarr.json": array_json(
            [4], [2], data_type=None, fill_value=None, codecs=None, zarr_format=None, attributes=None, encoding=None
        ),
        "bare/c/0": b"chunk of a bare array",
        "dims/zarr.json": array_json([4, 4, 4], [2, 2, 2], dimension_names=["x", None, ""]),
        "dims/c/1/1/1": b"named",
        "dims-null/zarr.json": array_json([4], [2], dimension_names=[None]),
        "huge/zarr.json": array_json([2**63 - 1, 3], [2**32, 3]),
        "huge/c/2147483647/0": b"the last chunk",
        "wide/zarr.json": array_json([2**32 - 1], [1]),
        "wide/c/4294967294": b"the last coordinate",
        "zero-length/zarr.json": array_json([0, 3], [2, 2]),
        "seven/zarr.json": array_json([2] * 7, [1] * 7),
        "seven/c/1/0/1/0/1/0/1": b"seven dimensions",
    }
    if spec_version > 1:  # the official library writes it to version 1, and then cannot read the snapshot
        items["zero-chunk/zarr.json"] = array_json([3], [0])
    metadata = {
        "none": None,
        "bool": [True, False],
        "ints": [0, -1, 127, 128, 255, 256, -(2**31), 2**31, 2**53 + 1, -(2**63), 2**63 - 1, 2**64 - 1],
        "floats": [0.0, -0.0, 1.5, 0.1, 1e300, -1e-300, 3.0],
        "text": ["", "ü😀", "a\nb", "\u0000", "x" * 300],
        "empty": [[], {}, [[]], {"": {}}],
        "mixed": [1, "a", None, 2.5, True, [1, 2], {"k": [1.5, "v"]}],
        "deep": {"a": {"b": {"c": {"d": {"e": [[[[1]]]]}}}}},
        "ü key": "unicode key",
        "ints only": [1, 2, 3],
        "floats only": [1.5, 2.5],
        "strings only": ["a", "bb"],
        "bools only": [True, True, False],
        "big map": {f"key{number}": number for number in range(300)},
    }
    commit(repo, "message: ü\n\nsecond paragraph\t😀", items, metadata=metadata)
    commit(repo, "", {"later/zarr.json": GROUP}, metadata={"": ""})
    return GeneratedRepo("oddities", path, spec_version)


def ragged(path: Path, spec_version: int) -> GeneratedRepo:
    """References whose number of coordinates is not the array's: the official store takes them, as it takes aliases."""
    repo = create(path, spec_version)
    items = {"a/zarr.json": array_json([4, 4], [2, 2]), "a/c/0": b"one", "a/c/1/1": b"two", "a/c/0/0/0": b"three"}
    items |= {"b/zarr.json": array_json([4], [2]), "b/c/01": b"alias", "only/zarr.json": array_json([4], [2])}
    items |= {"only/c/0/0": b"wrong rank only", "scalar/zarr.json": array_json([], []), "scalar/c/0": b"wrong rank"}
    commit(repo, "ragged", items)
    return GeneratedRepo("ragged", path, spec_version)


def rectilinear(path: Path, spec_version: int) -> GeneratedRepo:
    """Chunk grids with chunks of different lengths."""
    repo = create(path, spec_version)

    def grid(*shapes: list[Any]) -> dict[str, Any]:
        return {"name": "rectilinear", "configuration": {"kind": "inline", "chunk_shapes": list(shapes)}}

    items = {
        "a/zarr.json": array_json([10], [], grid=grid([1, 2, 3, 4])),
        "a/c/3": b"last",
        "b/zarr.json": array_json([12, 6], [], grid=grid([[4, 3]], [[1, 2], 4]), dimension_names=["y", "x"]),
        "b/c/2/2": b"corner",
        "b/c/0/1": b"edge" * 200,
    }
    commit(repo, "rectilinear", items)
    return GeneratedRepo("rectilinear", path, spec_version)


def rectilinear_grown(path: Path, spec_version: int) -> GeneratedRepo:
    """A regular grid that becomes a rectilinear one and back."""
    repo = create(path, spec_version)
    regular = array_json([6], [2])
    uneven = array_json(
        [6], [], grid={"name": "rectilinear", "configuration": {"kind": "inline", "chunk_shapes": [[5, 1]]}}
    )
    commit(repo, "regular", {"zarr.json": GROUP, "a/zarr.json": regular, "a/c/0": b"0", "a/c/1": b"1", "a/c/2": b"2"})
    commit(repo, "rectilinear", {"a/zarr.json": uneven, "a/c/1": b"uneven"})
    session = repo.writable_session("main")
    put(session.store, "a/zarr.json", regular)
    session.commit("regular again")
    return GeneratedRepo("rectilinear-grown", path, spec_version)


def split_manifests(path: Path, spec_version: int) -> GeneratedRepo:
    """Arrays over several manifests, changed in parts, resized and split again."""
    conditions, axes = ic.ManifestSplitCondition, ic.ManifestSplitDimCondition
    sizes = {
        conditions.name_matches("^by_name$"): {axes.DimensionName("time"): 3, axes.Any(): 2},
        conditions.path_matches("/axis"): {axes.Axis(1): 2},
        conditions.AnyArray(): {axes.Any(): 4},
    }
    splitting = ic.ManifestSplittingConfig.from_dict(sizes)
    repo = create(path, spec_version, manifest=ic.ManifestConfig(splitting=splitting), inline_chunk_threshold_bytes=6)

    def chunks(name: str, shape: tuple[int, ...], step: int, text: str) -> dict[str, bytes]:
        every = product(*map(range, shape))
        return {
            "/".join([name, "c", *map(str, index)]): f"{text}{index}".encode()
            for number, index in enumerate(every)
            if number % step == 0
        }

    cube = array_json([10, 8], [1, 1], dimension_names=["time", "x"])
    items = {"zarr.json": GROUP, "by_name/zarr.json": cube, "axis/zarr.json": cube, "g/other/zarr.json": cube}
    for name in ("by_name", "axis", "g/other"):
        items |= chunks(name, (10, 8), 1, "v1")
    items |= {"line/zarr.json": array_json([30], [1])} | chunks("line", (30,), 7, "x")
    items |= {"scalar/zarr.json": array_json([], []), "scalar/c": b"scalar value"}
    commit(repo, "all", items)
    commit(repo, "some parts", chunks("by_name", (3, 8), 3, "second") | {"line/c/29": b"end"})
    smaller = array_json([4, 7], [1, 1], dimension_names=["time", "x"])
    commit(repo, "shrink", {"by_name/zarr.json": smaller, "axis/zarr.json": smaller, "g/other/zarr.json": smaller})
    commit(repo, "grow", {f"{name}/zarr.json": cube for name in ("by_name", "axis", "g/other")})
    other = ic.ManifestSplittingConfig.from_dict({conditions.AnyArray(): {axes.Any(): 5}})
    again = repo.reopen(config=ic.RepositoryConfig(manifest=ic.ManifestConfig(splitting=other)))
    commit(again, "other split", {"by_name/c/0/0": b"resplit", "axis/c/9/7": b"resplit too"})
    again.rewrite_manifests("rewritten", branch="main")
    return GeneratedRepo("split-manifests", path, spec_version)


SCENARIOS = {
    empty: (1, 2),
    root_array: (1, 2),
    names: (1, 2),
    hostile_names: (2,),
    many_nodes: (2,),
    dtypes: (1, 2),
    encodings: (1, 2),
    oddities: (1, 2),
    ragged: (1, 2),
    rectilinear: (2,),
    rectilinear_grown: (2,),
    split_manifests: (1, 2),
}
