"""Google Cloud Storage under the official names in Python.

The official library cannot write to the emulator: it sends `PUT /bucket/object` of the XML interface, which
fake-gcs-server answers with 400. So its repositories there are not tried.
"""

import pickle
from datetime import UTC, datetime, timedelta

import icechunk
import pytest
import zarr

import icefs
from icefs.errors import InvalidInputError, PreconditionFailedError, UnsupportedError
from icefs.storage.gcs.options import GcsKey, GcsKeyFile, GcsToken
from tests.support.gcs_server import BUCKET


def _storage(server, prefix):
    return icefs.gcs_storage(
        bucket=BUCKET, prefix=prefix, config={"google_base_url": server.endpoint_url}, anonymous=True
    )


def test_commits_conflicts_and_rebase(gcs_server, gcs_prefix):
    repo = icefs.Repository.create(_storage(gcs_server, gcs_prefix))
    session = repo.writable_session("main")
    zarr.create_array(session.store, name="a", shape=(100,), chunks=(10,), dtype="i4")[:] = 7
    zarr.create_array(session.store, name="b", shape=(100,), chunks=(10,), dtype="i4")
    session.commit("first")
    one, two = (repo.writable_session("main") for _ in range(2))
    zarr.open_array(one.store, path="a")[:10] = 1
    zarr.open_array(two.store, path="b")[:10] = 2
    one.commit("one")
    with pytest.raises(icefs.ConflictError):
        two.commit("two")
    two.rebase(icefs.BasicConflictSolver())
    two.commit("two")
    repo = icefs.Repository.open(_storage(gcs_server, gcs_prefix))
    found = repo.readonly_session("main")
    assert zarr.open_array(found.store, path="a", mode="r")[:20].tolist() == [1] * 10 + [7] * 10
    assert zarr.open_array(found.store, path="b", mode="r")[:10].tolist() == [2] * 10
    copied = pickle.loads(pickle.dumps(repo))
    assert [snapshot.message for snapshot in copied.ancestry(branch="main")][:2] == ["two", "one"]
    repo.expire_snapshots(datetime.now(UTC) + timedelta(seconds=1))
    repo.garbage_collect(datetime.now(UTC) + timedelta(seconds=1))
    assert zarr.open_array(repo.readonly_session("main").store, path="a", mode="r")[0] == 1


def test_credentials_become_those_of_the_storage():
    def opened(**arguments):
        return icefs.gcs_storage(bucket="b", prefix="p", **arguments).options

    assert opened(bearer_token="T").credentials == GcsToken("T")
    assert opened(service_account_file="/key").credentials == GcsKeyFile("/key")
    assert opened(application_credentials="/key").credentials == GcsKeyFile("/key")
    assert opened(service_account_key="{}").credentials == GcsKey("{}")
    assert opened(from_env=True).credentials is None
    assert opened(anonymous=True).anonymous
    given = opened(headers={"x-a": "b", "X-B": "c"}, read_headers={"x-b": "d"}, write_headers={"x-c": "e"})
    assert given.read_headers == (("x-a", "b"), ("x-b", "d"))
    assert given.write_headers == (("x-a", "b"), ("x-b", "c"), ("x-c", "e"))


def test_a_function_is_asked_again():
    tokens = iter("ab")

    def tell():
        return icefs.GcsBearerCredential(next(tokens), expires_after=datetime.now(UTC) + timedelta(hours=1))

    storage = icefs.gcs_storage(bucket="b", prefix="p", get_credentials=tell, scatter_initial_credentials=True)
    source = storage.options.credentials
    assert [source().token, source().token] == ["a", "b"]
    storage = icefs.gcs_storage(bucket="b", prefix="p", get_credentials=lambda: "SECRET")
    with pytest.raises(InvalidInputError, match="returned str"):
        storage.options.credentials()


def test_arguments_that_do_not_fit():
    with pytest.raises(ValueError, match="more than one"):
        icefs.gcs_credentials(bearer_token="a", anonymous=True)
    with pytest.raises(ValueError, match="one of"):
        icefs.gcs_static_credentials()
    with pytest.raises(UnsupportedError, match="google_proxy"):
        icefs.gcs_storage(bucket="b", prefix="p", config={"google_proxy": "SECRET"})
    for headers in ({"Authorization": "SECRET"}, {"a b": "c"}, {"x-a": "b\r\nx-c: d"}):
        for name in ("headers", "read_headers", "write_headers"):
            with pytest.raises(InvalidInputError, match="header") as caught:
                icefs.gcs_storage(bucket="b", prefix="p", **{name: headers})
            assert "SECRET" not in str(caught.value)


def test_headers_are_sent(gcs_server, gcs_prefix, proxy):
    storage = icefs.gcs_storage(
        bucket=BUCKET,
        prefix=gcs_prefix,
        config={"google_base_url": proxy.endpoint_url},
        anonymous=True,
        headers={"X-Both": "both", "x-other": "SECRET"},
        read_headers={"x-read": "read", "X-BOTH": "of reading"},
        write_headers={"x-write": "write"},
    )
    repo = icefs.Repository.create(storage)
    with repo.transaction("main", message="one") as store:
        zarr.create_array(store, name="a", shape=(8,), chunks=(4,), dtype="f8")[:] = 1
    storage.copy("repo", "copied")
    assert storage.delete(["copied"]) == []
    assert sorted(storage.list_dir())
    assert {request.method for request in proxy.requests} == {"GET", "POST", "DELETE"}
    for request in proxy.requests:
        sent = {name.lower(): value for name, value in request.headers.items()}
        is_read = request.method == "GET"
        expected = {"x-both": "of reading", "x-read": "read"} if is_read else {"x-both": "both", "x-write": "write"}
        expected["x-other"] = "SECRET"
        assert {name: sent.get(name) for name in expected} == expected
        assert ("x-write" in sent) != is_read
    assert "SECRET" not in f"{storage!r} {storage.options!r}"


def test_secrets_are_not_shown():
    shown = [
        icefs.gcs_credentials(bearer_token="SECRET"),
        icefs.gcs_credentials(service_account_key="SECRET"),
        icefs.GcsBearerCredential("SECRET"),
        icefs.containers_credentials({"gs://b/": icefs.gcs_credentials(bearer_token="SECRET")}),
        icefs.gcs_storage(bucket="b", prefix="p", bearer_token="SECRET").options,
    ]
    assert "SECRET" not in repr(shown)


def test_the_official_names_are_there():
    for name in dir(icechunk):
        if "gcs" in name.lower() and "Summary" not in name:
            assert hasattr(icefs, name), name


def test_a_conflict_is_one_at_the_storage(gcs_server, gcs_prefix):
    storage = _storage(gcs_server, gcs_prefix)
    storage.put("a", b"1", create_only=True)
    with pytest.raises(PreconditionFailedError):
        storage.put("a", b"2", create_only=True)
