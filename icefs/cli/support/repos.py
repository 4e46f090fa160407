"""From what a user typed to an open repository and one version of it."""

import contextlib
import logging
from dataclasses import dataclass
from pathlib import Path

import click

from icefs.cli.support.interrupts import ending_soon
from icefs.cli.support.locations import is_url, split_ref
from icefs.cli.support.mounts import Mounted, absolute, find_mount
from icefs.cli.support.options import say
from icefs.engine.read.session import Session
from icefs.engine.repository import Repository
from icefs.engine.write.repository import WritableRepository
from icefs.errors import EntryNotFoundError, InvalidInputError
from icefs.format.layout import REFS_V1, REPO_INFO
from icefs.format.repo.refs_v1 import branch_key
from icefs.storage.base import Storage
from icefs.storage.url import open_storage

DEFAULT_BRANCH = "main"


@dataclass(frozen=True, slots=True)
class Source:
    """What a user pointed at.

    Attributes:
        location: The repository; for a path in a mount, the repository that is mounted.
        ref: The version that the user named; for a path in a mounted tree, that tree's; else None.
        mounted: Where in a mount the path lies, or None.
        inside: Where in the mounted tree the path lies, as a key; nothing at the tree's root, and outside of a mount.
    """

    location: str
    ref: str | None
    mounted: Mounted | None
    inside: str = ""

    @property
    def mounted_branch(self) -> str | None:
        """The branch of the mounted tree that the path lies in, if the user named no other version."""
        if self.mounted is None or self.ref is None or self.ref != self.mounted.ref:
            return None
        told = self.mounted.tree_info
        return str(told["name"]) if told.get("kind") == "branch" else None

    def key(self, key: str) -> str:
        """Returns a key of the repository, given one below the path that the user pointed at."""
        key = key.strip("/")
        return f"{self.inside}/{key}".rstrip("/") if self.inside else key


def locate(text: str | None, ref: str | None = None, *, is_repo: bool = False) -> Source:
    """Finds out what `PATH`, `REPO` or `REPO@REF` means; None is the current directory.

    A directory in a mount that holds a repository itself means that one, and not the one that is mounted.

    Args:
        text: What the user wrote.
        ref: The version, where an option of its own says it.
        is_repo: Whether the text has to name a repository or a mount: no directory in a mounted tree will do.

    Raises:
        EntryNotFoundError: nothing is there, or nothing was given and the current directory is in no mount.
        InvalidInputError: a version was given twice; or two repositories may be meant; or none is there (`is_repo`).
    """
    location, at = (text, None) if text is None else split_ref(text)
    if ref is not None and at is not None:
        raise InvalidInputError(f"two versions were given: {at} and {ref}", hint="give one")
    ref = ref if ref is not None else at
    if location is not None and is_url(location):
        return Source(location, ref, None)
    path = "." if location is None else location
    mounted = find_mount(path)
    if mounted is not None and _is_inner(path, mounted):
        return Source(path, ref, None)
    if mounted is not None:
        if is_repo and text is not None and mounted.inside(path):
            raise InvalidInputError(
                f"no repository at {absolute(path)}: it is a directory in the mount at {mounted.root}",
                hint=f"for the repository that is mounted there, give {mounted.root}",
            )
        return Source(mounted.repository, ref if ref is not None else mounted.ref, mounted, mounted.inside(path))
    if location is None and not any((Path(path) / name).exists() for name in (REPO_INFO, REFS_V1)):
        raise EntryNotFoundError(
            f"neither in an icefs mount nor a repository: {absolute(path)}",
            hint="give a path in a mount, or a repository",
        )
    return Source(path, ref, None)


def _is_inner(path: str, mounted: Mounted) -> bool:
    """Tells whether a directory in a mount holds a repository itself.

    Raises:
        InvalidInputError: the root of a tree does; then it may mean either.
    """
    place = absolute(path).resolve()
    try:
        if not (Path(path, REPO_INFO).is_file() or Path(path, branch_key(DEFAULT_BRANCH)).is_file()):
            return False
    except OSError:
        if place != mounted.tree:
            raise
        return False  # a tree that cannot be opened; the repository that is mounted can be
    if place in (mounted.root, mounted.tree):
        raise InvalidInputError(
            f"{place} is in the mount of {mounted.repository}, and holds a repository itself",
            hint=f"give {place.as_uri()} for the one in it, or {mounted.repository} for the one that is mounted",
        )
    return True


def open_repository(location: str, allow_virtual: tuple[str, ...] = ()) -> Repository:
    """Opens a repository for the rest of the command; it is closed with the command's context.

    Args:
        location: As a user writes it.
        allow_virtual: URL prefixes of containers that virtual chunks may be followed into.
    """
    stack, storage = _open_storage(location)
    return stack.enter_context(Repository.open(storage, authorize_virtual_chunk_access=dict.fromkeys(allow_virtual)))


def open_writable(location: str) -> WritableRepository:
    """Opens a repository like `open_repository`, to change it."""
    stack, storage = _open_storage(location)
    return stack.enter_context(WritableRepository.open(storage))


def open_storage_of(location: str) -> Storage:
    """Opens the store of a repository that may be too damaged to be opened itself."""
    return _open_storage(location)[1]


def _open_storage(location: str) -> tuple[contextlib.ExitStack, Storage]:
    _show_warnings()
    context = click.get_current_context()
    context.with_resource(ending_soon())
    stack = context.with_resource(contextlib.ExitStack())
    return stack, stack.enter_context(contextlib.closing(open_storage(location)))


class _WarningLines(logging.Handler):
    """Prints what icefs warns of in the form of its errors."""

    def emit(self, record: logging.LogRecord) -> None:
        """Prints one line."""
        say(f"icefs: warning: {record.getMessage()}", err=True)


def _show_warnings() -> None:
    logger = logging.getLogger("icefs")
    if not any(isinstance(handler, _WarningLines) for handler in logger.handlers):
        lines = _WarningLines(logging.WARNING)
        # A request that is given up is an error that says so itself.
        lines.addFilter(lambda record: record.name != "icefs.storage.retry")
        logger.addHandler(lines)
        # What libraries such as botocore log is no part of the one line that an error is.
        logging.getLogger().addHandler(logging.NullHandler())


def open_version(source: Source, allow_virtual: tuple[str, ...] = ()) -> Session:
    """Opens the version that a user pointed at, by default the branch main.

    Raises:
        RefNotFoundError: no snapshot, branch or tag has the name.
    """
    repository = open_repository(source.location, allow_virtual)
    return repository.session_at(repository.resolve_ref(source.ref if source.ref is not None else DEFAULT_BRANCH))
