"""Repositories that the official library wrote, read whole through a mount: every key of every snapshot."""

import hashlib
import json
import os
from pathlib import Path

import pytest

from icefs.vfs.names import encode_ref
from tests.conformance import generate
from tests.support.fixture_files import FIXTURES
from tests.support.mounting import mounted

FIXTURE_NAMES = ("basic-v1", "basic-v2", "history-v1", "history-v2")


def read_tree(root):
    """Reads all files below a directory as a program does that lists: names, sizes and bytes."""
    found = {}
    for directory, _, names in os.walk(root, onerror=_raise):
        for name in names:
            path = os.path.join(directory, name)
            with open(path, "rb", buffering=0) as file:
                data = file.read(os.fstat(file.fileno()).st_size)
                assert file.read(1) == b"", "longer than its size"
            assert os.stat(path).st_size == len(data)
            found[os.path.relpath(path, root)] = data
    return found


def _raise(error):
    raise error


def directories(root):
    return {os.path.relpath(directory, root) for directory, _, _ in os.walk(root, onerror=_raise)}


@pytest.mark.parametrize("name", FIXTURE_NAMES)
def test_the_fixtures(name):
    document = json.loads((FIXTURES / f"{name}.json").read_text())
    content, ids = document["content"], document["ids"]["snapshots"]
    with mounted(FIXTURES / name) as mount:
        assert sorted(os.listdir(mount / "branches")) == sorted(map(encode_ref, content["branches"]))
        assert sorted(os.listdir(mount / "tags")) == sorted(map(encode_ref, content["tags"]))
        for message, says in content["snapshots"].items():
            tree = read_tree(mount / f"snapshots/{ids[message]['id']}")
            told = {key: (fact["size"], fact["sha256"]) for key, fact in says["keys"].items()}
            assert {key: (len(data), hashlib.sha256(data).hexdigest()) for key, data in tree.items()} == told, message
            # A directory exists where a key lies below it, and nowhere else.
            assert directories(mount / f"snapshots/{ids[message]['id']}") == {
                str(above) for key in says["keys"] for above in Path(key).parents
            } | {"."}
        for kind in ("branches", "tags"):
            for ref, history in content[kind].items():
                place = mount / f"{kind}/{encode_ref(ref)}"
                head = os.readlink(place / ".icefs/head")
                assert head == f"../../../snapshots/{ids[history[0]]['id']}"
                assert read_tree(place) == read_tree(place / ".icefs" / head)
                log = json.loads((place / ".icefs/log.json").read_text())
                assert [entry["message"] for entry in log] == history


# What is no file of a directory, or takes long, is for the engine's own tests; so is version 1 where it differs in the
# encoding of the files alone.
LEFT_OUT = ("hostile-names", "many-nodes", "long-ops-log")
VERSION_1 = ("history-v1", "expired-v1", "virtual-v1", "names-v1")
READABLE = [
    name for name in generate.NAMES if not name.startswith(LEFT_OUT) and (name.endswith("v2") or name in VERSION_1)
]


@pytest.mark.parametrize("name", READABLE)
def test_generated_repositories(name, generated, oracle_of):
    repository, oracle = generated(name), oracle_of(name)
    assert repository.mountable
    with mounted(repository.path, allow_virtual=repository.virtual_prefixes, may_complain=True) as mount:
        branches = {encode_ref(branch): tip for branch, tip in oracle.branches.items()}
        tags = {encode_ref(tag): tip for tag, tip in oracle.tags.items()}
        assert set(os.listdir(mount / "branches")) == branches.keys()
        assert set(os.listdir(mount / "tags")) == tags.keys()
        for snapshot_id, content in oracle.contents.items():
            root = mount / f"snapshots/{snapshot_id}"
            # An array with a chunk of another rank is damaged as far as its chunks are concerned.
            damaged = tuple(f"{key.split('/')[0]}/c" for key in content.ragged)
            if not content.failing and not damaged:
                assert read_tree(root) == content.values
                continue
            for key, data in content.values.items():
                if not key.startswith(damaged):
                    assert Path(root, key).read_bytes() == data, key
            for key in {*content.failing, *content.ragged}:
                with pytest.raises(OSError, match=r"Input/output error|Permission denied"):
                    Path(root, key).read_bytes()
        for kind, refs in (("branches", branches), ("tags", tags)):
            for ref, tip in refs.items():
                if not oracle.contents[tip].failing and not oracle.contents[tip].ragged:
                    assert read_tree(mount / kind / ref) == oracle.contents[tip].values
