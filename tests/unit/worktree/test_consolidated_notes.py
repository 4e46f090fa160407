"""What is said of consolidated metadata that is not what is below its group: of what is staged, and of a commit."""

import json

import pytest

from icefs.storage.memory import MemoryStorage
from icefs.vfs.notes.consolidated import Nodes, consolidated_notes, groups_concerned
from tests.support.staging_bench import Bench, array, group

A, B = array((4,), (2,)), array((8,), (2,))


def listing(**nodes):
    """Returns a group whose consolidated metadata has nodes, by relative path with `__` for slashes."""
    copy = {path.replace("__", "/"): json.loads(data) for path, data in nodes.items()}
    consolidated = {"kind": "inline", "must_understand": False, "metadata": copy}
    return json.dumps(json.loads(group()) | {"consolidated_metadata": consolidated}).encode()


BASE = {
    "zarr.json": listing(a=A, g=group(), g__x=A, plain=group(), o=A),
    "a/zarr.json": A,
    "g/zarr.json": listing(x=A),
    "g/x/zarr.json": A,
    "plain/zarr.json": group(),
    "o/zarr.json": A,
}
RUN = "; run zarr.consolidate_metadata"

# What is changed, and what is said of which group.
CASES = {
    "nothing": ({}, {}),
    "added": ({"u/zarr.json": A}, {"/": "does not list /u"}),
    "added below a group": ({"g/u/zarr.json": A}, {"/": "does not list /g/u", "/g": "does not list /g/u"}),
    "added below a group without a copy": ({"plain/u/zarr.json": A}, {"/": "does not list /plain/u"}),
    "many added": (
        {f"u{n}/zarr.json": A for n in range(5)},
        {"/": "does not list /u0, /u1, /u2 and 2 more"},
    ),
    "removed": ({"a": None}, {"/": "lists /a which is gone"}),
    "removed with the group": ({"g": None}, {"/": "lists /g, /g/x which are gone"}),
    "a group becomes implicit": ({"plain/u/zarr.json": A, "plain/zarr.json": None}, {"/": "does not list /plain/u"}),
    "renamed": ({"a": "b"}, {"/": "does not list /b, lists /a which is gone"}),
    "a group renamed": ({"g": "h"}, {"/": "does not list /h, /h/x, lists /g, /g/x which are gone"}),
    "changed": ({"g/x/zarr.json": B}, {"/": "has other metadata for /g/x", "/g": "has other metadata for /g/x"}),
    "added and consolidated": (
        {"u/zarr.json": A, "zarr.json": listing(a=A, g=group(), g__x=A, plain=group(), o=A, u=A)},
        {},
    ),
    "the copy alone is made wrong": (
        {"zarr.json": listing(g=group(), g__x=A, plain=group(), o=A)},
        {"/": "does not list /a"},
    ),
    "the copy is removed": ({"zarr.json": group(), "u/zarr.json": A}, {}),
    "chunks alone": ({"a/c/0": b"a0"}, {}),
    "the copy is no copy": (
        {"zarr.json": group()[:-1] + b', "consolidated_metadata": [1]}', "u/zarr.json": A},
        {},
    ),
    "the copy is null": ({"zarr.json": group()[:-1] + b', "consolidated_metadata": null}', "u/zarr.json": A}, {}),
    "a nested copy": (
        {"zarr.json": listing(a=A, g=listing(x=A), plain=group(), o=A), "u/zarr.json": A},
        {"/": "does not list /u"},
    ),
    "the same in other words": (
        {
            "a/zarr.json": json.dumps(
                {
                    **{key: value for key, value in json.loads(A).items() if key != "attributes"},
                    "dimension_names": None,
                    "storage_transformers": [],
                    "codecs": [
                        {"name": "bytes", "configuration": {"endian": "little"}},
                        *json.loads(A)["codecs"][1:],
                    ],
                    "fill_value": 0.0,
                }
            ).encode()
        },
        {},
    ),
    "another setting of a codec": (
        {
            "a/zarr.json": A.replace(b'{"name": "bytes"}', b'{"name": "gzip", "configuration": {"level": 1}}'),
            "zarr.json": listing(
                a=A.replace(b'{"name": "bytes"}', b'{"name": "gzip", "configuration": {"level": 2}}'),
                g=group(), g__x=A, plain=group(), o=A,
            ),
        },
        {"/": "has other metadata for /a"},
    ),
}  # fmt: skip


@pytest.fixture
def bench(tmp_path):
    bench = Bench(tmp_path / "tree", MemoryStorage())
    bench.write_all(BASE)
    assert bench.commit("base").facts["notes"] == []
    yield bench
    bench.work.close()


def change(bench, changes):
    for path, data in changes.items():
        if data is None:
            bench.remove(path)
        elif isinstance(data, str):
            bench.rename(path, data)
        else:
            bench.write(path, data)


def lines(said):
    return [f"consolidated metadata of {path} {what}{RUN}" for path, what in said.items()]


@pytest.mark.parametrize("case", CASES)
def test_what_is_staged_and_what_is_committed_is_said_in_the_same_words(bench, case):
    changes, said = CASES[case]
    change(bench, changes)
    nodes = Nodes(bench.session, bench.staged())
    assert list(consolidated_notes(nodes, groups_concerned(nodes, nodes.changed())).values()) == lines(said)
    assert bench.commit("x", allow_empty=True).facts["notes"] == lines(said)
    # It is said once: the next commit changes nothing below these groups.
    assert bench.commit("y", allow_empty=True).facts["notes"] == []


WRITTEN = [
    case
    for case, (changes, _) in CASES.items()
    if changes and "a/c/0" not in changes and all(isinstance(data, bytes) for data in changes.values())
]


@pytest.mark.parametrize("case", WRITTEN)
def test_what_others_have_changed_is_said_of_a_commit_that_was_rebased_on_it(bench, case):
    changes, said = CASES[case]
    bench.write("o/c/1", b"ours")
    bench.theirs(changes)
    assert bench.commit("ours", rebase="fail").facts["notes"] == lines(said)


def test_a_group_below_which_nothing_changed_is_not_looked_at(bench):
    change(bench, {"u/zarr.json": A})
    nodes = Nodes(bench.session, bench.staged())
    assert groups_concerned(nodes, nodes.changed()) == {"/"}
