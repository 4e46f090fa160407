"""The key words by which programs know an error of the official library, for errors of the same kind.

A program may look for `branch not found` or `no changes made` in an error's text. `str` of an icefs error begins with
these words, where its kind has some, and goes on with its own message, and so does `message`; `own_message`, which
the command line shows, is that alone.
"""

import string
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final

# Several texts of one kind: the first that has all its values counts. A value is a fact of the error.
_WORDS: Final[Mapping[str, tuple[str, ...]]] = MappingProxyType(
    {
        "commit-conflict": (
            "Failed to commit, expected parent: {expected_parent}, actual parent: {actual_parent}",
            "Failed to commit",
        ),
        "branch-update-conflict": (
            "branch update conflict: `({expected_parent}) != ({actual_parent})`",
            "branch update conflict",
        ),
        "rebase-failed": ("Rebase failed on snapshot {snapshot}: {count} conflicts found", "Rebase failed"),
        "config-updated": ("config was updated by other session",),
        "repo-info-updated": ("repo info object was updated after this session started",),
        "node-not-found": ("node not found at `{path}`", "node not found"),
        "snapshot-not-found": ("snapshot id not found `{snapshot_id}`", "snapshot not found"),
        "no-snapshot-at-time": ("branch {branch} does not have a snapshots before or at {at}",),
        "ref-not-found": ("ref not found `{ref}`", "ref not found"),
        "branch-not-found": ("branch not found `{name}`", "branch not found"),
        "tag-not-found": ("tag not found `{name}`", "tag not found"),
        "repository-not-found": ("the repository doesn't exist",),
        "node-already-exists": ("node already exists at `{path}`", "node already exists"),
        "branch-already-exists": ("branch already exists `{name}`",),
        "tag-already-exists": ("tag already exists, tags are immutable: `{name}`",),
        "tag-previously-deleted": ("icechunk does not allow tag reuse and tag was already deleted `{name}`",),
        "move-wont-overwrite": ("move cannot overwrite existing node at `{path}`", "move cannot overwrite"),
        "read-only-session": ("Read only sessions cannot modify the repository",),
        "read-only-store": ("cannot write to read-only store",),
        "read-only-storage": ("the storage used by this Icechunk repository is read-only",),
        "read-only-repository": ("the repository status is read-only",),
        "invalid-key": ("invalid zarr key format `{key}`",),
        "invalid-chunk-index": (
            "invalid chunk index: coordinates {index} are not valid for array at {path}",
            "invalid chunk index",
        ),
        "zero-length-chunk": (
            "zero-length chunk: the payload for coordinates {index} of the array at {path} has length 0",
            "zero-length chunk",
        ),
        "invalid-snapshot-id": ("invalid snapshot id: `{text}`", "invalid snapshot id"),
        "invalid-path": ("could not create path from prefix: path must start with a `{start}` character",),
        "bad-metadata": ("bad metadata",),
        "not-an-array": ("there is not an array at `{path}`", "there is not an array"),
        "not-a-group": ("there is not a group at `{path}`", "there is not a group"),
        "invalid-byte-range": ("byte range {range} is out of bounds for chunk of length {length}",),
        "invalid-feature-flag": ("invalid feature flag name: {name}",),
        "invalid-virtual-ref": ("error parsing virtual ref URL",),
        "no-container-for-virtual-chunk": (
            "invalid chunk location, no matching virtual chunk container: `{location}`",
            "no virtual chunk container can handle the chunk location ({url}), edit the repository configuration "
            "adding a container",
            "no matching virtual chunk container",
        ),
        "unauthorized-virtual-chunk-container": (
            "a virtual chunk in this repository resolves to the url prefix {url_prefix}, to be able to fetch the chunk "
            "you need to authorize the virtual chunk container when you open or create the repository",
        ),
        "parent-directory-not-clean": ("repositories can only be created in clean prefixes",),
        "bad-snapshot-chain-for-diff": ("`to` snapshot ancestry doesn't include `from`",),
        "commit-not-allowed": ("commits are not allowed on read-only or forked sessions",),
        "cannot-fork-read-only-session": ("cannot fork a read-only session",),
        "rearrange-session-only": (
            "This session was created to rearrange the hierarchy, other write operations cannot be executed",
        ),
        "non-rearrange-session": ("To move nodes in the hierarchy you need to create a rearrange session",),
        "move-into-self-or-descendant": (
            "cannot move `{from_path}` into itself or its own descendant `{to_path}`",
            "cannot move a node into itself or its own descendant",
        ),
        "move-destination-parent-missing": (
            "cannot move to `{to_path}`: the destination's parent group `{parent}` does not exist",
            "the destination's parent group does not exist",
        ),
        "move-destination-parent-not-group": (
            "cannot move to `{to_path}`: the destination's parent `{parent}` is an array, not a group",
            "the destination's parent is an array, not a group",
        ),
        "no-changes-to-commit": ("cannot commit, no changes made to the session",),
        "no-amend-for-initial-commit": ("the first commit in the repository cannot be an amend",),
        "cannot-delete-main": ("main branch cannot be deleted",),
        "merge-failed": ("failed to merge sessions",),
        "not-allowed": ("this operation is not allowed: use {method} to modify metadata for key {key}",),
        "unimplemented": ("store method to set keys of {zarr} is not implemented by Icechunk",),
        "feature-flag-disabled": ("{operation} is disabled by a feature flag ({flag})", "disabled by a feature flag"),
        "invalid-repository-migration": ("invalid repository version",),
        "unsupported-spec-version": (
            "repository version error, this operation requires a repository that is at least version {least}",
        ),
        "storage-config": ("storage configuration error",),
        "object-not-found": ("object not found",),
        "invalid-object-size": ("error retrieving virtual chunk, not enough data: {virtual}",),
        "virtual-chunk-modified": (
            "the checksum of the object owning the virtual chunk has changed ({url})",
            "the checksum of the object owning the virtual chunk has changed",
        ),
        "virtual-chunk-fetch": ("error fetching virtual reference",),
        "pickle": (
            "You must opt-in to pickle writable sessions in a distributed context using Session.fork()",
        ),
    }
)  # fmt: skip


def _fields(text: str) -> set[str]:
    return {name for _, name, _, _ in string.Formatter().parse(text) if name}


def official_words(kind: str, facts: Mapping[str, Any]) -> str | None:
    """Returns the key words for an error of a kind, with its facts filled in; None where there are none."""
    known = {name: value for name, value in facts.items() if value is not None}
    for text in _WORDS.get(kind, ()):
        if _fields(text) <= known.keys():
            return text.format_map(known)
    return None


def with_official_words(message: str, kind: str, facts: Mapping[str, Any]) -> str:
    """Returns the text of an error: the key words, unless its message has them already, and its message."""
    words = official_words(kind, facts)
    return message if words is None or words.lower() in message.lower() else f"{words}: {message}"
