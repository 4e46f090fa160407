"""The fields of a configuration's `storage` that are about reads are obeyed over HTTP: seen in the requests."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, override

import pytest

import icefs
from icefs.errors import InvalidInputError, ReadOnlyError, UnreachableError
from icefs.storage.http import HttpStorage
from icefs.storage.local.store import LocalStorage
from icefs.storage.settings import StoreSettings
from tests.support.fault_proxy import FaultProxy, Request
from tests.support.setting_cases import CASES, Site, Wire
from tests.support.stalling_server import serving

READING = sorted(name for name in CASES if name.startswith(("retries.", "timeouts.", "concurrency.")))


class HttpWire(Wire):
    """A web server, which is only read."""

    classes = ("", "")
    refused_conditions = ()
    unanswered = "{}/p"

    @override
    def is_write(self, request: Request) -> bool:
        return request.method not in ("GET", "HEAD")

    @override
    def written(self, request: Request) -> str:
        return request.path

    @override
    def storage_class(self, request: Request) -> str | None:
        return None

    @override
    def is_conditional(self, request: Request) -> bool:
        return False

    @override
    def has_metadata(self, request: Request) -> bool:
        return False

    @override
    def is_in_parts(self, request: Request) -> bool:
        return False


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    with serving(tmp_path) as server, FaultProxy(server.url) as proxy:
        site = Site(HttpWire(), proxy, HttpStorage(proxy.endpoint_url), LocalStorage(tmp_path))
        yield site
        site.close()


@pytest.mark.parametrize("name", READING)
def test_a_field_is_obeyed(site: Site, name: str) -> None:
    CASES[name](site)


WRITING: dict[str, Any] = {
    "storage_class": "STANDARD_IA",
    "metadata_storage_class": "STANDARD_IA",
    "chunks_storage_class": "STANDARD_IA",
    "unsafe_use_conditional_create": False,
    "unsafe_use_conditional_update": False,
    "unsafe_use_metadata": False,
    "minimum_size_for_multipart_upload": 1,
}


@pytest.mark.parametrize("name", sorted(WRITING))
def test_a_field_is_about_writes_and_these_are_refused(site: Site, name: str, caplog: pytest.LogCaptureFixture) -> None:
    assert {*READING, *WRITING} == set(CASES)
    with site.store(**{name: WRITING[name]}) as storage:
        with pytest.raises(ReadOnlyError):
            storage.put("chunks/A", b"data")
        assert storage.get("repo").data
    assert site.writes() == []
    # Nothing is left undone, and a reader of a public repository cannot change its configuration.
    assert "no effect" not in caplog.text


# --- the options of the official `http_storage` ---


@pytest.mark.parametrize(
    ("given", "field", "expected"),
    [
        ({"connect_timeout": "250ms"}, "connect_timeout_s", 0.25),
        ({"CONNECT_TIMEOUT": "1m 30s"}, "connect_timeout_s", 90.0),
        ({"user_agent": "me/1"}, "user_agent", "me/1"),
        ({"allow_http": "true"}, "headers", (("a", "b"),)),
        ({}, "connect_timeout_s", 5.0),
    ],
)
def test_official_options(given: dict[str, str], field: str, expected: object):
    storage: Any = icefs.http_storage("http://127.0.0.1:1/p", given, {"a": "b"})
    assert getattr(storage.options, field) == expected


def test_the_official_timeout_is_that_of_a_request(site: Site):
    storage: Any = icefs.http_storage(site.storage.url, {"timeout": "200ms"})
    storage = storage.with_settings(StoreSettings(max_tries=2, initial_backoff_s=0.001))
    site.proxy.plan("trickle", times=None)
    with pytest.raises(UnreachableError):
        storage.get("repo")
    assert len(site.reads()) == 2


@pytest.mark.parametrize("given", [{"timeout": "soon"}, {"timeout": "5"}, {"connect_timeout": "1s and more"}])
def test_official_options_that_are_none(given: dict[str, str]):
    with pytest.raises(InvalidInputError, match="no time such as 30s"):
        icefs.http_storage("http://127.0.0.1:1/p", given)


def test_a_location_that_has_to_be_encrypted():
    with pytest.raises(InvalidInputError, match="not encrypted"):
        icefs.http_storage("http://127.0.0.1:1/p", {"allow_http": "false"})
    assert icefs.http_storage("https://127.0.0.1:1/p", {"allow_http": "false"}).url == "https://127.0.0.1:1/p"
