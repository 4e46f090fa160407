"""The same changes committed by both libraries: the official one says the same of the two repositories.

They compare everything that `writers.facts_of` reads: the bytes of every key, listings, references, node ids,
history and metadata, transaction logs, manifests with their extents, refs, and the ops log.
"""

import json
from collections.abc import Callable

import pytest

from tests.conformance.commit_base import BASE
from tests.conformance.official import GROUP, array_json
from tests.conformance.writers import EngineRepo, OfficialRepo, Pair, RepoWriter, SessionWriter, Virtual, facts_of, rows

type Scenario = Callable[[RepoWriter], object]


def everything(repo: RepoWriter) -> None:
    def change(s: SessionWriter) -> None:
        s.chunk("/a", (0, 0), b"new zero")
        s.chunk("/a", (2, 1), b"y" * 513)
        s.chunk("/a", (2, 2), b"y" * 512)
        s.drop("/a", (3, 3))
        s.node("/g", GROUP + b"\n")
        s.node("/n", array_json([10], [3], dimension_names=["x"]))
        s.chunk("/n", (3,), b"last")
        s.node("/n/below/an array", GROUP)
        s.delete("/g/h")
        s.node("/g/b", array_json([6], [1], attributes={"units": "m"}))

    repo.write(change, "everything", metadata={"text": "ü", "list": [1, -1, 2.5, None, True], "map": {"": {}}})


def deletes_and_makes_again(repo: RepoWriter) -> None:
    def change(s: SessionWriter) -> None:
        s.chunk("/a", (1, 1), b"lost")
        s.delete("/a")
        s.node("/a", array_json([8, 8], [2, 2]))
        s.chunk("/a", (3, 0), b"kept")
        s.delete("/g")
        s.node("/g", array_json([2], [1]))
        s.chunk("/g", (1,), b"g1")
        s.node("/new", GROUP)
        s.node("/new/array", array_json([2], [1]))
        s.chunk("/new/array", (0,), b"z" * 900)
        s.delete("/new")

    repo.write(change, "made again")

    def again(s: SessionWriter) -> None:
        s.delete("/a")
        s.node("/a", GROUP)
        s.delete("/a")
        s.delete("/g")
        s.node("/g", GROUP)
        s.node("/g/deep/down", GROUP)

    repo.write(again, "and again")
    repo.write(lambda s: s.delete("/"), "nothing left")
    repo.write(lambda s: s.node("/", GROUP), "a new root")


def deletes_chunks(repo: RepoWriter) -> None:
    repo.write(lambda s: s.drop("/a", (0, 0)), "one")
    repo.write(lambda s: s.drop("/a", (2, 2)), "one that is not there")
    repo.write(lambda s: s.drop("/a", (1, 2), (3, 3)), "the last two")

    def set_and_drop(s: SessionWriter) -> None:
        s.chunk("/g/b", (1,), b"one")
        s.drop("/g/b", (1,))
        s.drop("/g/b", (0,))
        s.chunk("/g/b", (0,), b"zero")
        s.chunk("/g/h/s", (), b"another scalar")
        s.drop("/g/h/s", ())

    repo.write(set_and_drop, "in one session")


def resizes(repo: RepoWriter) -> None:
    repo.write(lambda s: s.node("/a", array_json([4, 8], [2, 2])), "shrunk")
    repo.write(lambda s: s.node("/a", array_json([20, 20], [2, 2])), "grown")
    repo.write(lambda s: s.chunk("/a", (9, 9), b"far"), "far")

    def in_one_session(s: SessionWriter) -> None:
        s.chunk("/a", (8, 8), b"gone")
        s.node("/a", array_json([6, 6], [2, 2]))
        s.chunk("/a", (2, 2), b"in the corner")
        s.node("/a", array_json([30, 30], [2, 2]))
        s.chunk("/a", (14, 14), b"corner")

    repo.write(in_one_session, "in one session")


def shrinks_below_its_changes(repo: RepoWriter) -> None:
    def change(s: SessionWriter) -> None:
        s.chunk("/g/b", (4,), b"gone")
        s.chunk("/g/b", (1,), b"kept")
        s.node("/g/b", array_json([3], [1]))
        s.node("/n", array_json([8], [1]))
        s.chunk("/n", (7,), b"gone")
        s.chunk("/n", (0,), b"kept")
        s.node("/n", array_json([4], [1]))

    repo.write(change, "shrunk below its changes")
    repo.write(lambda s: s.node("/n", array_json([8], [1])), "and grown")


def rewrites_metadata(repo: RepoWriter) -> None:
    def there_and_back(s: SessionWriter) -> None:
        s.node("/g/b", array_json([6], [1], attributes={"units": "m"}))
        s.node("/g/b", BASE["g/b/zarr.json"])
        s.node("/g/h", b' {"node_type": "group" }\n')

    repo.write(there_and_back, "there and back")
    repo.write(lambda s: s.node("/a", array_json([8, 8], [2, 2], attributes={"n": 1})), "attributes only")
    repo.write(lambda s: s.node("/a", array_json([16, 8], [4, 2], attributes={"n": 1})), "other chunk shape, same grid")


def makes_arrays_of_all_shapes(repo: RepoWriter) -> None:
    def change(s: SessionWriter) -> None:
        s.node("/scalar", array_json([], []))
        s.chunk("/scalar", (), b"()")
        s.node("/3d", array_json([5, 1, 7], [2, 1, 3], dimension_names=["z", None, ""]))
        for index in rows(3, 1, 3):
            s.chunk("/3d", index, repr(index).encode())
        s.node("/empty", array_json([0, 5], [1, 1]))
        s.node("/no-chunks", array_json([5], [1]))
        s.node("/wide", array_json([10**12], [10**6]))
        s.chunk("/wide", (999_999,), b"far out")

    repo.write(change, "shapes")


def names_of_all_kinds(repo: RepoWriter) -> None:
    def change(s: SessionWriter) -> None:
        for name in ("a-b", "a0", "a b", "ü/ñ", "日本語", "c", "c/c", "%25", "a.b", "UP", "zarr.json.d", "-", "~"):
            s.node(f"/{name}", GROUP)
        s.node("/c/c/c", array_json([2], [1]))
        s.chunk("/c/c/c", (1,), b"c")

    repo.write(change, "names")
    repo.write(lambda s: s.delete("/c"), "less names")


def commits_nothing(repo: RepoWriter) -> None:
    repo.write(lambda s: None, "empty", allow_empty=True)
    repo.write(lambda s: None, "", allow_empty=True, metadata={})


def carries_metadata(repo: RepoWriter) -> None:
    values = {
        "int": [0, 1, -1, 255, 256, 2**31, 2**53 + 1, 2**63 - 1, 2**63, 2**64 - 1, -(2**63)],
        "float": [0.0, 1.0, -0.5, 1e300, 5e-324],
        "text": ["", "a", "ü" * 300, "line\nbreak", '"quoted"'],
        "nested": {"a": [[], {}, [[None]]], "b": {"c": {"d": True}}},
        "mixed": [1, "1", 1.5, False, None, [2], {"k": []}],
        "": "empty key",
    }
    repo.write(lambda s: s.node("/m", GROUP), "metadata", metadata=values)
    repo.write(lambda s: s.node("/m/n", GROUP), "icechunk's own", metadata={"__icechunk": {"mine": 1}})
    repo.write(lambda s: s.node("/m/o", GROUP), "solved", metadata={"__icechunk": {"mine": 1}}, rebase_with="ours")
    repo.write(lambda s: s.node("/m/p", GROUP), "solved too", metadata={"__icechunk": 7}, rebase_with="ours")


def flushes(repo: RepoWriter) -> None:
    session = repo.session()
    session.chunk("/a", (2, 2), b"aside")
    aside = session.flush("aside", metadata={"k": "v"})
    repo.write(lambda s: s.chunk("/a", (0, 1), b"main"), "main goes on")
    if repo.spec_version > 1:
        repo.refs("create_branch", "side", aside)
        repo.write(lambda s: s.chunk("/a", (0, 2), b"side"), "on the side", branch="side")


def virtual_chunks(repo: RepoWriter) -> None:
    def change(s: SessionWriter) -> None:
        s.virtual("/a", {(0, 0): Virtual("file:///data/one", 0, 10), (0, 1): Virtual("s3://bucket/key", 5, 7, "etag")})
        s.node("/v", array_json([40, 30], [1, 1]))
        s.virtual(
            "/v",
            {index: Virtual(f"s3://bucket/some/prefix/{index[0]:03}/{index[1]}.nc", 10 * n, 10)
             for n, index in enumerate(rows(40, 30))},
        )  # fmt: skip

    repo.write(change, "virtual")

    def more(s: SessionWriter) -> None:
        s.virtual("/v", {(3, 3): Virtual("https://example.org/x", 1, 2)})
        s.chunk("/v", (3, 4), b"inline")
        s.chunk("/v", (3, 5), b"n" * 1000)
        s.drop("/v", *rows(2, 30))

    repo.write(more, "more virtual")


def branches_and_tags(repo: RepoWriter) -> None:
    start = repo.refs("lookup_branch", "main")
    first = repo.write(lambda s: s.chunk("/a", (1, 1), b"1"), "first")
    for name in ("dev", "dev 2", "ünïcode", "a.b", "x" * 200):
        repo.refs("create_branch", name, first)
    repo.refs("create_tag", "v1", start)
    repo.refs("create_tag", "v2", first)
    repo.write(lambda s: s.chunk("/a", (1, 1), b"dev"), "on dev", branch="dev")
    repo.write(lambda s: s.chunk("/a", (1, 1), b"2"), "on main")
    repo.refs("reset_branch", "dev 2", start)
    repo.refs("reset_branch", "dev 2", first, from_snapshot_id=start)
    repo.refs("delete_branch", "a.b")
    repo.refs("delete_tag", "v2")
    repo.refs("reset_branch", "main", first)
    repo.write(lambda s: s.chunk("/a", (1, 1), b"3"), "another way", branch="main")


BOTH = [
    everything,
    deletes_and_makes_again,
    deletes_chunks,
    resizes,
    shrinks_below_its_changes,
    rewrites_metadata,
    makes_arrays_of_all_shapes,
    names_of_all_kinds,
    commits_nothing,
    carries_metadata,
    flushes,
    virtual_chunks,
    branches_and_tags,
]


def amends(repo: RepoWriter) -> None:
    repo.write(lambda s: (s.chunk("/a", (1, 1), b"1"), s.node("/n", GROUP)), "first", metadata={"gone": True})

    def change(s: SessionWriter) -> None:
        s.chunk("/a", (2, 2), b"2")
        s.drop("/a", (1, 1))
        s.delete("/n")
        s.node("/o", array_json([2], [1]))
        s.chunk("/o", (0,), b"o")

    session = repo.session()
    change(session)
    session.amend("first, amended")
    session = repo.session()
    session.delete("/o")
    session.amend("first, amended again", metadata={"new": True})
    repo.session().amend("first, amended emptily", allow_empty=True)
    repo.write(lambda s: s.chunk("/a", (1, 1), b"3"), "second")
    session = repo.session()
    session.chunk("/a", (1, 1), b"4")
    session.amend("second, amended")


def moves(repo: RepoWriter) -> None:
    def move(message: str, *pairs: tuple[str, str]) -> None:
        session = repo.session(rearrange=True)
        for source, target in pairs:
            session.move(source, target)
        session.commit(message)

    move("renamed", ("/a", "/z"))
    move("a subtree", ("/g", "/z-g"))
    move("into a group", ("/z", "/z-g/z"))
    move("swapped", ("/z-g/b", "/tmp"), ("/z-g/z", "/z-g/b"), ("/tmp", "/z-g/z"))
    move("a chain", ("/untouched", "/u1"), ("/u1", "/u2"), ("/u2", "/z-g/h/u"))
    move("a parent of what moved", ("/z-g/h/u", "/u"), ("/z-g", "/g"), ("/u", "/g/u"))
    repo.write(lambda s: s.chunk("/g/b", (0, 1), b"after the moves"), "written after")
    session = repo.session(rearrange=True)
    session.move("/g/u", "/u")
    session.commit("moved last")
    session = repo.session(rearrange=True)
    session.move("/u", "/uu")
    session.move("/g/h", "/hh")
    session.amend("moved last, amended")
    session = repo.session(rearrange=True)
    session.move("/uu", "/u3")
    session.flush("moved aside")


def moves_away_and_back(repo: RepoWriter) -> None:
    session = repo.session(rearrange=True)
    session.move("/a", "/z")
    session.move("/z", "/a")
    session.move("/g", "/k")
    session.commit("one stayed")


def administers(repo: RepoWriter) -> None:
    repo.refs("set_metadata", {"owner": "us", "n": 1, "deep": {"er": [1.5, None]}})
    repo.refs("update_metadata", {"n": 2, "more": []})
    for flag, setting in (("create_tag", False), ("delete_tag", True), ("create_tag", None), ("move_node", False)):
        repo.feature(flag, setting)
    repo.status("read_only", "moving house")
    repo.status("online", None)
    repo.write(lambda s: s.chunk("/a", (1, 1), b"1"), "after all that")


SPEC_2 = [amends, moves, moves_away_and_back, administers]


@pytest.mark.parametrize("spec_version", [2, 1])
@pytest.mark.parametrize("scenario", BOTH, ids=lambda each: each.__name__)
def test_both_make_the_same_of_it(base, tmp_path, scenario, spec_version):
    pair = Pair.of(base(spec_version), tmp_path / "pair")
    pair.run(scenario)
    pair.check()


@pytest.mark.parametrize("scenario", SPEC_2, ids=lambda each: each.__name__)
def test_both_make_the_same_of_it_in_spec_2(base, tmp_path, scenario):
    pair = Pair.of(base(2), tmp_path / "pair")
    pair.run(scenario)
    pair.check()


@pytest.mark.parametrize("spec_version", [2, 1])
@pytest.mark.parametrize("scenario", [everything, resizes, virtual_chunks, deletes_and_makes_again])
def test_the_official_library_commits_on_top(base, tmp_path, scenario, spec_version):
    """And it makes the same of our repository as of its own."""
    pair = Pair.of(base(spec_version), tmp_path / "pair")
    pair.run(scenario)
    for repo in (OfficialRepo(pair.official.path), OfficialRepo(pair.ours.path)):
        repo.write(
            lambda s: (s.node("/top", array_json([5], [1])), s.chunk("/top", (1,), b"t"), s.delete("/untouched")),
            "on top",
        )
    pair.check()


@pytest.mark.parametrize("spec_version", [2, 1])
def test_commits_interleave(base, tmp_path, spec_version):
    """Each in its turn, with handles that stay open; the turns are the other way round in the second repository."""
    pair = Pair.of(base(spec_version), tmp_path / "pair")
    for path, order in ((pair.official.path, (0, 1)), (pair.ours.path, (1, 0))):
        writers = (OfficialRepo(path), EngineRepo(path))
        for turn in range(6):
            writer = writers[order[turn % 2]]
            writer.write(
                lambda s, turn=turn: (
                    s.chunk("/a", (turn % 4, turn % 3), bytes([turn]) * (turn * 200 + 1)),
                    s.drop("/a", (turn % 3, turn % 4)),
                    s.node(f"/turn{turn}", array_json([turn + 1], [1], attributes={"turn": turn})),
                    s.chunk(f"/turn{turn}", (turn,), b"t"),
                    s.delete(f"/turn{turn - 3}"),
                ),
                f"turn {turn}",
            )
            if turn % 2:
                writer.refs("create_tag", f"turn {turn}", writer.refs("lookup_branch", "main"))
    pair.check()


@pytest.mark.parametrize("spec_version", [2, 1])
def test_stale_sessions_of_either_library_see_the_others_commit(base, tmp_path, spec_version):
    pair = Pair.of(base(spec_version), tmp_path / "pair")
    path = pair.ours.path
    first, second = OfficialRepo(path), EngineRepo(path)
    for fast, slow in ((first, second), (second, first)):
        session = slow.session()
        session.chunk("/a", (0, 1), type(slow).__name__.encode())
        fast.write(lambda s, fast=fast: s.chunk("/a", (0, 2), type(fast).__name__.encode()), f"fast {id(fast)}")
        session.commit(f"slow {id(slow)}", rebase_with="detector")
    values = facts_of(path)["snapshots"][f"slow {id(first)}"]["values"]
    assert (values["a/c/0/1"], values["a/c/0/2"]) == (b"OfficialRepo", b"EngineRepo")


def test_base_holds_what_it_says(base):
    """The other tests compare; this one pins what they compare."""
    facts = facts_of(base(2))
    assert facts["snapshots"]["base"]["values"] == BASE
    assert json.loads(BASE["a/zarr.json"])["shape"] == [8, 8]
