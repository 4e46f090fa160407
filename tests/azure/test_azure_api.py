"""The official names for Azure."""

import pickle
from datetime import UTC, datetime, timedelta

import pytest

import icefs
from icefs.errors import InvalidInputError, UnsupportedError
from tests.support.azurite import ACCOUNT, CONTAINER, KEY


def refreshed():
    return icefs.AzureRefreshableCredential.AccessKey(KEY, expires_after=datetime.now(UTC) + timedelta(hours=1))


def test_storage_by_the_official_arguments(azurite, azure_prefix, monkeypatch):
    monkeypatch.setenv("AZURITE_BLOB_STORAGE_URL", azurite.root_url)
    place = {"account": ACCOUNT, "container": CONTAINER, "prefix": azure_prefix}
    emulated = {"config": {"azure_storage_use_emulator": "true"}}
    repo = icefs.Repository.create(icefs.azure_storage(**place, access_key=KEY, **emulated))
    again = pickle.loads(pickle.dumps(repo))
    assert again.lookup_branch("main") == repo.lookup_branch("main")
    monkeypatch.setenv("AZURE_STORAGE_KEY", KEY)
    assert icefs.Repository.exists(icefs.azure_storage(**place, from_env=True, **emulated))
    assert icefs.Repository.exists(icefs.azure_storage(**place, config={"endpoint": azurite.endpoint_url}))
    labelled = icefs.Repository.open(
        icefs.azure_storage(**place, access_key=KEY, **emulated), attribution=icefs.Attribution(client="tool/1")
    )
    assert labelled.lookup_branch("main") == repo.lookup_branch("main")
    with pytest.raises(ValueError, match="not more than one"):
        icefs.azure_storage(**place, access_key=KEY, anonymous=True)
    with pytest.raises(UnsupportedError, match="tenant_id"):
        icefs.azure_storage(**place, config={"tenant_id": "x"})


def test_credentials_under_the_official_names():
    assert icefs.azure_credentials() == icefs.azure_from_env_credentials() == icefs.AzureCredentials.FromEnv()
    assert icefs.azure_credentials(anonymous=True) == icefs.AzureCredentials.Anonymous()
    static = icefs.azure_credentials(sas_token="sv=1&sig=hush")
    assert static == icefs.AzureCredentials.Static(icefs.AzureStaticCredentials.SasToken("sv=1&sig=hush"))
    assert "hush" not in repr(static)
    scattered = icefs.azure_refreshable_credentials(refreshed, scatter_initial_credentials=True)
    assert scattered.current.key == KEY
    assert pickle.loads(pickle.dumps(scattered)) == scattered
    with pytest.raises(ValueError, match="one of"):
        icefs.azure_static_credentials()
    with pytest.raises(ValueError, match="not more than one"):
        icefs.azure_credentials(access_key="a", from_env=True)
    found = icefs.containers_credentials({"az://c/": icefs.azure_anonymous_credentials()})
    assert found == {"az://c/": icefs.Credentials.Azure(icefs.AzureCredentials.Anonymous())}


def test_refreshed_credentials_reach_the_storage(azurite, azure_prefix):
    from icefs.api.azure_credentials import azure_storage_credentials
    from icefs.storage.azure.store import AzureStorage

    for scatter in (False, True):
        credentials = icefs.azure_refreshable_credentials(refreshed, scatter_initial_credentials=scatter)
        given = azure_storage_credentials(credentials)
        storage = AzureStorage(CONTAINER, azure_prefix, azurite.options(credentials=given))
        storage.put("a", b"1")
        assert pickle.loads(pickle.dumps(storage)).get("a").data == b"1"
        storage.close()
    wrong = azure_storage_credentials(icefs.azure_refreshable_credentials(lambda: "no credential"))
    with pytest.raises(InvalidInputError, match="str"):
        AzureStorage(CONTAINER, azure_prefix, azurite.options(credentials=wrong)).get("a")
