"""Each field of a configuration's `storage` is obeyed: seen in the requests that reach an S3 server."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import fields, is_dataclass
from typing import Any, get_args, get_type_hints

import pytest
import zarr

from icefs.cli.main import main
from icefs.cli.support.exit_codes import STORAGE
from icefs.engine.read.store_settings import store_settings, with_config
from icefs.engine.repository import Repository
from icefs.engine.write import publish
from icefs.engine.write.repository import WritableRepository
from icefs.errors import InvalidInputError, PreconditionFailedError, ThrottledError, UnreachableError
from icefs.format.config.codec import encode_config
from icefs.format.config.storage import (
    StorageConcurrencySettings,
    StorageRetriesSettings,
    StorageSettings,
    StorageTimeoutSettings,
)
from icefs.format.config.values import CachingConfig, RepositoryConfig
from icefs.format.repo import update as edits
from icefs.storage.base import Storage
from icefs.storage.memory import MemoryStorage
from icefs.storage.s3.store import S3Storage
from icefs.storage.url import open_storage
from tests.conformance.official import GROUP, array_json
from tests.support.mounting import mounted
from tests.support.s3_server import BUCKET

MIB = 1 << 20
LONG_S = 25.0
"""Far below the time that icefs waits by itself for what these tests let hang, and far above what they take."""


def leaves(cls: type = StorageSettings, above: str = "") -> Iterator[str]:
    """Yields the names of all fields, those of fields that are settings themselves after a dot."""
    for name, hint in get_type_hints(cls).items():
        if name not in {field.name for field in fields(cls)}:
            continue
        inner = next((arg for arg in get_args(hint) if is_dataclass(arg)), None)
        if inner is None:
            yield f"{above}{name}"
        else:
            yield from leaves(inner, f"{name}.")


class Site:
    """A repository behind a proxy that sees and spoils requests."""

    def __init__(self, s3_server: Any, prefix: str, proxy: Any) -> None:
        self.proxy = proxy
        self.storage = S3Storage(BUCKET, prefix, s3_server.options(endpoint_url=proxy.endpoint_url))
        self.direct = S3Storage(BUCKET, prefix, s3_server.options())

    @contextmanager
    def opened(self, **settings: Any) -> Iterator[WritableRepository]:
        config = RepositoryConfig(inline_chunk_threshold_bytes=0, storage=StorageSettings(**settings))
        self.proxy.clear()
        with WritableRepository.open(self.storage, config) as repository:
            self.proxy.clear()
            yield repository

    @contextmanager
    def store(self, **settings: Any) -> Iterator[Storage]:
        with self.opened(**settings) as repository:
            yield repository.storage

    def sent(self, method: str, part: str = "") -> list[dict[str, str]]:
        """Returns the headers, with names in lower case, of the requests that came by."""
        return [
            {name.lower(): value for name, value in request.headers.items()}
            for request in self.proxy.requests
            if request.method == method and part in request.path
        ]

    def commit(self, repository: WritableRepository) -> None:
        with repository.transaction("main", message="one chunk") as session:
            if session.get_node("/a") is None:
                session.nodes.put("/a", array_json((4,), (1,)))
            session.chunks.set("/a", (0,), b"x" * 600)

    def close(self) -> None:
        self.storage.close()
        self.direct.close()


@pytest.fixture
def site(s3_server, s3_prefix, proxy):
    site = Site(s3_server, s3_prefix, proxy)
    repository = WritableRepository.create(site.direct)
    with repository.transaction("main", message="start") as session:
        session.nodes.put("/", GROUP)
    repository.close()
    yield site
    site.close()


def tries_of_a_throttled_read(site: Site, **settings: Any) -> tuple[int, float]:
    with site.store(**settings) as storage:
        storage.head("repo")
        site.proxy.plan("throttle", method="GET", times=None)
        started = time.monotonic()
        with pytest.raises((ThrottledError, UnreachableError)):  # its last try may be cut short
            storage.get("repo")
        return len(site.sent("GET")), time.monotonic() - started


def max_tries(site: Site) -> None:
    quick = {"initial_backoff_ms": 1, "max_backoff_ms": 2}
    for tries in (1, 3, 12):
        assert tries_of_a_throttled_read(site, retries=StorageRetriesSettings(tries, **quick))[0] == tries


def initial_backoff(site: Site) -> None:
    assert tries_of_a_throttled_read(site, retries=StorageRetriesSettings(2, 1, 1))[1] < 0.4
    assert tries_of_a_throttled_read(site, retries=StorageRetriesSettings(2, 1600, 5000))[1] >= 0.8


def max_backoff(site: Site) -> None:
    # Without a limit the waits double: 0.1 s, and after it at least 51.2 s in all.
    assert tries_of_a_throttled_read(site, retries=StorageRetriesSettings(11, 100, 10))[1] < LONG_S


def hangs(site: Site, fault: str, **settings: Any) -> None:
    """Reads what never comes; raises what the storage raises, and fails if that takes as long as by default."""
    with site.store(retries=StorageRetriesSettings(2, 1, 1), **settings) as storage:
        storage.head("repo")
        site.proxy.plan(fault, method="GET", times=None)
        started = time.monotonic()
        with pytest.raises(UnreachableError):
            storage.get("repo")
        assert time.monotonic() - started < LONG_S
        assert 1 <= len(site.sent("GET")) <= 2


def connect_timeout(site: Site) -> None:
    # An address that answers nothing: the backlog of a listener that never accepts is full.
    import socket

    with socket.socket() as listener, socket.socket() as first, socket.socket() as second:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        for client in (first, second):
            client.setblocking(False)
            client.connect_ex(listener.getsockname())
        url = f"s3://{BUCKET}/p?endpoint_url=http://127.0.0.1:{listener.getsockname()[1]}"
        storage = open_storage(url, access_key_id="a", secret_access_key="b", read_timeout_s=600.0)
        config = RepositoryConfig(
            storage=StorageSettings(
                retries=StorageRetriesSettings(1), timeouts=StorageTimeoutSettings(connect_timeout_ms=50)
            )
        )
        started = time.monotonic()
        with pytest.raises(UnreachableError):
            with_config(storage, config).get("repo")
        assert time.monotonic() - started < 4


def read_timeout(site: Site) -> None:
    hangs(site, "stall", timeouts=StorageTimeoutSettings(read_timeout_ms=100))


def operation_timeout(site: Site) -> None:
    timeouts = StorageTimeoutSettings(operation_timeout_ms=300)
    hangs(site, "stall", timeouts=timeouts)
    hangs(site, "trickle", timeouts=timeouts)
    tries, _ = tries_of_a_throttled_read(site, retries=StorageRetriesSettings(1000, 100, 100), timeouts=timeouts)
    assert 1 <= tries < 20


def attempt_timeout(site: Site) -> None:
    timeouts = StorageTimeoutSettings(operation_attempt_timeout_ms=200)
    for fault in ("stall", "trickle"):
        hangs(site, fault, timeouts=timeouts)
        assert len(site.sent("GET")) == 2  # the second try had its own time


def classes(site: Site, **settings: Any) -> dict[str, str | None]:
    """Returns the classes that a commit asks for, by the kind of object."""
    with site.opened(**settings) as repository:
        site.commit(repository)
    return {
        request.path.rpartition("/test/")[2].split("/")[1].partition("?")[0]: {
            name.lower(): value for name, value in request.headers.items()
        }.get("x-amz-storage-class")
        for request in site.proxy.requests
        if request.method == "PUT"
    }


def storage_class(site: Site) -> None:
    found = classes(site, storage_class="STANDARD_IA")
    assert found.keys() >= {"repo", "chunks", "snapshots", "manifests", "transactions", "overwritten"}
    assert set(found.values()) == {"STANDARD_IA"}


def metadata_storage_class(site: Site) -> None:
    found = classes(site, metadata_storage_class="STANDARD_IA")
    special = {kind for kind, name in found.items() if name is not None}
    assert special == {"snapshots", "manifests", "transactions"}


def chunks_storage_class(site: Site) -> None:
    found = classes(
        site, chunks_storage_class="STANDARD_IA", storage_class="STANDARD", metadata_storage_class="GLACIER_IR"
    )
    assert (found["chunks"], found["snapshots"], found["repo"]) == ("STANDARD_IA", "GLACIER_IR", "STANDARD")
    with site.store(chunks_storage_class="STANDARD_IA", minimum_size_for_multipart_upload=MIB) as storage:
        storage.put("chunks/large", b"x" * MIB)
    assert site.sent("POST", "uploads")[0]["x-amz-storage-class"] == "STANDARD_IA"


def conditional_create(site: Site) -> None:
    with site.store(unsafe_use_conditional_create=False) as storage:
        site.proxy.plan("lack", times=None, header="if-none-match")
        storage.put("new", b"1", create_only=True)
        with pytest.raises(PreconditionFailedError):
            storage.put("new", b"2", create_only=True)
    assert not [headers for headers in site.sent("PUT") if "if-none-match" in headers]
    assert site.direct.get("new").data == b"1"


def conditional_update(site: Site) -> None:
    with site.opened(unsafe_use_conditional_update=False) as repository:
        site.proxy.plan("lack", method="PUT", times=None, header="if-match")
        site.proxy.plan("lack", method="PUT", times=None, header="x-amz-copy-source-if-match")
        site.commit(repository)
        site.commit(repository)
        old = repository.storage.get("repo").version
        site.commit(repository)
        with pytest.raises(PreconditionFailedError):
            repository.storage.put("repo", b"lost update", if_match=old)
    sent = [name for headers in site.sent("PUT") for name in headers]
    assert not {"if-match", "x-amz-copy-source-if-match"} & set(sent)
    assert len(list(repository.ancestry(branch="main"))) == 5


def metadata(site: Site) -> None:
    with site.opened(unsafe_use_metadata=False) as repository:
        site.commit(repository)
        # A lost answer is settled by the bytes.
        plan = site.proxy.plan("lose", method="PUT", conditional=True, path="/repo")
        site.commit(repository)
        assert plan.fired == 1
        assert len(list(repository.ancestry(branch="main"))) == 4
    assert not [name for headers in site.sent("PUT") for name in headers if name.startswith("x-amz-meta")]


def multipart(site: Site) -> None:
    for size, threshold, posts in ((MIB, MIB, 2), (MIB, MIB + 1, 0), (17 * MIB, 8 * MIB, 2)):
        with site.store(minimum_size_for_multipart_upload=threshold) as storage:
            storage.put("chunks/large", b"x" * size)
            assert len(site.sent("POST")) == posts
    assert site.direct.head("chunks/large").size_bytes == 17 * MIB


def gets_of_a_chunk(site: Site, size: int, concurrency: StorageConcurrencySettings | None) -> int:
    with site.opened(concurrency=concurrency) as repository:
        with repository.transaction("main", message="large") as session:
            if session.get_node("/b") is None:
                session.nodes.put("/b", array_json((1,), (1,)))
            session.chunks.set("/b", (0,), b"x" * size)
        site.proxy.clear()
        session = repository.readonly_session("main")
        ref = session.chunk_ref("/b", (0,))
        assert ref is not None
        assert len(session.read_chunk(ref)) == size
        return len(site.sent("GET", "/chunks/"))


def ideal_size(site: Site) -> None:
    assert gets_of_a_chunk(site, MIB, None) == 1
    assert gets_of_a_chunk(site, MIB, StorageConcurrencySettings(None, 256 << 10)) == 4


def requests_for_an_object(site: Site) -> None:
    assert gets_of_a_chunk(site, 12 * MIB, StorageConcurrencySettings(1, None)) == 1
    assert gets_of_a_chunk(site, MIB, StorageConcurrencySettings(2, 1 << 10)) == 2


CASES: dict[str, Callable[[Site], None]] = {
    "concurrency.ideal_concurrent_request_size": ideal_size,
    "concurrency.max_concurrent_requests_for_object": requests_for_an_object,
    "retries.max_tries": max_tries,
    "retries.initial_backoff_ms": initial_backoff,
    "retries.max_backoff_ms": max_backoff,
    "timeouts.connect_timeout_ms": connect_timeout,
    "timeouts.read_timeout_ms": read_timeout,
    "timeouts.operation_timeout_ms": operation_timeout,
    "timeouts.operation_attempt_timeout_ms": attempt_timeout,
    "storage_class": storage_class,
    "metadata_storage_class": metadata_storage_class,
    "chunks_storage_class": chunks_storage_class,
    "unsafe_use_conditional_create": conditional_create,
    "unsafe_use_conditional_update": conditional_update,
    "unsafe_use_metadata": metadata,
    "minimum_size_for_multipart_upload": multipart,
}


@pytest.mark.parametrize("name", sorted(leaves()))
def test_a_field_is_obeyed(site: Site, name: str) -> None:
    CASES[name](site)


def test_settings_that_are_saved_are_obeyed_by_later_openers(site):
    with site.opened(chunks_storage_class="STANDARD_IA") as repository:
        repository.save_config()
    with WritableRepository.open(site.storage) as repository:
        site.proxy.clear()
        with repository.transaction("main", message="one") as session:
            session.nodes.put("/a", array_json((4,), (1,)))
            session.chunks.set("/a", (0,), b"x" * 600)
    assert {headers.get("x-amz-storage-class") for headers in site.sent("PUT", "/chunks/")} == {"STANDARD_IA"}


def test_what_the_user_names_at_the_location_stays(s3_server, s3_prefix, site, proxy):
    with site.opened(retries=StorageRetriesSettings(7, 1, 1)) as repository:
        repository.save_config()
    keys = s3_server.options().credentials
    url = f"s3://{BUCKET}/{s3_prefix}?endpoint_url={proxy.endpoint_url}&max_tries=2"
    storage = open_storage(url, credentials=keys)
    with Repository.open(storage) as repository:
        proxy.clear()
        proxy.plan("throttle", method="GET", times=None)
        with pytest.raises(ThrottledError):
            repository.storage.get("repo")
        assert len(site.sent("GET")) == 2
    storage.close()


def test_a_store_without_conditions_can_be_used(s3_server, s3_prefix, proxy):
    """The answer of such a store to a condition is 501."""
    storage = S3Storage(BUCKET, s3_prefix, s3_server.options(endpoint_url=proxy.endpoint_url))
    for header in ("if-match", "if-none-match", "x-amz-copy-source-if-match"):
        proxy.plan("lack", method="PUT", times=None, header=header)
    config = RepositoryConfig(
        storage=StorageSettings(unsafe_use_conditional_create=False, unsafe_use_conditional_update=False)
    )
    with (
        WritableRepository.create(storage, config) as repository,
        repository.transaction("main", message="one") as session,
    ):
        session.nodes.put("/", GROUP)
    with WritableRepository.open(storage) as repository:
        assert [info.message for info in repository.ancestry(branch="main")] == ["one", "Repository initialized"]
    storage.close()


IMPOSSIBLE = [
    StorageSettings(retries=StorageRetriesSettings(max_tries=0)),
    StorageSettings(retries=StorageRetriesSettings(max_tries=20_000)),
    StorageSettings(timeouts=StorageTimeoutSettings(read_timeout_ms=0)),
    StorageSettings(timeouts=StorageTimeoutSettings(operation_timeout_ms=2**32 - 1)),
    StorageSettings(storage_class="A\r\nX-Evil: 1"),
    StorageSettings(minimum_size_for_multipart_upload=0),
    StorageSettings(concurrency=StorageConcurrencySettings(0, None)),
    StorageSettings(concurrency=StorageConcurrencySettings(None, 0)),
]


NEVER_SAVED = {0, 6, 7}
"""The numbers of those that no program can save: the format does not allow them."""


@pytest.mark.parametrize("number", range(len(IMPOSSIBLE)))
def test_values_that_cannot_be_are_refused_and_where_they_are_saved_left_out(caplog, number):
    config = RepositoryConfig(storage=IMPOSSIBLE[number], inline_chunk_threshold_bytes=7)
    storage = MemoryStorage()
    with pytest.raises(InvalidInputError, match="storage"):
        WritableRepository.create(storage, config)
    with WritableRepository.create(storage) as repository:
        repository.config = config
        with pytest.raises(InvalidInputError, match="storage"):
            repository.save_config()
        with pytest.raises(InvalidInputError, match="storage"):
            WritableRepository.open(storage, config)
        if number in NEVER_SAVED:
            with pytest.raises(InvalidInputError):
                encode_config(config)
            return
        # Another program saves it all the same.
        data = encode_config(config)
        publish.update_repo_info(repository.context, lambda info, stamp: edits.set_config(info, data, stamp))
    with WritableRepository.open(storage) as repository:
        assert (repository.config.inline_chunk_threshold_bytes, store_settings(repository.config).given()) == (7, ())
    assert "is not used" in caplog.text


def test_commands_and_mounts_obey(s3_server, s3_prefix, site, proxy, monkeypatch):
    for name, value in s3_server.environment().items():
        monkeypatch.setenv(name, value)
    place = f"s3://{BUCKET}/{s3_prefix}?endpoint_url={proxy.endpoint_url}"
    settings = ["storage.chunks_storage_class=STANDARD_IA", "inline_chunk_threshold_bytes=0"]
    assert main(["config", "set", *settings, "--repo", place]) == 0
    proxy.clear()
    with mounted(place, branch="main") as mount:
        array = zarr.create_array(str(mount / "m"), shape=(9,), chunks=(9,), dtype="i4", compressors=None)
        array[:] = range(9)
        (mount / ".icefs/commit").write_text("through a mount")
    assert {headers.get("x-amz-storage-class") for headers in site.sent("PUT", "/chunks/")} == {"STANDARD_IA"}
    assert main(["config", "set", "storage.retries.max_tries=1", "--repo", place]) == 0
    proxy.clear()
    proxy.plan("throttle", method="GET", times=None, path="/snapshots/")
    assert main(["ls", place]) == STORAGE
    assert len(site.sent("GET", "/snapshots/")) == 1


def test_a_command_refuses_what_cannot_be_and_names_what_has_no_effect(site, s3_server, s3_prefix, monkeypatch, capsys):
    for name, value in s3_server.environment().items():
        monkeypatch.setenv(name, value)
    place = f"s3://{BUCKET}/{s3_prefix}?endpoint_url={s3_server.endpoint_url}"
    assert main(["config", "set", "storage.retries.max_tries=20000", "--repo", place]) == 2
    assert "storage.retries.max_tries is 20000, and has to be from 1 to 10000" in capsys.readouterr().err
    assert main(["config", "set", "caching.num_bytes_attributes=5", "--repo", place]) == 0
    assert "caching.num_bytes_attributes has no effect" in capsys.readouterr().err
    main(["doctor", place])
    assert "caching.num_bytes_attributes: no effect in icefs" in capsys.readouterr().out


def test_a_field_without_an_effect_is_named(site, caplog):
    with site.opened() as repository:
        repository.config.caching = CachingConfig(num_bytes_attributes=1 << 20)
        repository.save_config()
    with WritableRepository.open(site.storage):
        assert "caching.num_bytes_attributes has no effect" in caplog.text
