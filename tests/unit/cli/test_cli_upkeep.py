"""Upkeep from the command line: what is done, what is said, and the exit codes."""

import json
import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

import icechunk as ic
import pytest

from icefs.cli.main import main
from icefs.cli.options import human_bytes
from icefs.cli.upkeep import parse_age
from tests.conformance.official import GROUP, array_json, commit, create
from tests.unit.cli.test_cli_json import DOCUMENTED


@pytest.fixture
def repo(tmp_path):
    official = create(tmp_path / "repo", 2)
    items = {"zarr.json": GROUP, "a/zarr.json": array_json([4000], [1000])}
    for number in range(4):
        commit(official, f"number {number}", {**items, f"a/c/{number % 2}": bytes([number]) * 1000})
        items = {}
    return str(tmp_path / "repo")


@pytest.fixture
def call(capsysbinary):
    """Runs a command line that ends with a code; returns what it printed to stdout, or to stderr if that is all."""

    def call(code, *arguments):
        assert main([str(argument) for argument in arguments]) == code
        captured = capsysbinary.readouterr()
        return (captured.out or captured.err).decode()

    return call


@pytest.fixture
def checked(run_json):
    def run(command, *arguments):
        value = run_json(*command.split(), *arguments)
        assert list(value) == DOCUMENTED[command]
        return value

    return run


def official(repo):
    return ic.Repository.open(ic.local_filesystem_storage(repo))


def test_expire_then_collect(repo, checked, run, fail):
    planned = checked("expire", repo, "--older-than", "0s", "--dry-run")
    assert len(planned["released_snapshots"]) == 3
    assert len(list(official(repo).ancestry(branch="main"))) == 5
    done = checked("expire", repo, "--older-than", "0s")
    assert done["released_snapshots"] == planned["released_snapshots"]
    assert len(list(official(repo).ancestry(branch="main"))) == 2
    young = checked("gc", repo)
    assert (young["bytes_deleted"], young["dry_run"]) == (0, False)
    planned = checked("gc", repo, "--older-than", "0s", "--dry-run")
    assert planned["chunks_deleted"] == 2
    before = len(list(Path(repo, "chunks").iterdir()))
    assert "choose an age of at least 1h" in fail(2, "gc", repo, "--older-than", "59m")
    assert len(list(Path(repo, "chunks").iterdir())) == before
    assert "deleted 3 snapshots, 0 transaction logs" in run("gc", repo, "--older-than", "0s", "--force")
    assert checked("gc", repo, "--older-than", "0s", "--force")["bytes_deleted"] == 0
    assert checked("fsck", repo, "--deep")["status"] == "clean"


def test_stats(repo, checked, run_json, run):
    now = checked("stats", repo)
    assert (now["native_bytes"], now["num_chunks"], list(now["arrays"])) == (2000, 2, ["/a"])
    assert run_json("stats", repo, "--history")["native_bytes"] == 4000
    assert run("stats", repo) == "/a\t2\t2.0 KiB\t0 bytes\t0 bytes\n"


def test_fsck_says_what_is_wrong(repo, run, call, tmp_path):
    assert run("fsck", repo).startswith("clean: ")
    [chunk, *_] = (tmp_path / "repo/chunks").iterdir()
    chunk.rename(tmp_path / "kept")
    told = call(4, "fsck", repo)
    assert f"missing: chunks/{chunk.name}: is not there; needed for chunk" in told
    assert json.loads(call(4, "fsck", repo, "--json"))["findings"][0]["kind"] == "missing"
    (tmp_path / "kept").rename(chunk)
    (tmp_path / "repo/repo").unlink()
    assert "missing: repo" in call(4, "fsck", repo)
    assert call(1, "fsck", repo, "--repair").splitlines()[-1].startswith("repaired: ")
    assert "clean: " in run("fsck", repo)


def test_fsck_of_nothing(tmp_path, call):
    (tmp_path / "empty").mkdir()
    assert "no Icechunk repository" in call(3, "fsck", str(tmp_path / "empty"))


def test_config(repo, run, run_json):
    run("config", "set", "--repo", repo, "inline_chunk_threshold_bytes=77", "compression.level=5")
    assert official(repo).config.inline_chunk_threshold_bytes == 77
    assert official(repo).config.compression.level == 5
    assert run("config", "get", "--repo", repo, "compression.level") == "5\n"
    assert "inline_chunk_threshold_bytes=77" in run("config", "get", "--repo", repo)
    assert (
        run_json("config", "set", "--repo", repo, "--unset", "inline_chunk_threshold_bytes", "--dry-run")[
            "inline_chunk_threshold_bytes"
        ]
        is None
    )
    assert official(repo).config.inline_chunk_threshold_bytes == 77
    run("config", "set", "--repo", repo, "--unset", "inline_chunk_threshold_bytes")
    assert official(repo).config.inline_chunk_threshold_bytes in (None, 512)
    split = '[[{"name_matches":{"regex":"a"}},[{"condition":"Any","num_chunks":1}]]]'
    run("config", "set", "--repo", repo, f"manifest.splitting.split_sizes={split}")
    done = run_json("rewrite-manifests", repo)
    assert (done["manifests_before"], done["manifests"]) == (1, 2)
    assert len(official(repo).list_manifest_files(official(repo).lookup_branch("main"))) == 2


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["inline_chunk_treshold_bytes=1"], "did you mean inline_chunk_threshold_bytes?"),
        (["inline_chunk_threshold_bytes=lots"], "not a configuration"),
        (["inline_chunk_threshold_bytes"], "not KEY=VALUE"),
        (["compression.level.more=1"], "not a configuration"),
        ([], "nothing to set"),
    ],
)
def test_config_refuses(repo, run, call, arguments, said):
    before = run("config", "get", "--repo", repo)
    assert said in call(2, "config", "set", "--repo", repo, *arguments)
    assert run("config", "get", "--repo", repo) == before


def test_upgrade(tmp_path, checked):
    commit(create(tmp_path / "old", 1), "one", {"zarr.json": GROUP})
    repo = str(tmp_path / "old")
    planned = checked("upgrade", repo, "--dry-run")
    assert planned["unused"] == planned["undeleted"] != []
    assert not os.path.exists(f"{repo}/repo")
    assert checked("upgrade", repo)["undeleted"] == []
    assert next(iter(official(repo).ancestry(branch="main"))).message == "one"


def test_ages():
    now = datetime.now(UTC)
    for text, ago in {"30d": timedelta(days=30), "90 m": timedelta(minutes=90), "2w": timedelta(days=14)}.items():
        assert abs(now - parse_age(text) - ago) < timedelta(seconds=5)
    assert parse_age("2024-01-01") == datetime(2024, 1, 1, tzinfo=UTC)


def test_sizes():
    told = {0: "0 bytes", 1023: "1023 bytes", 1024: "1.0 KiB", 1536 << 20: "1.5 GiB", 1 << 70: "1048576.0 PiB"}
    assert {count: human_bytes(count) for count in told} == told
