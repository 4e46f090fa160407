"""Refs, ancestry, differences, the ops log, configuration and descriptions of every generated repository."""

import pytest

import icefs
from icefs.errors import IcefsError
from tests.conformance.generate import NAMES
from tests.conformance.oracle import (
    Facts,
    RepoContent,
    config_facts,
    diff_facts,
    error_facts,
    flag_facts,
    info_facts,
    status_facts,
    update_facts,
)
from tests.conformance.reading import open_icefs


@pytest.fixture(params=list(NAMES))
def repo_name(request) -> str:
    return request.param


@pytest.fixture
def content(repo_name, oracle_of) -> RepoContent:
    return oracle_of(repo_name)


@pytest.fixture
def repo(repo_name, generated):
    return open_icefs(generated(repo_name))


def _without_storage(facts: Facts | None) -> Facts | None:
    """Drops what Divergences 31 and 32 are about."""
    if facts is None:
        return None
    return {key: value for key, value in facts.items() if key not in {"storage", "max_concurrent_decodes"}}


def _without_note(described: Facts) -> Facts:
    """Drops the sentence for people that describes a log merged with those of expired ancestors."""
    merged = dict(described.get("synthetic_composite", {}))
    merged.pop("note", None)
    return {**described, "synthetic_composite": merged}


def test_refs(repo, content):
    # Divergence 27: `content` has the names that refs were created with.
    assert repo.list_branches() == content.branches.keys()
    assert repo.list_tags() == content.tags.keys()
    assert {name: repo.lookup_branch(name) for name in content.branches} == content.branches
    assert {name: repo.lookup_tag(name) for name in content.tags} == content.tags
    assert repo.spec_version == content.spec_version


def test_ancestry(repo, content):
    for start, ids in content.ancestry.items():
        kind, _, name = start.partition(":")
        infos = list(repo.ancestry(**{kind: name}))
        assert [info.id for info in infos] == ids
        assert [info_facts(info) for info in infos] == [content.contents[each].info for each in ids]
        assert [info.id for info in repo.ancestry(snapshot_id=ids[0])] == ids
        assert [info.id for info in repo.log(name)] == ids or name in (set(content.branches) & set(content.tags))


def test_every_snapshot_is_known(repo, content):
    for snapshot_id, expected in content.contents.items():
        info = repo.lookup_snapshot(snapshot_id)
        assert info_facts(info) == expected.info
        assert info.commit_message == info.message
        assert repo.lookup_snapshot(snapshot_id.lower()).id == snapshot_id
        assert repo.readonly_session(snapshot_id=snapshot_id).snapshot_id == snapshot_id


def test_the_newest_snapshot_at_a_time(repo, content):
    for name in content.branches:
        ids = content.ancestry[f"branch:{name}"]
        for snapshot_id in ids:
            as_of = content.contents[snapshot_id].info["written_at"]
            assert repo.readonly_session(name, as_of=as_of).snapshot_id == snapshot_id


def test_differences(repo, content):
    for (old, new), expected in content.diffs.items():
        if content.name.startswith("ragged") and not isinstance(expected, tuple):
            with pytest.raises(icefs.FormatError):  # Divergence 11
                repo.diff(from_snapshot_id=old, to_snapshot_id=new)
        elif isinstance(expected, tuple):
            with pytest.raises(IcefsError) as caught:
                repo.diff(from_snapshot_id=old, to_snapshot_id=new)
            assert error_facts(caught.value) == expected, (old, new)
        else:
            diff = repo.diff(from_snapshot_id=old, to_snapshot_id=new)
            assert diff_facts(diff) == expected, (old, new)
            assert diff.is_empty() is not any(expected.values())


def test_configuration(repo, content, generated, repo_name):
    assert _without_storage(config_facts(repo.config)) == _without_storage(content.config)
    persisted = icefs.Repository.fetch_config(icefs.local_filesystem_storage(generated(repo_name).path))
    assert _without_storage(None if persisted is None else config_facts(persisted)) == _without_storage(
        content.persisted_config
    )
    if content.persisted_config is not None and persisted is not None:
        assert persisted.max_concurrent_decodes in (None, content.persisted_config["max_concurrent_decodes"])
        assert config_facts(persisted.storage) == content.persisted_config["storage"]


def test_manifests(repo, content):
    for snapshot_id, expected in content.contents.items():
        files = repo.list_manifest_files(snapshot_id)
        assert sorted((file.id, file.size_bytes, file.num_chunk_refs) for file in files) == expected.manifest_files
        for manifest_id, described in expected.manifests.items():
            if not expected.ragged:
                assert repo.inspect_manifest(manifest_id) == described


def test_descriptions_of_snapshots(repo, content):
    for snapshot_id, expected in content.contents.items():
        assert repo.inspect_snapshot(snapshot_id) == expected.inspected
        if expected.transaction_log is None:
            with pytest.raises(icefs.StorageError):
                repo.inspect_transaction_log(snapshot_id)
        elif expected.ragged:
            with pytest.raises(icefs.FormatError):  # Divergence 11
                repo.inspect_transaction_log(snapshot_id)
        else:
            described = repo.inspect_transaction_log(snapshot_id)
            assert _without_note(described) == _without_note(expected.transaction_log)


def test_what_only_spec_version_2_has(repo, content):
    if content.spec_version == 1:
        for ask in (
            repo.ops_log,
            repo.get_metadata,
            repo.get_status,
            repo.feature_flags,
            repo.inspect_repo_info,
        ):
            with pytest.raises(icefs.FormatError) as caught:
                ask()
            assert caught.value.kind == "unsupported-spec-version"
        return
    assert [update_facts(update) for update in repo.ops_log()] == content.ops_log
    assert repo.metadata == content.metadata
    assert status_facts(repo.status) == content.status
    assert flag_facts(repo.feature_flags()) == content.feature_flags
    assert {flag.name for flag in repo.enabled_feature_flags()} == {
        name for name, (*_, enabled) in content.feature_flags.items() if enabled
    }
    assert repo.inspect_repo_info() == content.repo_info
