"""Files in Google Cloud Storage are referred to or copied, and read back equal."""

import numpy as np
import pytest
import zarr

from icefs.api.repository import Repository
from icefs.api.storage import local_filesystem_storage
from icefs.engine.write.repository import WritableRepository
from icefs.errors import ObjectModifiedError, StorageError
from icefs.format.config.storage import GcsStore
from icefs.storage.gcs.store import GcsStorage
from icefs.storage.local.store import LocalStorage
from icefs.transfer.virtual.importing import VirtualRequest, import_virtual
from tests.support.copied_samples import copied
from tests.support.gcs_server import BUCKET
from tests.support.virtual_samples import make

# zarr-python warns of codecs and types that the specification lacks.
pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture
def storage(gcs_server, gcs_prefix):
    gcs_server.make_bucket(BUCKET)
    storage = GcsStorage(BUCKET, gcs_prefix, gcs_server.options())
    yield storage
    storage.close()


def upload(storage, path, base):
    for file in [path] if path.is_file() else [each for each in path.rglob("*") if each.is_file()]:
        storage.put(str(file.relative_to(base)), file.read_bytes())


def refer(root, *names):
    target = WritableRepository.create(LocalStorage(root))
    try:
        return import_virtual(target, VirtualRequest(names, message="m"))
    finally:
        target.close()


def ours(root, allow):
    opened = Repository.open(local_filesystem_storage(root), authorize_virtual_chunk_access=dict.fromkeys(allow))
    return zarr.open_group(opened.readonly_session("main").store, mode="r")


def read_all(group, names):
    return [group[name][...] for name in names]


@pytest.mark.parametrize("kind", ["netcdf4", "zarr2"])
def test_files_in_a_bucket(tmp_path, gcs_server, gcs_prefix, storage, kind):
    path, expected = make(kind, tmp_path)
    upload(storage, path, tmp_path)
    name = "*.nc" if kind == "netcdf4" else path.name
    url = gcs_server.endpoint_url
    done = refer(tmp_path / "repo", f"gs://{BUCKET}/{gcs_prefix}/{name}?endpoint_url={url}&anonymous=true")
    prefix = f"gs://{BUCKET}/{gcs_prefix}/" + (f"{path.name}/" if kind == "zarr2" else "")
    (added,) = done.containers
    assert added.url_prefix == prefix
    assert added.store == GcsStore({"google_base_url": url, "allow_http": "true", "google_skip_signature": "true"})
    assert done.allow == [f"{prefix}?endpoint_url={url}"]
    assert done.unchecked == []
    for array, values in expected.items():
        np.testing.assert_array_equal(ours(tmp_path / "repo", done.allow)[array][...], values)


@pytest.mark.parametrize("kind", ["netcdf4", "zarr2"])
def test_files_in_a_bucket_are_copied(tmp_path, gcs_server, gcs_prefix, storage, kind):
    path, expected = make(kind, tmp_path)
    upload(storage, path, tmp_path)
    place = f"gs://{BUCKET}/{gcs_prefix}/{path.name}?endpoint_url={gcs_server.endpoint_url}&anonymous=true"
    group = copied(tmp_path / "repo", place)
    for array, values in expected.items():
        np.testing.assert_array_equal(group[array][...], values)


def test_the_environment_names_the_emulator(tmp_path, gcs_server, gcs_prefix, storage, monkeypatch):
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", gcs_server.endpoint_url)
    path, expected = make("netcdf4", tmp_path)
    upload(storage, path, tmp_path)
    done = refer(tmp_path / "repo", f"gcs://{BUCKET}/{gcs_prefix}/{path.name}")
    assert done.allow == [f"gs://{BUCKET}/{gcs_prefix}/"]
    for array, values in expected.items():
        np.testing.assert_array_equal(ours(tmp_path / "repo", done.allow)[array][...], values)
    storage.put(path.name, path.read_bytes()[:-1] + b"?")
    group = ours(tmp_path / "repo", done.allow)
    with pytest.raises(StorageError):
        read_all(group, expected)


def test_the_tag_is_that_of_the_version(storage):
    storage.put("file", b"bytes")
    before = storage.head("file")
    tag = storage.entity_tag(before)
    assert storage.read_range("file", 1, 3, if_match_etag=tag) == b"yt"
    storage.put("file", b"other")
    with pytest.raises(ObjectModifiedError):
        storage.entity_tag(before)
    with pytest.raises(ObjectModifiedError):
        storage.read_range("file", 1, 3, if_match_etag=tag)
    storage.put("empty", b"")
    assert storage.entity_tag(storage.head("empty")) is None
