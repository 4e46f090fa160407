"""Every package says which rooms it has: the docstring of its `__init__` lists its modules and sub-packages."""

import ast
import re
from pathlib import Path

import pytest

import icefs

ROOT = Path(icefs.__file__).parent
PACKAGES = sorted(path.parent for path in ROOT.rglob("__init__.py"))
ROOM = re.compile(r"^(?: {4})?(\w+) {2,}(\S.*)$", re.MULTILINE)  # ruff takes the indentation away where all has it


def docstring(package: Path) -> str:
    return ast.get_docstring(ast.parse((package / "__init__.py").read_text()), clean=False) or ""


def rooms_in(package: Path) -> list[str]:
    modules = [path.stem for path in package.glob("*.py") if path.name != "__init__.py"]
    return modules + [path.parent.name for path in package.glob("*/__init__.py")]


@pytest.mark.parametrize("package", PACKAGES, ids=[str(package.relative_to(ROOT.parent)) for package in PACKAGES])
def test_the_docstring_of_a_package_lists_its_rooms(package):
    listed = [name for name, _ in ROOM.findall(docstring(package))]
    assert sorted(listed) == sorted(rooms_in(package)), f"the docstring of {package / '__init__.py'}"


@pytest.mark.parametrize("package", PACKAGES, ids=[str(package.relative_to(ROOT.parent)) for package in PACKAGES])
def test_the_docstring_of_a_package_says_what_it_is(package):
    title, _, _ = docstring(package).partition("\n")
    assert len(title) > 12
    assert "TODO" not in docstring(package)
