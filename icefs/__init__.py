"""icefs: Icechunk repositories as files.

    from icefs import Repository, local_filesystem_storage

The Python API lies in `icefs.api` and is loaded when one of its names is first used: the command line and the daemon
do not use it and do not wait for it. `ARCHITECTURE.md` says how the packages work together.

    api          the Python API, under the official library's names
    cli          the command line
    daemon       the process behind a mount: started, served, watched, stopped
    fuse         the kernel's protocol
    vfs          the file system, without a kernel
    transfer     whole directories of Zarr v3 into a repository and out of it
    worktree     what programs changed in a mounted branch and have not committed
    views        a tree in the formats of programs that read no Zarr v3
    zarr         Zarr keys, and sessions read and written by them
    engine       repositories, sessions, history, upkeep
    format       the bytes of Icechunk files to values and back
    storage      object stores behind one interface
    compat       programs that import the official library, run on icefs
    dask         dask arrays written into forks of a session
    distributed  forked sessions for programs that compute in many processes
    testing      strategies and invariants for tests of programs that use repositories
    xarray       xarray datasets written into a session
    config       names of `api` where programs import them from, like the next nine: configuration
    conflicts    conflicts, and the solvers that settle them
    credentials  credentials of stores
    ops          updates of a repository, and the summary of a garbage collection
    repository   repositories
    session      sessions
    snapshots    snapshots, and the changes between them
    store        the Zarr store of a session
    types        types of arguments
    virtual      virtual chunks and their containers
    errors       every error that icefs raises
    clock        where icefs reads the time
    inode        the type of inode numbers
    ioctl        the ioctl that hands a request to a mount
    paths        the two kinds of paths, and the conversions between them
    real_path    where paths of the machine's file systems lead
    private      directories and files that other users cannot read or steer
    bounded      directories of files left on this machine, each with a limit
    locks        the order in which threads take locks
    arguments    checks of the types and ranges of arguments
    words        names, commands and counts in messages
    official_words  the key words by which programs know an error
    log_context  the branch that log lines are about
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_MODULES = frozenset((
    *("clock", "engine", "errors", "format", "storage", "zarr"),
    *("config", "conflicts", "credentials", "ops", "repository", "session", "snapshots", "store", "types", "virtual"),
))  # fmt: skip

if TYPE_CHECKING:
    from icefs.api import *  # noqa: F403  (what type checkers see)


def __getattr__(name: str) -> Any:
    if name.startswith("_"):
        raise AttributeError(f"module 'icefs' has no attribute {name!r}")
    if name in _MODULES:  # `from icefs import errors` asks here before it looks for a submodule
        return import_module(f"icefs.{name}")
    import icefs.api  # lazy: it loads numpy and all of the engine

    try:
        return getattr(icefs.api, name)
    except AttributeError as error:
        raise AttributeError(str(error).replace("'icefs.api'", "'icefs'")) from None


def __dir__() -> list[str]:
    import icefs.api  # lazy, as above

    return sorted({*globals(), *icefs.api.__all__})
