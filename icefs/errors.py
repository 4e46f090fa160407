"""Every error that icefs raises, as one tree grouped by what a handler would do about it.

The upper classes and the `kind` codes are those of the official library (`icechunk.IcechunkError` and its
`ErrorKind`), so that a program written for it can catch the same things; the classes below them are what a
file system needs to choose an errno. `daemon/errno_map.py` and `cli/main.py` hold total tables over this tree.

    IcefsError
    ├─ ConflictError                  RebaseFailedError, BranchMovedError
    ├─ NotFoundError (KeyError)       NodeNotFoundError, ChunkNotFoundError, SnapshotNotFoundError,
    │                                 RefNotFoundError, RepositoryNotFoundError, EntryNotFoundError
    ├─ AlreadyExistsError
    ├─ ReadOnlyError
    ├─ InvalidInputError (ValueError) InvalidMetadataError, NameTooLongError, UnauthorizedContainerError,
    │                                 ReservedNameError
    ├─ TreeError                      NotADirectoryTreeError, IsADirectoryTreeError, NotEmptyError,
    │                                 BadHandleError, CrossTreeError, NotPermittedError
    ├─ SessionStateError              NothingToCommitError, ChunksCollectedError
    ├─ UntrustedMountError
    ├─ StaleError
    ├─ UnsupportedError
    ├─ FormatError                    UnsupportedSpecVersionError
    ├─ StorageError                   ObjectNotFoundError, PreconditionFailedError, AccessDeniedError,
    │                                 ThrottledError, UnreachableError (BadAnswerError), NoSpaceError,
    │                                 InvalidObjectSizeError, ObjectModifiedError, NotAnObjectError
    └─ InternalError

An error from the layer below is chained (`raise … from`) once, where the layer changes: `storage` maps its driver's
exceptions at its edge, `engine` turns an `ObjectNotFoundError` into, say, a `SnapshotNotFoundError`.
"""

from typing import Any, ClassVar, Final

from icefs.official_words import with_official_words


class IcefsError(Exception):
    """The root of the tree.

    Attributes:
        own_message: What happened, and to what; one line.
        kind: A stable machine-readable code, from the official library's list where it has one.
        hint: What to do next, one line, or None where there is nothing to add.
        facts: What the message was built from (path, expected, actual, …), for programs.
        is_transient: Whether the same call may succeed later; set by the layer that knows.
    """

    default_kind: ClassVar[str] = "unknown"
    is_transient: bool = False

    def __init__(self, message: str, kind: str | None = None, *, hint: str | None = None, **facts: Any) -> None:
        super().__init__(message)
        self.own_message = message
        self.kind = kind if kind is not None else self.default_kind
        self.hint = hint
        self.facts = facts
        if hint:
            # So that it is in a traceback, too.
            self.add_note(f"hint: {hint}")

    @property
    def message(self) -> str:
        """The key words by which programs know errors of the kind, and `own_message`."""
        return with_official_words(self.own_message, self.kind, self.facts)

    def __str__(self) -> str:
        # NotFoundError is a KeyError too, whose str() is the repr of its argument.
        return self.message

    def __reduce__(self) -> tuple[Any, ...]:
        own = {name: value for name, value in vars(self).items() if name not in _CONSTRUCTED}
        return (_rebuild, (type(self), self.own_message, self.kind, self.hint, self.facts), own)


_CONSTRUCTED: Final = frozenset({"own_message", "kind", "hint", "facts"})


def _rebuild(cls: type[IcefsError], message: str, kind: str, hint: str | None, facts: dict[str, Any]) -> IcefsError:
    return cls(message, kind=kind, hint=hint, **facts)


class ConflictError(IcefsError):
    """Another writer changed the same thing first.

    `ConflictError(expected_parent, actual_parent)`, as the official library makes it, says where a branch was expected
    and where it stands.
    """

    default_kind = "commit-conflict"

    def __init__(
        self, message: str | None, *official: Any, kind: str | None = None, hint: str | None = None, **facts: Any
    ) -> None:
        if official or message is None:
            parents = {"expected_parent": message, "actual_parent": official[0] if official else None}
            message = f"the branch was expected at {parents['expected_parent']}, and is at {parents['actual_parent']}"
            facts = parents | facts
        super().__init__(message, kind, hint=hint, **facts)

    @property
    def expected_parent(self) -> str | None:
        """The snapshot that the branch was expected to point at, if that is what the conflict is about."""
        return self.facts.get("expected_parent")

    @property
    def actual_parent(self) -> str | None:
        """The snapshot that the branch points at."""
        return self.facts.get("actual_parent")


class RebaseFailedError(ConflictError):
    """A rebase met conflicts that its solver does not solve; `facts["conflicts"]` lists them.

    `RebaseFailedError(snapshot, conflicts)`, as the official library makes it, works too.
    """

    default_kind = "rebase-failed"

    def __init__(
        self, message: str | None, *official: Any, kind: str | None = None, hint: str | None = None, **facts: Any
    ) -> None:
        if official:
            facts = {"snapshot": message, "conflicts": list(official[0])} | facts
            message = f"commit {message} conflicts with these changes"
        super().__init__(message, kind=kind, hint=hint, **facts)

    @property
    def snapshot(self) -> str | None:
        """The commit that the changes conflict with."""
        return self.facts.get("snapshot")

    @property
    def conflicts(self) -> list[Any]:
        """The conflicts."""
        return list(self.facts.get("conflicts", ()))


class BranchMovedError(ConflictError):
    """A branch's tip is no longer the snapshot that the session stands on."""

    default_kind = "commit-conflict"


class NotFoundError(IcefsError, KeyError):
    """Something that was asked for does not exist."""

    default_kind = "key-not-found"


class NodeNotFoundError(NotFoundError):
    """No group or array stands at the path."""

    default_kind = "node-not-found"


class ChunkNotFoundError(NodeNotFoundError):
    """The array has no chunk reference at the chunk index."""

    default_kind = "chunk-not-found"


class SnapshotNotFoundError(NotFoundError):
    """No snapshot has the id (or existed at the time)."""

    default_kind = "snapshot-not-found"


class RefNotFoundError(NotFoundError):
    """No branch or tag has the name."""

    default_kind = "ref-not-found"


class RepositoryNotFoundError(NotFoundError):
    """No Icechunk repository is at the location."""

    default_kind = "repository-not-found"


class EntryNotFoundError(NotFoundError):
    """A directory of a mounted tree has no entry of the name."""


class AlreadyExistsError(IcefsError):
    """Something that was being created exists already."""

    default_kind = "node-already-exists"


class ReadOnlyError(IcefsError):
    """A write goes through something that only reads: session, store, storage, repository or mount."""

    default_kind = "read-only-session"


class InvalidInputError(IcefsError, ValueError):
    """An argument, key, index or metadata value is not valid."""

    default_kind = "invalid-key"


class InvalidMetadataError(InvalidInputError):
    """A zarr.json is not valid Zarr v3 metadata that Icechunk can hold."""

    default_kind = "bad-metadata"


class NameTooLongError(InvalidInputError):
    """A file name is longer than 255 bytes."""

    default_kind = "invalid-path"


class UnauthorizedContainerError(InvalidInputError):
    """A virtual chunk lies outside the containers that the user authorised."""

    default_kind = "unauthorized-virtual-chunk-container"


class ReservedNameError(InvalidInputError):
    """Icechunk cannot hold the name (`.zgroup` and the other Zarr v2 metadata), or icefs reserves it."""

    default_kind = "not-allowed"


class TreeError(IcefsError):
    """The shape of the directory tree forbids the operation."""

    default_kind = "invalid-path"


class NotADirectoryTreeError(TreeError):
    """A path goes through something that is not a directory."""


class IsADirectoryTreeError(TreeError):
    """A directory stands where a file was asked for."""


class NotEmptyError(TreeError):
    """A directory that should be removed or replaced has entries."""


class BadHandleError(TreeError):
    """A file handle is not open, or not open for this operation."""


class CrossTreeError(TreeError):
    """A rename or link leads from one mounted tree to another."""


class NotPermittedError(TreeError):
    """No mounted tree allows the operation: symbolic links, devices, a second name for a directory."""

    default_kind = "not-allowed"


class SessionStateError(IcefsError):
    """The operation is not allowed in the present state of the session or repository."""

    default_kind = "not-allowed"


class TreeInUseError(SessionStateError):
    """Another process has the working tree open; `facts["pid"]` says which, where it is known."""

    default_kind = "in-use"


class NothingToCommitError(SessionStateError):
    """A commit has no changes."""

    default_kind = "no-changes-to-commit"


class ChunksCollectedError(SessionStateError):
    """Garbage collection deleted chunks that were not committed yet; `facts["chunks"]` lists them as (path, index)."""

    default_kind = "chunks-collected"


class UntrustedMountError(IcefsError):
    """Another user controls a mount or a file that must be the caller's own or root's."""

    default_kind = "not-allowed"


class StaleError(IcefsError):
    """A handle or tree outlived its object: the snapshot expired, or the branch was deleted."""

    default_kind = "not-on-branch"


class UnsupportedError(IcefsError):
    """icefs, or the repository's spec version, does not support the operation."""

    default_kind = "unimplemented"


class FormatError(IcefsError):
    """A file of the repository is malformed; `facts["file"]` names it, `facts["reason"]` says how."""

    default_kind = "invalid-file-format"


class DecodeError(FormatError):
    """A chunk does not decode as its array's metadata says."""

    default_kind = "undecodable-chunk"


class NotShownError(UnsupportedError):
    """No view can show an array: its data type or one of its codecs is not known here."""

    default_kind = "not-shown"


class UnsupportedSpecVersionError(FormatError):
    """A file was written in a version of the format that this icefs does not know, or does not allow here."""

    default_kind = "unsupported-spec-version"


class StorageError(IcefsError):
    """The object store or the local disk failed, or is misconfigured."""

    default_kind = "object-store"


class DamagedStateError(StorageError):
    """The database of a working tree is damaged; its disk answers."""

    default_kind = "damaged-state"


class ObjectNotFoundError(StorageError):
    """The object store has no object at the key."""

    default_kind = "object-not-found"


class PreconditionFailedError(StorageError):
    """A conditional write found another version than the one that its condition names."""


class AccessDeniedError(StorageError):
    """Credentials are missing, wrong, expired, or do not allow the operation."""


class ThrottledError(StorageError):
    """The object store asks for fewer requests, and still does after the retries."""

    default_kind = "throttled"
    is_transient = True


class UnreachableError(StorageError):
    """The object store does not answer, and still does not after the retries."""

    is_transient = True


class BadAnswerError(UnreachableError):
    """The answer is not the object store's, or belongs to another request: a login page, a proxy, another range."""


OPEN_FILES_HINT: Final = "close some, or start it where more are allowed: ulimit -n, LimitNOFILE= in a systemd unit"
"""The hint for too many open files."""


class TooManyFilesError(StorageError):
    """The process or the machine has reached its limit of open files."""

    default_kind = "io"


class FileTooLargeError(InvalidInputError):
    """A file would be larger than the file system allows."""

    default_kind = "io"


class NoSpaceError(StorageError):
    """The disk, or a quota, is full."""

    default_kind = "io"


class InvalidObjectSizeError(StorageError):
    """An object is shorter than the reference to it says."""

    default_kind = "invalid-object-size"


class ObjectModifiedError(StorageError):
    """The object behind a virtual chunk is no longer the version that was referenced."""

    default_kind = "virtual-chunk-modified"


class NotAnObjectError(StorageError):
    """A link, FIFO, socket or device stands in a local repository where a file or directory should."""


class InternalError(IcefsError):
    """A state that should be impossible: a bug in icefs."""
