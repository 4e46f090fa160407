"""Exports of views that are killed at any step leave only whole files, and the next export completes them."""

import random
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from icefs.engine.write.repository import WritableRepository
from icefs.storage.local.store import LocalStorage
from icefs.views.decoder import Decoding, ZarrDecoder
from icefs.views.formats import parse_format
from icefs.views.hierarchy import SessionHierarchy
from tests.support.killing import Nursery
from tests.support.soak import depth
from tests.support.view_files import write_out
from tests.support.viewed import commit_arrays
from tests.unit.transfer.test_directory_export import files
from tests.unit.transfer.test_view_export import first, second

_CASES = depth(3, 200)
_STEPS = 60

type Content = dict[str, bytes]


@pytest.fixture(scope="module")
def nursery() -> Iterator[Nursery]:
    with Nursery() as found:
        yield found


@pytest.fixture(scope="module")
def versions(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, list[tuple[str, Content]]]]:
    """A repository with two versions, and what each format shows of each."""
    root = tmp_path_factory.mktemp("versions")
    repo = WritableRepository.create(LocalStorage(root / "repo"))
    found: dict[str, list[tuple[str, Content]]] = {"zarr2": [], "npy": [], "netcdf3": []}
    for number, write in enumerate((first, second)):
        commit_arrays(repo, write)
        session = repo.readonly_session("main")
        for name, of_format in found.items():
            hierarchy, decoding = SessionHierarchy(session), Decoding()
            view = parse_format(name).make().root(hierarchy, ZarrDecoder(hierarchy, decoding))
            of_format.append((str(session.snapshot_id), files(write_out(view, root / f"{name}{number}"))))
            decoding.close()
    return root / "repo", found


def check_whole(there: Content, versions: list[Content]) -> None:
    """Each file is one of a version, and an array of Zarr v2 has all of its chunks."""
    for path, data in there.items():
        assert any(version.get(path) == data for version in versions), path
        if path.endswith(".zarray"):
            array = path.removesuffix(".zarray")
            assert any(
                all(there.get(key) == value for key, value in version.items() if key.startswith(array))
                for version in versions
                if version.get(path) == data
            ), path


@pytest.mark.parametrize("seed", range(_CASES))
def test_a_killed_export_of_a_view_leaves_whole_files(
    seed: int,
    nursery: Nursery,
    versions: tuple[Path, dict[str, list[tuple[str, Content]]]],
    tmp_path: Path,
):
    repo, of_formats = versions
    view_format = list(of_formats)[seed % len(of_formats)]
    of_format = of_formats[view_format]
    rng = random.Random(seed)
    target, log = tmp_path / "out", tmp_path / "log"

    def export(which: int, step: int) -> int:
        arguments = (str(repo), str(target), str(tmp_path / "state"), of_format[which][0], view_format, step)
        pid = nursery.start("tests.support.dying_export:export_view_and_die", log, *arguments, waits=True)
        code = nursery.wait(pid)
        assert code in (0, -signal.SIGKILL), log.read_text()
        check_whole(files(target) if target.is_dir() else {}, [content for _, content in of_format])
        return code

    for _ in range(3):  # interrupted ones on top of each other, of either version
        export(rng.randrange(2), rng.randrange(1, _STEPS))
    which = rng.randrange(2)
    assert export(which, 0) == 0
    assert files(target) == of_format[which][1]
    assert {path.name for path in tmp_path.iterdir()} == {"out", "state", "log"}
