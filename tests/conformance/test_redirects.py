"""`redirect_storage` and `Storage.default_settings`, next to the official ones."""

import contextlib
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import icechunk
import numpy as np
import pytest
import zarr

import icefs
from icefs.engine.read.store_settings import check_config, store_settings, unheeded_fields
from icefs.errors import BadAnswerError, InvalidInputError, StorageError, UnreachableError
from icefs.format.config.values import RepositoryConfig
from icefs.storage.redirects import find_target
from icefs.storage.retry import RetryPolicy
from tests.support.stalling_server import serving

ONCE = RetryPolicy(max_tries=1, first_contact_tries=1)


@contextlib.contextmanager
def redirecting(targets: dict[str, tuple[int, str | None]]) -> Iterator[str]:
    """Runs a web server that answers with a status and a Location, by the path; gives its URL."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, target = targets[self.path]
            self.send_response(status)
            if target is not None:
                self.send_header("Location", target)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Says nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
            thread.join()


@pytest.mark.parametrize("scheme", ["http+icechunk", "http+ic"])
def test_both_libraries_read_the_repository_that_a_server_leads_to(tmp_path: Path, scheme: str):
    icechunk.set_logs_filter("off")
    repo = icechunk.Repository.create(icechunk.local_filesystem_storage(str(tmp_path)))
    session = repo.writable_session("main")
    zarr.create_array(session.store, name="a", data=np.arange(2000.0), chunks=(1000,), compressors=None)
    session.commit("one")
    with serving(tmp_path) as web:
        final = web.url.replace("http://", f"{scheme}://")
        with redirecting({"/repo": (302, "/again"), "/again": (307, final)}) as url:
            for ic in (icechunk, icefs):
                opened: Any = ic.Repository.open(ic.redirect_storage(f"{url}/repo"))
                store = opened.readonly_session("main").store
                assert zarr.open_array(store, path="a", mode="r")[1500] == 1500
                with pytest.raises(ic.IcechunkError):
                    opened.create_branch("b", opened.lookup_branch("main"))


TARGETS = {
    "s3://bucket/some/prefix?region=eu-west-1": "s3://bucket/some/prefix?region=eu-west-1&anonymous=true",
    "s3://bucket/a%20b/?region=eu-west-1": "s3://bucket/a b?region=eu-west-1&anonymous=true",
    "gs://bucket/p": "gs://bucket/p?anonymous=true",
    "gcs://bucket/p": "gs://bucket/p?anonymous=true",
    "r2://bucket/p?account_id=abc": "s3://bucket/p?endpoint_url=https://abc.r2.cloudflarestorage.com&region=auto",
    "tigris://bucket/p?region=fra": "s3://bucket/p?endpoint_url=https://t3.storage.dev&region=fra",
    "https+ic://host.example/p": "https://host.example/p",
}


@pytest.mark.parametrize("target", TARGETS)
def test_targets_become_storages_without_keys(target: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "mine")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    with redirecting({"/": (302, target)}) as url:
        storage: Any = icefs.Storage.new_redirect(url)
    assert storage.url.startswith(TARGETS[target])
    assert storage.url.startswith("https://") or storage.options.anonymous


@pytest.mark.parametrize(
    ("status", "target", "why"),
    [
        (200, None, "no redirect"),
        (404, "s3://b/p?region=r", "404"),
        (302, None, "no redirect"),
        (302, "s3://bucket/p", "without the region"),
        (302, "r2://bucket/p", "without the account_id"),
        (302, "tigris://bucket/p", "without the region"),
        (302, "ftp://host/p", "no store that icefs knows"),
        (302, "file:///etc", "without a bucket"),
        (302, "s3://user:pass@bucket/p?region=r", "without a bucket"),
    ],
)
def test_what_leads_to_no_store(status: int, target: str | None, why: str):
    with redirecting({"/": (status, target)}) as url:
        with pytest.raises(BadAnswerError, match=why) as caught:
            icefs.redirect_storage(f"{url}/")
        assert "pass" not in f"{caught.value} {caught.value.hint}"
        with pytest.raises((icechunk.IcechunkError, ValueError)):
            icechunk.Repository.open(icechunk.redirect_storage(f"{url}/"))


def test_servers_that_do_not_answer_and_endless_redirects():
    with pytest.raises(UnreachableError, match="cannot be reached"):
        find_target("http://127.0.0.1:1/x", ONCE)
    with redirecting({"/": (302, "/"), "/busy": (503, None), "/user": (302, "http://user:pass@host/")}) as url:
        with pytest.raises(StorageError, match="more than 10 redirects"):
            find_target(f"{url}/", ONCE)
        with pytest.raises(StorageError, match="answers with 503"):
            find_target(f"{url}/busy", ONCE)
        with pytest.raises(InvalidInputError, match="user name"):
            find_target(f"{url}/user", ONCE)
    for wrong in ("ftp://host/", "http://", "http://user:pass@host/", "http://host name/", "nothing"):
        with pytest.raises(InvalidInputError) as caught:
            icefs.redirect_storage(wrong)
        assert "pass@" not in str(caught.value)


# --- settings that hold where nothing is set ---

S3 = {"bucket": "b", "prefix": "p", "region": "us-east-1", "anonymous": True}
KINDS = {
    "local": lambda ic, path: ic.local_filesystem_storage(str(path)),
    "memory": lambda ic, path: ic.in_memory_storage(),
    "http": lambda ic, path: ic.http_storage("http://127.0.0.1:1/"),
    "s3": lambda ic, path: ic.s3_storage(**S3),
    "gcs": lambda ic, path: ic.gcs_storage(bucket="b", prefix="p", anonymous=True),
    "azure": lambda ic, path: ic.azure_storage(account="account", container="con", prefix="p", anonymous=True),
}


@pytest.mark.parametrize("kind", KINDS)
def test_the_default_settings_change_nothing(kind: str, tmp_path: Path):
    storage = KINDS[kind](icefs, tmp_path)
    settings = storage.default_settings()
    assert isinstance(settings, icefs.StorageSettings)
    config = RepositoryConfig(storage=settings)
    check_config(config)
    assert unheeded_fields(storage, config) == []
    obeying = storage.with_settings(store_settings(config))
    assert obeying.usual_settings() == storage.usual_settings()
    official = KINDS[kind](icechunk, tmp_path).default_settings()
    assert isinstance(official, icechunk.StorageSettings)
    for name in ("unsafe_use_conditional_create", "unsafe_use_conditional_update", "unsafe_use_metadata"):
        assert (getattr(settings, name) is False) == (getattr(official, name) is False), name
    if kind in ("local", "memory"):
        for name in ("max_tries", "initial_backoff_ms", "max_backoff_ms"):
            assert getattr(settings.retries, name) == getattr(official.retries, name)


def test_a_program_changes_one_of_the_default_settings():
    storage = icefs.s3_storage(**S3)
    settings = storage.default_settings()
    settings.retries.max_tries = 3
    config = icefs.RepositoryConfig(storage=settings)
    assert storage.with_settings(store_settings(config)).options.retry.max_tries == 3
