"""Each field of a configuration's `storage`, and how the requests that reach a service show that it is obeyed.

    @pytest.mark.parametrize("name", sorted(leaves()))
    def test_a_field_is_obeyed(site, name):
        CASES[name](site)

A `Site` is a repository behind a proxy; its `Wire` knows how the service's protocol says what a request asks for.
"""

import json
import re
import socket
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import fields, is_dataclass
from typing import Any, ClassVar, get_args, get_type_hints, override
from urllib.parse import unquote

import pytest
import zarr

from icefs.cli.main import main
from icefs.cli.support.exit_codes import STORAGE
from icefs.engine.read.store_settings import with_config
from icefs.engine.write.repository import WritableRepository
from icefs.errors import PreconditionFailedError, ThrottledError, UnreachableError
from icefs.format.config.storage import (
    StorageConcurrencySettings,
    StorageRetriesSettings,
    StorageSettings,
    StorageTimeoutSettings,
)
from icefs.format.config.values import RepositoryConfig
from icefs.storage.base import Storage
from icefs.storage.url import open_storage
from tests.conformance.official import GROUP, array_json
from tests.support.fault_proxy import FaultProxy, Request
from tests.support.mounting import mounted

MIB = 1 << 20
LONG_S = 25.0
"""Far below the time that icefs waits by itself for what these tests let hang, and far above what they take."""

KINDS = ("repo", "overwritten", "snapshots", "manifests", "transactions", "chunks")
"""The kinds of objects that a commit writes."""


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


class Wire(ABC):
    """How one service's requests say what they ask for.

    Attributes:
        classes: Two storage classes that the service has.
        refused_conditions: Which requests a service without conditions answers with 501; arguments of
            `FaultProxy.plan`.
        unanswered: The location of a repository at an address, with everything that opening it needs.
    """

    classes: ClassVar[tuple[str, str]]
    refused_conditions: ClassVar[tuple[dict[str, str], ...]]
    unanswered: ClassVar[str]

    @abstractmethod
    def is_write(self, request: Request) -> bool:
        """Tells whether a request makes an object."""

    @abstractmethod
    def written(self, request: Request) -> str:
        """Returns the full name of the object that a request makes."""

    @abstractmethod
    def storage_class(self, request: Request) -> str | None:
        """Returns the class that it asks for."""

    @abstractmethod
    def is_conditional(self, request: Request) -> bool:
        """Tells whether it asks for a version of what it replaces or copies, or for nothing to be there."""

    @abstractmethod
    def has_metadata(self, request: Request) -> bool:
        """Tells whether it sends user metadata."""

    @abstractmethod
    def is_in_parts(self, request: Request) -> bool:
        """Tells whether it begins or ends the upload of an object in parts."""

    def kind(self, request: Request) -> str:
        """Returns the kind of the object that a request makes."""
        return next((name for name in self.written(request).split("/") if name in KINDS), "")


class S3Wire(Wire):
    """S3: headers."""

    classes = ("STANDARD_IA", "GLACIER_IR")
    refused_conditions = tuple(
        {"method": "PUT", "header": header} for header in ("if-match", "if-none-match", "x-amz-copy-source-if-match")
    )
    unanswered = "s3://bucket/p?endpoint_url={}&region=us-east-1&anonymous=true"

    @override
    def is_write(self, request: Request) -> bool:
        return request.method == "PUT" or (request.method == "POST" and "uploads" in request.path)

    @override
    def written(self, request: Request) -> str:
        return request.path.partition("?")[0]

    @override
    def storage_class(self, request: Request) -> str | None:
        return header(request, "x-amz-storage-class")

    @override
    def is_conditional(self, request: Request) -> bool:
        return any(header(request, each["header"]) for each in self.refused_conditions)

    @override
    def has_metadata(self, request: Request) -> bool:
        return any(name.lower().startswith("x-amz-meta-") for name in request.headers)

    @override
    def is_in_parts(self, request: Request) -> bool:
        return request.method == "POST"


class GcsWire(Wire):
    """The JSON interface of Google Cloud Storage: a description in the body, conditions in the query."""

    classes = ("NEARLINE", "COLDLINE")
    refused_conditions = (
        {"method": "POST", "path": "ifGenerationMatch"},
        {"method": "POST", "path": "ifSourceGenerationMatch"},
    )
    unanswered = "gs://bucket/p?endpoint_url={}&anonymous=true"

    @override
    def is_write(self, request: Request) -> bool:
        return request.method == "POST"

    def _description(self, request: Request) -> dict[str, Any]:
        found = re.search(rb"\{.*?\}(?=\r\n--|$)", request.beginning, re.DOTALL)
        return {} if found is None else json.loads(found[0])

    @override
    def written(self, request: Request) -> str:
        _, copies, target = request.path.partition("/rewriteTo/")
        return unquote(target.partition("?")[0]) if copies else self._description(request).get("name", "")

    @override
    def storage_class(self, request: Request) -> str | None:
        return self._description(request).get("storageClass")

    @override
    def is_conditional(self, request: Request) -> bool:
        return "GenerationMatch" in request.path

    @override
    def has_metadata(self, request: Request) -> bool:
        return bool(self._description(request).get("metadata"))

    @override
    def is_in_parts(self, request: Request) -> bool:
        return request.method == "POST" and "uploadType=resumable" in request.path


class AzureWire(Wire):
    """Azure Blob Storage: headers."""

    classes = ("Cool", "Cold")
    refused_conditions = tuple(
        {"method": "PUT", "header": header} for header in ("if-match", "if-none-match", "x-ms-source-if-match")
    )
    unanswered = "az://container/p?endpoint_url={}/account&anonymous=true"

    @override
    def is_write(self, request: Request) -> bool:
        # A block has neither a class nor metadata; the list of them has.
        return request.method == "PUT" and "comp=block&" not in f"{request.path}&"

    @override
    def written(self, request: Request) -> str:
        return unquote(request.path.partition("?")[0])

    @override
    def storage_class(self, request: Request) -> str | None:
        return header(request, "x-ms-access-tier")

    @override
    def is_conditional(self, request: Request) -> bool:
        return any(header(request, each["header"]) for each in self.refused_conditions)

    @override
    def has_metadata(self, request: Request) -> bool:
        return any(name.lower().startswith("x-ms-meta-") for name in request.headers)

    @override
    def is_in_parts(self, request: Request) -> bool:
        return request.method == "PUT" and "comp=blocklist" in request.path


def header(request: Request, name: str) -> str | None:
    """Returns a header, whatever the letters of its name are."""
    return next((value for each, value in request.headers.items() if each.lower() == name), None)


class Site:
    """A repository behind a proxy that sees and spoils requests.

    Attributes:
        wire: The service's protocol.
        proxy: In front of the service.
        storage: Through the proxy.
        direct: Past it.
    """

    def __init__(self, wire: Wire, proxy: FaultProxy, storage: Storage, direct: Storage) -> None:
        """Makes the repository, with one group."""
        self.wire, self.proxy, self.storage, self.direct = wire, proxy, storage, direct
        with (
            WritableRepository.create(direct) as repository,
            repository.transaction("main", message="start") as session,
        ):
            session.nodes.put("/", GROUP)

    @contextmanager
    def opened(self, **settings: Any) -> Iterator[WritableRepository]:
        """Opens it with settings of the store."""
        config = RepositoryConfig(inline_chunk_threshold_bytes=0, storage=StorageSettings(**settings))
        self.proxy.clear()
        with WritableRepository.open(self.storage, config) as repository:
            self.proxy.clear()
            yield repository

    @contextmanager
    def store(self, **settings: Any) -> Iterator[Storage]:
        """Gives the storage of the repository that is opened so."""
        with self.opened(**settings) as repository:
            yield repository.storage

    def reads(self, part: str = "") -> list[Request]:
        """Returns the requests that came by and read; `part` is in their paths, decoded."""
        return [each for each in self.proxy.requests if each.method == "GET" and part in unquote(each.path)]

    def writes(self) -> list[Request]:
        """Returns the requests that came by and make objects."""
        return [each for each in self.proxy.requests if self.wire.is_write(each)]

    def commit(self, repository: WritableRepository) -> None:
        """Commits a chunk that is not inline."""
        with repository.transaction("main", message="one chunk") as session:
            if session.get_node("/a") is None:
                session.nodes.put("/a", array_json((4,), (1,)))
            session.chunks.set("/a", (0,), b"x" * 600)

    def lack_conditions(self) -> None:
        """Has the service answer conditional writes with 501."""
        for condition in self.wire.refused_conditions:
            self.proxy.plan("lack", times=None, **condition)  # type: ignore[arg-type]

    def close(self) -> None:
        """Closes the storages."""
        self.storage.close()
        self.direct.close()


def tries_of_a_throttled_read(site: Site, **settings: Any) -> tuple[int, float]:
    """Returns how often a read that is always throttled is tried, and how long that takes."""
    with site.store(**settings) as storage:
        storage.get("repo")
        site.proxy.clear()
        site.proxy.plan("throttle", method="GET", times=None)
        started = time.monotonic()
        with pytest.raises((ThrottledError, UnreachableError)):  # its last try may be cut short
            storage.get("repo")
        return len(site.reads()), time.monotonic() - started


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
    """Reads what never comes; fails if that takes as long as by default."""
    with site.store(retries=StorageRetriesSettings(2, 1, 1), **settings) as storage:
        storage.get("repo")
        site.proxy.clear()
        site.proxy.plan(fault, method="GET", times=None)
        started = time.monotonic()
        with pytest.raises(UnreachableError):
            storage.get("repo")
        assert time.monotonic() - started < LONG_S
        assert 1 <= len(site.reads()) <= 2


def connect_timeout(site: Site) -> None:
    # An address that answers nothing: the backlog of a listener that never accepts is full.
    with socket.socket() as listener, socket.socket() as first, socket.socket() as second:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        for client in (first, second):
            client.setblocking(False)
            client.connect_ex(listener.getsockname())
        url = site.wire.unanswered.format(f"http://127.0.0.1:{listener.getsockname()[1]}")
        storage = open_storage(url, read_timeout_s=600.0)
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
        assert len(site.reads()) == 2  # the second try had its own time


def classes(site: Site, **settings: Any) -> dict[str, set[str | None]]:
    """Returns the classes that a commit asks for, by the kind of object."""
    with site.opened(**settings) as repository:
        site.commit(repository)
    found: dict[str, set[str | None]] = {}
    for request in site.writes():
        found.setdefault(site.wire.kind(request), set()).add(site.wire.storage_class(request))
    assert found.keys() >= set(KINDS)
    return found


def storage_class(site: Site) -> None:
    wanted = site.wire.classes[0]
    assert set(map(frozenset, classes(site, storage_class=wanted).values())) == {frozenset({wanted})}


def metadata_storage_class(site: Site) -> None:
    found = classes(site, metadata_storage_class=site.wire.classes[0])
    special = {kind for kind, names in found.items() if names != {None}}
    assert special == {"snapshots", "manifests", "transactions"}
    assert found["snapshots"] == {site.wire.classes[0]}


def chunks_storage_class(site: Site) -> None:
    one, other = site.wire.classes
    found = classes(site, chunks_storage_class=one, metadata_storage_class=other)
    assert (found["chunks"], found["snapshots"], found["repo"]) == ({one}, {other}, {None})
    with site.store(chunks_storage_class=one, minimum_size_for_multipart_upload=MIB) as storage:
        storage.put("chunks/large", b"x" * MIB)
    assert one in [site.wire.storage_class(each) for each in site.writes() if site.wire.is_in_parts(each)]


def conditional_create(site: Site) -> None:
    with site.store(unsafe_use_conditional_create=False) as storage:
        site.lack_conditions()
        storage.put("new", b"1", create_only=True)
        with pytest.raises(PreconditionFailedError):
            storage.put("new", b"2", create_only=True)
    assert site.writes()
    assert not [each for each in site.writes() if site.wire.is_conditional(each)]
    assert site.direct.get("new").data == b"1"


def conditional_update(site: Site) -> None:
    with site.opened(unsafe_use_conditional_update=False) as repository:
        site.lack_conditions()
        site.commit(repository)
        site.commit(repository)
        old = repository.storage.get("repo").version
        site.commit(repository)
        with pytest.raises(PreconditionFailedError):
            repository.storage.put("repo", b"lost update", if_match=old)
        with pytest.raises(PreconditionFailedError):
            repository.storage.copy("repo", "copy of another version", if_match=old)
    assert not [each for each in site.writes() if site.wire.is_conditional(each)]
    with WritableRepository.open(site.direct) as repository:
        assert len(list(repository.ancestry(branch="main"))) == 5


def metadata(site: Site) -> None:
    with site.opened() as repository:
        site.commit(repository)
        assert [each for each in site.writes() if site.wire.has_metadata(each)]
    with site.opened(unsafe_use_metadata=False) as repository:
        site.commit(repository)
        # A lost answer is settled by the bytes.
        publishing = site.wire.refused_conditions[0]
        plan = site.proxy.plan("lose", **publishing)  # type: ignore[arg-type]
        site.commit(repository)
        assert plan.fired == 1
        assert len(list(repository.ancestry(branch="main"))) == 5
    assert not [each for each in site.writes() if site.wire.has_metadata(each)]


def multipart(site: Site) -> None:
    for size, threshold, in_parts in ((MIB, MIB, True), (MIB, MIB + 1, False), (17 * MIB, 8 * MIB, True)):
        with site.store(minimum_size_for_multipart_upload=threshold) as storage:
            storage.put("chunks/large", b"x" * size)
            assert any(map(site.wire.is_in_parts, site.proxy.requests)) == in_parts
    assert site.direct.head("chunks/large").size_bytes == 17 * MIB


def gets_of_a_chunk(site: Site, size: int, concurrency: StorageConcurrencySettings | None) -> int:
    """Returns how many requests the read of a chunk takes."""
    with (
        WritableRepository.open(site.direct) as repository,
        repository.transaction("main", message="large") as session,
    ):
        if session.get_node("/b") is None:
            session.nodes.put("/b", array_json((1,), (1,)))
        session.chunks.set("/b", (0,), b"x" * size)
    with site.opened(concurrency=concurrency) as repository:
        session = repository.readonly_session("main")
        ref = session.chunk_ref("/b", (0,))
        assert ref is not None
        site.proxy.clear()
        assert len(session.read_chunk(ref)) == size
        return len(site.reads("/chunks/"))


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


def programs_obey(site: Site, place: str) -> None:
    """Saves settings by the command line, and looks whether a mount and a command obey them.

    Args:
        site: The repository.
        place: Where it is behind the proxy, as a user writes it.
    """
    one = site.wire.classes[0]
    settings = [f"storage.chunks_storage_class={one}", "inline_chunk_threshold_bytes=0"]
    more = ["storage.unsafe_use_metadata=false", f"storage.minimum_size_for_multipart_upload={MIB}"]
    assert main(["config", "set", *settings, *more, "--repo", place]) == 0
    site.proxy.clear()
    with mounted(place, branch="main") as mount:
        for name, size in (("small", 9), ("large", MIB)):
            array = zarr.create_array(str(mount / name), shape=(size,), chunks=(size,), dtype="i1", compressors=None)
            array[:] = 1
        (mount / ".icefs/commit").write_text("through a mount")
    chunks = [each for each in site.writes() if site.wire.kind(each) == "chunks"]
    assert {site.wire.storage_class(each) for each in chunks} - {None} == {one}
    assert any(map(site.wire.is_in_parts, site.proxy.requests))
    assert [each for each in site.writes() if site.wire.has_metadata(each)] == []
    assert main(["config", "set", "storage.retries.max_tries=1", "--repo", place]) == 0
    site.proxy.clear()
    site.proxy.plan("throttle", method="GET", times=None, path="snapshots")
    assert main(["ls", place]) == STORAGE
    assert len(site.reads("/snapshots/")) == 1
