"""Every module, class, function and file that `icefs/ARCHITECTURE.md` and the README name is there."""

import ast
import functools
import re
from pathlib import Path

import icefs

PACKAGE = Path(icefs.__file__).parent
ROOT = PACKAGE.parent
DOCUMENT = PACKAGE / "ARCHITECTURE.md"
PACKAGES = {path.parent.name for path in PACKAGE.glob("*/__init__.py")} | {path.stem for path in PACKAGE.glob("*.py")}
CONCURRENCY = PACKAGE / "worktree" / "CONCURRENCY.md"
DOTTED = re.compile(r"^(?:icefs\.)?[a-z]\w*(?:\.\w+)+$")
CLASS = re.compile(r"^[A-Z][a-z]+[A-Za-z]*$")
FILE = re.compile(r"^[\w.-]+(?:/[\w.-]+)+/?$")


def code(text: str) -> list[str]:
    """Returns what stands in backticks, but for what stands in blocks, without calls' brackets."""
    prose = re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
    return [name.removesuffix("()") for name in re.findall(r"`([^`\n]+)`", prose)]


@functools.cache
def names_in(module: Path) -> dict[str, set[str]]:
    """Returns what a module defines, and of each class what it defines."""
    found: dict[str, set[str]] = {}
    for node in ast.parse(module.read_text()).body:
        match node:
            case ast.ClassDef():
                found[node.name] = members(node)
            case ast.FunctionDef() | ast.AsyncFunctionDef():
                found[node.name] = set()
            case ast.Assign():
                found |= {target.id: set() for target in node.targets if isinstance(target, ast.Name)}
            case ast.AnnAssign(target=ast.Name(id=name)) | ast.TypeAlias(name=ast.Name(id=name)):
                found[name] = set()
    return found


def members(node: ast.ClassDef) -> set[str]:
    """Returns methods, and attributes that methods or the class's body assign."""
    found = set()
    for inner in ast.walk(node):
        match inner:
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name):
                found.add(name)
            case ast.Attribute(value=ast.Name(id="self"), attr=name, ctx=ast.Store()):
                found.add(name)
            case ast.Name(id=name, ctx=ast.Store()):
                found.add(name)
    return found


def is_there(dotted: str) -> bool:
    """Tells whether a module, or what a module defines, has this name below `icefs`."""
    place, names = PACKAGE, dotted.removeprefix("icefs.").split(".")
    while names and (place / names[0]).is_dir():
        place /= names.pop(0)
    if not names:
        return True
    module = place / f"{names[0]}.py"
    rest = names[1:] if module.exists() else names
    known = names_in(module if module.exists() else place / "__init__.py")
    return not rest or (rest[0] in known and (len(rest) == 1 or (len(rest) == 2 and rest[1] in known[rest[0]])))


@functools.cache
def classes() -> set[str]:
    return {name for path in PACKAGE.rglob("*.py") for name in names_in(path)}


def test_the_names_in_the_map_are_there():
    named = {name for name in code(DOCUMENT.read_text()) if DOTTED.match(name)}
    named = {
        name
        for name in named
        if name.removeprefix("icefs.").split(".")[0] in PACKAGES and not name.endswith((".py", ".json"))
    }
    assert {name for name in named if not is_there(name)} == set()
    assert len(named) > 60


def test_the_classes_that_documents_name_are_there():
    for document in (DOCUMENT, ROOT / "README.md"):
        named = {name for name in code(document.read_text()) if CLASS.match(name)}
        assert named - classes() == set(), document.name


def test_the_files_that_documents_name_are_there():
    for document in (DOCUMENT, ROOT / "README.md"):
        named = {
            name for name in code(document.read_text()) if FILE.match(name) and Path(name).suffix in (".py", ".md")
        }
        named = {name for name in named if "NAME" not in name}
        missing = {name for name in named if not (ROOT / name).exists() and not (PACKAGE / name).exists()}
        assert missing == set(), document.name


def test_the_members_and_files_that_the_page_on_concurrency_names_are_there():
    named = code(CONCURRENCY.read_text())
    files = {name for name in named if FILE.match(name) and Path(name).suffix in (".py", ".md")}
    assert {
        name for name in files if not any((above / name).exists() for above in (ROOT, PACKAGE, CONCURRENCY.parent))
    } == set()
    known: dict[str, set[str]] = {}
    for path in PACKAGE.rglob("*.py"):
        for name, inner in names_in(path).items():
            known[name] = known.get(name, set()) | inner
    pairs = {
        tuple(name.split(".")) for name in named if re.match(r"^[A-Z]\w+\.\w+$", name) and not name.endswith(".md")
    }
    assert {pair for pair in pairs if pair[1] not in known.get(pair[0], set())} == set()
    assert len(pairs) > 10


def test_a_name_that_is_not_there_is_found():
    assert is_there("paths.NodePath")
    assert is_there("vfs.filesystem.FileSystem.lookup")
    assert is_there("worktree.spool")
    assert not is_there("paths.NoSuchName")
    assert not is_there("vfs.filesystem.FileSystem.no_such_method")
    assert not is_there("vfs.no_such_module.Name")
