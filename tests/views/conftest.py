"""A mount with views of a branch with uncommitted changes, a tag and a snapshot."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import zarr

from icefs.engine.write.repository import WritableRepository
from icefs.storage.url import open_storage
from tests.support.mounting import Mount, mounted, require_fuse, sweep_stale_mounts
from tests.support.view_data import append_hours, write_climate, write_others
from tests.support.viewed import commit_arrays


@pytest.fixture(scope="session", autouse=True)
def fuse() -> None:
    """Sweeps away what a test process that died left mounted."""
    require_fuse()
    sweep_stale_mounts()


class Viewed:
    """A mount with the data of `view_data`: a tag of the first version, a snapshot of the second, a changed branch."""

    def __init__(self, mount: Mount, snapshot: str) -> None:
        self.mount = mount
        self.trees = {"branch": "branches/main", "tag": "tags/v1", "snapshot": f"snapshots/{snapshot}"}

    def tree(self, kind: str) -> Path:
        """Returns a tree of Zarr keys."""
        return self.mount / self.trees[kind]

    def view(self, kind: str, view: str) -> Path:
        """Returns a view of it."""
        return self.tree(kind) / ".icefs/views" / view

    def values(self, kind: str, group: str) -> zarr.Group:
        """Returns a group as zarr-python reads it."""
        return zarr.open_group(self.tree(kind), path=group, mode="r")


@pytest.fixture(scope="session")
def repository(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """Returns a repository and the snapshot that its branch begins with."""
    place = str(tmp_path_factory.mktemp("viewed") / "repository")
    repository = WritableRepository.create(open_storage(place))
    commit_arrays(repository, lambda root: (write_climate(root), write_others(root)))
    repository.create_tag("v1", repository.lookup_branch("main"))
    commit_arrays(repository, lambda root: append_hours(root, 12))
    snapshot = str(repository.lookup_branch("main"))
    repository.close()
    return place, snapshot


@pytest.fixture(scope="session")
def viewed(repository: tuple[str, str]) -> Iterator[Viewed]:
    """Mounts the repository, and changes the branch without a commit."""
    place, snapshot = repository
    with mounted(place) as mount:
        root = zarr.open_group(mount / "branches/main", mode="r+", use_consolidated=False)
        root["t2m"][3] = 77
        root["types/i4"][2:5] = -1
        root.create_array("staged", shape=(6,), chunks=(3,), dtype="f8", dimension_names=("lat",), fill_value=0.0)[
            :
        ] = np.arange(6) / 4
        yield Viewed(mount, snapshot)
