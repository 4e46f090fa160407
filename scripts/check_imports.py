"""Checks the imports of icefs, its tests and its scripts: `make lint` runs it.

    origin   each first-party import names the module where the name is defined, not one that imported it
    typing   no first-party import under `if TYPE_CHECKING:`; such an import hides a cycle
    cycle    no modules of icefs that import each other, at import time or within functions

The package interfaces `icefs` and `icefs.api` re-export names for programs. `--fix` rewrites imports of the first kind.
"""

import argparse
import ast
import builtins
import graphlib
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TREES = ("icefs", "scripts", "tests")

INTERFACES = frozenset(("icefs", "icefs.api"))

EXCEPTIONS = {
    ("icefs.api.repository", "icefs.api.store"): "imported late: zarr-python takes half a second",
    ("icefs.api.session", "icefs.api.store"): "imported late: zarr-python takes half a second",
    ("icefs.api.store", "icefs.api.session"): "a session returns its store and a store its session",
    (
        "icefs.cli.commands.diff",
        "icefs.engine.history.diff",
    ): "imported late: numpy, which a diff of a mount does without",
}
"""The imports under TYPE_CHECKING that stay, by importing and imported module, with the reason."""


@dataclass(frozen=True, slots=True)
class Import:
    """`from module import name` at a line; `name` is None for `import module`."""

    module: str
    name: str | None
    line: int
    typing: bool = False


@dataclass(slots=True)
class Module:
    """What one file defines at its top level, what it imports, and where."""

    name: str
    path: Path
    relative: Path  # to the root
    defined: set[str] = field(default_factory=set)
    imported: dict[str, Import] = field(default_factory=dict)  # by the name bound at the top level
    imports: list[Import] = field(default_factory=list)  # everywhere in the file
    attributes: list[tuple[str, str, int]] = field(default_factory=list)  # `bound.name` and its line


def module_name(path: Path) -> str:
    """Returns the dotted name of a file, whose path is relative to the root."""
    return ".".join(path.with_suffix("").parts).removesuffix(".__init__")


def bound_names(statements: list[ast.stmt]) -> Iterator[str]:
    """Yields the names that statements bind by anything but an import, in compound statements, too."""
    for statement in statements:
        if isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield statement.name
        elif isinstance(statement, ast.TypeAlias):
            yield statement.name.id
        else:
            for node in ast.walk(statement):
                if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
                    yield node.id
                elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                    yield node.name


def is_typing_block(node: ast.AST) -> bool:
    """Tells whether a statement is `if TYPE_CHECKING:`."""
    return isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING")


class Reader(ast.NodeVisitor):
    """Collects a file's imports into its `Module`."""

    def __init__(self, module: Module) -> None:
        self._module = module
        self._depth = 0  # of functions and classes
        self._typing = False

    def visit_If(self, node: ast.If) -> None:  # noqa: D102
        if is_typing_block(node):
            self._typing = True
            for statement in node.body:
                self.visit(statement)
            self._typing = False
            for statement in node.orelse:
                self.visit(statement)
        else:
            self.generic_visit(node)

    def _scope(self, node: ast.AST) -> None:
        self._depth += 1
        self.generic_visit(node)
        self._depth -= 1

    visit_FunctionDef = visit_AsyncFunctionDef = visit_ClassDef = _scope

    def visit_Import(self, node: ast.Import) -> None:  # noqa: D102
        for alias in node.names:
            self._add(Import(alias.name, None, node.lineno, self._typing), alias.asname or alias.name.partition(".")[0])

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:  # noqa: D102
        for alias in node.names:
            found = Import(node.module or "", alias.name, node.lineno, self._typing)
            self._add(found, alias.asname or alias.name)

    def _add(self, found: Import, bound: str) -> None:
        self._module.imports.append(found)
        if not self._depth:
            self._module.imported[bound] = found

    def visit_Attribute(self, node: ast.Attribute) -> None:  # noqa: D102
        if isinstance(node.value, ast.Name) and isinstance(node.ctx, ast.Load):
            self._module.attributes.append((node.value.id, node.attr, node.lineno))
        self.generic_visit(node)


def read_tree(root: Path = ROOT) -> dict[str, Module]:
    """Reads the Python files of a repository, by module name, except those that git ignores."""
    listed = subprocess.run(
        ["git", "-C", root, "ls-files", "-z", "--cached", "--others", "--exclude-standard", "--", *TREES],
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    modules = {}
    for relative in map(Path, filter(None, listed.split("\0"))):
        path = root / relative
        if relative.suffix != ".py" or not path.exists():
            continue
        module = Module(module_name(relative), path, relative)
        tree = ast.parse(path.read_text(), path)
        module.defined.update(bound_names(tree.body))
        Reader(module).visit(tree)
        modules[module.name] = module
    return modules


def origin(modules: dict[str, Module], module: str, name: str) -> tuple[str, str | None] | None:
    """Returns where a name of a first-party module comes from, as module and name, if not from there.

    The name is None for a whole module.
    """
    moved = False
    while (
        (found := modules.get(module)) is not None and name not in found.defined and f"{module}.{name}" not in modules
    ):
        source = found.imported.get(name)
        if source is None or module in INTERFACES:
            break
        moved = True
        if source.name is None:
            return source.module, None
        module, name = source.module, source.name
    return (module, name) if moved else None


def check_origins(modules: dict[str, Module]) -> Iterator[tuple[Module, int, str, str, tuple[str, str | None]]]:
    """Yields each use of a name by a module that only imported it: user, line, module, name and the origin."""
    for module in modules.values():
        for found in module.imports:
            if found.name is not None and (source := origin(modules, found.module, found.name)) is not None:
                yield module, found.line, found.module, found.name, source
        if module.name in INTERFACES:
            continue
        for bound, name, line in module.attributes:
            found = module.imported.get(bound)
            if found is None or bound in module.defined or hasattr(builtins, bound):
                continue
            target = f"{found.module}.{found.name}" if found.name is not None else found.module
            if target in modules and (source := origin(modules, target, name)) is not None:
                yield module, line, target, name, source


def edges(modules: dict[str, Module], typing: bool) -> Iterator[tuple[str, str, int]]:
    """Yields the imports between modules of icefs, with their lines: those under TYPE_CHECKING, or the others."""
    for module in modules.values():
        if module.name in INTERFACES or not module.name.startswith("icefs."):
            continue
        for found in module.imports:
            if found.typing is not typing:
                continue
            target = f"{found.module}.{found.name}"
            if target not in modules:
                target = found.module
            if target.partition(".")[0] == "icefs" and target in modules and target != module.name:
                yield module.name, target, found.line


def check(modules: dict[str, Module], exceptions: Mapping[tuple[str, str], str] = EXCEPTIONS) -> Iterator[str]:
    """Yields the faults, a line each."""
    for module, line, through, name, (source, original) in check_origins(modules):
        where = f"{module.relative}:{line}"
        yield f"{where}: {name} of {through} is defined elsewhere: {source}{f'.{original}' if original else ''}"
    typing = {(importer, imported): line for importer, imported, line in edges(modules, typing=True)}
    for (importer, imported), line in sorted(typing.items()):
        if (importer, imported) not in exceptions:
            yield f"{modules[importer].relative}:{line}: imports {imported} under TYPE_CHECKING"
    for importer, imported in sorted(exceptions.keys() - typing.keys()):
        yield f"{importer} no longer imports {imported} under TYPE_CHECKING: remove the exception"
    graph: dict[str, set[str]] = {}
    for importer, imported, _line in edges(modules, typing=False):
        if (importer, imported) not in exceptions:
            graph.setdefault(importer, set()).add(imported)
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as cycle:
        yield f"modules import each other: {' <- '.join(cycle.args[1])}"


def fix(modules: dict[str, Module]) -> None:
    """Rewrites `from module import name` where the name is defined elsewhere; ruff sorts and merges the imports."""
    for module in modules.values():
        text = module.path.read_text()
        tree = ast.parse(text)
        lines = text.splitlines(keepends=True)
        changes: list[tuple[ast.ImportFrom, list[str]]] = []
        for node in ast.walk(tree):
            if not isinstance(node, ast.ImportFrom) or node.module is None:
                continue
            moved: list[str] = []
            kept: list[str] = []
            for alias in node.names:
                source = origin(modules, node.module, alias.name)
                bound = alias.asname or alias.name
                if source is None:
                    kept.append(alias.name + (f" as {alias.asname}" if alias.asname else ""))
                elif source[1] is None:
                    moved.append(f"import {source[0]}" + (f" as {bound}" if source[0] != bound else ""))
                else:
                    renamed = f" as {bound}" if source[1] != bound else ""
                    moved.append(f"from {source[0]} import {source[1]}{renamed}")
            if moved:
                comment = re.search(r"\s+#.*$", lines[(node.end_lineno or node.lineno) - 1].rstrip("\n"))
                note = comment.group() if comment else ""
                if kept:
                    moved.insert(0, f"from {node.module} import {', '.join(kept)}")
                moved[-1] += note
                changes.append((node, moved))
        for node, moved in sorted(changes, key=lambda change: -change[0].lineno):
            indent = " " * node.col_offset
            lines[node.lineno - 1 : node.end_lineno] = [f"{indent}{line}\n" for line in moved]
        if changes:
            module.path.write_text("".join(lines))


def main() -> None:
    """Checks the tree; exits with 1 if anything is wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--fix", action="store_true", help="rewrite imports to where names are defined")
    if parser.parse_args().fix:
        fix(read_tree())
    faults = list(check(read_tree()))
    for fault in faults:
        print(fault)
    sys.exit(bool(faults))


if __name__ == "__main__":
    main()
