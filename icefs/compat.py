"""Lets programs that import the official library run on icefs, unchanged.

    import icefs.compat                  # at the beginning of a program, or in the first cell of a notebook
    icefs.compat.install()

    python -m icefs.compat program.py …  # or: -m MODULE …

From then on `import icechunk` in this process means icefs, whether the official library is there as well or not. Other
libraries that import it, VirtualiZarr or xarray among them, write through icefs, too. Processes that are forked have
it; a new interpreter (`spawn`, a cluster's worker) has to call `install` itself. Names that icefs lacks raise
AttributeError or ImportError, as names that no library has.
"""

import importlib.metadata
import importlib.util
import logging
import runpy
import sys
from collections.abc import Iterable, Mapping, Sequence
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import MappingProxyType, ModuleType
from typing import Any, Final

from icefs import __version__

OFFICIAL_VERSION: Final = "2.3.0"
"""The official release whose names icefs follows; `icechunk.__version__` is this, since programs compare it."""

_NAME: Final = "icechunk"
# The modules of the official library that are here under the same names below `icefs`. Those of the first kind are
# attributes of the package before anything imports them.
_IMPORTED: Final = frozenset((
    *("config", "conflicts", "credentials", "ops", "repository", "session", "snapshots", "storage", "store", "types"),
    "virtual",
))  # fmt: skip
_OTHERS: Final = ("dask", "distributed", "testing", "testing.invariants", "testing.strategies", "xarray")
_PACKAGES: Final = frozenset((_NAME, f"{_NAME}.testing"))
# Where the names of each module are; the first place that has a name counts. Programs reach into `_icechunk_python`
# for names that the official library has nowhere else.
_MODULES: Final[Mapping[str, tuple[str, ...]]] = MappingProxyType(
    {
        _NAME: ("icefs.api",),
        f"{_NAME}._icechunk_python": ("icefs.api",),
        **{f"{_NAME}.{name}": (f"icefs.{name}", "icefs.api") for name in sorted(_IMPORTED)},
        **{f"{_NAME}.{name}": (f"icefs.{name}",) for name in _OTHERS},
    }
)
_USAGE: Final = (
    "usage: python -m icefs.compat PROGRAM.py [ARGUMENT…]\n       python -m icefs.compat -m MODULE [ARGUMENT…]"
)
_log = logging.getLogger(__name__)


class _Alias(ModuleType):
    """A module of the official library's name, with the names of modules of icefs."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_") and name != "__all__":
            raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")
        if self.__name__ == _NAME and name in _IMPORTED:
            return import_module(f"{_NAME}.{name}")
        for place in _MODULES[self.__name__]:
            try:
                return getattr(import_module(place), name)
            except AttributeError as error:
                reason = str(error)
        raise AttributeError(f"module {self.__name__!r} (icefs) has no attribute {name!r}: {reason}")

    def __dir__(self) -> list[str]:
        names = set(super().__dir__())
        for place in _MODULES[self.__name__]:
            names.update(dir(import_module(place)))
        return sorted(names)


class _AliasLoader(Loader):
    """Makes the aliases; their names are looked up when they are used."""

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return _Alias(spec.name, f"The names of {spec.name}, as icefs has them.")

    def exec_module(self, module: ModuleType) -> None:
        import_module(_MODULES[module.__name__][0])  # raises here if a library that it needs is not there
        if module.__name__ == _NAME:
            vars(module)["__version__"] = OFFICIAL_VERSION


class _Distribution(importlib.metadata.Distribution):
    """The facts that `importlib.metadata` gives of an installed library."""

    def read_text(self, filename: str) -> str | None:
        if filename == "METADATA":
            return f"Metadata-Version: 2.1\nName: {_NAME}\nVersion: {OFFICIAL_VERSION}\nSummary: icefs {__version__}\n"
        return None

    def locate_file(self, path: Any) -> Path:
        return Path(__file__).parent / str(path)


class _AliasFinder(MetaPathFinder):
    """Finds the aliases before any library that is installed."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname not in _MODULES:
            return None
        return ModuleSpec(fullname, _AliasLoader(), origin="icefs", is_package=fullname in _PACKAGES)

    def find_distributions(
        self, context: importlib.metadata.DistributionFinder.Context | None = None
    ) -> Iterable[importlib.metadata.Distribution]:
        return [_Distribution()] if context is not None and context.name == _NAME else []


def is_installed() -> bool:
    """Tells whether `import icechunk` means icefs in this process."""
    return any(isinstance(finder, _AliasFinder) for finder in sys.meta_path)


def install() -> None:
    """Makes `import icechunk` mean icefs in this process; the log says so, once.

    Raises:
        ImportError: the official library is imported already: its objects and those of icefs would meet.
    """
    if is_installed():
        return
    present = sys.modules.get(_NAME)
    if present is not None and not isinstance(present, _Alias):
        raise ImportError(
            f"the official icechunk library is imported already ({getattr(present, '__file__', None)}); "
            "call icefs.compat.install() before anything imports it",
            name=_NAME,
        )
    sys.meta_path.insert(0, _AliasFinder())
    importlib.invalidate_caches()
    _log.warning("icefs %s takes the place of icechunk %s in this process", __version__, OFFICIAL_VERSION)


def main(arguments: Sequence[str]) -> None:
    """Runs a program (or with `-m` a module) with icefs in the official library's place.

    Args:
        arguments: The program's path, or `-m` and the module's name; then the program's own arguments.

    Raises:
        SystemExit: the arguments name no program, or the program ends so.
    """
    rest = list(arguments)
    is_module = rest[:1] == ["-m"]
    if is_module:
        rest.pop(0)
    if not rest or (rest[0].startswith("-") and not is_module):
        raise SystemExit(_USAGE)
    install()
    sys.argv[:] = rest
    if is_module:
        sys.path.insert(0, str(Path.cwd()))
        runpy.run_module(rest[0], run_name="__main__", alter_sys=True)
    else:
        if not Path(rest[0]).exists():
            raise SystemExit(f"icefs.compat: there is no program {rest[0]}")
        sys.path.insert(0, str(Path(rest[0]).resolve().parent))
        runpy.run_path(rest[0], run_name="__main__")


if __name__ == "__main__":
    # As a module of its own name, so that programs that call `install` find it installed.
    import icefs.compat

    icefs.compat.main(sys.argv[1:])
