"""The repository that both libraries commit to."""

from tests.conformance.official import GROUP, array_json

BASE = {
    "zarr.json": GROUP,
    "a/zarr.json": array_json([8, 8], [2, 2]),
    "a/c/0/0": b"zero",
    "a/c/1/2": b"one two",
    "a/c/3/3": b"x" * 600,
    "g/zarr.json": GROUP,
    "g/b/zarr.json": array_json([6], [1], dimension_names=["t"]),
    "g/b/c/0": b"b0",
    "g/b/c/5": b"b5",
    "g/h/zarr.json": GROUP,
    "g/h/s/zarr.json": array_json([], []),
    "g/h/s/c": b"scalar",
    "untouched/zarr.json": array_json([4], [1]),
    "untouched/c/1": b"stays",
}
