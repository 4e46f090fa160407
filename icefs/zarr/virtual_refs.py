"""Virtual chunk references as programs give them, checked and turned into columns.

A location is kept as it is given, but for its scheme, which becomes lower-case, and for `file:` URLs, whose path is
normalised as the official writer does it: `.` and `..` are resolved, and what a URL cannot hold is percent-encoded. A
location that does not name exactly one object as it stands is refused (see `engine.read.virtual`).
Source: format notes §3, §6.
"""

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final
from urllib.parse import quote

import numpy as np
import numpy.typing as npt

from icefs.arguments import check_instance
from icefs.clock import to_micros
from icefs.engine.read.virtual import Location
from icefs.engine.write.session import WritableSession
from icefs.errors import InvalidInputError
from icefs.format.ids import NodeId
from icefs.format.manifest.refs import ArrayRefs, ChunkKind
from icefs.paths import NodePath

_URL: Final = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*):(//.*)", re.DOTALL)
_FILE: Final = re.compile(r"//(?:localhost)?(/[^?#]*)(.*)", re.DOTALL | re.IGNORECASE)
# The ASCII that the path of a URL may hold; "%" too, so that encoded characters stay so.
_KEPT: Final = "".join(chr(code) for code in range(0x21, 0x7F) if chr(code) not in '"#<>?\\`{}')
_NO_NODE: Final = NodeId(bytes(NodeId.SIZE))

type Checksum = str | datetime | None
"""An entity tag, or a time after which the object must not have been modified."""


def normalize_location(location: str) -> str:
    """Returns a location as it is stored.

    Raises:
        InvalidInputError: it is no URL of an object that can be read (kind `invalid-virtual-ref`).
    """
    match = _URL.fullmatch(location)
    try:
        if match is None:
            raise ValueError("it is no URL")
        scheme, rest = match[1].lower(), match[2]
        if scheme == "file" and (parts := _FILE.fullmatch(rest)):
            rest = f"//{_normalize_path(parts[1])}{parts[2]}"
        normalized = f"{scheme}:{rest}"
        # What is relative to a container becomes the end of its prefix; which prefix that is does not matter here.
        _, slash, relative = rest[2:].partition("/")
        parsed = Location.parse(normalized if scheme != "vcc" else f"file:///{relative}")
        if parsed.path == "/" and (scheme != "vcc" or slash):
            raise ValueError("it names no object")
    except ValueError as error:
        raise InvalidInputError(
            f"{location!r} is no location of a virtual chunk: {error}", kind="invalid-virtual-ref", location=location
        ) from None
    return normalized


def _normalize_path(path: str) -> str:
    kept: list[str] = []
    segments = path.split("/")[1:]
    for segment in segments:
        if segment == "..":
            del kept[-1:]
        elif segment != ".":
            kept.append(segment)
    if segments[-1] in (".", ".."):
        kept.append("")
    return "/" + quote("/".join(kept), safe=_KEPT)


def checksum_parts(checksum: Checksum) -> tuple[str | None, int]:
    """Returns the entity tag and the time in seconds (0 for none) that a reference holds of a checksum.

    Raises:
        TypeError: a time without its zone, or something else than a text or a time.
        InvalidInputError: a time before 1970 or after 2106.
    """
    if not isinstance(checksum, datetime):
        if checksum is not None:
            check_instance(checksum, str, datetime)
        return checksum, 0
    if checksum.tzinfo is None:
        raise TypeError("a time needs its time zone")
    seconds = to_micros(checksum) // 10**6
    if not 0 <= seconds < 1 << 32:
        raise InvalidInputError(f"a reference cannot hold the time {checksum}", kind="invalid-virtual-ref")
    return None, seconds


@dataclass(slots=True)
class LocationCheck:
    """Normalises locations and asks whether they lie in a container, each location once."""

    has_container: Callable[[str], bool] | None
    _known: dict[str, str | None] = field(default_factory=dict)

    def __call__(self, location: str) -> str | None:
        """Returns the location as it is stored, or None where no container holds it; raises InvalidInputError."""
        try:
            return self._known[location]
        except KeyError:
            pass
        normalized: str | None = normalize_location(location)
        if self.has_container is not None and normalized is not None and not self.has_container(normalized):
            normalized = None
        self._known[location] = normalized
        return normalized


def set_virtual_columns(
    session: WritableSession,
    path: NodePath,
    coords: Sequence[npt.NDArray[np.int64]],
    locations: Sequence[str],
    offsets: npt.ArrayLike,
    lengths: npt.ArrayLike,
    *,
    checksums: Iterable[Checksum],
    validate_containers: bool,
) -> list[tuple[int, ...]]:
    """Sets many virtual references of one array at once; where a chunk is twice among them, the last one counts.

    Args:
        session: The session.
        path: The array.
        coords: The chunks' indices, one column for each dimension.
        locations: Where the objects are.
        offsets: Where the chunks begin in them.
        lengths: How long they are.
        checksums: One for each, or None.
        validate_containers: Leave out what no virtual chunk container of the configuration holds.

    Returns:
        The indices that were left out.

    Raises:
        InvalidInputError: a location, index or length is not valid; nothing is set then.
        NodeNotFoundError, ReadOnlyError, SessionStateError: as for other chunks.
    """
    check = LocationCheck(session.context.virtual.has_container if validate_containers else None)
    stored = [check(location) for location in locations]
    tags = [checksum_parts(checksum) for checksum in checksums]
    offset_column, length_column = (np.asarray(values, np.uint64) for values in (offsets, lengths))
    accepted = np.array([location is not None for location in stored], np.bool_)
    _check_coords(coords)
    rows = _last_of_each(coords, np.flatnonzero(accepted))
    refs = ArrayRefs.from_columns(
        _NO_NODE,
        [column[rows].astype(np.uint32) for column in coords],
        kinds=np.full(len(rows), ChunkKind.VIRTUAL, np.uint8),
        lengths=length_column[rows],
        offsets=offset_column[rows],
        locations=[location for row in rows.tolist() if (location := stored[row]) is not None],
        etags=[tags[row][0] for row in rows.tolist()],
        last_modified=np.array([tags[row][1] for row in rows.tolist()], np.uint32),
    )
    session.chunks.set_refs(path, refs)
    return [tuple(int(column[row]) for column in coords) for row in np.flatnonzero(~accepted).tolist()]


def _check_coords(coords: Sequence[npt.NDArray[np.int64]]) -> None:
    for column in coords:
        if len(column) and not (int(column.min()) >= 0 and int(column.max()) < 1 << 32):
            raise InvalidInputError("a chunk index does not fit into 32 bits", kind="invalid-chunk-index")


def _last_of_each(coords: Sequence[npt.NDArray[np.int64]], rows: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Returns the given rows without those whose index comes again later."""
    if not coords:
        return rows[-1:]
    order = np.lexsort([rows, *(column[rows] for column in reversed(coords))])
    ordered = rows[order]
    is_last = np.ones(len(rows), np.bool_)
    if len(rows) > 1:
        is_last[:-1] = np.any([column[ordered][1:] != column[ordered][:-1] for column in coords], axis=0)
    return np.sort(ordered[is_last])
