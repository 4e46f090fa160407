"""The Python API: names, values, argument checks, twins, pickling."""

import asyncio
import inspect
import pickle
import subprocess
import sys
from datetime import UTC, datetime

import pytest
import zarr

import icefs
import icefs.api
from icefs.api.credentials import authorizations, storage_credentials
from icefs.engine.read.virtual import ContainerCredentials
from icefs.storage.s3.options import S3Credentials as StorageCredentials
from icefs.storage.settings import StoreSettings
from tests.support.repo_builder import SECOND, START, RepoBuilder, group, inline, snapshot_id


@pytest.fixture
def builder() -> RepoBuilder:
    builder = RepoBuilder()
    refs = inline((0,), (3,))
    builder.commit([group("/", 1), builder.array("/a", 2, (9,), refs)], chunks={2: [(0,), (3,)]}, new_arrays=[2])
    builder.tags["v1"] = snapshot_id(1)
    builder.commit([group("/", 1)], deleted_arrays=[2], message="second")
    builder.publish()
    return builder


@pytest.fixture
def repo(builder) -> icefs.Repository:
    return icefs.Repository.open(builder.storage)


def test_every_name_is_there():
    assert len(icefs.api.__all__) == len(set(icefs.api.__all__))
    for name in icefs.api.__all__:
        assert getattr(icefs, name) is getattr(icefs.api, name)
        assert name in dir(icefs)
    with pytest.raises(AttributeError, match="module 'icefs' has no attribute 'nothing'"):
        icefs.nothing  # noqa: B018
    with pytest.raises(AttributeError):
        icefs._private  # noqa: B018


@pytest.mark.parametrize(
    ("code", "forbidden"),
    [
        ("import icefs; icefs.__version__", "numpy zarr botocore boto3 trio icefs.api"),
        ("from icefs import Repository, s3_storage", "zarr botocore boto3 trio"),
    ],
)
def test_importing_icefs_is_cheap(code, forbidden):
    script = f"import sys; {code}; print(*{set(forbidden.split())} & {{*sys.modules}})"
    result = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True)
    assert result.stdout.split() == []


def test_ids_are_text_and_times_are_aware(repo):
    first, second = repo.lookup_tag("v1"), repo.lookup_branch("main")
    assert (first, second) == (str(snapshot_id(1)), str(snapshot_id(2)))
    info = repo.lookup_snapshot(second)
    assert info == icefs.SnapshotInfo(
        second, first, datetime.fromtimestamp((START + 2 * SECOND) / 10**6, UTC), "second", {"number": 2}
    )
    assert info.commit_message == "second"
    assert [each.id for each in repo.log("main")] == [each.id for each in repo.ancestry(branch="main")]
    assert repo.log(first) == repo.log("v1") == repo.log("main")[1:]


def test_what_must_be_given_once(repo):
    for call in (
        lambda: repo.ancestry(),
        lambda: repo.ancestry(branch="main", tag="v1"),
        lambda: repo.readonly_session(),
        lambda: repo.readonly_session("main", snapshot_id=str(snapshot_id(1))),
        lambda: repo.readonly_session(tag="v1", as_of=datetime.now(UTC)),
        lambda: repo.diff(from_tag="v1"),
    ):
        with pytest.raises(ValueError):
            call()
    with pytest.raises(TypeError, match="time zone"):
        repo.readonly_session("main", as_of=datetime(2030, 1, 1))
    assert repo.readonly_session("main", as_of=datetime(2030, 1, 1, tzinfo=UTC)).snapshot_id == str(snapshot_id(2))


def test_a_diff(repo):
    diff = repo.diff(from_snapshot_id=repo.log()[-1].id, to_tag="v1")
    assert diff == icefs.Diff(new_arrays={"/a"}, updated_chunks={"/a": [[0], [3]]})
    assert not diff.is_empty()
    assert str(diff) == "Arrays created:\n    /a\n\nChunks updated:\n    /a:\n        [0]\n        [3]\n"
    deleted = repo.diff(from_tag="v1", to_branch="main")
    assert deleted.deleted_arrays == {"/a"}
    assert icefs.Diff().is_empty()
    assert str(icefs.Diff(moved_nodes=[("/a", "/b")])) == "Nodes moved/renamed:\n    /a -> /b\n"


def test_a_session(repo):
    session = repo.readonly_session(tag="v1")
    assert session.read_only
    assert session.mode is icefs.SessionMode.readonly
    assert session.branch is None
    assert not session.has_uncommitted_changes
    assert session.status().is_empty()
    assert session.chunk_type("/a", [3]) is icefs.ChunkType.inline
    assert session.chunk_type("/a", (1,)) is session.chunk_type("/a", (99,)) is icefs.ChunkType.uninitialized
    assert session.get_node_id("/a") == session.get_node_id("/a/")
    assert session.all_virtual_chunk_locations() == []
    assert session.store.session == session
    assert isinstance(session.store, icefs.IcechunkStore)

    async def run():
        return [index async for index in session.chunk_coordinates("/a", batch_size=1)]

    assert asyncio.run(run()) == [(0,), (3,)]


@pytest.mark.parametrize(
    ("path", "error", "kind"),
    [
        ("a", icefs.InvalidInputError, "invalid-path"),
        ("/nothing", icefs.NodeNotFoundError, "node-not-found"),
        ("/", icefs.InvalidInputError, "not-an-array"),
    ],
)
def test_paths_of_arrays_are_checked(repo, path, error, kind):
    with pytest.raises(error) as caught:
        repo.readonly_session(tag="v1").chunk_type(path, [0])
    assert caught.value.kind == kind


def test_enumerations_read_as_official_ones():
    assert (str(icefs.ChunkType.native), repr(icefs.ChunkType.native), int(icefs.ChunkType.native)) == (
        "ChunkType.native",
        "ChunkType.native",
        1,
    )
    assert icefs.SpecVersion.v2 == 2 == icefs.SpecVersion.current() == icefs.spec_version()
    assert icefs.supported_spec_versions() == [2, 1]


def test_every_method_has_its_twin(repo):
    own = {"async_ancestry", "ancestry", "ops_log", "transaction"}
    own |= {"default_commit_metadata", "set_default_commit_metadata"}
    for cls in (icefs.Repository, icefs.Session):
        names = {
            name for name, value in vars(cls).items() if not name.startswith("_") and not isinstance(value, property)
        }
        plain = {name for name in names if not name.endswith("_async")} - own
        for name in plain - {"status", "chunk_coordinates"}:
            twin = inspect.getattr_static(cls, f"{name}_async", None)
            assert twin is not None, (cls, name)
            assert inspect.iscoroutinefunction(getattr(cls, f"{name}_async")), name


def test_twins_answer_alike(repo, builder):
    async def run():
        opened = await icefs.Repository.open_async(builder.storage)
        assert await opened.list_branches_async() == repo.list_branches()
        assert await opened.lookup_snapshot_async(str(snapshot_id(1))) == repo.lookup_snapshot(str(snapshot_id(1)))
        assert await icefs.Repository.exists_async(builder.storage)
        session = await opened.readonly_session_async(tag="v1")
        assert await session.chunk_type_async("/a", [0]) is icefs.ChunkType.inline
        assert [info async for info in opened.async_ancestry(branch="main")] == repo.log()
        assert [update async for update in opened.ops_log_async()] == list(repo.ops_log())
        with pytest.raises(icefs.RefNotFoundError):
            await opened.lookup_tag_async("nothing")
        return [info async for info in repo.ancestry(branch="main")]

    assert asyncio.run(run()) == repo.log()


def test_an_iterator_gives_each_item_once(repo):
    infos = repo.ancestry(branch="main")
    assert next(infos).message == "second"

    async def rest():
        return [info async for info in infos]

    assert [info.id for info in asyncio.run(rest())] == [str(snapshot_id(1)), icefs.Repository.log(repo)[-1].id]
    assert list(infos) == []


def test_repositories_and_sessions_are_sent_to_other_processes(repo):
    copy = pickle.loads(pickle.dumps(repo))
    assert copy.lookup_branch("main") == repo.lookup_branch("main")
    session = repo.readonly_session(tag="v1")
    received = [pickle.loads(pickle.dumps(session)) for _ in range(3)]
    assert received[0] == received[1] == session
    assert received[0]._engine.context is received[2]._engine.context, "they share caches and connections"
    assert received[0] != repo.readonly_session("main")


def test_not_a_repository():
    storage = icefs.in_memory_storage()
    assert not icefs.Repository.exists(storage)
    assert icefs.Repository.fetch_spec_version(storage) is None
    for call in (icefs.Repository.open, icefs.Repository.fetch_config):
        with pytest.raises(icefs.RepositoryNotFoundError) as caught:
            call(storage)
        assert isinstance(caught.value, KeyError)
        assert isinstance(caught.value, icefs.IcechunkError)
        assert caught.value.kind == icefs.ErrorKind.REPOSITORY_NOT_FOUND


def test_keys_for_s3_come_from_one_place():
    keys = {"access_key_id": "id", "secret_access_key": "secret"}
    static = icefs.S3StaticCredentials("id", "secret")
    assert icefs.s3_credentials() == icefs.s3_from_env_credentials() == icefs.s3_credentials(from_env=True)
    assert icefs.s3_credentials(anonymous=True) == icefs.s3_anonymous_credentials()
    assert icefs.s3_credentials(**keys) == icefs.s3_static_credentials(**keys) == icefs.S3Credentials.Static(static)
    assert "secret" not in repr(static)
    for wrong in ({**keys, "anonymous": True}, {"from_env": True, "anonymous": True}, {"access_key_id": "id"}):
        with pytest.raises(ValueError):
            icefs.s3_credentials(**wrong)


def test_keys_from_a_function_are_asked_for_when_they_are_needed():
    asked = []

    def keys():
        asked.append(len(asked))
        return icefs.S3StaticCredentials(f"id{len(asked)}", "secret", expires_after=datetime(2030, 1, 1, tzinfo=UTC))

    later = storage_credentials(icefs.s3_refreshable_credentials(keys))
    assert asked == []
    assert later().access_key_id == "id1"
    now = storage_credentials(icefs.s3_refreshable_credentials(keys, scatter_initial_credentials=True))
    assert len(asked) == 2
    assert [now().access_key_id, now().access_key_id] == ["id2", "id3"]
    assert now().expires_after is not None


_asked: list[int] = []


def _keys() -> "icefs.S3StaticCredentials":
    _asked.append(len(_asked))
    expires_after = datetime(2020 if len(_asked) == 1 else 2099, 1, 1, tzinfo=UTC)
    return icefs.S3StaticCredentials(f"id{len(_asked)}", "secret", expires_after=expires_after)


def test_a_pickled_callback_has_the_newest_keys_if_it_was_given_some():
    _asked.clear()
    given = storage_credentials(icefs.s3_refreshable_credentials(_keys, scatter_initial_credentials=True))
    assert given().access_key_id == "id2"  # the first ones have expired
    copy = pickle.loads(pickle.dumps(given))
    assert [copy().access_key_id, len(_asked)] == ["id2", 2]
    assert [copy().access_key_id, len(_asked)] == ["id3", 3]  # asked for again: the first ones were not good enough
    asking = storage_credentials(icefs.s3_refreshable_credentials(_keys))
    asking()
    assert pickle.loads(pickle.dumps(asking))().access_key_id == "id5"


def test_a_pickled_repository_keeps_its_commit_metadata_and_shares_no_setters(tmp_path):
    repo = icefs.Repository.create(icefs.local_filesystem_storage(str(tmp_path / "repo")))
    repo.set_default_commit_metadata({"by": "me"})
    one, two = (pickle.loads(pickle.dumps(repo)) for _ in range(2))
    assert one.default_commit_metadata() == {"by": "me"}
    one.set_default_commit_metadata({"by": "one"})
    assert two.default_commit_metadata() == repo.default_commit_metadata() == {"by": "me"}
    session = one.writable_session("main")
    zarr.open_group(session.store, mode="a").create_group("x")
    session.commit("x")
    assert next(iter(two.ancestry(branch="main"))).metadata["by"] == "one"


def test_credentials_of_containers():
    given = icefs.containers_credentials(
        {
            "s3://a/": icefs.s3_credentials(anonymous=True),
            "s3://b/": icefs.s3_credentials(access_key_id="id", secret_access_key="secret"),
            "s3://c/": None,
            "file:///d/": icefs.credentials.LocalFileSystemAccess,
            "https://e/": icefs.HttpAccess,
        }
    )
    with pytest.warns(DeprecationWarning, match="s3://c/"):
        found = authorizations(given)
    assert found == {
        "s3://a/": ContainerCredentials(None, True),
        "s3://b/": ContainerCredentials(StorageCredentials("id", "secret"), None),
        "s3://c/": None,
        "file:///d/": None,
        "https://e/": None,
    }
    assert authorizations(None) is None
    with pytest.raises(ValueError):
        icefs.containers_credentials({"s3://a/": "key"})
    with pytest.raises(icefs.InvalidInputError):
        authorizations({"s3://a/": "key"})


def test_where_repositories_are(tmp_path):
    assert icefs.local_filesystem_storage(tmp_path).url.endswith(str(tmp_path))
    assert icefs.in_memory_storage().url != icefs.in_memory_storage().url
    s3 = icefs.s3_storage(
        bucket="bucket", prefix="a/b", region="eu-1", endpoint_url="http://localhost:9", allow_http=True,
        access_key_id="id", secret_access_key="secret", force_path_style=True, network_stream_timeout_seconds=7,
    )  # fmt: skip
    assert s3.url.startswith("s3://bucket/a/b")
    assert "secret" not in s3.url
    assert s3.options.read_timeout_s == 7
    assert pickle.loads(pickle.dumps(s3)).options == s3.options
    assert icefs.s3_storage(bucket="bucket", prefix=None, anonymous=True).options.anonymous
    assert icefs.http_storage("https://example.org/repo", headers={"a": "b"}).url == "https://example.org/repo"
    tigris = icefs.tigris_storage(bucket="bucket", prefix="x", region="us-east-1")
    assert tigris.options.endpoint_url == "https://t3.storage.dev"
    keys = {"access_key_id": "id", "secret_access_key": "secret"}
    hugging = icefs.hf_storage(bucket="bucket", prefix="x", namespace="someone", **keys)
    assert hugging.access.clients.connection().target("bucket").base_url == "https://s3.hf.co/someone/bucket/"
    # The gateway drops metadata, whatever a repository's configuration says.
    assert hugging.with_settings(StoreSettings(metadata=True)).options.settings.metadata is not True
    assert hugging.options.settings.metadata is False
    r2 = icefs.r2_storage(prefix="bucket/a/b", account_id="me")
    assert r2.url.startswith("s3://bucket/a/b")
    assert r2.options.endpoint_url == "https://me.r2.cloudflarestorage.com"


@pytest.mark.parametrize(
    "call",
    [
        lambda: icefs.tigris_storage(bucket="bucket", prefix="x", region="a", use_weak_consistency=True),
        lambda: icefs.Storage.new_http("https://example.org", {"proxy_url": "http://secret"}),
        lambda: icefs.http_storage("https://example.org", opts={"pool_max_idle_per_host": "1"}),
    ],
)
def test_what_is_not_supported_is_refused(call):
    with pytest.raises(icefs.IcechunkError) as caught:
        call()
    assert caught.value.kind == "unimplemented"


@pytest.mark.parametrize("wrong", [{}, {"bucket": "b"}, {"prefix": "x"}, {"account_id": "me"}])
def test_r2_needs_a_bucket_and_an_account(wrong):
    with pytest.raises(ValueError):
        icefs.r2_storage(**wrong)


def test_tigris_needs_a_region():
    with pytest.raises(ValueError, match="region"):
        icefs.tigris_storage(bucket="bucket", prefix="x")


@pytest.mark.parametrize("namespace", ["", "a/b", "..", "a?b", "a@b"])
def test_a_namespace_is_a_name(namespace):
    with pytest.raises(icefs.IcechunkError, match="Hugging Face"):
        icefs.hf_storage(bucket="bucket", prefix="x", namespace=namespace)


def test_constructors_make_what_the_functions_make(tmp_path):
    config = icefs.S3Options(region="eu-1", endpoint_url="http://localhost:9", allow_http=True)
    keys = icefs.s3_static_credentials(access_key_id="id", secret_access_key="secret")
    given = {"region": "eu-1", "endpoint_url": "http://localhost:9", "allow_http": True}
    given |= {"access_key_id": "id", "secret_access_key": "secret", "bucket": "b", "prefix": "p"}
    more = {"headers": {"x-a": "1"}}
    made = [
        (icefs.Storage.new_s3(config, "b", "p", keys, **more), icefs.s3_storage(**given, **more)),
        (icefs.Storage.new_s3_object_store(config, "b", "p", keys), icefs.s3_object_store_storage(**given)),
        (icefs.Storage.new_tigris(config, "b", "p", False, keys), icefs.tigris_storage(**given)),
        (icefs.Storage.new_r2(config, "b", "p", None, keys), icefs.r2_storage(**given)),
    ]
    for constructed, called in made:
        assert (constructed.bucket, constructed.prefix, constructed.options) == ("b", "p", called.options)
    places = [
        *(icefs.Storage.new_in_memory(), icefs.Storage.new_local_filesystem(tmp_path / "repo")),
        icefs.Storage.new_http("https://example.org/repo", None, {"a": "b"}),
        icefs.Storage.new_hf(icefs.S3Options(), "b", "p", "someone", keys),
    ]
    assert [place.url for place in places[1:3]] == [str(tmp_path / "repo"), "https://example.org/repo"]
    assert all(isinstance(place, icefs.Storage) for place in (*places, *(place for place, _ in made)))
    assert not isinstance("s3://b/p", icefs.Storage)
    icefs.Repository.create(places[1]).create_branch("side", icefs.Repository.open(places[1]).lookup_branch("main"))


def test_places_of_virtual_chunks():
    container = icefs.VirtualChunkContainer("s3://b/", icefs.s3_store(region="eu-1", anonymous=True), name="n")
    assert isinstance(container.store, icefs.ObjectStoreConfig.S3)
    assert container.store.options.anonymous
    assert isinstance(icefs.s3_store(s3_compatible=True), icefs.ObjectStoreConfig.S3Compatible)
    assert icefs.local_filesystem_store("/x") == icefs.ObjectStoreConfig.LocalFileSystem("/x")
    assert icefs.http_store({"a": "b"}, {"c": "d"}) == icefs.ObjectStoreConfig.Http({"a": "b"}, {"c": "d"})
    assert icefs.gcs_store() == icefs.ObjectStoreConfig.Gcs()
    assert icefs.azure_store(account="me") == icefs.ObjectStoreConfig.Azure({"account": "me"})
    config = icefs.RepositoryConfig.default()
    config.set_virtual_chunk_container(container)
    assert config.get_virtual_chunk_container("s3://b/") == container
