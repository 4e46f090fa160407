"""No command acts on, or answers for, another repository than the one that its words name.

A repository is kept in a directory of a mount. Each command that takes one is given it in each way of writing it, and
the repository that is mounted stays as it was and shows in no answer.
"""

import json
import os

import numpy as np
import pytest
import zarr

from icefs.cli.main import main
from icefs.daemon import mountinfo
from icefs.engine.write.repository import WritableRepository
from icefs.storage.url import open_storage
from tests.support.mounting import mounted
from tests.support.own_mounts import own_mount_table

GROUP = b'{"zarr_format":3,"node_type":"group","attributes":{"in":"%s"}}'
ARRAY = json.dumps(
    {
        "zarr_format": 3,
        "node_type": "array",
        "shape": [2],
        "data_type": "int8",
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [1]}},
        "chunk_key_encoding": {"name": "default"},
        "fill_value": 0,
        "codecs": [{"name": "bytes"}],
    }
).encode()


def make(path, name):
    """Makes a repository in which everything is called after it."""
    with WritableRepository.create(open_storage(str(path))) as repository:
        session = repository.writable_session("main")
        session.nodes.put("/", GROUP % name.encode())
        session.nodes.put(f"/{name}-array", ARRAY)
        session.chunks.set(f"/{name}-array", (0,), b"x")
        tip = session.commit(f"{name} commit")
        repository.create_branch(f"{name}-branch", tip)
        repository.create_tag(f"{name}-tag", tip)


def state(path):
    with WritableRepository.open(open_storage(str(path))) as repository:
        refs = repository.refs()
        config = WritableRepository.fetch_config(repository.storage)
        messages = [info.message for info in repository.log("main")]
    return dict(refs.branches), dict(refs.tags), config, messages


# {R} is the repository in one of its spellings, {D} a directory of Zarr files, {T} a new one, {N} a number.
READING = [
    "log {R}",
    "ls {R}",
    "ls -R {R}",
    "info {R}",
    "stats {R}",
    "fsck {R}",
    "doctor {R}",
    "branch list {R}",
    "branch list --repo {R}",
    "tag list {R}",
    "tag list --repo {R}",
    "diff {R} inner-tag main",
    "blame {R} inner-array",
    "cat {R} zarr.json",
    "inspect {R}",
    "config get --repo {R}",
    "export {R} {T}",
    "gc {R} --dry-run --older-than 0s --force",
    "expire {R} --older-than 2000-01-01 --dry-run",
    "rewrite-manifests {R} --dry-run",
]
CHANGING = [
    "branch create new --repo {R}",
    "branch reset new inner-tag --repo {R}",
    "branch delete new --repo {R}",
    "tag create new{N} --repo {R}",
    "tag delete new{N} --repo {R}",
    "config set compression.level=5 --repo {R}",
    "import {D} {R} --path imported",
    "rewrite-manifests {R} -m again",
    "expire {R} --older-than 2000-01-01",
    "gc {R} --older-than 2000-01-01",
]


@pytest.fixture
def places(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "xdg-state"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg-cache"))
    make(tmp_path / "outer", "outer")
    zarr.create_array(tmp_path / "files", data=np.ones(2), chunks=(2,))
    with mounted(tmp_path / "outer", branch="main") as mount:
        inner = mount / "kept/inner"
        inner.parent.mkdir()
        make(inner, "inner")
        (tmp_path / "link").symlink_to(inner)
        yield tmp_path, mount, inner
        monkeypatch.chdir(tmp_path)  # so that the mount can go


def run(capfd, line, repo, scratch, number):
    names = {"R": repo, "D": scratch / "files", "T": scratch / f"out-{number}-{len(line)}", "N": number}
    words = [word.format(**names) for word in line.split()]
    code = main(words)
    captured = capfd.readouterr()
    assert code == 0, (words, captured.err)
    return captured.out + captured.err


def test_a_repository_in_a_mount_is_the_one_that_its_path_names(places, capfd, monkeypatch):
    scratch, mount, inner = places
    monkeypatch.setattr(mountinfo, "mount_table", own_mount_table)  # a dead mount of another test is a problem, too
    before = state(scratch / "outer")
    spellings = [str(inner), str(scratch / "link"), f"file://{inner}", os.path.relpath(inner, mount.path), "."]
    for number, spelling in enumerate(spellings):
        monkeypatch.chdir(inner if spelling == "." else mount.path)
        for line in [*READING, *CHANGING]:
            text = run(capfd, line, spelling, scratch, number)
            assert "outer" not in text.replace(str(scratch / "outer"), "").replace("kept", ""), (line, spelling, text)
            if line.startswith(("log", "ls", "branch list", "tag list", "blame")):
                assert "inner" in text, (line, spelling)
        assert state(scratch / "outer") == before, spelling
        with WritableRepository.open(open_storage(str(inner))) as repository:  # so that all can be done once more
            repository.reset_branch("main", repository.lookup_tag("inner-tag"))


def test_a_directory_in_a_mount_is_no_repository_for_repo(places, capfd, monkeypatch):
    scratch, mount, _ = places
    before = state(scratch / "outer")
    monkeypatch.chdir(scratch)
    for line in CHANGING:
        if "--repo" in line:
            code = main([word.format(R=mount / "kept", N="") for word in line.split()])
            assert code != 0, line
            assert str(mount.path) in capfd.readouterr().err
    assert state(scratch / "outer") == before
