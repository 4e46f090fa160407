"""The reading engine against a real S3 server: a repository there, and virtual chunks there."""

import pytest

from icefs.engine.read.virtual import ContainerCredentials
from icefs.engine.repository import Repository
from icefs.errors import ObjectModifiedError, ObjectNotFoundError, RepositoryNotFoundError, UnauthorizedContainerError
from icefs.format.config.storage import S3Options, S3Store, VirtualChunkContainer
from icefs.format.config.values import RepositoryConfig
from icefs.format.manifest.refs import InlineRef, VirtualRef
from tests.support.repo_builder import RepoBuilder, group, snapshot_id

DATA = bytes(range(256))


@pytest.mark.parametrize("spec_version", [1, 2])
def test_a_repository_on_s3(s3_storage, spec_version):
    assert not Repository.exists(s3_storage)
    with pytest.raises(RepositoryNotFoundError):
        Repository.open(s3_storage)
    builder = RepoBuilder(s3_storage, spec_version=spec_version)
    native = builder.chunk(DATA)
    node = builder.array("/a", 1, (3,), {(0,): native, (2,): InlineRef(b"inline")})
    builder.commit([group("/", 2), node], new_arrays=[1], chunks={1: [(0,), (2,)]})
    builder.tags["t ü"] = snapshot_id(1)
    repository = Repository.open(builder.publish())
    assert repository.spec_version == spec_version
    assert repository.list_tags() == {"t ü"}
    session = repository.readonly_session("main")
    assert [session.read_chunk(session.chunk_ref("/a", (at,))) for at in (0, 2)] == [DATA, b"inline"]
    assert session.read_chunk(session.chunk_ref("/a", (0,)), 250) == DATA[250:]
    assert session.open_chunk_file(native.chunk_id) is None
    before = repository.refs()
    assert repository.refs() == before
    builder.branches["new"] = snapshot_id(1)
    builder.publish()
    assert repository.refs().branches["new"] == snapshot_id(1)
    assert next(repository.log("new")).id == snapshot_id(1)
    repository.close()


def test_virtual_chunks_on_s3(s3_server, s3_storage, s3_prefix):
    etag = s3_storage.put("some dir/k#1.bin", DATA)
    modified_s = s3_storage.head("some dir/k#1.bin").last_modified // 1_000_000
    prefix = f"s3://icefs-tests/{s3_prefix}/"
    location = f"{prefix}some%20dir/k%231.bin"
    refs = [
        VirtualRef(location, 10, 20),
        VirtualRef(location, 10, 20, etag),
        VirtualRef(location, 10, 20, None, modified_s),
        VirtualRef("vcc://here/some%20dir/k%231.bin", 10, 20),
        VirtualRef(location, 10, 20, "0123456789abcdef0123456789abcdef"),
        VirtualRef(location, 10, 20, None, modified_s - 1000),
        VirtualRef(f"{prefix}gone", 10, 20),
    ]
    builder = RepoBuilder()
    builder.commit([builder.array("/a", 1, (len(refs),), {(at,): ref for at, ref in enumerate(refs)})])
    builder.publish()
    options = s3_server.options()
    store = S3Store(S3Options(region="us-east-1", endpoint_url=options.endpoint_url, force_path_style=True))
    config = RepositoryConfig(virtual_chunk_containers={prefix: VirtualChunkContainer(prefix, store, "here")})
    access = {prefix: ContainerCredentials(s3=options.credentials)}
    repository = Repository.open(builder.storage, config, access)
    session = repository.readonly_session("main")
    read = [session.read_chunk(session.chunk_ref("/a", (at,))) for at in range(4)]
    assert read == [DATA[10:30]] * 4
    for at, error in ((4, ObjectModifiedError), (5, ObjectModifiedError), (6, ObjectNotFoundError)):
        with pytest.raises(error):
            session.read_chunk(session.chunk_ref("/a", (at,)))
    session = Repository.open(builder.storage, config).readonly_session("main")
    with pytest.raises(UnauthorizedContainerError):
        session.read_chunk(session.chunk_ref("/a", (0,)))
    repository.close()
