"""A snapshot as what a working tree stands on: many paths are asked for together, with the answers of each alone."""

from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any

import pytest

from icefs.engine.repository import Repository
from icefs.errors import ObjectNotFoundError
from icefs.format.layout import manifest_key
from icefs.format.manifest.refs import VirtualRef
from icefs.storage.base import Object
from icefs.storage.memory import MemoryStorage
from icefs.vfs.branches.session_base import Guarded, SessionBase
from icefs.worktree.base import BaseAttr
from tests.support.repo_builder import RepoBuilder, group, inline

PATHS = [
    *("", "zarr.json", "g", "g/a", "g/a/zarr.json", "g/a/c", "g/a/c/1", "s", "s/c", "nothing", "nothing/zarr.json"),
    *(f"g/a/c/{row}/{column}" for row in (0, 1, 3, 4, 9) for column in (0, 1, 2, 7)),
    *("g/a/c/1/01", "g/a/c/1/1/1", "g/a/0/0", "g/a/note.txt", "s/zarr.json", "s/c/0", "g//a/c/1/1"),
]


@pytest.fixture
def builder() -> RepoBuilder:
    builder = RepoBuilder()
    refs = {**inline((0, 0), (1, 1), (3, 2)), (1, 0): builder.chunk(b"x" * 600), (4, 1): VirtualRef("s3://b/k", 3, 40)}
    boxes = [((0, 2), (0, 3)), ((2, 5), (0, 3))]
    nodes = [group("/", 1), builder.array("/g/a", 2, (5, 3), refs, boxes=boxes), builder.array("/s", 3, (), inline(()))]
    builder.commit(nodes)
    return builder


def base_of(storage: Any, guarded: Guarded, **tree: Any) -> SessionBase:
    session = Repository.open(storage).readonly_session("main")
    shown = SimpleNamespace(**{"session": None, **tree})
    if shown.session == "this":
        shown.session = session
    return SessionBase(shown, guarded, session)  # type: ignore[arg-type]


def test_many_paths_have_the_attributes_of_each(builder: RepoBuilder) -> None:
    base_tree = base_of(builder.publish(), Guarded())
    found = base_tree.stat_many(PATHS)
    assert list(found) == [base_tree.stat(path) for path in PATHS]
    sizes = {path: attr.size for path, attr in zip(PATHS, found, strict=True) if attr is not None and not attr.is_dir}
    chunks = {
        "g/a/c/0/0": 6,
        "g/a/c/1/1": 6,
        "g/a/c/3/2": 6,
        "g/a/c/1/0": 600,
        "g/a/c/4/1": 40,
        "s/c": 2,
        "g//a/c/1/1": 6,
    }
    assert {path: size for path, size in sizes.items() if not path.endswith("zarr.json")} == chunks
    assert base_tree.stat_many([]) == []


def test_the_tree_that_shows_the_snapshot_is_asked(builder: RepoBuilder) -> None:
    attr = BaseAttr(17, False, 5, 1234)
    base_tree = base_of(builder.publish(), Guarded(), session="this", attr_at={"g/a/c/0/0": attr}.get)
    assert base_tree.stat_many(["g/a/c/0/0", "g/a/c/1/1"]) == [attr, None]


def test_what_cannot_be_read_is_an_error_of_those_that_need_it(builder: RepoBuilder) -> None:
    storage = builder.publish()
    base_tree = base_of(storage, Guarded())
    node = base_tree.session.node("/g/a")
    assert node.array is not None
    storage.delete([manifest_key(node.array.manifests[1].manifest_id)])
    assert base_tree.stat_many(["g/a/c/1/0", "s/c"]) == [BaseAttr(0, False, 600, -1), BaseAttr(0, False, 2, -1)]
    with pytest.raises(ObjectNotFoundError):
        base_tree.stat_many(["g/a/c/1/0", "g/a/c/3/2"])


def test_the_event_loop_does_not_wait_while_manifests_are_fetched(builder: RepoBuilder) -> None:
    guarded = Guarded()
    free: list[bool] = []

    def is_free() -> bool:
        if not guarded.lock.acquire(blocking=False):
            return False
        guarded.lock.release()
        return True

    class Watched(MemoryStorage):
        def get(self, key: str, *, start: int = 0, end: int | None = None) -> Object:
            if key.startswith("manifests/"):
                with ThreadPoolExecutor(1) as other:
                    free.append(other.submit(is_free).result())
            return super().get(key, start=start, end=end)

    plain, storage = builder.publish(), Watched()
    for one in plain.iter_objects():
        storage.put(one.key, plain.get(one.key).data)
    base_of(storage, guarded).stat_many([path for path in PATHS if path.startswith("g/a/c/")])
    assert free
    assert all(free)
