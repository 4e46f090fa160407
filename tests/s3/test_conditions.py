"""Stores that ignore or refuse the conditions of writes are found out, and a failed creation is no end."""

import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import pytest

from icefs.cli.main import main
from icefs.engine.repository import Repository
from icefs.engine.write.repository import WritableRepository
from icefs.engine.write.store_probe import ignored_conditions
from icefs.errors import IcefsError, InvalidInputError, StorageError, UnsupportedError
from icefs.format.config.storage import StorageSettings
from icefs.format.config.values import RepositoryConfig
from icefs.storage.retry import RetryPolicy
from icefs.storage.s3.options import S3Credentials, S3Options
from icefs.storage.s3.store import S3Storage
from icefs.storage.url import open_storage
from tests.support.bent_store import BentStore
from tests.support.mounting import mounted

FAST = RetryPolicy(max_tries=2, first_contact_tries=2, initial_backoff_s=0.001, max_backoff_s=0.002)


@pytest.fixture
def storage(s3_server, s3_prefix, proxy):
    storage = S3Storage("icefs-tests", s3_prefix, s3_server.options(endpoint_url=proxy.endpoint_url, retry=FAST))
    yield storage
    storage.close()


@pytest.fixture
def careless():
    """A store that drops the conditions of writes, on demand."""
    with BentStore() as store:
        yield store


def test_a_store_that_ignores_conditions_gets_no_repository(careless):
    keys = S3Credentials("id", "secret")
    storage = S3Storage("bucket", "p", S3Options(endpoint_url=careless.url, credentials=keys, retry=FAST))
    assert ignored_conditions(storage) == []
    careless.ignores_conditions = True
    assert ignored_conditions(storage) == ["If-None-Match", "If-Match"]
    with pytest.raises(UnsupportedError, match="ignores If-None-Match and If-Match") as caught:
        WritableRepository.create(storage)
    assert "--single-writer" in caught.value.hint
    assert careless.objects == {}
    settings = StorageSettings(unsafe_use_conditional_update=False)
    for options in ({"check_conditions": False}, {"config": RepositoryConfig(storage=settings)}):
        WritableRepository.create(storage, **options).close()
        careless.objects.clear()
    storage.close()


def test_init_and_doctor_say_so(careless, monkeypatch, capsys):
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "id")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    location = f"s3://bucket/p?endpoint_url={careless.url}&region=us-east-1"
    careless.ignores_conditions = True
    assert main(["init", location]) != 0
    assert "one would be lost" in capsys.readouterr().err
    assert main(["init", location, "--single-writer"]) == 0
    for ignores, status in ((True, "problem"), (False, "ok")):
        careless.ignores_conditions = ignores
        capsys.readouterr()
        main(["doctor", location, "--json"])
        told = json.loads(capsys.readouterr().out)
        assert [check["status"] for check in told["checks"] if check["check"] == "conditional writes"] == [status]


def attempt(storage, config, spec_version):
    """Makes a repository; returns the error if that fails."""
    try:
        WritableRepository.create(storage, config, spec_version=spec_version).close()
    except IcefsError as error:
        return error
    return None


@pytest.mark.parametrize("spec_version", [1, 2])
@pytest.mark.parametrize("fault", ["lack", "mismatch", "absent", "expire", "refuse", "conflict"])
@pytest.mark.parametrize("skip", range(8))
def test_a_creation_that_failed_can_be_made_again(storage, proxy, spec_version, fault, skip):
    """Each of its writes is refused, and all after it."""
    proxy.plan(fault, method="PUT", skip=skip, times=None)
    config = RepositoryConfig(inline_chunk_threshold_bytes=7)
    failure = attempt(storage, config, spec_version)
    if failure is not None:
        assert isinstance(failure, StorageError)  # and no ConflictError: nobody else made one
        proxy.clear()
        assert attempt(storage, config, spec_version) is None
    with Repository.open(storage) as repository:
        assert repository.config.inline_chunk_threshold_bytes == 7
        assert list(repository.refs().branches) == ["main"]
    proxy.clear()
    with pytest.raises(InvalidInputError, match="not empty") as caught:
        WritableRepository.create(storage, spec_version=spec_version)
    assert "open the repository" in caught.value.hint


def test_what_is_something_elses_is_not_gone_over(storage):
    storage.put("snapshots/notes.txt", b"mine")
    with pytest.raises(InvalidInputError, match="not empty") as caught:
        WritableRepository.create(storage)
    assert "open" not in caught.value.hint


class Slow(BentStore):
    """A store at which both of two writers of `repo` have read it before one of them writes it."""

    def __init__(self):
        super().__init__()
        self.together = None

    def take(self, asked):
        if self.together is not None and asked.method == "PUT" and asked.key.endswith("/repo"):
            self.together.wait(timeout=20)
        return super().take(asked)


def make_group(mount, name):
    (mount / name).mkdir()
    (mount / name / "zarr.json").write_text('{"zarr_format": 3, "node_type": "group"}')


def test_a_mount_whose_commit_the_store_lost_says_so(monkeypatch):
    """Two mounts commit at once on a store that ignores conditions: both report "committed", and one is wrong."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "id")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    with Slow() as store:
        location = f"s3://bucket/p?endpoint_url={store.url}&region=us-east-1"
        assert main(["init", location]) == 0
        store.modified_s = time.time()
        options = {"branch": "main", "may_complain": True}
        with mounted(location, **options) as one, mounted(location, **options) as two:
            mounts = {"one": one, "two": two}
            # Both have found the store good when it begins to ignore conditions.
            for name, mount in mounts.items():
                mount.refresh()
                make_group(mount, f"before-{name}")
                assert mount.rpc({"op": "commit", "message": "before"})[-1]["type"] == "result"
            one.refresh()
            store.ignores_conditions = True
            for name, mount in mounts.items():
                make_group(mount, name)
            store.together = threading.Barrier(2)
            with ThreadPoolExecutor() as threads:
                request = {"op": "commit", "message": "mine"}
                told = list(threads.map(lambda mount: mount.rpc(request)[-1], mounts.values()))
            store.together = None
            assert [answer["type"] for answer in told] == ["result", "result"], told
            made = dict(zip(mounts, (answer["snapshot"] for answer in told), strict=True))
            with closing(open_storage(location)) as storage, Repository.open(storage) as repository:
                tip = str(repository.refs().branches["main"])
            [loser] = [name for name in mounts if made[name] != tip]
            for name, mount in mounts.items():
                answer = mount.refresh()
                assert answer["left_behind"] == ({"main": made[name]} if name == loser else {})
                logged = [line for line in mount.complaints() if "lost the commit" in line]
                assert [made[name] in line for line in logged] == [True] * (name == loser)
