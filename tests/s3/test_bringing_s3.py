"""Merge, cherry-pick, revert, restore and the histories that they make, by command in a bucket."""

import json

import icechunk
import pytest

from icefs.cli.main import main
from icefs.engine.write.repository import WritableRepository
from tests.support.exchanging import A, content, is_whole
from tests.support.transactions import commit_start

icechunk.set_logs_filter("off")


@pytest.fixture(params=[2, 1], ids=["v2", "v1"])
def repo(request, s3_server, s3_storage, s3_prefix, monkeypatch):
    for name, value in s3_server.environment().items():
        monkeypatch.setenv(name, value)
    with WritableRepository.create(s3_storage, spec_version=request.param) as made:
        made.create_branch("dev", commit_start(made))
    return f"s3://icefs-tests/{s3_prefix}?endpoint_url={s3_server.endpoint_url}&region=us-east-1"


@pytest.fixture
def run(capsys):
    def call(*arguments, code=0):
        assert main([*arguments, "--json"]) == code
        return json.loads(capsys.readouterr().out or "null")

    return call


def write(storage, branch, index, data):
    with WritableRepository.open(storage) as opened:
        session = opened.writable_session(branch)
        session.chunks.set(A, index, data)
        return str(session.commit(data.decode()[:9]))


def chunks(storage, branch="main"):
    with WritableRepository.open(storage) as opened:
        return content(opened, opened.lookup_branch(branch))


def test_commands_bring_references_and_copy_no_chunk(repo, run, s3_storage, s3_server, s3_prefix):
    large = b"d" * 900
    first = write(s3_storage, "dev", (1, 1), large)
    own = write(s3_storage, "main", (2, 2), b"m" * 900)
    merged = run("merge", "dev", "--repo", repo)
    assert (merged["previous_id"], merged["incoming_id"], merged["chunks"]) == (own, first, 1)
    assert chunks(s3_storage)[1, 1] == large
    second = write(s3_storage, "dev", (1, 2), b"e" * 900)
    third = write(s3_storage, "dev", (2, 2), b"f" * 900)
    [picked] = run("cherry-pick", second, "--repo", repo)
    assert chunks(s3_storage)[1, 2] == b"e" * 900
    assert run("merge", "dev", "--repo", repo, "--dry-run")["conflicts"][0]["chunks"] == [[2, 2]]
    run("merge", "dev", "--repo", repo, code=5)
    assert chunks(s3_storage)[2, 2] == b"m" * 900
    run("merge", "dev", "--repo", repo, "--theirs")
    assert chunks(s3_storage)[2, 2] == b"f" * 900
    run("revert", picked["snapshot_id"], "--repo", repo)
    assert (1, 2) not in chunks(s3_storage)
    run("restore", "a/c/2/2", "--from", own, "--repo", repo)
    assert chunks(s3_storage)[2, 2] == b"m" * 900
    # One object for each chunk that was written, and for the large one of the start.
    assert len(list(s3_storage.iter_objects("chunks/"))) == 5
    told = {tuple(one["index"]): one["original"] for one in run("blame", repo, "a")["chunks"]}
    assert (told[1, 1], told[2, 2]) == (first, own)
    assert run("diff", repo, "main...dev")["updated_chunks"] == {}
    assert third in {one["id"] for one in run("log", repo, "main", "--graph")}
    assert is_whole(s3_storage)
    keys = s3_server.environment()
    official = icechunk.Repository.open(
        icechunk.s3_storage(
            bucket="icefs-tests",
            prefix=s3_prefix,
            endpoint_url=s3_server.endpoint_url,
            region="us-east-1",
            allow_http=True,
            force_path_style=True,
            access_key_id=keys["AWS_ACCESS_KEY_ID"],
            secret_access_key=keys["AWS_SECRET_ACCESS_KEY"],
        )
    )
    assert len(list(official.ancestry(branch="main"))) == 8
