"""Pickles keep with icefs what they keep with the official library: values, credentials, settings, sessions, errors."""

import pickle
from collections.abc import Callable, Iterator
from copy import deepcopy
from datetime import UTC, datetime
from pathlib import Path
from types import ModuleType
from typing import Any

import icechunk
import pytest
import zarr

import icefs
from tests.conformance.mistakes import At, get, put
from tests.conformance.oracle import error_facts

_LATER = datetime(2090, 1, 1, tzinfo=UTC)
_calls: list[ModuleType] = []


def official_keys() -> Any:
    """Returns keys, and counts; functions of credentials are pickled by their names."""
    _calls.append(icechunk)
    return icechunk.S3StaticCredentials("id", "secret", expires_after=_LATER)


def our_keys() -> Any:
    _calls.append(icefs)
    return icefs.S3StaticCredentials("id", "secret", expires_after=_LATER)


KEYS = {icechunk: official_keys, icefs: our_keys}


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    icechunk.set_logs_filter("off")
    _calls.clear()
    yield
    icechunk.set_logs_filter("warn")


def copied(value: Any) -> Any:
    return pickle.loads(pickle.dumps(value))


# Values, by the calls that make them.

VALUES: dict[str, Callable[[ModuleType], Any]] = {
    "static keys": lambda ic: ic.S3StaticCredentials("id", "secret", "token", _LATER),
    "static credentials": lambda ic: ic.s3_static_credentials(access_key_id="id", secret_access_key="secret"),
    "credentials of the environment": lambda ic: ic.s3_from_env_credentials(),
    "no credentials": lambda ic: ic.s3_anonymous_credentials(),
    "refreshed credentials": lambda ic: ic.s3_refreshable_credentials(KEYS[ic]),
    "scattered credentials": lambda ic: ic.s3_refreshable_credentials(KEYS[ic], scatter_initial_credentials=True),
    "Google's keys": lambda ic: ic.gcs_static_credentials(bearer_token="t"),
    "Google's environment": lambda ic: ic.gcs_from_env_credentials(),
    "a bearer": lambda ic: ic.GcsBearerCredential("t", expires_after=_LATER),
    "Azure's keys": lambda ic: ic.azure_static_credentials(access_key="k"),
    "Azure's environment": lambda ic: ic.azure_from_env_credentials(),
    "a container's credentials": lambda ic: ic.containers_credentials({"s3://b/": ic.s3_anonymous_credentials()}),
    "the default configuration": lambda ic: ic.RepositoryConfig.default(),
    "a configuration": lambda ic: ic.RepositoryConfig(
        inline_chunk_threshold_bytes=5,
        compression=ic.CompressionConfig(level=2),
        caching=ic.CachingConfig(num_chunk_refs=7),
        manifest=ic.ManifestConfig(preload=ic.ManifestPreloadConfig(max_total_refs=3)),
    ),
    "settings of storage": lambda ic: ic.StorageSettings(retries=ic.StorageRetriesSettings(max_tries=2)),
    "options of S3": lambda ic: ic.S3Options(region="us-east-1", allow_http=True),
    "a container": lambda ic: ic.VirtualChunkContainer("s3://b/p/", ic.s3_store("us-east-1")),
    "a virtual chunk": lambda ic: ic.VirtualChunkSpec([1, 2], "s3://b/x", 0, 5),
    "labels": lambda ic: ic.Attribution(client="c", workload="w"),
    "a status": lambda ic: ic.RepoStatus(ic.RepoAvailability.read_only, _LATER, "because"),
    "a kind of chunk": lambda ic: ic.ChunkType.native,
    "a version of the format": lambda ic: ic.SpecVersion.v2,
    "a kind of conflict": lambda ic: ic.ConflictType.ChunkDoubleUpdate,
    "an availability": lambda ic: ic.RepoAvailability.online,
    "a kind of error": lambda ic: ic.ErrorKind.IO,
}


@pytest.mark.parametrize("name", list(VALUES))
def test_values_come_back_equal(name: str) -> None:
    """Each that the official library can pickle; the others are pickled here alone."""
    outcomes = []
    for ic in (icechunk, icefs):
        value = VALUES[name](ic)
        try:
            outcomes.append((copied(value) == value, deepcopy(value) == value))
        except (TypeError, pickle.PicklingError):
            outcomes.append(None)
    official, ours = outcomes
    assert ours is not None
    assert ours == (True, True)
    assert official in (None, (True, True), (False, False))  # some of the official values have no ==


# Repositories.


def repositories(path: Path) -> Iterator[tuple[ModuleType, Any]]:
    for ic in (icechunk, icefs):
        storage = ic.local_filesystem_storage(str(path / ic.__name__))
        yield ic, ic.Repository.create(storage, ic.RepositoryConfig(inline_chunk_threshold_bytes=7))


def test_a_repository_keeps_what_it_was_opened_with(tmp_path: Path) -> None:
    found = []
    for ic, repo in repositories(tmp_path):
        repo.set_default_commit_metadata({"author": "ada", "nested": {"n": [1, None]}})
        one, two = copied(repo), copied(repo)
        two.set_default_commit_metadata({"author": "bob"})
        session = one.writable_session("main")
        zarr.create_group(session.store)
        tip = session.commit("m", {"more": 1})
        reopened = ic.Repository.open(repo.storage, ic.RepositoryConfig(inline_chunk_threshold_bytes=9))
        found.append(
            (
                one.default_commit_metadata(),
                two.default_commit_metadata(),
                repo.default_commit_metadata(),
                dict(repo.lookup_snapshot(tip).metadata),
                one.config.inline_chunk_threshold_bytes,
                copied(reopened).config.inline_chunk_threshold_bytes,
                sorted(copied(copied(repo)).list_branches()),
                int(one.spec_version),
            )
        )
    assert found[0] == found[1]


def test_storages_lead_to_the_same_place(tmp_path: Path) -> None:
    for ic, repo in repositories(tmp_path):
        storage = copied(repo).storage
        assert ic.Repository.exists(storage)
        assert str(storage) == str(repo.storage)
    assert icefs.Repository.exists(copied(repo.storage))  # the official library pickles no storage by itself


def test_scattered_credentials_are_not_asked_for_again() -> None:
    """The storage is pickled before and after it was used; nothing listens at its endpoint.

    The official library pickles no storage by itself.
    """
    library = icefs
    places = {"bucket": "b", "prefix": "p", "endpoint_url": "http://127.0.0.1:9", "allow_http": True}
    storage = library.s3_storage(
        **places, region="us-east-1", get_credentials=KEYS[library], scatter_initial_credentials=True
    )
    assert len(_calls) == 1
    settings = library.StorageSettings(retries=library.StorageRetriesSettings(max_tries=1))
    for each in (storage, copied(storage), copied(copied(storage))):
        with pytest.raises(library.IcechunkError):
            library.Repository.open(each, library.RepositoryConfig(storage=settings))
    assert len(_calls) == 1


# Sessions and stores.


def test_reading_sessions_and_stores_read_the_same(tmp_path: Path) -> None:
    found = []
    for ic in (icechunk, icefs):
        path = tmp_path / ic.__name__
        path.mkdir()
        at = At(ic, path)
        session = at.reading()
        again, store = copied(session), copied(session.store)
        found.append(
            (
                get(again, "a/c/0/0"),
                again.snapshot_id == session.snapshot_id,
                (again.read_only, again.branch, again.has_uncommitted_changes, store.read_only),
                type(store.session).__name__,
            )
        )
    assert (again, store) == (session, session.store)  # with the official library they are not equal
    assert found[0] == found[1]


def test_forks_bring_their_changes(tmp_path: Path) -> None:
    found = []
    for ic in (icechunk, icefs):
        path = tmp_path / ic.__name__
        path.mkdir()
        at = At(ic, path)
        session = at.writing()
        put(session, "a/c/3/3", b"mine")
        fork = copied(session.fork())
        put(fork, "a/c/2/2", b"fork")
        back, through_its_store = copied(fork), copied(fork.store).session
        session.merge(back)
        session.commit("m")
        reading = at.reading()
        found.append(
            (
                type(fork).__name__,
                type(through_its_store).__name__,
                (fork.branch, back.has_uncommitted_changes, through_its_store.has_uncommitted_changes),
                [get(reading, key) for key in ("a/c/3/3", "a/c/2/2")],
            )
        )
    assert found[0] == found[1]


# Errors.


def test_errors_keep_their_facts(tmp_path: Path) -> None:
    found = []
    for ic in (icechunk, icefs):
        path = tmp_path / ic.__name__
        path.mkdir()
        at = At(ic, path)
        facts: list[Any] = []
        calls: list[Callable[[], Any]] = [
            lambda at=at: at.repo.lookup_branch("nope"),
            lambda at=at: at.writing().commit("m"),
            lambda at=at: at.moved().commit("m"),
            lambda at=at, ic=ic: at.moved().rebase(ic.ConflictDetector()),
            lambda at=at: put(at.writing(), "a/c/9/9"),
        ]
        for call in calls:
            with pytest.raises(ic.IcechunkError) as caught:
                call()
            before, after = caught.value, copied(caught.value)
            facts.append(error_facts(after))
            assert str(after) == str(before)
            assert type(after) is type(before)
            for name in ("expected_parent", "actual_parent", "snapshot"):
                assert getattr(after, name, None) == getattr(before, name, None)
            if isinstance(after, ic.RebaseFailedError):
                facts.append([(str(each.conflict_type), each.path) for each in after.conflicts])
        found.append(facts)
    assert found[0] == found[1]
