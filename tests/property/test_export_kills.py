"""Exports that are killed at any step leave no array with missing data, and the next export completes them."""

import json
import random
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from icefs.engine.write.repository import WritableRepository
from icefs.storage.local.store import LocalStorage
from icefs.transfer.directory_import import ImportRequest, import_directory
from tests.support.killing import Nursery
from tests.support.soak import SOAK, depth
from tests.unit.transfer.test_directory_export import change, files
from tests.unit.transfer.test_directory_import import few, read, sample, write

_CASES = depth(14, 400)
_STEPS = 90

type Keys = dict[str, bytes]


@pytest.fixture(scope="module")
def nursery() -> Iterator[Nursery]:
    with Nursery() as found:
        yield found


@pytest.fixture(scope="module")
def versions(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str], list[Keys]]:
    """A repository with three versions: one, one that differs in every way, and one with consolidated metadata."""
    root = tmp_path_factory.mktemp("versions")
    repo = WritableRepository.create(LocalStorage(root / "repo"))
    import_directory(repo, ImportRequest(write(root / "source", sample()), root / "state"))
    ids, keys = [str(repo.lookup_branch("main"))], [read(repo)]
    ids.append(str(change(repo)))
    keys.append(read(repo))
    session = repo.writable_session("main")
    group = {"zarr_format": 3, "node_type": "group", "attributes": {}, "consolidated_metadata": {"metadata": {}}}
    session.nodes.put("/", json.dumps(group).encode())
    session.chunks.set("/g/inner" if session.get_node("/g/inner") else "/big", (0,), b"third" * 20_000)
    ids.append(str(session.commit("third")))
    keys.append(read(repo))
    return root / "repo", ids, keys


def check_whole(there: Keys, versions: list[Keys]) -> None:
    """Each array that has a zarr.json has all the chunks of a version; where it is consolidated, all arrays have."""
    arrays = [path for path in there if path.endswith("zarr.json") and b'"array"' in there[path]]
    for path in arrays:
        prefix = path.removesuffix("zarr.json")
        assert any(is_whole(there, version, prefix) for version in versions if version.get(path) == there[path]), path
    for path, data in there.items():
        if path.endswith("zarr.json") and b"consolidated_metadata" in data:
            assert any(
                all(there.get(key) == value for key, value in version.items())
                for version in versions
                if version[path] == data
            )


def is_whole(there: Keys, version: Keys, prefix: str) -> bool:
    inner = [key.removesuffix("zarr.json") for key in version if key.endswith("/zarr.json") and key.startswith(prefix)]
    below = [key for key in inner if key != prefix]
    own = [key for key in version if key.startswith(prefix) and not key.startswith(tuple(below))]
    return all(there.get(key) == version[key] for key in own)


@pytest.mark.parametrize("seed", range(_CASES))
def test_a_killed_export_leaves_no_array_with_missing_data(
    seed: int, nursery: Nursery, versions: tuple[Path, list[str], list[Keys]], tmp_path: Path
):
    repo, ids, keys = versions
    rng = random.Random(seed)
    target, state, log = tmp_path / "out", tmp_path / "state", tmp_path / "log"

    def export(which: int, step: int, *, delete: bool) -> int:
        arguments = (str(repo), str(target), str(state), ids[which], delete, step)
        pid = nursery.start("tests.support.dying_export:export_and_die", log, *arguments, waits=True)
        code = nursery.wait(pid)
        assert code in (0, -signal.SIGKILL), log.read_text()
        there = files(target) if target.is_dir() else {}
        assert not {name for name in there if "icefs" in name}
        check_whole(there, keys)
        return code

    for _ in range(3):  # interrupted ones on top of each other, of whatever version
        export(rng.randrange(3), rng.randrange(1, _STEPS), delete=rng.random() < 0.5)
    which = rng.randrange(3)
    assert export(which, 0, delete=True) == 0
    assert files(target) == keys[which]
    assert {path.name for path in tmp_path.iterdir()} == {"out", "state", "log"}
    shutil.rmtree(target)


def test_each_step_of_a_first_export_is_one_to_die_at(nursery: Nursery, tmp_path: Path):
    repo = WritableRepository.create(LocalStorage(tmp_path / "repo"))
    import_directory(repo, ImportRequest(write(tmp_path / "source", few()), tmp_path / "import"))
    for step in range(1, 200, 1 if SOAK else 4):
        target, log = tmp_path / f"out{step}", tmp_path / "log"
        arguments = (str(tmp_path / "repo"), str(target), str(tmp_path / "state"), "main", False)
        pid = nursery.start("tests.support.dying_export:export_and_die", log, *arguments, step, waits=True)
        code = nursery.wait(pid)
        check_whole(files(target) if target.is_dir() else {}, [few()])
        if code == 0:
            break
        assert code == -signal.SIGKILL, log.read_text()
        pid = nursery.start("tests.support.dying_export:export_and_die", log, *arguments, 0, waits=True)
        assert nursery.wait(pid) == 0, log.read_text()
        assert files(target) == few()
        shutil.rmtree(target)
    else:
        pytest.fail("it never came to its end")
    assert step > 20


@pytest.mark.parametrize("delete", [True, False] if SOAK else [True])
def test_each_step_of_an_update_is_one_to_die_at(
    delete: bool, nursery: Nursery, versions: tuple[Path, list[str], list[Keys]], tmp_path: Path
):
    repo, ids, keys = versions
    target, log = tmp_path / "out", tmp_path / "log"

    def export(which: int, step: int, *, delete: bool) -> int:
        arguments = (str(repo), str(target), str(tmp_path / "state"), ids[which], delete, step)
        pid = nursery.start("tests.support.dying_export:export_and_die", log, *arguments, waits=True)
        return nursery.wait(pid)

    for step in range(1, 100, 1 if SOAK else 2):
        # The first version, whole, from wherever the last round ended.
        assert export(0, 0, delete=True) == 0, log.read_text()
        assert files(target) == keys[0]
        code = export(1, step, delete=delete)
        check_whole(files(target), keys)
        if code == 0:
            break
        assert code == -signal.SIGKILL, log.read_text()
    else:
        pytest.fail("it never came to its end")
    assert step > 10
