"""Wrong calls, made of both libraries: the same classes and kinds of errors, and nothing changed."""

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import icechunk as ic
import pytest

from icefs.engine.write.repository import WritableRepository
from icefs.format.ids import SnapshotId
from icefs.storage.local.store import LocalStorage
from tests.conformance import official
from tests.conformance.official import GROUP, array_json
from tests.conformance.writers import Pair, RepoWriter, SessionWriter, outcome

type Calls = Callable[[RepoWriter], list[Callable[[], Any]]]

BASE = {
    "zarr.json": GROUP,
    "a/zarr.json": array_json([8, 8], [2, 2]),
    "a/c/0/0": b"zero",
    "g/zarr.json": GROUP,
    "g/b/zarr.json": array_json([6], [1]),
    "g/h/zarr.json": GROUP,
    "g/h/s/zarr.json": array_json([], []),
}
NOWHERE = str(SnapshotId.random())


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Callable[[int], Path]:
    """A function that returns a repository of a spec version with one commit, a tag, a deleted tag and a branch."""
    directory = tmp_path_factory.mktemp("bases")

    @cache
    def make(spec_version: int) -> Path:
        path = directory / f"v{spec_version}"
        repo = official.create(path, spec_version)
        tip = official.commit(repo, "base", BASE)
        for name in ("kept", "deleted"):
            repo.create_tag(name, tip)
        repo.delete_tag("deleted")
        repo.create_branch("dev", tip)
        return path

    return make


def committed(repo: RepoWriter) -> SessionWriter:
    session = repo.session()
    session.chunk("/a", (1, 1), b"1")
    session.commit("first")
    return session


def bad_metadata(repo: RepoWriter) -> list[Callable[[], Any]]:
    s = repo.session()
    array = '"zarr_format":3,"node_type":"array"'
    regular = '"chunk_grid":{"name":"regular","configuration":{"chunk_shape":[1]}}'
    documents = [
        "", "{", "[]", "null", "{}", '{"node_type":"grup"}', '{"node_type":null}', '{"node_type":["group"]}',
        f"{{{array}}}", f'{{{array},"shape":[1]}}', f"{{{array},{regular}}}", f'{{{array},"shape":[-1],{regular}}}',
        f'{{{array},"shape":[1.5],{regular}}}', f'{{{array},"shape":"1",{regular}}}',
        f'{{{array},"shape":[1,2],{regular}}}',
        f'{{{array},"shape":[1],"chunk_grid":{{"name":"odd","configuration":{{}}}}}}',
        f'{{{array},"shape":[1],"chunk_grid":{{"name":"regular","configuration":{{}}}}}}',
        f'{{{array},"shape":[1],"chunk_grid":{{"name":"regular"}}}}',
        f'{{{array},"shape":[1],{regular},"dimension_names":[1]}}',
        f'{{{array},"shape":[4],"chunk_grid":{{"name":"rectilinear","configuration":'
        '{"kind":"inline","chunk_shapes":[[1,3]]}}}',
    ]  # fmt: skip
    return [lambda data=data: s.node("/n", data.encode()) for data in documents]


def kinds_of_nodes(repo: RepoWriter) -> list[Callable[[], Any]]:
    s = repo.session()
    return [
        lambda: s.node("/a", GROUP),
        lambda: s.node("/g", array_json([1], [1])),
        lambda: s.node("/", array_json([1], [1])),
        lambda: (s.delete("/a"), s.node("/a", GROUP), s.node("/a", array_json([1], [1]))),
    ]


def chunks(repo: RepoWriter) -> list[Callable[[], Any]]:
    s = repo.session()
    return [
        lambda: s.chunk("/nothing", (0,), b"x"),
        lambda: s.chunk("/a", (4, 0), b"x"),
        lambda: s.chunk("/a", (0, 4), b"x"),
        lambda: s.chunk("/a", (0, 2**32 - 1), b"x"),
        lambda: s.chunk("/a", (0, 0), b""),
        lambda: s.chunk("/g", (0,), b"x"),
        lambda: s.delete("/nothing"),
        lambda: s.delete("/a/nothing"),
    ]


def no_changes(repo: RepoWriter) -> list[Callable[[], Any]]:
    def discarded() -> None:
        session = repo.session()
        session.node("/n", GROUP)
        session.discard()
        session.commit("nothing")

    def undone() -> None:
        session = repo.session()
        session.node("/n", GROUP)
        session.delete("/n")
        session.commit("nothing")

    return [
        lambda: repo.session().commit("nothing"),
        lambda: repo.session().commit("nothing", rebase_with="ours"),
        discarded,
        undone,
    ]


def after_a_commit(repo: RepoWriter) -> list[Callable[[], Any]]:
    s = committed(repo)
    return [
        lambda: s.commit("second"),
        lambda: s.commit("second", allow_empty=True),
        lambda: s.commit("second", rebase_with="ours"),
        lambda: s.rebase("ours"),
        s.discard,
    ]


def branches(repo: RepoWriter) -> list[Callable[[], Any]]:
    tip = repo.refs("lookup_branch", "main")
    calls: list[Callable[[], Any]] = [
        lambda: repo.session("nobody"),
        lambda: repo.refs("create_branch", "dev", tip),
        lambda: repo.refs("create_branch", "main", tip),
        lambda: repo.refs("create_branch", "x", NOWHERE),
        lambda: repo.refs("reset_branch", "nobody", tip),
        lambda: repo.refs("reset_branch", "dev", NOWHERE),
        lambda: repo.refs("reset_branch", "dev", tip, from_snapshot_id=NOWHERE),
        lambda: repo.refs("delete_branch", "main"),
        lambda: repo.refs("delete_branch", "nobody"),
        lambda: repo.refs("lookup_branch", "nobody"),
        lambda: repo.refs("lookup_branch", "kept"),
        lambda: repo.refs("create_branch", "a/b", tip),
        lambda: repo.refs("create_branch", "", tip),
    ]
    return calls


def tags(repo: RepoWriter) -> list[Callable[[], Any]]:
    tip = repo.refs("lookup_branch", "main")
    return [
        lambda: repo.refs("create_tag", "kept", tip),
        lambda: repo.refs("create_tag", "deleted", tip),
        lambda: repo.refs("create_tag", "x", NOWHERE),
        lambda: repo.refs("create_tag", "dev", tip),
        lambda: repo.refs("delete_tag", "nothing"),
        lambda: repo.refs("delete_tag", "deleted"),
        lambda: repo.refs("lookup_tag", "deleted"),
        lambda: repo.refs("lookup_tag", "nothing"),
        lambda: repo.refs("create_tag", "a/b", tip),
    ]


BOTH = [bad_metadata, kinds_of_nodes, chunks, no_changes, after_a_commit, branches, tags]


def spec_1_has_none(repo: RepoWriter) -> list[Callable[[], Any]]:
    s = repo.session()
    s.node("/n", GROUP)
    return [
        lambda: s.amend("amended"),
        lambda: repo.session(rearrange=True),
        lambda: repo.refs("set_metadata", {"a": 1}),
        lambda: repo.refs("update_metadata", {"a": 1}),
        lambda: repo.status("read_only", None),
        lambda: repo.features(),
    ]


def moves(repo: RepoWriter) -> list[Callable[[], Any]]:
    s = repo.session(rearrange=True)
    edits = repo.session()
    pairs = [
        ("a", "/z"), ("/a", "z"), ("/nothing", "/z"), ("/a", "/g"), ("/a", "/g/b"), ("/g", "/g/h/g"), ("/g", "/g/x"),
        ("/a", "/none/z"), ("/a", "/g/b/z"), ("/", "/z"), ("/a", "/"), ("/a", "/a"), ("/g", "/g"), ("/", "/"),
    ]  # fmt: skip
    calls: list[Callable[[], Any]] = [lambda a=a, b=b: s.move(a, b) for a, b in pairs]
    return [
        *calls,
        lambda: s.node("/n", GROUP),
        lambda: s.chunk("/a", (0, 0), b"x"),
        lambda: s.delete("/a"),
        lambda: s.commit("nothing"),
        lambda: edits.move("/a", "/z"),
    ]


def amends(repo: RepoWriter) -> list[Callable[[], Any]]:
    def initial() -> None:
        first = [info.id for info in repo.raw.ancestry(branch="main")][-1]
        repo.refs("create_branch", "first", str(first))
        session = repo.session("first")
        session.node("/n", GROUP)
        session.amend("first, amended")

    def over_moves() -> None:
        session = repo.session(rearrange=True)
        session.move("/a", "/z")
        session.commit("moved")
        edits = repo.session()
        edits.node("/n", GROUP)
        edits.amend("moved, amended")

    def behind() -> None:
        session = repo.session()
        session.node("/behind", GROUP)
        repo.write(lambda s: s.node("/faster", GROUP), "faster")
        session.amend("slower, amended")

    return [
        lambda: repo.session().amend("nothing"), initial, over_moves, behind, lambda: committed(repo).amend("again")
    ]  # fmt: skip


def switched_off(repo: RepoWriter) -> list[Callable[[], Any]]:
    tip = repo.refs("lookup_branch", "main")
    session = repo.session(rearrange=True)
    session.move("/a", "/z")
    for flag in ("move_node", "create_tag", "delete_tag"):
        repo.feature(flag, False)
    return [
        lambda: repo.refs("create_tag", "new", tip),
        lambda: repo.refs("delete_tag", "kept"),
        lambda: session.commit("moved"),
        lambda: session.flush("moved"),
        lambda: repo.session(rearrange=True),
    ]


def not_online(repo: RepoWriter) -> list[Callable[[], Any]]:
    tip = repo.refs("lookup_branch", "main")
    sessions = [repo.session() for _ in range(3)]
    for session in sessions:
        session.chunk("/a", (1, 1), b"1")
    repo.status("read_only", "moving house")
    return [
        repo.session,
        lambda: repo.session(rearrange=True),
        lambda: sessions[0].commit("no"),
        lambda: sessions[1].amend("no"),
        lambda: sessions[2].flush("no"),
        lambda: repo.refs("create_branch", "x", tip),
        lambda: repo.refs("reset_branch", "dev", tip),
        lambda: repo.refs("delete_branch", "dev"),
        lambda: repo.refs("create_tag", "x", tip),
        lambda: repo.refs("delete_tag", "kept"),
        lambda: repo.refs("set_metadata", {"a": 1}),
        lambda: repo.refs("save_config"),
        lambda: repo.feature("move_node", False),
        lambda: repo.session("nobody"),
    ]


SPEC_2 = [moves, amends, switched_off, not_online]


AS_IN_SPEC_2 = {
    (branches, 1): ("AlreadyExistsError", "branch-already-exists"),
    (branches, 2): ("AlreadyExistsError", "branch-already-exists"),
    (branches, 3): ("SnapshotNotFoundError", "snapshot-not-found"),
    (branches, 5): ("SnapshotNotFoundError", "snapshot-not-found"),
    (tags, 1): ("AlreadyExistsError", "tag-previously-deleted"),
    (tags, 2): ("SnapshotNotFoundError", "snapshot-not-found"),
}
"""Divergence 64: what our errors are in spec 1, by the number of the call."""


def compare(pair: Pair, calls: Calls) -> None:
    theirs, ours = pair.run(lambda repo: [outcome(call) for call in calls(repo)])
    theirs, ours = ([(word, None if word == "ok" else kind) for word, kind in each] for each in (theirs, ours))
    if pair.ours.spec_version == 1:
        theirs = [AS_IN_SPEC_2.get((calls, number), each) for number, each in enumerate(theirs)]
    assert dict(enumerate(ours)) == dict(enumerate(theirs))
    pair.check()


@pytest.mark.parametrize("spec_version", [2, 1])
@pytest.mark.parametrize("calls", BOTH, ids=lambda each: each.__name__)
def test_both_refuse_alike(base, tmp_path, calls, spec_version):
    compare(Pair.of(base(spec_version), tmp_path / "pair"), calls)


@pytest.mark.parametrize("calls", SPEC_2, ids=lambda each: each.__name__)
def test_both_refuse_alike_in_spec_2(base, tmp_path, calls):
    compare(Pair.of(base(2), tmp_path / "pair"), calls)


def test_both_refuse_alike_what_spec_1_has_none_of(base, tmp_path):
    compare(Pair.of(base(1), tmp_path / "pair"), spec_1_has_none)


def test_a_flush_after_a_commit(base, tmp_path):
    """Divergence 65."""
    theirs, ours = Pair.of(base(2), tmp_path / "pair").run(
        lambda repo: outcome(lambda: bool(committed(repo).flush("again")))
    )
    assert (theirs, ours) == (("ok", True), ("SessionStateError", "commit-not-allowed"))


@pytest.mark.parametrize("spec_version", [2, 1])
def test_creating_where_something_is(base, tmp_path, spec_version):
    pair = Pair.of(base(spec_version), tmp_path / "pair")
    theirs = ic.local_filesystem_storage(str(pair.official.path))
    ours = LocalStorage(pair.ours.path)
    for clean, kind in ((True, "parent-directory-not-clean"), (False, "repo-info-updated")):
        ended = outcome(
            lambda clean=clean: WritableRepository.create(ours, spec_version=spec_version, check_clean_root=clean)
        )
        expected = outcome(
            lambda clean=clean: ic.Repository.create(theirs, spec_version=spec_version, check_clean_root=clean)
        )
        assert ended == (expected[0], kind)
        assert expected[1] == kind or (spec_version == 1 and not clean)  # Divergence 64
    pair.check()
