"""`ls`, `cat`, `log`, `diff`, `branch list`, `tag list`, `info` and `inspect` on the repository of `make demo`."""

import json
import shutil
import sys
from datetime import datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import icefs
from icefs.cli.support.described import describe_node
from icefs.cli.support.exit_codes import FORMAT, NOT_FOUND, STORAGE, USAGE
from icefs.format.ids import NodeId
from icefs.format.snapshot.nodes import NodeSnapshot
from tests.support.fixture_files import FIXTURES

V1 = FIXTURES / "history-v1"
FIELDS = ("latitude", "longitude", "precipitation", "temperature", "time")


@pytest.fixture
def ids(run_json, demo):
    """Snapshot ids by commit message."""
    return {entry["message"]: entry["id"] for entry in run_json("log", f"{demo}@warmer")}


# ls


def test_ls_shows_groups_and_arrays(run, demo):
    assert run("ls", demo) == "weather/\n"
    assert run("ls", demo, "weather").splitlines() == list(FIELDS)
    assert run("ls", demo, "/weather/").splitlines() == list(FIELDS)
    assert run("ls", "-R", demo).splitlines() == ["/weather/", *(f"/weather/{name}" for name in FIELDS)]


def test_ls_long_is_tab_separated_in_a_pipe(run, demo):
    assert "array\t31x36x72\t16x18x36\tfloat32\ttemperature\n" in run("ls", "-l", demo, "weather")
    assert run("ls", "-l", demo) == "group\t-\t-\t-\tweather/\n"


def test_ls_json(run_json, demo):
    (time,) = [entry for entry in run_json("ls", demo, "weather") if entry["path"] == "weather/time"]
    assert len(time.pop("id")) == 13
    assert time == {
        "path": "weather/time",
        "type": "array",
        "shape": [31],
        "chunk_shape": [31],
        "dtype": "int64",
        "dimension_names": ["time"],
        "problem": None,
    }


def test_ls_lists_a_node_with_a_number_of_very_many_digits(run, run_json, tmp_path):
    repo = icefs.Repository.create(icefs.local_filesystem_storage(str(tmp_path / "repo")))
    session = repo.writable_session("main")
    attributes = b'{"zarr_format":3,"node_type":"group","attributes":{"x":%s}}'
    for name, digits in (("hostile", b"9" * 100_000), ("plain", b"9")):
        session._engine.nodes.put(f"/{name}", attributes % digits)
    session.commit("x")
    assert run("ls", str(tmp_path / "repo")).splitlines() == ["hostile/", "plain/"]
    assert [entry["path"] for entry in run_json("ls", str(tmp_path / "repo"))] == ["hostile", "plain"]
    assert len(run("cat", str(tmp_path / "repo"), "hostile/zarr.json")) > 100_000


VALUES = st.recursive(st.none() | st.integers() | st.text(max_size=3), lambda inner: st.lists(inner, max_size=3))
HOSTILE = st.one_of(
    st.binary(max_size=20),
    st.sampled_from(
        [b"", b"[" * 100_000, b"null", b"[]", b"NaN", b'{"shape": 1e999}', b'{"chunk_grid": ' + b"1" * 9999]
    ),
    st.dictionaries(
        st.sampled_from(["shape", "chunk_grid", "data_type", "dimension_names"]),
        VALUES | st.fixed_dictionaries({"configuration": VALUES | st.fixed_dictionaries({"chunk_shape": VALUES})}),
    ).map(lambda document: json.dumps(document).encode()),
)


@given(data=HOSTILE)
def test_any_zarr_json_is_described_or_said_to_be_none(data: bytes):
    described = describe_node(NodeSnapshot(NodeId(bytes(8)), "/x", data, None))
    assert described["path"] == "x"
    assert (described["problem"] is not None) == (not data.startswith(b"{") or data.startswith(b'{"chunk_grid": 1'))


def test_ls_of_an_array_shows_its_keys(run, run_json, demo):
    array = "weather/temperature"
    keys = [f"{array}/c/{t}/{y}/{x}" for t in (0, 1) for y in (0, 1) for x in (0, 1)]
    assert run("ls", demo, array).splitlines() == [f"{array}/zarr.json", *keys]
    assert run("ls", demo, f"{array}/c/1").splitlines() == keys[4:]
    assert run("ls", demo, f"{array}/c/1/1/0") == f"{array}/c/1/1/0\n"
    described = run_json("ls", demo, f"{array}/c/1")
    assert [entry["key"] for entry in described] == keys[4:]
    for entry in described:
        path = Path(demo, entry["location"])
        assert (entry["kind"], entry["offset_bytes"], entry["size_bytes"]) == ("native", 0, path.stat().st_size)


def test_ls_keys_lists_what_the_tree_holds(run, demo):
    keys = run("ls", "--keys", demo).splitlines()
    assert len(keys) == len(set(keys)) == 1 + 1 + len(FIELDS) + 3 + 2 * 8
    assert {"zarr.json", "weather/zarr.json", "weather/time/c/0"} <= set(keys)
    long = [line.split("\t") for line in run("ls", "--keys", "-l", demo).splitlines()]
    assert [row[2] for row in long] == keys
    assert {row[0] for row in long} == {"metadata", "inline", "native"}


@pytest.mark.parametrize("ref", ["v1.0", "Add a month of temperature"])
def test_ls_of_another_version(run, demo, ids, ref):
    ref = ids.get(ref, ref)
    without = [name for name in FIELDS if name != "precipitation"]
    assert run("ls", f"{demo}@{ref}", "weather").splitlines() == without
    assert run("ls", demo, "weather", "--ref", ref).splitlines() == without


def test_ls_of_the_empty_first_snapshot(run, run_json, demo):
    first = f"{demo}@1CECHNKREP0F1RSTCMT0"
    assert run("ls", first) == ""
    assert run("ls", "--keys", first) == ""
    assert run_json("ls", first) == []


def test_ls_of_nothing(fail, demo, ids):
    tip = ids["Replace a broken day of temperature"]
    assert fail(NOT_FOUND, "ls", demo, "a/b").startswith(f"no such group, array or key in snapshot {tip}: a/b;")
    assert fail(NOT_FOUND, "ls", demo, "weather/time/c/7").startswith("no such group, array or key")
    assert fail(NOT_FOUND, "ls", f"{demo}@nope").startswith("nope is no snapshot, branch or tag")
    assert fail(USAGE, "ls", f"{demo}@main", "--ref", "v1.0") == "two versions were given: main and v1.0; give one"


# cat


def test_cat_writes_the_bytes(run, capsysbinary, demo, run_json):
    metadata = json.loads(run("cat", demo, "weather/temperature/zarr.json"))
    assert metadata["shape"] == [31, 36, 72]
    key = "weather/temperature/c/1/0/0"
    location = run_json("cat", demo, key)["location"]
    from icefs.cli.main import main

    assert main(["cat", demo, key]) == 0
    assert capsysbinary.readouterr().out == Path(demo, location).read_bytes()


def test_cat_in_windows_gives_the_same_bytes(run_json, demo, monkeypatch, capsysbinary):
    from icefs.cli.commands import cat
    from icefs.cli.main import main

    monkeypatch.setattr(cat, "_WINDOW_BYTES", 1000)
    key = "weather/temperature/c/1/0/0"
    location = run_json("cat", demo, key)["location"]
    assert main(["cat", demo, key]) == 0
    assert capsysbinary.readouterr().out == Path(demo, location).read_bytes()


def test_cat_json_describes_the_key(run_json, demo):
    assert run_json("cat", demo, "/weather/zarr.json") == {
        "key": "weather/zarr.json",
        "kind": "metadata",
        "size_bytes": len(Path(demo).name) and run_json("ls", "--keys", demo, "weather")[0]["size_bytes"],
        "location": None,
        "offset_bytes": None,
    }
    assert run_json("cat", demo, "weather/time/c/0")["kind"] == "inline"


def test_cat_of_nothing(fail, demo):
    assert "a group or array is not a key" in fail(NOT_FOUND, "cat", demo, "weather")
    assert fail(NOT_FOUND, "cat", demo, "weather/").endswith("its metadata is weather/zarr.json")
    assert fail(NOT_FOUND, "cat", demo, "").endswith("its metadata is zarr.json")
    assert "the array has no such chunk" in fail(NOT_FOUND, "cat", demo, "weather/time/c/9")
    assert "no such key" in fail(NOT_FOUND, "cat", demo, "x/zarr.json")
    assert "is not a key of a Zarr hierarchy" in fail(USAGE, "cat", demo, "weather/readme.md")


# log, diff, refs


def test_log(run, run_json, demo):
    entries = run_json("log", demo)
    assert [(entry["message"], entry["branches"], entry["tags"]) for entry in entries] == [
        ("Replace a broken day of temperature", ["main"], ["v1.1"]),
        ("Add precipitation", [], []),
        ("Add a month of temperature", [], ["v1.0"]),
        ("Repository initialized", [], []),
    ]
    assert [entry["parent_id"] for entry in entries] == [*(entry["id"] for entry in entries[1:]), None]
    assert entries[0]["metadata"] == {"author": "Grace", "day": 10}
    times = [datetime.fromisoformat(entry["written_at"]) for entry in entries]
    assert times == sorted(times, reverse=True)
    assert times[0].utcoffset().total_seconds() == 0
    text = run("log", demo, "-n", 1)
    assert text.splitlines() == [
        f"snapshot {entries[0]['id']} (main, tag: v1.1)",
        f"Date: {times[0]:%Y-%m-%d %H:%M:%S} UTC",
        'author: "Grace"',
        "day: 10",
        "",
        "    Replace a broken day of temperature",
    ]


def test_log_of_a_version(run, demo, ids):
    first = ids["Add a month of temperature"]
    line = f"{first} (tag: v1.0) Add a month of temperature"
    for arguments in ([f"{demo}@v1.0"], [demo, "v1.0"], [demo, first], [f"{demo}@{first.lower()}"]):
        assert run("log", "--oneline", *arguments).splitlines() == [
            line,
            "1CECHNKREP0F1RSTCMT0 Repository initialized",
        ]
    assert run("log", "-n", 0, demo) == ""


def test_log_in_the_directory_of_a_repository(run, demo, monkeypatch):
    monkeypatch.chdir(demo)
    assert run("log", "--oneline", "-n", 1).endswith("Replace a broken day of temperature\n")
    assert run("branch", "list").startswith("main\t")


def test_refs(run, run_json, demo, ids):
    tip = ids["Replace a broken day of temperature"]
    warm = ids["What if it were two degrees warmer?"]
    assert run("branch", "list", demo) == f"main\t{tip}\nwarmer\t{warm}\n"
    assert run_json("branch", "list", demo) == [
        {"name": "main", "snapshot_id": tip},
        {"name": "warmer", "snapshot_id": warm},
    ]
    assert [entry["name"] for entry in run_json("tag", "list", demo)] == ["v1.0", "v1.1"]


def test_a_broken_branch_is_left_out_with_a_warning(tmp_path, capsys):
    from icefs.cli.main import main

    shutil.copytree(V1, tmp_path / "repo")
    (tmp_path / "repo/refs/branch.dev/ref.json").parent.mkdir(exist_ok=True)
    (tmp_path / "repo/refs/branch.dev/ref.json").write_text("{")
    assert main(["branch", "list", str(tmp_path / "repo")]) == 0
    captured = capsys.readouterr()
    assert [line.split("\t")[0] for line in captured.out.splitlines()] == ["feature.x y", "main"]
    assert captured.err.startswith("icefs: warning: ")
    assert "refs/branch.dev/ref.json is malformed" in captured.err
    assert captured.err.count("\n") == 1


def test_diff(run, run_json, demo, ids):
    assert run("diff", demo, "v1.0", "main").splitlines() == [
        "A  /weather/precipitation",
        "C  /weather/precipitation: 8 chunks",
        "C  /weather/temperature: 4 chunks",
    ]
    assert "C    0/1/1\n" in run("diff", "--chunks", demo, "v1.0", "main")
    assert run("diff", demo, "v1.1", "main") == ""
    changes = run_json("diff", demo, "v1.0", "main")
    assert changes.pop("updated_chunks").keys() == {"weather/precipitation", "weather/temperature"}
    assert changes == {
        "from": ids["Add a month of temperature"],
        "to": ids["Replace a broken day of temperature"],
        "new_groups": [],
        "new_arrays": ["weather/precipitation"],
        "deleted_groups": [],
        "deleted_arrays": [],
        "updated_groups": [],
        "updated_arrays": [],
        "moved_nodes": [],
    }


def test_diff_backwards_says_which_way_it_goes(fail, demo):
    assert "from an older snapshot to a later one" in fail(USAGE, "diff", demo, "main", "v1.0")


# info, inspect


def test_info(run, run_json, demo):
    facts = run_json("info", demo)
    assert (facts["spec_version"], facts["branches"], facts["tags"], facts["snapshots"]) == (2, 2, 2, 5)
    assert facts["repository"].endswith("demo-repo")
    assert facts["status"]["availability"] == "online"
    assert facts["feature_flags"] == {"move_node": True, "create_tag": True, "delete_tag": True}
    assert facts["config"]["inline_chunk_threshold_bytes"] == 512
    text = run("info", demo).splitlines()
    assert "spec version: 2" in text
    assert "  availability: online" in text


def test_info_of_spec_version_1(run_json):
    facts = run_json("info", V1)
    assert (facts["spec_version"], facts["status"], facts["metadata"], facts["feature_flags"]) == (1, None, None, None)
    assert facts["snapshots"] == len(list((V1 / "snapshots").iterdir()))


def test_inspect(run_json, demo, ids):
    repo = run_json("inspect", demo)
    assert repo == run_json("inspect", demo, "repo")
    assert set(repo["branches"]) == {"main", "warmer"}
    snapshot = run_json("inspect", demo, "main")
    assert snapshot == run_json("inspect", demo, ids["Replace a broken day of temperature"])
    manifest = run_json("inspect", demo, snapshot["manifests"][0]["id"])
    assert manifest["id"] == snapshot["manifests"][0]["id"]
    log = run_json("inspect", demo, "v1.0", "--transactions")
    assert len(log["new_arrays"]) == 4


def test_inspect_of_nothing(fail, demo):
    assert fail(NOT_FOUND, "inspect", demo, "nope").startswith("no branch, tag, snapshot or manifest is called nope;")
    line = fail(NOT_FOUND, "inspect", demo, "00000000000000000000", "--transactions")
    assert line.startswith("no branch, tag or snapshot is called 00000000000000000000;")


# What is wrong with a location


def test_no_repository(fail, tmp_path, monkeypatch):
    assert fail(NOT_FOUND, "log", tmp_path).startswith(f"no Icechunk repository at {tmp_path};")
    assert fail(NOT_FOUND, "log", tmp_path / "x").startswith(f"no such file or directory: {tmp_path}/x;")
    assert fail(NOT_FOUND, "log", "memory:nothing").startswith("no Icechunk repository at memory:nothing;")
    monkeypatch.chdir(tmp_path)
    assert fail(NOT_FOUND, "log").startswith(f"neither in an icefs mount nor a repository: {tmp_path};")
    assert "must not be part of a URL" in fail(USAGE, "log", "az://bucket/x?account_key=abc")
    assert "must not be part of a URL" in fail(USAGE, "log", "s3://bucket/x?secret_access_key=abc")


def test_a_server_that_is_not_there(fail):
    assert fail(STORAGE, "log", "http://127.0.0.1:1/x").startswith("cannot read http://127.0.0.1:1/x/")


def test_a_damaged_repository(fail, tmp_path):
    (tmp_path / "repo").write_bytes(b"nonsense")
    line = fail(FORMAT, "log", tmp_path)
    assert "repo" in line
    assert line.endswith(f"'icefs fsck --repair {tmp_path}' restores it if a copy is left")


# What a terminal gets


def test_a_terminal_gets_tables(monkeypatch, run, demo):
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    table = run("branch", "list", demo)
    assert "name" in table.splitlines()[0]
    assert "\t" not in table


@pytest.mark.parametrize("kind", ["branch", "tag"])
def test_refs_are_listed_by_position_and_by_option_alike(run, demo, kind):
    assert run(kind, "list", demo) == run(kind, "list", "--repo", demo) != ""
