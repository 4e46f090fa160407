"""Exchange with buckets: objects go within the service where both ends are there, and through anything that fails."""

import pytest

from icefs.engine.exchange.clone import clone
from icefs.engine.exchange.pull import Request, pull
from icefs.engine.repository import Repository
from icefs.engine.write.repository import WritableRepository
from icefs.storage.local.store import LocalStorage
from icefs.storage.s3.store import S3Storage
from tests.support.exchanging import is_whole, make, seen, write
from tests.support.s3_server import BUCKET, FAST


@pytest.fixture
def other(s3_server, s3_prefix):
    storage = S3Storage(BUCKET, f"{s3_prefix}-other", s3_server.options())
    yield storage
    storage.close()


@pytest.mark.parametrize("spec_version", [2, 1])
def test_from_a_disk_to_a_bucket_and_back(tmp_path, s3_storage, spec_version):
    with make(LocalStorage(tmp_path / "a"), spec_version) as source:
        clone(source, s3_storage, Request(verify=True))
        assert seen(s3_storage) == seen(source.storage)
        with WritableRepository.open(s3_storage) as there:
            write(there, "dev", 6)
            clone(there, LocalStorage(tmp_path / "b"), Request(verify=True))
            assert not pull(there, source, Request()).refused
    assert seen(LocalStorage(tmp_path / "b")) == seen(source.storage) == seen(s3_storage)
    assert is_whole(s3_storage)


def test_within_the_service_no_chunk_passes_through_here(s3_storage, s3_server, s3_prefix, proxy, other):
    with make(s3_storage):
        pass
    relayed = s3_server.options(endpoint_url=proxy.endpoint_url, retry=FAST)
    source, target = (S3Storage(BUCKET, prefix, relayed) for prefix in (s3_prefix, f"{s3_prefix}-other"))
    with Repository.open(source) as opened:
        clone(opened, target, Request())
    written = [line for line in proxy.requests if line.method == "PUT" and not line.is_conditional_write]
    assert len(written) > 15
    assert all("x-amz-copy-source" in map(str.lower, line.headers) for line in written)
    assert not [line for line in proxy.requests if line.method == "GET" and f"{s3_prefix}/chunks/" in line.path]
    assert seen(other) == seen(s3_storage)
    source.close()
    target.close()


@pytest.mark.parametrize("fault", ["deny", "lack"])
def test_a_service_that_does_not_copy_is_asked_once(s3_storage, s3_server, s3_prefix, proxy, other, fault):
    with make(s3_storage):
        pass
    plan = proxy.plan(fault, method="PUT", header="x-amz-copy-source", times=None)
    relayed = s3_server.options(endpoint_url=proxy.endpoint_url, retry=FAST, concurrency=1)
    source, target = (S3Storage(BUCKET, prefix, relayed) for prefix in (s3_prefix, f"{s3_prefix}-other"))
    with Repository.open(source) as opened:
        clone(opened, target, Request())
    assert plan.fired == 1
    assert seen(other) == seen(s3_storage)
    source.close()
    target.close()


@pytest.mark.parametrize("fault", ["throttle", "lose", "error", "truncate"])
def test_what_passes_is_tried_again(tmp_path, s3_server, s3_prefix, proxy, s3_storage, fault):
    with make(LocalStorage(tmp_path / "a")) as source:
        for skip in (0, 3, 9, 14):
            proxy.plan(fault, skip=skip)
        relayed = S3Storage(BUCKET, s3_prefix, s3_server.options(endpoint_url=proxy.endpoint_url, retry=FAST))
        clone(source, relayed, Request(verify=True))
        relayed.close()
        assert seen(s3_storage) == seen(source.storage)
    assert is_whole(s3_storage)
