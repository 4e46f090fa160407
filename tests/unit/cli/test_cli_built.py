"""Commands on repositories that tests build: virtual chunks, moves, and names that a terminal should not see."""

import json
import os
import subprocess
import sys

import pytest

from icefs.cli.support.exit_codes import FORBIDDEN, FORMAT, STORAGE
from icefs.format.config.codec import encode_config
from icefs.format.config.storage import LocalFileSystemStore, VirtualChunkContainer
from icefs.format.config.values import RepositoryConfig
from icefs.format.manifest.refs import VirtualRef
from icefs.format.snapshot.nodes import NodeType
from icefs.format.transaction_log import Move
from icefs.storage.url import open_storage
from tests.support.repo_builder import RepoBuilder, group, inline, node_id

ARRAY_JSON = json.dumps(
    {
        "node_type": "array",
        "zarr_format": 3,
        "shape": [20],
        "data_type": {"name": "odd", "configuration": {}},
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [10]}},
        "chunk_key_encoding": {"name": "default", "configuration": {"separator": "."}},
        "codecs": [{"name": "bytes"}],
        "fill_value": 0,
    }
).encode()


@pytest.fixture
def builder(request):
    return RepoBuilder(open_storage(f"memory:{request.node.name}"))


@pytest.fixture
def location(request):
    return f"memory:{request.node.name}"


def test_cat_follows_virtual_chunks_where_it_may(builder, location, tmp_path, run, run_json, fail):
    (tmp_path / "data").write_bytes(b"0123456789")
    container = f"file://{tmp_path}/"
    refs = {
        (0,): VirtualRef(f"{container}data", 2, 5, None, 0),
        (1,): VirtualRef("file:///etc/hostname", 0, 1, None, 0),
    }
    builder.config = encode_config(
        RepositoryConfig(
            virtual_chunk_containers={container: VirtualChunkContainer(container, LocalFileSystemStore(str(tmp_path)))}
        )
    )
    builder.commit([group("/", 1), builder.array("/a", 2, (2,), refs, user_data=ARRAY_JSON)])
    builder.publish()
    line = fail(FORBIDDEN, "cat", location, "a/c.0")
    assert line.endswith(f"allow it with `--allow-virtual {container}` if you trust the repository with that")
    assert run("cat", "--allow-virtual", container, location, "a/c.0") == "23456"
    assert run_json("cat", location, "a/c.0") == {
        "key": "a/c.0",
        "kind": "virtual",
        "size_bytes": 5,
        "location": f"{container}data",
        "offset_bytes": 2,
    }
    assert run("ls", "-l", location).splitlines() == ["array\t20\t10\todd\ta"]
    assert run("ls", location, "a").splitlines() == ["a/zarr.json", "a/c.0", "a/c.1"]


def test_a_missing_chunk_object_is_the_storage_s_fault(builder, location, fail):
    ref = builder.chunk(b"bytes")
    builder.storage.delete([f"chunks/{ref.chunk_id}"])
    builder.commit([group("/", 1), builder.array("/a", 2, (2,), {(0,): ref}, user_data=ARRAY_JSON)])
    builder.publish()
    assert f"chunks/{ref.chunk_id}" in fail(STORAGE, "cat", location, "a/c.0")


def test_a_malformed_snapshot_names_its_file(builder, location, fail):
    tip = builder.commit([group("/", 1)])
    builder.storage.put(f"snapshots/{tip}", b"not a snapshot")
    builder.publish()
    line = fail(FORMAT, "ls", location)
    assert f"snapshots/{tip}" in line


def test_diff_of_moves_groups_and_deletions(builder, location, run, run_json):
    old = builder.commit([group("/", 1), group("/gone", 2), builder.array("/x", 3, (2,), inline((0,), (1,)))])
    new = builder.commit(
        [group("/", 1), group("/new", 4), builder.array("/new/x", 3, (2,), inline((0,)))],
        new_groups=[4],
        deleted_groups=[2],
        updated_groups=[1],
        moves=(Move("/x", "/new/x", node_id(3), NodeType.ARRAY),),
        chunks={3: [(1,)]},
    )
    builder.publish()
    assert run("diff", location, old, new).splitlines() == [
        "R  /x -> /new/x",
        "M  /",
        "D  /gone/",
        "A  /new/",
        "C  /new/x: 1 chunk",
    ]
    assert run_json("diff", location, old, new)["moved_nodes"] == [{"from": "x", "to": "new/x"}]


def test_names_that_do_not_show_are_quoted_in_a_pipe_too(builder, location, run, run_json):
    names = ["a b", "n\x1b[31m", "x\nNothing to commit", "ü"]
    shown = ["a b/", '"n\\x1b[31m/"', '"x\\nNothing to commit/"', "ü/"]
    builder.commit([group("/", 1), *(group(f"/{name}", 2 + number) for number, name in enumerate(names))])
    builder.publish()
    assert run("ls", location).splitlines() == shown
    assert [line.split("\t")[-1] for line in run("ls", "-l", location).splitlines()] == shown
    assert '"n\\x1b[31m/zarr.json"' in run("ls", "--keys", location).splitlines()
    assert [one["path"] for one in run_json("ls", location)] == names


def test_log_of_long_and_odd_messages(builder, location, run, run_json):
    message = "Title\n\nBody with\x1b[31m colour\nünï"
    builder.commit([group("/", 1)], message=message)
    builder.tags["tag: odd"] = builder.branches["main"]
    builder.publish()
    assert run("log", "--oneline", "-n", 1, location).endswith(" (main, tag: tag: odd) Title\n")
    assert run("log", "-n", 1, location).endswith("\n\n    Title\n    \n    Body with\\x1b[31m colour\n    ünï\n")
    (entry,) = run_json("log", "-n", 1, location)
    assert (entry["message"], entry["branches"], entry["tags"]) == (message, ["main"], ["tag: odd"])


def test_a_terminal_without_unicode_is_no_reason_to_fail(tmp_path):
    builder = RepoBuilder(open_storage(str(tmp_path / "repo")))
    builder.commit([group("/", 1)], message="ü日")
    builder.publish()
    done = subprocess.run(
        [sys.executable, "-c", "import sys; from icefs.cli.main import main; sys.exit(main())", "log", "-n1", "repo"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONIOENCODING": "latin-1", "PYTHONPATH": os.getcwd()},
        capture_output=True,
        check=True,
    )
    assert done.stdout.endswith(b"    \xfc\\u65e5\n")


def test_ls_without_a_root_group_shows_what_stands_there(builder, location, run, run_json):
    array = builder.array("/surface/t", 1, (2,), inline((0,), (1,)), user_data=ARRAY_JSON)
    builder.commit([array, group("/deep/er/g", 2)])
    builder.publish()
    assert run("ls", location) == "deep/\nsurface/\n"
    assert run("ls", "-l", location) == "group\t-\t-\t-\tdeep/\ngroup\t-\t-\t-\tsurface/\n"
    assert run("ls", location, "deep") == "er/\n"
    assert run("ls", location, "surface") == "t\n"
    assert run("ls", "-R", location) == "/deep/er/g/\n/surface/t\n"
    assert run("ls", location, "surface/t").splitlines() == ["surface/t/zarr.json", "surface/t/c.0", "surface/t/c.1"]
    assert [(one["path"], one["type"], one["id"]) for one in run_json("ls", location)] == [
        ("deep", "group", None),
        ("surface", "group", None),
    ]


def test_log_leaves_out_what_the_libraries_note_for_themselves(builder, location, run, run_json):
    run("init", f"{location}-new")
    assert "__icechunk" in json.dumps(run_json("log", f"{location}-new"))
    assert "__icechunk" not in run("log", f"{location}-new")
