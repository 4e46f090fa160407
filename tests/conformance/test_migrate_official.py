"""Repositories upgraded from spec version 1 to 2 by both libraries: the official one says the same of the two."""

import shutil
from dataclasses import replace
from pathlib import Path

import icechunk as ic
import pytest

from icefs.engine.upkeep.migrate import upgrade
from icefs.engine.write.repository import WritableRepository
from icefs.format.config.values import RepositoryConfig
from icefs.storage.local.store import LocalStorage
from tests.conformance import generate, oracle, scenarios_history
from tests.conformance.official import GROUP, GeneratedRepo, array_json, create
from tests.conformance.writers import EngineRepo, OfficialRepo, Pair, differences

NAMES = [name for name in generate.NAMES if name.endswith("-v1") and name != "history-v1"]


def theirs(path: Path, *, dry_run: bool = False, delete: bool = True) -> None:
    repo = ic.Repository.open(ic.local_filesystem_storage(str(path)))
    ic.upgrade_icechunk_repository(repo, dry_run=dry_run, delete_unused_v1_files=delete)


def ours(path: Path, *, dry_run: bool = False, delete: bool = True) -> None:
    repo = WritableRepository.open(LocalStorage(path, durable=False))
    upgrade(repo, dry_run=dry_run, delete_unused_v1_files=delete)


def facts(generated: GeneratedRepo) -> dict[str, object]:
    """What the official library says; all ids are the same in both copies, and all times but that of the upgrade."""
    # Snapshots that no ref leads to are not taken along.
    content = oracle.oracle_of(replace(generated, spec_version=2, unlisted_tags=(), snapshots=()))
    assert content.ops_log is not None
    assert content.ops_log[0].pop("updated_at")
    assert content.ops_log[0]["kind"] == "RepoMigrated"
    assert content.repo_info is not None
    del content.repo_info["latest_updates"][0]["updated_at"]
    content.repo_info["header"] = None
    found = {name: getattr(content, name) for name in content.__dataclass_fields__}
    return found | {"contents": {key: vars_of(value) for key, value in content.contents.items()}}


def vars_of(content: oracle.SnapshotContent) -> dict[str, object]:
    return {name: getattr(content, name) for name in content.__dataclass_fields__}


def files(path: Path) -> list[str]:
    return sorted(str(file.relative_to(path)) for file in path.rglob("*") if file.is_file())


def compare(generated: GeneratedRepo, directory: Path) -> None:
    directory.mkdir()
    copies = {}
    for migrate in (theirs, ours):
        copies[migrate] = directory / migrate.__name__
        shutil.copytree(generated.path, copies[migrate])
        migrate(copies[migrate])
    expected, found = (facts(replace(generated, path=copies[migrate])) for migrate in (theirs, ours))
    assert list(differences(expected, found)) == []
    assert files(copies[ours]) == files(copies[theirs])
    Pair(OfficialRepo(copies[theirs]), EngineRepo(copies[ours])).run(
        lambda repo: repo.write(lambda s: s.node("/after the upgrade", GROUP), "after the upgrade")
    )
    repo = OfficialRepo(copies[ours]).raw
    assert next(iter(repo.ancestry(branch="main"))).message == "after the upgrade"
    theirs_log, ours_log = (
        [type(update.kind).__name__ for update in OfficialRepo(copies[migrate]).raw.ops_log()]
        for migrate in (theirs, ours)
    )
    assert ours_log == theirs_log


@pytest.mark.parametrize("name", NAMES)
def test_the_official_library_says_the_same_of_both(generated, tmp_path, name):
    compare(generated(name), tmp_path / "pair")


def test_a_long_history_with_refs_of_all_kinds(tmp_path):
    compare(scenarios_history.history(tmp_path / "history", 1, odd_names=False), tmp_path / "pair")


def test_names_that_a_directory_holds_percent_encoded(generated, tmp_path):
    """Divergence 66: the official library cannot upgrade such a repository at all."""
    origin: GeneratedRepo = generated("history-v1")
    for migrate in (theirs, ours):
        shutil.copytree(origin.path, tmp_path / migrate.__name__)
    with pytest.raises(ic.IcechunkError):
        theirs(tmp_path / "theirs")
    before = ic.Repository.open(ic.local_filesystem_storage(str(origin.path)))
    ours(tmp_path / "ours")
    after = ic.Repository.open(ic.local_filesystem_storage(str(tmp_path / "ours")))
    names = {*scenarios_history.ENCODED_NAMES, "a b", "x" * 200, "tag.x", "-"}
    assert names <= after.list_tags()
    assert names <= after.list_branches()
    for name in names:
        assert after.lookup_tag(name) == before.lookup_tag(name)
        assert after.lookup_branch(name) == before.lookup_branch(name)
    created = {update.kind.name for update in after.ops_log() if type(update.kind).__name__.endswith("TagCreated")}
    assert created == after.list_tags() | {"to be deleted"}
    assert not (tmp_path / "ours/refs").exists() or not files(tmp_path / "ours/refs")


def test_a_dry_run_changes_nothing(generated, tmp_path):
    path = tmp_path / "repo"
    shutil.copytree(generated("history-v1").path, path)
    before = {file: (path / file).read_bytes() for file in files(path)}
    ours(path, dry_run=True)
    assert {file: (path / file).read_bytes() for file in files(path)} == before


def test_files_that_are_kept_are_in_nobodys_way(tmp_path):
    origin = scenarios_history.history(tmp_path / "history", 1, odd_names=False)
    for migrate in (theirs, ours):
        shutil.copytree(origin.path, tmp_path / migrate.__name__)
        migrate(tmp_path / migrate.__name__, delete=False)
    assert files(tmp_path / "ours") == files(tmp_path / "theirs")
    # Either library reads what the other left half done, and icefs finishes it.
    ours(tmp_path / "theirs")
    assert "config.yaml" not in files(tmp_path / "theirs")
    for migrate in (theirs, ours):
        repo = ic.Repository.open(ic.local_filesystem_storage(str(tmp_path / migrate.__name__)))
        assert int(repo.spec_version) == 2
        assert "dev" in repo.list_branches()


@pytest.mark.parametrize("which", ["none", "saved"])
def test_the_configuration_that_was_saved_is_kept(tmp_path, which):
    """And what the opener overrides is not."""
    saved = {"inline_chunk_threshold_bytes": 12} if which == "saved" else {}
    create(tmp_path / "repo", 1, **saved)
    for name in ("theirs", "ours"):
        shutil.copytree(tmp_path / "repo", tmp_path / name)
    override = 99
    theirs_repo = ic.Repository.open(
        ic.local_filesystem_storage(str(tmp_path / "theirs")),
        ic.RepositoryConfig(inline_chunk_threshold_bytes=override),
    )
    ic.upgrade_icechunk_repository(theirs_repo, dry_run=False)
    upgrade(
        WritableRepository.open(
            LocalStorage(tmp_path / "ours"), RepositoryConfig(inline_chunk_threshold_bytes=override)
        )
    )
    configs = [
        ic.Repository.fetch_config(ic.local_filesystem_storage(str(tmp_path / name))) for name in ("theirs", "ours")
    ]
    assert oracle.config_facts(configs[1]) == oracle.config_facts(configs[0])
    if which == "saved":
        assert configs[1].inline_chunk_threshold_bytes == 12


def test_upgrading_what_is_of_version_2(tmp_path):
    create(tmp_path / "repo", 2)
    repo = ic.Repository.open(ic.local_filesystem_storage(str(tmp_path / "repo")))
    with pytest.raises(ic.SessionStateError) as official:
        ic.upgrade_icechunk_repository(repo, dry_run=False)
    with pytest.raises(Exception, match="already") as raised:
        ours(tmp_path / "repo")
    assert oracle.error_facts(raised.value) == oracle.error_facts(official.value)


def test_committing_on_top_of_an_upgraded_repository(tmp_path):
    """Its snapshots and manifests are of version 1, new ones are of version 2."""
    create(tmp_path / "repo", 1)
    EngineRepo(tmp_path / "repo").write(
        lambda s: (
            s.node("/a", array_json([8, 8], [2, 2])),
            s.chunks("/a", {(0, 0): b"zero", (3, 3): b"x" * 600}),
        ),
        "first",
    )
    theirs(tmp_path / "repo")
    pair = Pair.of(tmp_path / "repo", tmp_path / "pair")
    pair.run(lambda repo: repo.write(lambda s: s.chunk("/a", (1, 1), b"one"), "second"))
    pair.run(lambda repo: repo.write(lambda s: s.node("/a", array_json([4, 4], [2, 2])), "third"))
    session = pair.run(lambda repo: repo.session())
    for each in session:
        each.node("/n", GROUP)
        each.amend("third, amended")
    pair.check()
