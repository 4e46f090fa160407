"""Exports to a file system that takes different names for one: refused by name, and nothing is merged."""

import itertools
import os
import unicodedata
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from icefs.engine.history.key_times import KeyTimes
from icefs.engine.history.lineage import Lineages
from icefs.engine.write.repository import WritableRepository
from icefs.errors import InvalidInputError
from icefs.storage.memory import MemoryStorage
from icefs.transfer.directory_export import Exported, ExportRequest, export_session
from tests.support.folding_fs import fold, folding_file_system
from tests.support.mounting import require_fuse
from tests.support.soak import depth
from tests.unit.transfer.test_directory_export import files
from tests.unit.transfer.test_directory_import import array, read

_numbers = itertools.count()


@pytest.fixture(scope="module")
def folding(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    require_fuse()
    path = tmp_path_factory.mktemp("folding")
    with folding_file_system(path):
        yield path


def repository(*paths: str) -> WritableRepository:
    repo = WritableRepository.create(MemoryStorage())
    session = repo.writable_session("main")
    for number, path in enumerate(paths, 2):
        session.nodes.put(path, array([number]))
        session.chunks.set(path, (number - 1,), f"{number}".encode() * number)
    session.commit("x")
    return repo


def export(repo: WritableRepository, target: Path, **options: bool) -> Exported:
    session = repo.readonly_session("main")
    times = KeyTimes(Lineages(repo.context), session.snapshot_id, session.snapshot.flushed_at)
    return export_session(session, times, ExportRequest(str(target), **options))


def nfd(text: str) -> str:
    return unicodedata.normalize("NFD", text)


@pytest.mark.parametrize("dry_run", [False, True])
def test_what_would_share_a_directory_is_refused_by_name(folding: Path, tmp_path: Path, dry_run: bool):
    repo = repository("/Foo", "/foo", "/g/naïve", nfd("/g/naïve"), "/g/other", "/Foo/Zarr.JSON")
    target = folding / f"new{next(_numbers)}/out"
    with pytest.raises(InvalidInputError) as caught:
        export(repo, target, dry_run=dry_run)
    assert str(target) in caught.value.message
    assert sorted(caught.value.facts["names"]) == sorted(
        [("Foo", "foo"), (nfd("g/naïve"), "g/naïve"), ("Foo/Zarr.JSON", "Foo/zarr.json")]
    )
    assert not target.parent.exists()
    assert not [name for name in os.listdir(folding) if name.startswith(".")]
    # A file system that tells them apart takes all of them.
    assert export(repo, tmp_path / "out").failed == []
    assert files(tmp_path / "out") == read(repo)


def test_what_has_names_of_its_own_is_exported_there(folding: Path):
    repo = repository("/Foo", "/g/foo", "/g/Bar", "/straße", "/n")
    target = folding / f"out{next(_numbers)}"
    export(repo, target)
    assert files(target) == read(repo)
    # Another spelling of the directory is the same directory.
    assert export(repo, folding / target.name.upper(), force=True).written_files == 0


ALPHABET = "aAbßẞsSéÉeïİiıσςΣﬁK\u212a\u0301\u0308. "
NAMES = st.lists(
    st.text(ALPHABET, min_size=1, max_size=3).filter(lambda name: name not in {".", ".."}),
    min_size=1,
    max_size=5,
    unique=True,
)


@given(names=NAMES)
@settings(max_examples=depth(15, 600))
def test_any_names_are_exported_as_they_are_or_refused(folding: Path, names: list[str]):
    repo = repository(*(f"/{name}" for name in names))
    target = folding / f"any{next(_numbers)}"
    if len({fold(name.encode()) for name in names}) < len(names):
        with pytest.raises(InvalidInputError, match="takes different names for one"):
            export(repo, target)
        assert not target.exists()
    else:
        assert export(repo, target).failed == []
        assert files(target) == read(repo)
