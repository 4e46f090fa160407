"""Programs that import the official library run on icefs, each in a process of its own: it lasts for its whole life."""

import subprocess
import sys
from pathlib import Path

import icechunk
import pytest

from icefs import compat

ROOT = Path(__file__).parents[3]


def run(*arguments: str, code: str | None = None, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, *arguments] if code is None else [sys.executable, "-c", code]
    return subprocess.run(command, capture_output=True, text=True, timeout=100, cwd=cwd, check=False)


PROGRAM = """
import sys
import icechunk
import zarr
from icechunk.storage import in_memory_storage
from icechunk import Repository, ConflictError

repository = Repository.create(in_memory_storage())
session = repository.writable_session("main")
zarr.create_array(session.store, name="a", shape=(3,), chunks=(1,), dtype="i4")[:] = [1, 2, 3]
session.commit("numbers")
first, second = repository.writable_session("main"), repository.writable_session("main")
for each in (first, second):
    zarr.open_array(each.store, path="a")[0] = 9
first.commit("mine")
try:
    second.commit("theirs")
except icechunk.ConflictError:
    print("conflict", zarr.open_array(repository.readonly_session("main").store, path="a")[:].tolist())
print(icechunk.__version__, sys.argv, __name__, [each.message for each in repository.ancestry(branch="main")])
"""


def test_a_program_runs_unchanged(tmp_path):
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    official, ours = run(str(program), "x"), run("-m", "icefs.compat", str(program), "x", cwd=ROOT)
    assert official.returncode == ours.returncode == 0, ours.stderr
    assert ours.stdout == official.stdout
    assert ours.stderr.count("takes the place of icechunk") == 1


def test_a_module_runs_unchanged(tmp_path):
    (tmp_path / "some_program.py").write_text(PROGRAM)
    code = (
        f"import os, sys; os.chdir({str(tmp_path)!r}); sys.path.insert(0, {str(ROOT)!r})\n"
        "from icefs import compat; compat.main(['-m', 'some_program', 'x'])"
    )
    ours = run(code=code)
    assert ours.returncode == 0, ours.stderr
    assert "conflict [9, 2, 3]" in ours.stdout


def test_every_public_module_of_the_official_library_is_there():
    modules = {
        f"icechunk.{path.stem}" for path in Path(icechunk.__file__).parent.glob("*.py") if not path.stem.startswith("_")
    }
    code = (
        "import importlib\nfrom icefs import compat\ncompat.install(); compat.install()\n"
        f"for name in {sorted(modules)!r}:\n    print(importlib.import_module(name))\n"
        "import icechunk, icefs.api\n"
        "assert icechunk.session.Session is icefs.api.Session and icechunk.Session is icefs.api.Session\n"
        "assert icechunk.xarray.to_icechunk.__module__ == 'icefs.xarray'\n"
        "from importlib.metadata import version\n"
        "from importlib.util import find_spec\n"
        f"assert version('icechunk') == {compat.OFFICIAL_VERSION!r} and find_spec('icechunk').origin == 'icefs'\n"
        "assert 'Repository' in dir(icechunk)\n"
        "from icechunk._icechunk_python import RepoUpdateRetryConfig\n"  # the official library has it there alone
        "assert RepoUpdateRetryConfig is icefs.api.RepoUpdateRetryConfig\n"
    )
    found = run(code=code)
    assert found.returncode == 0, found.stderr
    assert found.stdout.count("(icefs)") == len(modules)
    assert found.stderr.count("takes the place") == 1


def test_modules_are_attributes_before_they_are_imported():
    official = run(
        code="import icechunk\nfrom types import ModuleType\n"
        "print(*(name for name, value in vars(icechunk).items() if isinstance(value, ModuleType) and name[0] != '_'))"
    )
    names = official.stdout.split()
    assert "config" in names
    code = (
        "from icefs import compat\ncompat.install()\nimport icechunk\n"
        f"for name in {names!r}:\n    print(getattr(icechunk, name).__name__)\n"
        "assert icechunk.config.RepositoryConfig is icechunk.RepositoryConfig\n"
    )
    found = run(code=code)
    assert found.returncode == 0, found.stderr
    assert found.stdout.split() == [f"icechunk.{name}" for name in names]


@pytest.mark.parametrize(
    ("statement", "error"),
    [
        ("from icechunk import nothing", "cannot import name 'nothing'"),
        ("import icechunk.nothing", "No module named 'icechunk.nothing'"),
        ("import icechunk.session; icechunk.session.nothing", "'icechunk.session' (icefs) has no attribute 'nothing'"),
    ],
)
def test_a_name_that_nobody_has_is_missing(statement, error):
    found = run(code=f"from icefs import compat\ncompat.install()\n{statement}")
    assert found.returncode == 1
    assert error in found.stderr


def test_it_refuses_where_the_official_library_is_imported_already():
    found = run(code="import icechunk\nfrom icefs import compat\ncompat.install()")
    assert found.returncode == 1
    assert "ImportError: the official icechunk library is imported already" in found.stderr


@pytest.mark.parametrize("arguments", [[], ["-m"], ["--help"]])
def test_it_says_how_it_is_called(arguments):
    found = run("-m", "icefs.compat", *arguments)
    assert found.returncode == 1
    assert "usage: python -m icefs.compat PROGRAM.py" in found.stderr


def test_a_program_that_is_not_there():
    assert "there is no program nowhere.py" in run("-m", "icefs.compat", "nowhere.py").stderr


def test_the_release_is_the_one_that_tests_compare_with():
    assert compat.OFFICIAL_VERSION.rpartition(".")[0] == icechunk.__version__.rpartition(".")[0]
