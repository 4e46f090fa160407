"""A repository that is kept in a mount: commands act on the one that their words name."""

import json

import pytest

from icefs.cli.main import main
from icefs.engine.write.repository import WritableRepository
from icefs.storage.local.store import LocalStorage
from tests.support.mounting import mounted


@pytest.fixture
def icefs(capsysbinary):
    def call(*arguments, code=0):
        done = main([str(argument) for argument in arguments])
        captured = capsysbinary.readouterr()
        assert done == code, captured.err
        return captured.out.decode() if code == 0 else captured.err.decode()

    return call


@pytest.fixture
def outer(tmp_path):
    repository = WritableRepository.create(LocalStorage(tmp_path / "outer"))
    repository.create_branch("outer", repository.lookup_branch("main"))
    repository.close()
    return tmp_path / "outer"


def branches(icefs, *arguments):
    return {entry["name"] for entry in json.loads(icefs("branch", "list", "--json", *arguments))}


@pytest.mark.parametrize("spec_version", [1, 2])
@pytest.mark.parametrize("whole", [False, True])
def test_a_repository_in_a_mount_is_the_one_that_is_meant(outer, icefs, monkeypatch, spec_version, whole):
    with mounted(outer, **({} if whole else {"branch": "main"})) as mount:
        tree = mount / "branches/main" if whole else mount.path
        inner = tree / "data/inner"
        (tree / "data").mkdir()
        WritableRepository.create(LocalStorage(inner), spec_version=spec_version).close()
        icefs("branch", "create", "zz", "main", "--repo", inner)
        assert branches(icefs, inner) == branches(icefs, "--repo", inner) == {"main", "zz"}
        assert branches(icefs, outer) == branches(icefs, tree) == branches(icefs, tree / "data") == {"main", "outer"}
        assert "zz" in icefs("log", inner)
        assert "outer" in icefs("log", tree / "data")
        assert "1 snapshot" in icefs("fsck", inner) or "clean" in icefs("fsck", inner)
        icefs("gc", inner, "--older-than", "0s", "--force")
        assert icefs("ls", inner) == ""
        monkeypatch.chdir(inner)
        assert branches(icefs) == {"main", "zz"}
        icefs("tag", "create", "t", "main")
        monkeypatch.chdir("/")
        assert [entry["name"] for entry in json.loads(icefs("tag", "list", "--json", inner))] == ["t"]
        assert json.loads(icefs("tag", "list", "--json", outer)) == []


def test_the_option_for_a_repository_takes_no_directory_of_a_mounted_tree(outer, icefs):
    with mounted(outer, branch="main") as mount:
        (mount / "data/innr").mkdir(parents=True)
        for command in (["branch", "create", "zz", "main"], ["tag", "list"], ["config", "get"]):
            said = icefs(*command, "--repo", mount / "data/innr", code=2)
            assert f"no repository at {mount.path}/data/innr" in said
            assert f"give {mount.path}" in said
        icefs("branch", "create", "yy", "main", "--repo", mount.path)
        assert branches(icefs, outer) == {"main", "outer", "yy"}


def test_the_root_of_a_tree_that_holds_a_repository_is_ambiguous(outer, icefs):
    with mounted(outer, branch="main") as mount:
        WritableRepository.create(LocalStorage(mount.path), check_clean_root=False).close()
        said = icefs("branch", "create", "zz", "main", "--repo", mount.path, code=2)
        assert f"give {mount.path.as_uri()} for the one in it, or {outer} for the one that is mounted" in said
        icefs("branch", "create", "zz", "main", "--repo", mount.path.as_uri())
        assert branches(icefs, outer) == {"main", "outer"}
        assert branches(icefs, mount.path.as_uri()) == {"main", "zz"}
