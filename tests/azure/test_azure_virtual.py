"""Virtual chunks in Azure: read, refused where they were changed, and only where the user named the account."""

import icechunk
import pytest
import zarr

import icefs
from icefs.errors import (
    InvalidInputError,
    ObjectModifiedError,
    ObjectNotFoundError,
    UnauthorizedContainerError,
    UnsupportedError,
)
from icefs.format.config.storage import AzureStore
from icefs.storage.azure.store import AzureStorage
from tests.support.azurite import ACCOUNT, CONTAINER, KEY
from tests.support.virtual_refs import container, ref, resolver

DATA = bytes(range(250)) * 4
EMULATED = {"account": ACCOUNT, "azure_storage_use_emulator": "true"}


@pytest.fixture
def data(azurite, azure_prefix, monkeypatch):
    """A file in the container; its location below az://icefs-tests/ and its entity tag."""
    for name, value in {**azurite.environment(), "AZURITE_BLOB_STORAGE_URL": azurite.root_url}.items():
        monkeypatch.setenv(name, value)
    storage = AzureStorage(CONTAINER, azure_prefix, azurite.options())
    tag = storage.put("data/file one%41.nc", DATA)
    yield storage, f"{azure_prefix}/data/file%20one%2541.nc", tag
    storage.close()


@pytest.mark.parametrize("scheme", ["az", "azure"])
def test_ranges_are_read_if_the_object_is_the_one(data, scheme):
    storage, path, tag = data
    prefix = f"{scheme}://{CONTAINER}/"
    reader = resolver([container(prefix, AzureStore(EMULATED))], [prefix])
    assert reader.read(ref(prefix + path, 10, 20)) == DATA[10:30]
    assert reader.read(ref(prefix + path, 10, 20, etag=tag)) == DATA[10:30]
    modified_s = storage.head("data/file one%41.nc").last_modified // 1_000_000
    assert reader.read(ref(prefix + path, 10, 20, last_modified=modified_s)) == DATA[10:30]
    with pytest.raises(ObjectModifiedError):
        reader.read(ref(prefix + path, 10, 20, etag="0x1"))
    with pytest.raises(ObjectModifiedError):
        reader.read(ref(prefix + path, 10, 20, last_modified=modified_s - 100))
    with pytest.raises(ObjectNotFoundError):
        reader.read(ref(f"{prefix}{path}.missing", 10, 20))
    reader.close()


@pytest.mark.usefixtures("data")
def test_what_the_official_library_refers_to_is_read(azurite, azure_prefix):
    storage = AzureStorage(CONTAINER, f"{azure_prefix}/repo", azurite.options())
    plain = AzureStorage(CONTAINER, azure_prefix, azurite.options())
    plain.put("data/plain.nc", DATA)
    prefix = f"az://{CONTAINER}/"
    config = icechunk.RepositoryConfig.default()
    store = icechunk.storage.azure_store(account=ACCOUNT, config={"azure_storage_use_emulator": "true"})
    config.set_virtual_chunk_container(icechunk.VirtualChunkContainer(prefix, store))
    theirs = icechunk.Repository.create(
        icechunk.azure_storage(
            account=ACCOUNT,
            container=CONTAINER,
            prefix=f"{azure_prefix}/repo",
            access_key=KEY,
            config={"azure_storage_use_emulator": "true"},
        ),
        config,
    )
    session = theirs.writable_session("main")
    zarr.create_array(session.store, name="a", shape=(100,), chunks=(50,), dtype="u1", compressors=None)
    session.store.set_virtual_ref("a/c/0", f"{prefix}{azure_prefix}/data/plain.nc", offset=10, length=50)
    session.commit("refers")
    credentials = icefs.containers_credentials({prefix: icefs.azure_credentials(access_key=KEY)})
    repo = icefs.Repository.open(storage, authorize_virtual_chunk_access=credentials)
    found = zarr.open_array(repo.readonly_session("main").store, path="a", mode="r")
    assert found[:50].tobytes() == DATA[10:60]
    storage.close()


def test_an_account_that_only_the_repository_names_gets_nothing(monkeypatch):
    for name in ("AZURE_STORAGE_ACCOUNT", "AZURITE_BLOB_STORAGE_URL"):
        monkeypatch.delenv(name, raising=False)
    prefix = "az://trusted/"
    for opts in ({"account": "theirs"}, {"account": "theirs", "endpoint": "https://evil.example/x"}, EMULATED):
        with pytest.raises(UnauthorizedContainerError, match="did not name") as caught:
            resolver([container(prefix, AzureStore(opts))], [prefix]).read(ref(f"{prefix}file"))
        assert "--allow-virtual 'az://trusted/?endpoint_url=" in caught.value.hint


@pytest.mark.parametrize("named", ["account", "endpoint_url", "environment", "host"])
def test_an_account_that_the_user_named_is_asked(monkeypatch, named):
    monkeypatch.delenv("AZURITE_BLOB_STORAGE_URL", raising=False)
    monkeypatch.delenv("AZURE_STORAGE_ACCOUNT", raising=False)
    prefix = allowed = "az://trusted/"
    if named == "environment":
        monkeypatch.setenv("AZURE_STORAGE_ACCOUNT", "mine")
    elif named == "host":
        prefix = allowed = "abfs://trusted@mine.dfs.core.windows.net/"
    else:
        allowed += {"account": "?account=mine", "endpoint_url": "?endpoint_url=https://mine.blob.core.windows.net"}[
            named
        ]
    # It gets as far as looking for credentials, which are made not to fit.
    monkeypatch.setenv("AZURE_STORAGE_KEY", "not a key")
    with pytest.raises(icefs.errors.AccessDeniedError, match="characters"):
        resolver([container(prefix, AzureStore({"account": "mine"}))], [allowed]).read(ref(f"{prefix}file"))


@pytest.mark.parametrize("query", ["?region=x", "?account=a&endpoint_url=https://x.example", "?account=UPPER", "?"])
def test_prefixes_with_other_options_are_refused(query):
    with pytest.raises(InvalidInputError):
        resolver([], [f"az://container/{query}"])


def test_options_that_mean_nothing_here_are_named_without_their_value(monkeypatch):
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT", "mine")
    prefix = "az://trusted/"
    with pytest.raises(UnsupportedError, match="azure_client_secret") as caught:
        resolver([container(prefix, AzureStore({"account": "mine", "azure_client_secret": "hush"}))], [prefix]).read(
            ref(f"{prefix}file")
        )
    assert "hush" not in f"{caught.value} {caught.value.hint}"
