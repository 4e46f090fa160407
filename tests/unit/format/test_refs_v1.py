"""Branches and tags of spec version 1."""

import json

import pytest

from icefs.errors import FormatError, InvalidInputError
from icefs.format.ids import INITIAL_SNAPSHOT_ID
from icefs.format.repo.refs_v1 import (
    RefFile,
    branch_key,
    check_ref_name,
    encode_ref,
    parse_ref,
    parse_ref_key,
    tag_key,
    tombstone_key,
)

NAMES = ["main", "v1.0", "feature.x y", "", ".", "..", "ünï", "a%2Fb", "tag.x", "\n", "🧊"]


@pytest.mark.parametrize("name", NAMES)
def test_keys(name: str) -> None:
    assert branch_key(name) == f"refs/branch.{name}/ref.json"
    assert parse_ref_key(branch_key(name)) == RefFile("branch", name, False)
    assert parse_ref_key(tag_key(name)) == RefFile("tag", name, False)
    assert parse_ref_key(tombstone_key(name)) == RefFile("tag", name, True)


@pytest.mark.parametrize("name", ["a/b", "/", "a\0", "\udcff"])
def test_names_that_are_refused(name: str) -> None:
    for refuse in (check_ref_name, branch_key, tag_key, tombstone_key):
        with pytest.raises(InvalidInputError) as caught:
            refuse(name)
        assert caught.value.kind == "invalid-ref-name"


@pytest.mark.parametrize(
    "key",
    [
        "",
        "refs",
        "refs/",
        "refs/branch.main",
        "refs/branch.main/",
        "refs/branch.main/other",
        "refs/branch.main/ref.json.deleted",
        "refs/branch.main/ref.json/x",
        "refs/branch/ref.json",
        "refs/main/ref.json",
        "refs/head.main/ref.json",
        "refs/tag.v1/ref.json.old",
        "other/branch.main/ref.json",
        "repo",
    ],
)
def test_what_is_no_ref(key: str) -> None:
    assert parse_ref_key(key) is None


def test_files() -> None:
    assert encode_ref(INITIAL_SNAPSHOT_ID) == b'{"snapshot":"1CECHNKREP0F1RSTCMT0"}'
    assert parse_ref(encode_ref(INITIAL_SNAPSHOT_ID), name="x") == INITIAL_SNAPSHOT_ID
    assert parse_ref(b' {"more": [1], "snapshot": "1cechnkrep0f1rstcmt0"}\n', name="x") == INITIAL_SNAPSHOT_ID


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"null",
        b"[]",
        b"{}",
        b'{"snapshot":null}',
        b'{"snapshot":5}',
        b'{"snapshot":""}',
        b'{"snapshot":"1CECHNKREP0F1RSTCMT"}',
        b'{"snapshot":"1CECHNKREP0F1RSTCMT00"}',
        b'{"snapshot":"1CECHNKREP0F1RSTCMU!"}',
        json.dumps({"snapshot": "ZZZZZZZZZZZZZZZZZZZß"}).encode(),
        json.dumps({"snapshot": "1CECHNKREP0F1RSTCMT\ud800"}).encode(),
        b'{"snapshot":"1CECHNKREP0F1RSTCMT0"',
        b'{"snapshot":"\xff"}',
        b'{"x":' * 100_000,
        b"[" * 60_000,
        b" " * 70_000,
    ],
    ids=lambda data: repr(data)[:40],
)
def test_malformed_files(data: bytes) -> None:
    with pytest.raises(FormatError) as caught:
        parse_ref(data, name="refs/branch.main/ref.json")
    assert caught.value.kind == "serialization"
    assert caught.value.facts["file"] == "refs/branch.main/ref.json"
