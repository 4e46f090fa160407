"""icefs: Icechunk repositories as files.

    from icefs import Repository, local_filesystem_storage

The Python API lies in `icefs.api` and is loaded when one of its names is first asked for: the command line and the
daemon, which do not use it, must not wait for it.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_LAYERS = frozenset(("clock", "engine", "errors", "format", "storage", "zarr"))

if TYPE_CHECKING:
    from icefs.api import *  # noqa: F403  (what type checkers see)


def __getattr__(name: str) -> Any:
    if name.startswith("_"):
        raise AttributeError(f"module 'icefs' has no attribute {name!r}")
    if name in _LAYERS:  # `from icefs import errors` asks here before it looks for a submodule
        return import_module(f"icefs.{name}")
    import icefs.api  # lazy: it loads numpy and all of the engine

    try:
        return getattr(icefs.api, name)
    except AttributeError as error:
        raise AttributeError(str(error).replace("'icefs.api'", "'icefs'")) from None


def __dir__() -> list[str]:
    import icefs.api  # lazy, as above

    return sorted({*globals(), *icefs.api.__all__})
