"""What `pip install` brings: the wheel has every file that a command reads, and runs away from the checkout."""

import configparser
import os
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

from icefs.cli.support.topics import TOPICS

ROOT = Path(__file__).parents[2]
UNITS = {"systemd/icefs@.service", "systemd/user/icefs@.service"}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of this checkout, built by the backend that `pyproject.toml` names."""
    target = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(target)]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True, text=True)
    (built,) = target.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def unpacked(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory of modules with what the wheel brings and nothing of the checkout."""
    site = tmp_path_factory.mktemp("site")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
    return site


def files_of(package: str) -> set[str]:
    found = (path for path in (ROOT / package).rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    return {path.relative_to(ROOT).as_posix() for path in found}


def run(site: Path, *arguments: str) -> str:
    program = "import sys; from icefs.cli.main import main; sys.exit(main(sys.argv[1:]))"
    environment = {**os.environ, "PYTHONPATH": str(site)}
    command = [sys.executable, "-P", "-c", program, *arguments]
    done = subprocess.run(command, cwd=site, env=environment, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_wheel_has_every_file_of_the_package_and_the_units_and_no_other(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    assert {name for name in names if ".dist-info/" not in name} == files_of("icefs") | {
        f"icefs/{name}" for name in files_of("systemd")
    }
    assert {f"icefs/{name}" for name in UNITS} <= names
    assert {f"icefs/cli/topics/{path.name}" for path in (ROOT / "icefs/cli/topics").iterdir()} <= names
    assert {"icefs/cli/JSON.md", "icefs/vfs/SEMANTICS.md", "icefs/engine/CONCURRENCY.md"} <= names
    assert [name for name in names if name.endswith(".dist-info/licenses/LICENSE")]


def test_the_wheel_declares_the_programs_and_each_can_be_loaded(unpacked):
    (entry_points,) = unpacked.glob("*.dist-info/entry_points.txt")
    parser = configparser.ConfigParser(delimiters=("=",))
    parser.read(entry_points)
    scripts = dict(parser["console_scripts"])
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert scripts == project["scripts"]
    assert set(scripts) == {"icefs", "mount.icefs", "umount.icefs"}
    loads = (
        "import sys, pkgutil, icefs\n"
        "assert icefs.__file__.startswith(sys.argv[1]), icefs.__file__\n"
        "assert all(callable(pkgutil.resolve_name(name)) for name in sys.argv[2:])"
    )
    command = [sys.executable, "-P", "-c", loads, str(unpacked), *scripts.values()]
    environment = {**os.environ, "PYTHONPATH": str(unpacked)}
    done = subprocess.run(command, cwd=unpacked, env=environment, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_commands_of_the_wheel_find_the_files_that_they_read(unpacked, tmp_path):
    assert "icefs" in run(unpacked, "--version")
    listed = run(unpacked, "help")
    assert all(topic in listed for topic in TOPICS)
    for topic in ("json", "services"):
        assert len(run(unpacked, "help", topic).splitlines()) > 10
    run(unpacked, "install-units", "--prefix", str(tmp_path))
    unit = (tmp_path / "etc/systemd/system/icefs@.service").read_text()
    assert "ExecStart=" in unit
    assert list(tmp_path.glob("usr/local/share/man/man1/icefs*"))
