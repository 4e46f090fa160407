"""`log --graph`, `log -- NODE`, `blame` and the map of `diff`: what they say of a known history."""

import json

import pytest

from icefs.engine.write.repository import WritableRepository
from icefs.format.chunk_indices import ChunkIndices
from icefs.storage.url import open_storage
from tests.unit.cli.test_cli_json import DOCUMENTED

GROUP = b'{"zarr_format":3,"node_type":"group","attributes":{}}'


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("COLUMNS", "80")


def array(shape):
    grid = {"name": "regular", "configuration": {"chunk_shape": [1] * len(shape)}}
    document = {"zarr_format": 3, "node_type": "array", "shape": shape, "chunk_grid": grid, "attributes": {}}
    return json.dumps(document).encode()


@pytest.fixture
def history(tmp_path):
    """Commits 0 to 3 on main; `side` leaves after 1."""
    repo = WritableRepository.create(open_storage(str(tmp_path / "repo")))

    def commit(message, chunks, branch="main", more=(), deleted=()):
        session = repo.writable_session(branch)
        for path, document in more:
            session.nodes.put(path, document)
        for path, index in chunks:
            session.chunks.set(path, index, message.encode())
        for path, index in deleted:
            session.chunks.delete(path, ChunkIndices.from_indices(len(index), [index]))
        return str(session.commit(message))

    nodes = [("/", GROUP), ("/g", GROUP), ("/g/a", array([3, 4])), ("/b", array([4])), ("/big", array([100, 300]))]
    ids = [commit("zero", [("/g/a", (0, 0)), ("/g/a", (2, 3))], more=nodes)]
    ids.append(commit("one", [("/g/a", (1, 1))]))
    repo.create_branch("side", repo.lookup_branch("main"))
    ids.append(commit("two", [("/b", (1,)), ("/big", (99, 299))]))
    ids.append(commit("three", [("/g/a", (0, 0)), ("/g/a", (1, 2))], deleted=[("/g/a", (2, 3))]))
    ids.append(commit("aside", [("/b", (3,))], branch="side"))
    repo.create_tag("v1", repo.lookup_branch("side"))
    repo.close()
    return str(tmp_path / "repo"), ids


def test_blame(history, run, run_json):
    repo, ids = history
    told = run_json("blame", repo, "g/a")
    assert list(told) == DOCUMENTED["blame"]
    owners = {tuple(chunk["index"]): chunk["commit"] for chunk in told["chunks"]}
    assert owners == {(0, 0): ids[3], (1, 2): ids[3], (1, 1): ids[1]}
    assert [(commit["message"], commit["num_chunks"]) for commit in told["commits"]] == [("three", 2), ("one", 1)]
    assert (told["metadata"]["message"], told["grid_shape"]) == ("zero", [3, 4])
    text = run("blame", repo, "/g/a").splitlines()
    assert text[:3] == ["  1···", "  ·21·", "  ····"]
    assert text[4].startswith(f"  1  {ids[3]}")
    assert run_json("blame", f"{repo}@side", "g/a")["commits"][0]["message"] == "one"
    assert run("blame", repo, "b").splitlines()[0] == "  ·1··"


def test_blame_of_a_large_grid(history, run):
    repo, _ = history
    text = run("blame", repo, "big").splitlines()
    assert len(text[0]) == 78
    assert text[19][-1] == "1"
    assert text[20] == "/big: 1 chunk in a grid of 100 x 300 (a cell is a block of chunks)"


@pytest.mark.parametrize("node", ["nothing", "g", "g/a/c"])
def test_blame_of_what_is_no_array(history, fail, node):
    assert f"no array at /{node}" in fail(3, "blame", history[0], node)


def test_blame_wants_a_node(history, fail):
    assert "which array" in fail(2, "blame", history[0])


def test_the_history_of_a_node(history, run_json, run):
    repo, ids = history
    for path in ("g/a", "/g/a/", "g"):
        assert [entry["id"] for entry in run_json("log", repo, "--follow", path)] == [ids[3], ids[1], ids[0]]
    assert run("log", repo, "-n", "1", "--oneline", "--", "b") == f"{ids[2]} two\n"
    assert [entry["message"] for entry in json.loads(run("log", repo, "side", "--json", "--", "b"))] == [
        "aside",
        "zero",
    ]


def test_a_node_is_followed_through_renames(history, run):
    repo, ids = history
    opened = WritableRepository.open(open_storage(repo))
    session = opened.rearrange_session("main")
    session.nodes.move("/g/a", "/renamed")
    moved = str(session.commit("moved"))
    opened.close()
    told = run("log", repo, "--oneline", "--", "renamed").splitlines()
    assert [line.split()[0] for line in told] == [moved, ids[3], ids[1], ids[0]]


def test_following_nothing(history, fail):
    assert "nothing at no/such" in fail(3, "log", history[0], "--", "no/such")
    assert "one path" in fail(2, "log", history[0], "--", "a", "b")


def test_the_graph(history, run):
    repo, ids = history
    lines = run("log", repo, "--graph").splitlines()
    drawn = [line.split(" 20")[0] for line in lines]
    assert drawn == [
        f"* {ids[4]} (side, tag: v1)",
        f"| * {ids[3]} (main)",
        f"| * {ids[2]}",
        "|/",
        f"* {ids[1]}",
        f"* {ids[0]}",
        "* 1CECHNKREP0F1RSTCMT0",
    ]
    assert [line[0] for line in run("log", repo, "side", "--graph").splitlines()] == ["*"] * 4


def test_the_map_of_a_diff(history, run):
    repo, ids = history
    text = run("diff", repo, ids[0], ids[3], "--map")
    assert "\n/g/a\n  ~···\n  ·++·\n  ···-\n" in text
    assert "\n/g/a\n" not in run("diff", repo, ids[0], ids[3])
