"""Each field of a configuration's `storage` is obeyed: seen in the requests that reach an S3 server."""

import pytest

from icefs.cli.main import main
from icefs.engine.read.store_settings import store_settings
from icefs.engine.repository import Repository
from icefs.engine.write import publish
from icefs.engine.write.repository import WritableRepository
from icefs.errors import InvalidInputError, ThrottledError
from icefs.format.config.codec import encode_config
from icefs.format.config.storage import (
    StorageConcurrencySettings,
    StorageRetriesSettings,
    StorageSettings,
    StorageTimeoutSettings,
)
from icefs.format.config.values import CachingConfig, RepositoryConfig
from icefs.format.repo import update as edits
from icefs.storage.memory import MemoryStorage
from icefs.storage.s3.store import S3Storage
from icefs.storage.url import open_storage
from tests.conformance.official import GROUP, array_json
from tests.support.s3_server import BUCKET
from tests.support.setting_cases import CASES, S3Wire, Site, leaves, programs_obey


@pytest.fixture
def site(s3_server, s3_prefix, proxy):
    storage = S3Storage(BUCKET, s3_prefix, s3_server.options(endpoint_url=proxy.endpoint_url))
    site = Site(S3Wire(), proxy, storage, S3Storage(BUCKET, s3_prefix, s3_server.options()))
    yield site
    site.close()


def chunk_classes(site: Site) -> set[str | None]:
    return {site.wire.storage_class(each) for each in site.writes() if site.wire.kind(each) == "chunks"}


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
    assert chunk_classes(site) == {"STANDARD_IA"}


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
        assert len(site.reads()) == 2
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
    StorageSettings(retries=StorageRetriesSettings(max_tries=20_000)),
    StorageSettings(timeouts=StorageTimeoutSettings(read_timeout_ms=0)),
    StorageSettings(timeouts=StorageTimeoutSettings(operation_timeout_ms=2**32 - 1)),
    StorageSettings(storage_class="A\r\nX-Evil: 1"),
    StorageSettings(minimum_size_for_multipart_upload=0),
]


@pytest.mark.parametrize(
    "make",
    [
        lambda: StorageRetriesSettings(max_tries=0),
        lambda: StorageConcurrencySettings(0, None),
        lambda: StorageConcurrencySettings(None, 0),
    ],
)
def test_values_that_the_format_cannot_hold_are_refused_where_they_are_set(make):
    with pytest.raises(ValueError, match="must be at least 1"):
        make()


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
        # Another program saves it all the same.
        data = encode_config(config)
        publish.update_repo_info(repository.context, lambda info, stamp: edits.set_config(info, data, stamp))
    with WritableRepository.open(storage) as repository:
        assert (repository.config.inline_chunk_threshold_bytes, store_settings(repository.config).given()) == (7, ())
    assert "is not used" in caplog.text


def test_commands_and_mounts_obey(s3_server, s3_prefix, site, monkeypatch):
    for name, value in s3_server.environment().items():
        monkeypatch.setenv(name, value)
    programs_obey(site, f"s3://{BUCKET}/{s3_prefix}?endpoint_url={site.proxy.endpoint_url}")


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
