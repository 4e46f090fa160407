"""A repository that somebody made to harm its user: whatever stands in it, nothing leads out of it.

Each example takes a repository of either spec version, puts a thing in the place of one of its files, of a directory
of it, or of its lock, and carries out operations of the engine, of an export and of a mount. Nothing outside is made,
changed, removed or shown, nothing waits, and what fails is an error of icefs that names a path.
"""

import itertools
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st

from icefs.clock import system_clock
from icefs.engine.history.key_times import KeyTimes
from icefs.engine.history.lineage import Lineages
from icefs.engine.repository import Repository
from icefs.engine.upkeep.expiration import ExpirationRequest, expire
from icefs.engine.upkeep.fsck import fsck, repair
from icefs.engine.upkeep.garbage import collect_garbage
from icefs.engine.upkeep.migrate import upgrade
from icefs.engine.upkeep.storage_stats import history_stats
from icefs.engine.write.repository import WritableRepository
from icefs.errors import IcefsError
from icefs.format.config.values import RepositoryConfig
from icefs.storage.local.lock import LOCK_NAME
from icefs.storage.local.store import LocalStorage
from icefs.transfer.directory_export import ExportRequest, export_session
from tests.support.hostile import SECRET, STRANGE, THINGS, deadline, fits, make_outside, place, unchanged
from tests.support.soak import SOAK, depth
from tests.support.vfs_driver import mounted

METADATA = (
    b'{"zarr_format":3,"node_type":"array","shape":[4],"data_type":"uint8","chunk_grid":{"name":"regular",'
    b'"configuration":{"chunk_shape":[2]}},"chunk_key_encoding":{"name":"default"},"fill_value":0,"codecs":[{"name":"bytes"}]}'
)


def _storage(root: Path) -> LocalStorage:
    return LocalStorage(root, durable=False, lock_timeout_s=0.1)


def _make(root: Path, spec_version: int) -> None:
    config = RepositoryConfig(inline_chunk_threshold_bytes=0)
    repository = WritableRepository.create(_storage(root), config, spec_version=spec_version)
    for text in (b"ab", b"cd"):
        session = repository.writable_session("main")
        session.nodes.put("/a", METADATA)
        session.chunks.set("/a", (0,), text)
        session.chunks.set("/a", (1,), text)
        session.commit("more")
    repository.create_tag("v1", repository.lookup_branch("main"))
    repository.create_branch("side", repository.lookup_branch("main"))
    repository.close()


def _open(root: Path) -> WritableRepository:
    return WritableRepository.open(_storage(root))


def _read(root: Path) -> Any:
    repository = Repository.open(_storage(root))
    session = repository.session_at(repository.resolve_ref("main"))
    return [session.read_chunk(session.chunk_ref("/a", (index,))) for index in (0, 1)], list(
        repository.ancestry(branch="main")
    )


def _commit(root: Path) -> Any:
    session = _open(root).writable_session("main")
    session.chunks.set("/a", (0,), b"zz")
    return session.commit("ours")


def _export(root: Path) -> Any:
    repository = Repository.open(_storage(root))
    session = repository.session_at(repository.resolve_ref("main"))
    times = KeyTimes(Lineages(repository.context), session.snapshot_id, session.snapshot.flushed_at)
    target = root.with_name(f"{root.name}-export")
    done = export_session(session, times, ExportRequest(str(target)), lambda done: None)
    return [path.read_bytes() for path in target.rglob("*") if path.is_file()], done


async def _look_into_a_mount(root: Path) -> list[bytes]:
    found = []
    async with mounted(_storage(root), branch="main") as driver:
        for path in ("a/zarr.json", "a/c/0", "a/c/1"):
            try:
                found.append(await driver.read(path))
            except IcefsError as error:
                found.append(repr(error).encode())
    return found


OPERATIONS: dict[str, Callable[[Path], Any]] = {
    "read": _read,
    "commit": _commit,
    "export": _export,
    "mount": lambda root: trio.run(_look_into_a_mount, root),
    "list": lambda root: (_open(root).list_branches(), _open(root).list_tags()),
    "branch": lambda root: _open(root).create_branch("new", _open(root).lookup_branch("main")),
    "tag": lambda root: _open(root).create_tag("new", _open(root).lookup_branch("main")),
    "delete branch": lambda root: _open(root).delete_branch("side"),
    "delete tag": lambda root: _open(root).delete_tag("v1"),
    "expire": lambda root: expire(_open(root), ExpirationRequest(system_clock() + 1)),
    "gc": lambda root: collect_garbage(_open(root), system_clock() + 1),
    "fsck": lambda root: fsck(_storage(root), deep=True).to_json(),
    "repair": lambda root: repair(_storage(root)).to_json(),
    "stats": lambda root: history_stats(_open(root)),
    "upgrade": lambda root: upgrade(_open(root)),
    "create": lambda root: WritableRepository.create(_storage(root), check_clean_root=False),
}


@pytest.fixture(scope="module")
def made():
    with tempfile.TemporaryDirectory(prefix="icefs-hostile-") as scratch:
        roots = {version: Path(scratch, f"spec-{version}") for version in (1, 2)}
        for version, root in roots.items():
            _make(root, version)
        yield roots


def _places(root: Path) -> list[str]:
    inside = [str(path.relative_to(root)) for path in sorted(root.rglob("*"))]
    return [*inside, LOCK_NAME] if LOCK_NAME not in inside else inside


def _group(exc: BaseException) -> bool:
    if isinstance(exc, BaseExceptionGroup):
        return all(map(_group, exc.exceptions))
    return isinstance(exc, IcefsError)


@settings(max_examples=depth(settings().max_examples, 3000), deadline=None)
@given(data=st.data())
def test_nothing_that_stands_in_a_repository_leads_out_of_it(made, data):
    version = data.draw(st.sampled_from((1, 2)), label="spec version")
    at = data.draw(st.sampled_from(_places(made[version])), label="place")
    is_directory = (made[version] / at).is_dir()
    things = [thing for thing in THINGS if fits(thing, is_directory=is_directory)]
    thing = data.draw(st.sampled_from(things), label="thing")
    names = data.draw(
        st.lists(st.sampled_from(sorted(OPERATIONS)), min_size=1, max_size=4, unique=True), label="operations"
    )
    with tempfile.TemporaryDirectory(prefix="icefs-hostile-") as scratch:
        root, outside = Path(scratch, "repo"), make_outside(Path(scratch))
        shutil.copytree(made[version], root)
        place(root / at, thing, outside)
        for name in names:
            _try(root, outside, name, shows=thing == "hard link")


def _try(root: Path, outside: Path, name: str, *, shows: bool) -> None:
    with unchanged(outside), deadline(20):
        try:
            answer = OPERATIONS[name](root)
        except (IcefsError, BaseExceptionGroup) as error:
            if not _group(error):
                raise
            answer = repr(error)
    assert shows or SECRET not in repr(answer).encode(), name


@pytest.mark.parametrize("version", [1, 2])
def test_fsck_finds_whatever_is_no_file(made, tmp_path, version):
    """In the place of each file and directory, and next to them."""
    outside = make_outside(tmp_path)
    places = [*_places(made[version]), "chunks/NEW", "new"]
    for number, (at, thing) in enumerate(itertools.product(places, STRANGE)):
        if not fits(thing, is_directory=False) or (number % 7 and not SOAK):
            continue
        root = tmp_path / f"repo-{number}"
        shutil.copytree(made[version], root)
        place(root / at, thing, outside)
        try:
            report = fsck(_storage(root), deep=True)
        except IcefsError as error:
            assert at in error.message  # noqa: PT017
            continue
        assert report.status == "damaged", (at, thing)
        assert any(at in finding.key or at in finding.message for finding in report.findings), (at, thing)
        assert not any("/outside" in finding.message for finding in report.findings)
