"""Azure storage behind a relay that throttles, breaks off and loses answers."""

import pickle
import subprocess
import sys
import threading
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from icefs.errors import (
    AccessDeniedError,
    BadAnswerError,
    InvalidInputError,
    ObjectNotFoundError,
    PreconditionFailedError,
    StorageError,
    ThrottledError,
    UnreachableError,
)
from icefs.storage.azure.options import AzureCredentials
from icefs.storage.azure.store import AzureStorage
from icefs.storage.settings import StoreSettings
from icefs.storage.url import open_storage
from tests.support.azure_double import AzureDouble
from tests.support.azurite import ACCOUNT, CONTAINER, FAST, KEY

PASSING = ("throttle", "too many", "error", "refuse", "lose")


def body(storage, key):
    return storage.get(key).data


@pytest.mark.parametrize("fault", PASSING)
def test_each_request_survives_two_faults(shaky, proxy, fault):
    told = []
    shaky.watch_retries(lambda verb, kind: told.append(verb))

    def plan(method, **more):
        return proxy.plan(fault, method=method, times=2, **more)

    plans = [plan("PUT")]
    version = shaky.put("repo", b"one", create_only=True)
    plans.append(plan("PUT"))
    changed = shaky.put("repo", b"two", if_match=version)
    plans.append(plan("PUT"))
    shaky.put("chunks/A", b"0123456789")
    plans.append(plan("PUT"))
    shaky.copy("repo", "backup", if_match=changed)
    plans.append(plan("GET"))
    assert shaky.get("chunks/A", start=2, end=5).data == b"234"
    plans.append(plan("HEAD"))
    assert shaky.head("repo").version == changed
    plans.append(plan("GET"))
    assert sorted(shaky.list_dir()) == ["backup", "chunks/", "repo"]
    plans.append(plan("POST"))
    assert shaky.delete(["chunks/A", "chunks/B"]) == []
    plans.append(plan("DELETE"))
    assert shaky.delete(["backup"]) == []
    assert [plan.fired for plan in plans] == [2] * len(plans)
    assert {info.key: body(shaky, info.key) for info in shaky.iter_objects()} == {"repo": b"two"}
    assert set(told) == {"write", "copy", "read", "list", "delete"}


@pytest.mark.parametrize("times", [1, None])
@pytest.mark.parametrize("size", [10, 3000])
def test_a_lost_answer_is_settled_by_reading_back(azurite, azure_prefix, proxy, size, times):
    endpoint_url = azurite.endpoint_url.replace(azurite.root_url, proxy.endpoint_url)
    options = azurite.options(
        endpoint_url=endpoint_url, retry=FAST, multipart_threshold_bytes=2000, multipart_part_bytes=1000
    )
    storage = AzureStorage(CONTAINER, azure_prefix, options)
    plans = [proxy.plan("lose", conditional=True, times=times)]
    version = storage.put("repo", b"1" * size, create_only=True)
    plans.append(proxy.plan("lose", conditional=True, times=times))
    assert storage.put("repo", b"2" * size, if_match=version) == storage.head("repo").version
    assert body(storage, "repo") == b"2" * size
    # The second try is refused, and the write-id tells by which write; or no try has an answer.
    assert sum(plan.fired for plan in plans) == (2 if times else 2 * FAST.max_tries)
    storage.close()


def test_a_large_file_whose_last_answer_is_lost(azurite, azure_prefix, proxy, tmp_path):
    endpoint_url = azurite.endpoint_url.replace(azurite.root_url, proxy.endpoint_url)
    options = azurite.options(
        endpoint_url=endpoint_url, retry=FAST, multipart_threshold_bytes=2000, multipart_part_bytes=1000
    )
    storage = AzureStorage(CONTAINER, azure_prefix, options)
    (tmp_path / "file").write_bytes(bytes(range(250)) * 14)
    plan = proxy.plan("lose", path="comp=blocklist")
    version = storage.put_file("chunks/A", str(tmp_path / "file"))
    assert (plan.fired, version) == (1, storage.head("chunks/A").version)
    assert body(storage, "chunks/A") == bytes(range(250)) * 14
    assert len([request for request in proxy.requests if "comp=block&" in request.path + "&"]) == 4
    storage.close()


def test_a_lost_write_that_was_overwritten_stays_in_doubt(shaky, azure_storage, proxy):
    proxy.plan("act", conditional=True, action=lambda: azure_storage.put("repo", b"theirs"))
    with pytest.raises(PreconditionFailedError) as caught:
        shaky.put("repo", b"ours", create_only=True)
    assert caught.value.facts["maybe_written"] is True
    proxy.plan("late", conditional=True, times=None)
    version = azure_storage.head("repo").version
    with pytest.raises(UnreachableError) as late:
        shaky.put("repo", b"ours", if_match=version)
    assert late.value.facts["maybe_written"] is True
    assert sorted(proxy.land()) == [201] + [412] * 4


def test_an_empty_object_that_grows_while_it_is_read(shaky, azure_storage, proxy):
    """Neither its bytes with an older version, nor no bytes with a newer one."""
    azure_storage.put("repo", b"")
    proxy.plan("act", method="GET", action=lambda: azure_storage.put("repo", b"grown"))
    assert shaky.get("repo").data == b"grown"  # the answer was lost, and the second one is of what is there then
    azure_storage.put("repo", b"")
    grows = proxy.plan("change", method="GET", action=lambda: azure_storage.put("repo", b"grown"))
    found = shaky.get("repo")
    assert (found.data, found.version) == (b"grown", azure_storage.head("repo").version)
    assert grows.fired == 1


def test_a_refusal_is_no_doubt(shaky, azure_storage):
    azure_storage.put("repo", b"theirs")
    with pytest.raises(PreconditionFailedError) as caught:
        shaky.put("repo", b"ours", create_only=True)
    assert caught.value.facts["maybe_written"] is False


def test_answers_that_break_off_are_asked_for_again(shaky, proxy):
    shaky.put("a", b"0123456789" * 1000)
    plan = proxy.plan("truncate", method="GET", times=2)
    assert body(shaky, "a") == b"0123456789" * 1000
    assert plan.fired == 2
    listing = proxy.plan("truncate", method="GET")
    assert [info.key for info in shaky.iter_objects()] == ["a"]
    assert listing.fired == 1


def test_what_a_gateway_says_is_not_the_stores_word(shaky, proxy):
    shaky.put("a", b"here")
    proxy.plan("absent", method="GET", times=None)
    with pytest.raises(BadAnswerError) as caught:
        shaky.get("a")
    assert not isinstance(caught.value, ObjectNotFoundError)
    proxy.clear()
    mismatch = proxy.plan("mismatch", method="PUT", times=2)
    shaky.put("b", b"new", create_only=True)
    assert mismatch.fired == 2


def test_what_lasts_is_given_up_and_named(shaky, proxy):
    proxy.plan("throttle", times=None)
    with pytest.raises(ThrottledError, match=r"az://icefs-tests/.*503") as caught:
        shaky.get("a")
    assert caught.value.facts["tries"] == FAST.max_tries
    proxy.clear()
    proxy.plan("deny", times=None)
    with pytest.raises(AccessDeniedError) as denied:
        shaky.get("a")
    assert denied.value.hint
    assert len(proxy.requests) == 1


def test_keys_of_a_bulk_deletion_fail_one_by_one(azurite, shaky, proxy):
    for key in ("a", "b", "c"):
        shaky.put(key, b"")
    with azurite.client() as client:
        lease = client.get_blob_client(CONTAINER, shaky.base + "b").acquire_lease()
        assert shaky.delete(["a", "b", "c", "missing"]) == ["b"]
        lease.release()
    assert [info.key for info in shaky.iter_objects()] == ["b"]
    lacking = proxy.plan("lack", method="POST")
    assert shaky.delete(["b", "c"]) == []
    assert lacking.fired == 1
    assert list(shaky.iter_objects()) == []


def test_directories_of_a_hierarchical_namespace_are_no_objects(azurite, azure_storage):
    azure_storage.put("chunks/A", b"")
    with azurite.client() as client:
        client.get_blob_client(CONTAINER, azure_storage.base + "chunks").upload_blob(
            b"", metadata={"hdi_isfolder": "true"}
        )
    assert [info.key for info in azure_storage.iter_objects()] == ["chunks/A"]
    assert list(azure_storage.list_dir()) == ["chunks/"]


# --- settings, seen at the wire ---


def test_settings_are_obeyed(shaky, proxy):
    settings = StoreSettings(
        max_tries=2,
        chunks_storage_class="cool",
        metadata_storage_class="Cold",
        conditional_create=False,
        conditional_update=False,
        metadata=False,
    )
    assert shaky.unheeded_settings(settings) == ()
    storage = shaky.with_settings(settings)
    storage.put("chunks/A", b"1")
    version = storage.put("snapshots/A", b"2", create_only=True)
    newer = storage.put("snapshots/A", b"3", if_match=version)
    storage.copy("snapshots/A", "manifests/A", if_match=newer)
    writes = [request for request in proxy.requests if request.method == "PUT"]
    sent = [{name.lower(): value for name, value in request.headers.items()} for request in writes]
    for refused in (
        lambda: storage.put("snapshots/A", b"4", create_only=True),
        lambda: storage.put("snapshots/A", b"4", if_match=version),
        lambda: storage.copy("snapshots/A", "manifests/A", if_match=version),
    ):
        with pytest.raises(PreconditionFailedError):  # it is looked up instead
            refused()
    assert [headers.get("x-ms-access-tier") for headers in sent] == ["Cool", "Cold", "Cold", "Cold"]
    for headers in sent:
        assert not {"if-match", "if-none-match", "x-ms-source-if-match", "x-ms-meta-icechunkwriteid"} & set(headers)
    plan = proxy.plan("error", times=None)
    with pytest.raises(UnreachableError):
        storage.get("chunks/A")
    assert plan.fired == 2
    for name in ("storage_class", "metadata_storage_class", "chunks_storage_class"):
        foreign = StoreSettings(**{name: "GLACIER"})
        assert shaky.unheeded_settings(foreign) == (name,)
        proxy.clear()
        for key in ("chunks/A", "snapshots/A", "a"):
            shaky.with_settings(foreign).put(key, b"")
        assert not [request for request in proxy.requests if "x-ms-access-tier" in map(str.lower, request.headers)]
    given = replace(shaky.options, settings=StoreSettings(storage_class="GLACIER"))
    with pytest.raises(InvalidInputError, match="access tier"):
        AzureStorage(shaky.container, shaky.prefix, given).put("a", b"")
    assert not storage.capabilities.conditional_update
    storage.close()


def test_a_try_that_takes_too_long_is_ended(shaky, proxy):
    shaky.put("a", b"1")
    storage = shaky.with_settings(StoreSettings(max_tries=3, operation_attempt_timeout_s=0.3))
    plan = proxy.plan("stall", method="GET", times=2)
    assert body(storage, "a") == b"1"
    assert plan.fired == 2
    storage.close()


# --- what the emulator cannot do ---


@pytest.mark.parametrize("polls", [0, 3])
def test_a_copy_that_takes_time_is_waited_for(polls):
    with AzureDouble(pending_polls=polls) as double:
        storage = AzureStorage("container", "x", double.options(retry=FAST))
        version = storage.put("repo", b"state")
        storage.copy("repo", "backup", if_match=version)
        assert body(storage, "backup") == b"state"
        with pytest.raises(PreconditionFailedError):
            storage.copy("repo", "backup", if_match="0x1")
        storage.close()


def test_a_copy_that_fails_is_an_error():
    with AzureDouble(pending_polls=1, copy_ends="failed") as double:
        storage = AzureStorage("container", "x", double.options(retry=FAST))
        storage.put("repo", b"state")
        with pytest.raises(StorageError, match="failed"):
            storage.copy("repo", "backup")
        storage.close()


# --- credentials, children, pickles ---


def sas_token(azurite):
    from azure.storage.blob import ContainerSasPermissions, generate_container_sas

    return generate_container_sas(
        ACCOUNT,
        CONTAINER,
        account_key=KEY,
        permission=ContainerSasPermissions(read=True, write=True, delete=True, list=True, create=True),
        expiry=datetime.now(UTC) + timedelta(hours=1),
    )


def test_a_signature_reads_writes_and_copies(azurite, azure_prefix, monkeypatch, caplog):
    url = f"az://{CONTAINER}/{azure_prefix}?endpoint_url={azurite.endpoint_url}"
    token = sas_token(azurite)
    storage = open_storage(url, sas_token=f"?{token}")
    version = storage.put("repo", b"state", create_only=True)
    storage.copy("repo", "backup", if_match=version)
    assert sorted(info.key for info in storage.iter_objects()) == ["backup", "repo"]
    assert storage.delete(["backup", "missing"]) == []
    secret = token.partition("sig=")[2][:20]
    with pytest.raises(ObjectNotFoundError) as caught:
        storage.get("missing")
    for text in (repr(storage), storage.url, storage.identity, repr(storage.options), str(caught.value), caplog.text):
        assert secret not in text
    assert pickle.loads(pickle.dumps(storage)).get("repo").data == b"state"
    storage.close()
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT", ACCOUNT)
    monkeypatch.setenv("AZURE_STORAGE_SAS_TOKEN", token)
    assert body(open_storage(url), "repo") == b"state"
    monkeypatch.delenv("AZURE_STORAGE_SAS_TOKEN")
    monkeypatch.setenv("AZURE_STORAGE_KEY", KEY)
    assert body(open_storage(url), "repo") == b"state"
    monkeypatch.delenv("AZURE_STORAGE_KEY")
    named = f"DefaultEndpointsProtocol=http;AccountName={ACCOUNT};AccountKey={KEY};BlobEndpoint={azurite.endpoint_url};"
    monkeypatch.setenv("AZURE_STORAGE_CONNECTION_STRING", named)
    assert body(open_storage(f"az://{CONTAINER}/{azure_prefix}"), "repo") == b"state"


def test_the_environments_keys_are_those_of_its_account(azurite, azure_prefix, monkeypatch):
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT", "another")
    monkeypatch.setenv("AZURE_STORAGE_KEY", KEY)
    url = f"az://{CONTAINER}/{azure_prefix}?endpoint_url={azurite.endpoint_url}&account={ACCOUNT}"
    with pytest.raises(InvalidInputError, match="not encrypted"):  # a login is all that is left
        open_storage(url).get("repo")


def test_wrong_and_missing_credentials(azurite, azure_prefix):
    url = f"az://{CONTAINER}/{azure_prefix}?endpoint_url={azurite.endpoint_url}&account={ACCOUNT}"
    with pytest.raises(AccessDeniedError) as caught:
        open_storage(url, account_key="d3Jvbmc=").get("repo")
    assert "d3Jvbmc=" not in f"{caught.value} {caught.value.__context__} {caught.value.__cause__}"
    with pytest.raises(StorageError):
        open_storage(f"{url}&anonymous=true").get("repo")
    with pytest.raises(InvalidInputError, match="not encrypted"):
        open_storage(url, bearer_token="secret").get("repo")
    with pytest.raises(InvalidInputError, match="account"):
        open_storage(f"az://{CONTAINER}/x", account_key=KEY).get("repo")
    with pytest.raises(StorageError, match="ContainerNotFound") as missing:
        open_storage(url.replace(CONTAINER, "nowhere"), account_key=KEY).get("repo")
    assert not isinstance(missing.value, ObjectNotFoundError)


def test_a_callback_is_asked_again(azurite, azure_storage, azure_prefix):
    azure_storage.put("repo", b"here")
    asked = []

    def get_credentials():
        asked.append(1)
        lifetime = timedelta(seconds=5 if len(asked) == 1 else 3600)
        return AzureCredentials(account_key=KEY, expires_after=datetime.now(UTC) + lifetime)

    storage = AzureStorage(CONTAINER, azure_prefix, azurite.options(credentials=get_credentials))
    assert asked == []
    for _ in range(3):
        assert body(storage, "repo") == b"here"
    assert len(asked) == 2
    storage.close()


def test_a_forked_child_makes_its_own_connections(azurite, azure_prefix):
    script = f"""
import os, sys
from icefs.storage.azure.options import AzureCredentials, AzureOptions
from icefs.storage.azure.store import AzureStorage
options = AzureOptions({ACCOUNT!r}, {azurite.endpoint_url!r}, credentials=AzureCredentials(account_key={KEY!r}))
storage = AzureStorage({CONTAINER!r}, {azure_prefix!r}, options)
storage.put("a", b"parent")
child = os.fork()
if child == 0:
    os._exit(0 if storage.get("a").data == b"parent" and storage.put("b", b"child") else 1)
_, status = os.waitpid(child, 0)
assert status == 0, status
assert storage.get("b").data == b"child"
"""
    subprocess.run([sys.executable, "-c", script], check=True, timeout=60)


def test_without_the_extra_one_line_says_what_to_install():
    script = """
import sys
class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "azure":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Missing())
from icefs.cli.main import main
sys.exit(main(["log", "az://container/x?account=lab"]))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert "icefs[azure]" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_closed_storage_wakes_those_that_wait(azurite, azure_prefix, proxy):
    endpoint_url = azurite.endpoint_url.replace(azurite.root_url, proxy.endpoint_url)
    storage = AzureStorage(CONTAINER, azure_prefix, azurite.options(endpoint_url=endpoint_url))
    proxy.plan("throttle", times=None)
    failed = []

    def read():
        with pytest.raises(StorageError) as caught:
            storage.get("a")
        failed.append(caught.value)

    tried = threading.Event()
    storage.watch_retries(lambda verb, kind: tried.set())
    thread = threading.Thread(target=read)
    thread.start()
    assert tried.wait(60)
    storage.close()
    thread.join(60)
    assert len(failed) == 1
