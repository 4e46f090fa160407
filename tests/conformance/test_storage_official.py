"""One directory, or one bucket, under both: what icefs writes and leaves there, the official library lives with."""

import icechunk as ic
import pytest

from icefs.engine.repository import Repository
from icefs.errors import ObjectNotFoundError, PreconditionFailedError
from icefs.storage.local.lock import LOCK_NAME
from icefs.storage.local.store import LocalStorage
from icefs.storage.s3.options import S3Credentials, S3Options
from icefs.storage.s3.store import S3Storage
from icefs.storage.url import open_storage
from tests.support.bent_store import BentStore
from tests.support.s3_server import ADMIN

ic.set_logs_filter("off")


@pytest.fixture
def storage(tmp_path):
    return LocalStorage(tmp_path / "repo-root")


def official(storage):
    return ic.local_filesystem_storage(str(storage.root))


def test_what_icefs_leaves_in_a_root_does_not_make_it_unclean(storage):
    storage.root.mkdir()
    (storage.root / LOCK_NAME).touch()
    (storage.root / "repo#123456789").write_bytes(b"a crashed writer's")
    ic.Repository.create(official(storage))
    assert {"repo", "snapshots/"} <= set(storage.list_dir())
    assert not any("#" in info.key for info in storage.iter_objects())


def test_names_of_v1_refs(storage):
    repository = ic.Repository.create(official(storage), spec_version=1)
    for name in ("plain", "ünï ☃", 'a"#%*<>?[\\]^`{|}~b', "x#1", "%41"):
        repository.create_branch(name, repository.lookup_branch("main"))
        assert b"1CECHNKREP0F1RSTCMT0" in storage.get(f"refs/branch.{name}/ref.json").data
        assert f"branch.{name}/" in set(storage.list_dir("refs/"))
        assert f"refs/branch.{name}/ref.json" in {info.key for info in storage.iter_objects("refs/")}
        found = storage.get(f"refs/branch.{name}/ref.json")
        storage.put(f"refs/branch.{name}/ref.json", found.data, if_match=found.version)
        assert repository.lookup_branch(name) == "1CECHNKREP0F1RSTCMT0"
    with pytest.raises(ObjectNotFoundError):
        storage.get("refs/branch.other/ref.json")


def test_each_sees_the_others_update(storage):
    """`repo` is replaced by one and the other in turn, with backups by hard link, while a handle stays open."""
    repository = ic.Repository.create(official(storage))
    before = storage.get("repo")
    repository.create_branch("theirs", repository.lookup_branch("main"))
    with pytest.raises(PreconditionFailedError):
        storage.put("repo", b"stale", if_match=before.version)
    after = storage.get("repo")
    # Going back to the older state is an update like any other.
    storage.copy("repo", "overwritten/repo.icefs", if_match=after.version)
    version = storage.put("repo", before.data, if_match=after.version)
    assert set(repository.list_branches()) == {"main"}
    repository.create_branch("again", repository.lookup_branch("main"))
    assert storage.get("overwritten/repo.icefs").data == after.data
    with pytest.raises(PreconditionFailedError):
        storage.put("repo", b"stale", if_match=version)
    assert set(ic.Repository.open(official(storage)).list_branches()) == {"main", "again"}


def test_one_bucket_under_both(s3_server):
    storage = S3Storage("icefs-tests", "official/repo", s3_server.options())
    theirs = ic.s3_storage(
        bucket="icefs-tests",
        prefix="official/repo",
        region="us-east-1",
        endpoint_url=s3_server.endpoint_url,
        allow_http=True,
        access_key_id=ADMIN.access_key_id,
        secret_access_key=ADMIN.secret_access_key,
        force_path_style=True,
    )
    repository = ic.Repository.create(theirs)
    before = storage.get("repo")
    repository.create_branch("theirs", repository.lookup_branch("main"))
    with pytest.raises(PreconditionFailedError):
        storage.put("repo", b"stale", if_match=before.version)
    after = storage.get("repo")
    storage.copy("repo", "overwritten/repo.icefs", if_match=after.version)
    with pytest.raises(PreconditionFailedError):
        storage.copy("repo", "overwritten/repo.wrong", if_match=before.version)
    storage.put("repo", before.data, if_match=after.version)
    assert set(repository.list_branches()) == {"main"}
    # The official client's own conditional update goes over our version.
    repository.create_branch("again", repository.lookup_branch("main"))
    assert set(ic.Repository.open(theirs).list_branches()) == {"main", "again"}
    storage.close()


@pytest.mark.parametrize("prefix", ["/lead", "//lead", "lead/", "/lead//x/", "a//b"])
def test_prefixes_mean_the_same_place(prefix):
    with BentStore() as store:
        there = {"endpoint_url": store.url, "region": "us-east-1"}
        keys = {"access_key_id": "id", "secret_access_key": "secret"}
        theirs = ic.s3_storage(bucket="bucket", prefix=prefix, allow_http=True, force_path_style=True, **there, **keys)
        ic.Repository.create(theirs)
        made = set(store.objects)
        for ours in (
            S3Storage("bucket", prefix, S3Options(credentials=S3Credentials(*keys.values()), **there)),
            open_storage(f"s3://bucket/{prefix}", **there, **keys),
        ):
            assert Repository.exists(ours)
            assert open_storage(ours.url, **keys).url == ours.url
            ours.put("chunks/x", b"")
            [repo] = [key for key in made if key.endswith("/repo")]
            assert set(store.objects) - made == {repo.removesuffix("repo") + "chunks/x"}
            ours.close()
