"""Hierarchies for tests of views: repositories in memory, written with zarr-python and committed."""

import warnings
from collections.abc import Callable

import zarr

from icefs.engine.write.repository import WritableRepository
from icefs.storage.memory import MemoryStorage
from icefs.views.hierarchy import SessionHierarchy
from icefs.zarr.store import IcechunkStore


def commit_arrays(repository: WritableRepository, write: Callable[[zarr.Group], object]) -> None:
    """Commits what a function changes below the root group of `main`."""
    session = repository.writable_session("main")
    store = IcechunkStore(session)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # zarr-python warns of data types without a specification
        write(zarr.open_group(store, mode="a"))
    session.commit("written")


def repository_of(write: Callable[[zarr.Group], object]) -> WritableRepository:
    """Creates a repository and commits what a function writes below its root group."""
    repository = WritableRepository.create(MemoryStorage())
    commit_arrays(repository, write)
    return repository


def hierarchy_of(write: Callable[[zarr.Group], object]) -> SessionHierarchy:
    """Opens the hierarchy of what a function writes below a root group."""
    return SessionHierarchy(repository_of(write).readonly_session("main"), branch="main")
