"""Virtual chunks in Google Cloud Storage: read, refused where they were changed, and only where the user allowed."""

import pytest

from icefs.errors import (
    InvalidInputError,
    ObjectModifiedError,
    ObjectNotFoundError,
    UnauthorizedContainerError,
    UnsupportedError,
)
from icefs.format.config.storage import GcsStore
from icefs.storage.gcs.options import GcsOptions
from icefs.storage.gcs.store import GcsStorage
from tests.support.gcs_precise import PreciseGcs
from tests.support.virtual_refs import container, ref, resolver

DATA = bytes(range(250)) * 4


@pytest.fixture
def data(monkeypatch):
    """A file in the bucket, with its entity tag and endpoint."""
    monkeypatch.delenv("STORAGE_EMULATOR_HOST", raising=False)
    with PreciseGcs() as server:
        storage = GcsStorage("bucket", "p", GcsOptions(endpoint_url=server.endpoint_url, anonymous=True))
        version = storage.put("data/file one%41.nc", DATA)
        yield storage, f"tag-{version}", server.endpoint_url
        storage.close()


@pytest.mark.parametrize("scheme", ["gs", "gcs"])
def test_ranges_are_read_if_the_object_is_the_one(data, scheme):
    storage, tag, endpoint_url = data
    prefix = f"{scheme}://bucket/"
    store = GcsStore({"google_base_url": endpoint_url, "google_skip_signature": "true"})
    reader = resolver([container(prefix, store)], [f"{prefix}?endpoint_url={endpoint_url}"])
    path = "p/data/file%20one%2541.nc"
    assert reader.read(ref(prefix + path, 10, 20)) == DATA[10:30]
    assert reader.read(ref(prefix + path, 10, 20, etag=tag)) == DATA[10:30]
    modified_s = storage.head("data/file one%41.nc").last_modified // 1_000_000
    assert reader.read(ref(prefix + path, 10, 20, last_modified=modified_s)) == DATA[10:30]
    with pytest.raises(ObjectModifiedError):
        reader.read(ref(prefix + path, 10, 20, etag="other"))
    with pytest.raises(ObjectModifiedError):
        reader.read(ref(prefix + path, 10, 20, last_modified=modified_s - 100))
    with pytest.raises(ObjectNotFoundError):
        reader.read(ref(f"{prefix}{path}.missing", 10, 20))
    reader.close()


@pytest.mark.usefixtures("data")
@pytest.mark.parametrize("more", [{}, {"skip_signature": "true"}])
def test_an_endpoint_that_only_the_repository_names_gets_nothing(more):
    prefix = "gs://bucket/"
    store = GcsStore({"base_url": "http://evil.example", **more})
    with pytest.raises(UnauthorizedContainerError, match="nothing is sent there") as caught:
        resolver([container(prefix, store)], [prefix]).read(ref(f"{prefix}file"))
    assert "--allow-virtual 'gs://bucket/?endpoint_url=http://evil.example'" in caught.value.hint


def test_the_environment_names_an_emulator(data, monkeypatch):
    _, _, endpoint_url = data
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", endpoint_url)
    for store in (GcsStore(), GcsStore({"base_url": endpoint_url, "skip_signature": "true"})):
        reader = resolver([container("gs://bucket/", store)], ["gs://bucket/"])
        assert reader.read(ref("gs://bucket/p/data/file%20one%2541.nc", 1, 2)) == DATA[1:3]
        reader.close()


def test_a_prefix_that_is_not_allowed():
    with pytest.raises(UnauthorizedContainerError):
        resolver([container("gs://bucket/", GcsStore())], []).read(ref("gs://bucket/file"))


def test_prefixes_with_other_options_are_refused():
    with pytest.raises(InvalidInputError):
        resolver([], ["gs://bucket/?project=x"])


def test_options_that_mean_nothing_here_are_named_without_their_value():
    store = GcsStore({"google_service_account_key": "hush"})
    with pytest.raises(UnsupportedError, match="google_service_account_key") as caught:
        resolver([container("gs://bucket/", store)], ["gs://bucket/"]).read(ref("gs://bucket/file"))
    assert "hush" not in f"{caught.value} {caught.value.hint}"
