"""Upkeep from the command line: what is done, what is said, and the exit codes."""

import json
import os
import re
from datetime import UTC, datetime, timedelta
from pathlib import Path

import icechunk as ic
import pytest
import zarr

from icefs.cli.main import main
from icefs.cli.support.options import human_bytes, parse_age
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
    assert (now["native_bytes"], now["num_chunks"], list(now["arrays"])) == (2000, 2, ["a"])
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
    told = {0: "0 bytes", 1023: "1,023 bytes", 1024: "1.0 KiB", 1536 << 20: "1.5 GiB", 1 << 70: "1048576.0 PiB"}
    assert {count: human_bytes(count) for count in told} == told


def contents(repo):
    return {path.relative_to(repo): path.read_bytes() for path in Path(repo).rglob("*") if path.is_file()}


def test_a_repository_of_a_newer_icechunk_is_left_alone(repo, fail):
    """Whatever else is damaged."""
    data = bytearray(Path(repo, "repo").read_bytes())
    data[36] = 3
    Path(repo, "repo").write_bytes(data)
    before = contents(repo)
    for command in (
        ["gc", repo, "--older-than", "0s", "--force"],
        ["expire", repo, "--older-than", "0s"],
        ["fsck", repo],
        ["fsck", repo, "--repair"],
        ["upgrade", repo],
        ["rewrite-manifests", repo],
        ["branch", "create", "new", "main", "--repo", repo],
        ["config", "set", "compression.level", "4", "--repo", repo],
    ):
        assert "spec version 3" in fail(8, *command), command
    assert contents(repo) == before


def test_a_snapshot_of_a_newer_icechunk_is_named_and_nothing_is_repaired(repo, call):
    [tip] = [info.id for info in official(repo).ancestry(branch="main")][:1]
    data = bytearray(Path(repo, "snapshots", tip).read_bytes())
    data[36] = 3
    Path(repo, "snapshots", tip).write_bytes(data)
    before = contents(repo)
    said = call(8, "fsck", repo)
    assert f"newer: snapshots/{tip}: it was written in spec version 3" in said
    assert "unused" not in said
    assert "nothing was repaired" in call(8, "fsck", repo, "--repair")
    assert contents(repo) == before


@pytest.mark.parametrize("damage", ["flipped", "cut", "gone"])
def test_a_damaged_repo_is_kept_and_its_newest_commit_is_brought_back(repo, call, run_json, damage):
    tip = next(official(repo).ancestry(branch="main")).id
    data = bytearray(Path(repo, "repo").read_bytes())
    damaged = bytes(data[: len(data) // 2])
    if damage == "flipped":
        data[40] ^= 1
        damaged = bytes(data)
    Path(repo, "repo").unlink()
    if damage != "gone":
        Path(repo, "repo").write_bytes(damaged)
    said = call(1, "fsck", repo, "--repair")
    assert f"leads to snapshot {tip} ('number 3'), which is newer than that copy" in said
    assert (damaged in contents(repo).values()) == (damage != "gone")
    assert "unused" not in said
    branch = f"recovered-{tip[:8].lower()}"
    assert next(official(repo).ancestry(branch=branch)).id == tip
    assert run_json("fsck", repo, "--deep")["status"] == "clean"
    run_json("gc", repo, "--older-than", "0s", "--force")
    session = official(repo).readonly_session(branch)
    assert zarr.open_array(session.store, path="a", mode="r")[1000:2000].tolist() == [3] * 1000


@pytest.mark.parametrize("by", ["icefs", "official"])
def test_an_upgraded_repository_is_clean(tmp_path, run, run_json, by):
    path = str(tmp_path / "old")
    run("init", path, "--spec-version", "1")
    if by == "icefs":
        run("upgrade", path)
    else:
        ic.upgrade_icechunk_repository(official(path), dry_run=False)
    report = run_json("fsck", path)
    assert (report["status"], report["findings"], report["orphans"]) == ("clean", [], {})
    assert not Path(path, "refs").exists() or by == "official"


def test_a_broken_branch_leaves_nothing_to_be_called_unused(tmp_path, call, run):
    path = str(tmp_path / "old")
    repository = create(Path(path), 1)
    commit(repository, "base", {"zarr.json": GROUP})
    Path(path, "refs/branch.main/ref.json").write_text("{")
    said = call(4, "fsck", path)
    assert "malformed: refs/branch.main/ref.json: Expecting" in said
    assert re.search(r"^damaged: .*\b1 ref\b.* checked$", said, re.MULTILINE)
    assert "unused" not in said
