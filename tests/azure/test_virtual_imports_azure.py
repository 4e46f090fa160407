"""Files in a container of Azure are referred to or copied, and read back equal."""

import icechunk
import numpy as np
import pytest
import zarr

from icefs.api.repository import Repository
from icefs.api.storage import local_filesystem_storage
from icefs.engine.write.repository import WritableRepository
from icefs.errors import InvalidInputError, StorageError
from icefs.format.config.storage import AzureStore
from icefs.storage.local.store import LocalStorage
from icefs.transfer.virtual.importing import Referred, VirtualRequest, import_virtual
from tests.support.azurite import ACCOUNT, CONTAINER, KEY
from tests.support.copied_samples import copied
from tests.support.virtual_samples import make

# zarr-python warns of codecs and types that the specification lacks.
pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture
def refer(tmp_path, azurite, monkeypatch):
    """Makes a repository that refers to files of the emulator."""
    for name, value in azurite.environment().items():
        monkeypatch.setenv(name, value)

    def run(*names: str) -> Referred:
        target = WritableRepository.create(LocalStorage(tmp_path / "repo"))
        try:
            return import_virtual(target, VirtualRequest(names, message="m"))
        finally:
            target.close()

    return run


def upload(azurite, prefix, path, base):
    with azurite.client() as client:
        for file in [path] if path.is_file() else [each for each in path.rglob("*") if each.is_file()]:
            client.get_blob_client(CONTAINER, f"{prefix}/{file.relative_to(base)}").upload_blob(
                file.read_bytes(), overwrite=True
            )


def ours(root, allow):
    opened = Repository.open(local_filesystem_storage(root), authorize_virtual_chunk_access=dict.fromkeys(allow))
    return zarr.open_group(opened.readonly_session("main").store, mode="r")


def read_all(group, names):
    return [group[name][...] for name in names]


@pytest.mark.parametrize("kind", ["netcdf4", "zarr2"])
def test_files_in_a_container(tmp_path, azurite, azure_prefix, refer, kind):
    path, expected = make(kind, tmp_path)
    upload(azurite, azure_prefix, path, tmp_path)
    name = "*.nc" if kind == "netcdf4" else path.name
    done = refer(f"az://{CONTAINER}/{azure_prefix}/{name}?endpoint_url={azurite.endpoint_url}")
    prefix = f"az://{CONTAINER}/{azure_prefix}/" + (f"{path.name}/" if kind == "zarr2" else "")
    (added,) = done.containers
    assert added.url_prefix == prefix
    assert added.store == AzureStore(
        {"account": ACCOUNT, "azure_storage_endpoint": azurite.endpoint_url, "allow_http": "true"}
    )
    assert done.allow == [f"{prefix}?endpoint_url={azurite.endpoint_url}"]
    assert done.unchecked == []
    for array, values in expected.items():
        np.testing.assert_array_equal(ours(tmp_path / "repo", done.allow)[array][...], values)
    credentials = icechunk.containers_credentials({prefix: icechunk.azure_credentials(access_key=KEY)})
    theirs = icechunk.Repository.open(
        icechunk.local_filesystem_storage(str(tmp_path / "repo")), authorize_virtual_chunk_access=credentials
    )
    group = zarr.open_group(theirs.readonly_session("main").store, mode="r")
    for array, values in expected.items():
        np.testing.assert_array_equal(group[array][...], values)


@pytest.mark.parametrize("kind", ["netcdf4", "zarr2"])
def test_files_in_a_container_are_copied(tmp_path, azurite, azure_prefix, monkeypatch, kind):
    for name, value in azurite.environment().items():
        monkeypatch.setenv(name, value)
    path, expected = make(kind, tmp_path)
    upload(azurite, azure_prefix, path, tmp_path)
    place = f"az://{CONTAINER}/{azure_prefix}/{path.name}?endpoint_url={azurite.endpoint_url}"
    group = copied(tmp_path / "repo", place)
    for array, values in expected.items():
        np.testing.assert_array_equal(group[array][...], values)


def test_a_file_that_changes_later_is_an_error(tmp_path, azurite, azure_prefix, refer):
    path, expected = make("netcdf4", tmp_path)
    upload(azurite, azure_prefix, path, tmp_path)
    done = refer(f"az://{CONTAINER}/{azure_prefix}/{path.name}?endpoint_url={azurite.endpoint_url}")
    upload(azurite, azure_prefix, path, tmp_path)
    group = ours(tmp_path / "repo", done.allow)
    with pytest.raises(StorageError):
        read_all(group, expected)


def test_another_account_needs_a_container_of_its_own(tmp_path, azurite, azure_prefix, refer):
    path, _ = make("netcdf4", tmp_path)
    upload(azurite, azure_prefix, path, tmp_path)
    name = f"az://{CONTAINER}/{azure_prefix}/{path.name}?endpoint_url={azurite.endpoint_url}"
    refer(name)
    with WritableRepository.open(LocalStorage(tmp_path / "repo")) as target:
        other = name.replace("127.0.0.1", "localhost")
        with pytest.raises(InvalidInputError, match="another store"):
            import_virtual(target, VirtualRequest([other], message="m", overwrite=True))
