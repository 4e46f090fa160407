"""The generated repositories have what they are there for: a weaker generator would make every other test weaker."""

import json

import pytest

from tests.conformance import generate
from tests.conformance.oracle import UPDATE_FIELDS, directories


@pytest.mark.parametrize(
    ("name", "expected"),
    [("history-v1", {1, 3}), ("history-v2", {1, 3}), ("migrated-v2", {1, 3}), ("virtual-v2", {1, 2, 3})],
)
def test_every_kind_of_chunk_occurs(oracle_of, name, expected):
    contents = oracle_of(name).contents.values()
    assert {ref[0] for each in contents for refs in each.refs.values() for ref in refs.values()} == expected


def test_the_ops_log_runs_through_many_files(oracle_of):
    updates = oracle_of("long-ops-log-v2").ops_log
    assert len(updates) > 1000
    assert len({update["kind"] for update in updates}) >= 9


def test_every_kind_of_update_occurs(oracle_of):
    kinds = {update["kind"] for name in generate.NAMES for update in oracle_of(name).ops_log or ()}
    assert kinds == set(UPDATE_FIELDS)


def test_locations_are_compressed_in_version_2_only(oracle_of):
    for name, expected in (("many-virtual-v1", False), ("many-virtual-v2", True)):
        manifests = [each for content in oracle_of(name).contents.values() for each in content.manifests.values()]
        assert any(each["compression"]["uses_location_compression"] for each in manifests) is expected


@pytest.mark.parametrize("version", [1, 2])
def test_arrays_lie_over_several_manifests(oracle_of, version):
    contents = oracle_of(f"split-manifests-v{version}").contents.values()
    spread = [len(node.get("manifest_refs", ())) for each in contents for node in each.inspected["nodes"]]
    assert max(spread) >= 16


def test_every_field_of_a_diff_occurs(oracle_of):
    diffs = [
        diff for name in ("history-v2", "moved-v2") for diff in oracle_of(name).diffs.values() if isinstance(diff, dict)
    ]
    for field in diffs[0]:
        assert any(diff[field] for diff in diffs), field


def test_tombstones_and_lost_snapshots_occur(oracle_of, generated):
    content = oracle_of("history-v2")
    assert content.repo_info["deleted_tags"] == ["to be deleted"]
    assert set(generated("history-v2").snapshots) <= content.contents.keys()
    assert (generated("history-v1").path / "refs" / "tag.to be deleted" / "ref.json.deleted").is_file()


def test_virtual_references_fail_in_every_way(oracle_of):
    kinds = {kind for each in oracle_of("virtual-v2").contents.values() for _, kind in each.failing.values()}
    assert kinds == {
        "virtual-chunk-modified",
        "virtual-chunk-fetch",
        "invalid-object-size",
        "unauthorized-virtual-chunk-container",
        "no-container-for-virtual-chunk",
    }


def test_keys_are_written_as_the_metadata_says(oracle_of):
    (tip,) = oracle_of("encodings-v2").branches.values()
    content = oracle_of("encodings-v2").contents[tip]
    assert {"default-slash-2/c/1/1", "default-dot-2/c.1.1", "v2-slash-2/1/1", "v2-dot-2/1.1", "v2-none-2/1.1"} <= set(
        content.values
    )
    assert {"default-slash-0/c", "default-dot-0/c", "v2-slash-0/0", "v2-dot-0/0", "default-none-1/c/1"} <= set(
        content.values
    )
    assert content.official_key("v2-dot-2/1.1") == "v2-dot-2/c/1/1"


def test_the_directory_tree_of_keys():
    assert directories(["zarr.json", "a/b/zarr.json", "a/b/c/0"]) == {
        "": {"zarr.json", "a"},
        "a": {"b"},
        "a/b": {"zarr.json", "c"},
        "a/b/c": {"0"},
    }


def test_hostile_names_are_flagged(generated, oracle_of):
    """A tree of files can hold every repository that says so."""
    for name in generate.NAMES:
        clash = False
        for keys in oracle_of(name).snapshots.values():
            tree = directories(keys)
            clash |= any(key in tree for key in keys) or any(
                len(part.encode()) > 255 for key in keys for part in key.split("/")
            )
        assert generated(name).mountable is not clash, name


def test_metadata_bytes_are_not_normalised(oracle_of):
    content = next(each for each in oracle_of("oddities-v2").contents.values() if "zarr.json" in each.values)
    text = content.values["zarr.json"]
    assert text != json.dumps(json.loads(text)).encode()
