"""Branches and tags of spec version 1: an object for each, which names a snapshot.

    refs/branch.<name>/ref.json           {"snapshot":"1CECHNKREP0F1RSTCMT0"}; deleted with its branch
    refs/tag.<name>/ref.json              the same; never changed, never deleted
    refs/tag.<name>/ref.json.deleted      empty: the tag is deleted, and its name cannot be used again

Names have no `/`. The keys here are those of the object store; a local directory holds some characters of them
percent-encoded, which is its storage's business.

Source: spec 1 "References"; format notes §7.6; upstream icechunk/src/refs.rs.
"""

import json
from typing import Final, Literal, NamedTuple

from icefs.errors import FormatError, InvalidInputError
from icefs.format.ids import SnapshotId
from icefs.format.layout import REFS_V1

MAX_BYTES: Final = 1 << 16
"""A ref is some 35 bytes."""

_FILE = "ref.json"
_TOMBSTONE = "ref.json.deleted"


class RefFile(NamedTuple):
    """The facts in the key of an object below `refs/`.

    Attributes:
        kind: Whether it belongs to a branch or to a tag.
        name: Of the branch or tag.
        is_tombstone: Whether it marks a tag as deleted, instead of naming its snapshot.
    """

    kind: Literal["branch", "tag"]
    name: str
    is_tombstone: bool


def check_ref_name(name: str) -> None:
    """Refuses a text that cannot name a branch or tag.

    Raises:
        InvalidInputError: it has a `/` or a NUL, or is not Unicode (kind `invalid-ref-name`).
    """
    try:
        is_valid = "/" not in name and b"\0" not in name.encode()
    except UnicodeEncodeError:
        is_valid = False
    if not is_valid:
        raise InvalidInputError(
            f"{name!r} cannot name a branch or tag in spec version 1", kind="invalid-ref-name", name=name
        )


def branch_key(name: str) -> str:
    """Returns the key of a branch.

    Raises:
        InvalidInputError: the name is not valid.
    """
    check_ref_name(name)
    return f"{REFS_V1}/branch.{name}/{_FILE}"


def tag_key(name: str) -> str:
    """Returns the key of a tag.

    Raises:
        InvalidInputError: the name is not valid.
    """
    check_ref_name(name)
    return f"{REFS_V1}/tag.{name}/{_FILE}"


def tombstone_key(name: str) -> str:
    """Returns the key of the object that marks a tag as deleted.

    Raises:
        InvalidInputError: the name is not valid.
    """
    check_ref_name(name)
    return f"{REFS_V1}/tag.{name}/{_TOMBSTONE}"


def parse_ref_key(key: str) -> RefFile | None:
    """Parses the key of an object below `refs/`; None where it is no file of a branch or tag."""
    root, _, rest = key.partition("/")
    directory, _, file = rest.partition("/")
    kind, _, name = directory.partition(".")
    if root != REFS_V1 or "." not in directory:
        return None
    if kind == "branch":
        return RefFile("branch", name, False) if file == _FILE else None
    if kind == "tag" and file in (_FILE, _TOMBSTONE):
        return RefFile("tag", name, file == _TOMBSTONE)
    return None


def parse_ref(data: bytes | memoryview, *, name: str) -> SnapshotId:
    """Reads the snapshot that a branch or tag points at.

    Args:
        data: The file.
        name: Its key, for errors.

    Raises:
        FormatError: it is malformed (kind `serialization`, as the official library has it).
    """
    try:
        if len(data) > MAX_BYTES:
            raise ValueError(f"{len(data)} bytes are too many")
        document = json.loads(bytes(data).decode())
        text = document.get("snapshot") if isinstance(document, dict) else None
        if not isinstance(text, str):
            raise TypeError("it names no snapshot")
        return SnapshotId.parse(text)
    except (ValueError, TypeError, RecursionError) as error:
        raise FormatError(f"{name} is malformed: {error}", kind="serialization", file=name, reason=str(error)) from None


def encode_ref(snapshot_id: SnapshotId) -> bytes:
    """Writes the file of a branch or tag."""
    return f'{{"snapshot":"{snapshot_id}"}}'.encode()
