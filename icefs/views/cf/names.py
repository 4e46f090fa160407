r"""Names that NetCDF forbids, mapped to ones that it allows: reversibly, and no two to the same.

NetCDF forbids `/`, control characters, a space at the end, most ASCII punctuation at the beginning, more than 256
bytes, and names that are not in Unicode's normal form C. Here a forbidden character becomes `%` and two hexadecimal
digits for each byte of its UTF-8, as in URLs, and so does `%` itself. A name that would begin with `%` gets `_` in
front.

    a/b        a%2Fb
    100%       100%25
    -x         _%2Dx
    (empty)    _%
    over 200 bytes    its beginning, `%~` and a hash; this one cannot be turned back

Names that HDF5 or the NetCDF library keep for themselves are escaped at their first character.

Source: NetCDF classic format specification, "name"; netcdf-c, `NC_check_name`.
"""

import hashlib
import re
import unicodedata
from collections.abc import Container, Iterable
from typing import Final
from urllib.parse import unquote_to_bytes

MAX_NAME_BYTES: Final = 200
"""The limit is 256, and NetCDF puts a prefix before some."""

RESERVED_ATTRIBUTES: Final = frozenset(
    {
        "CLASS", "NAME", "DIMENSION_LIST", "REFERENCE_LIST", "DIMENSION_LABELS", "_Netcdf4Dimid",
        "_Netcdf4Coordinates", "_nc3_strict", "_NCProperties", "_IsNetcdf4", "_SuperblockVersion", "_NCCOPY",
        "_ChunkSizes", "_DeflateLevel", "_Endianness", "_Fletcher32", "_Format", "_NoFill", "_Shuffle", "_Storage",
        "_Quantize", "_Filter", "_Codecs",
    }
)  # fmt: skip
"""Attributes that HDF5's dimension scales or the NetCDF library give a meaning of their own."""

NON_COORDINATE_PREFIX: Final = "_nc4_non_coord_"
"""How the NetCDF library stores a variable that has a dimension's name and is not its coordinate."""

_ORDINARY: Final = re.compile("[A-Za-z0-9_][A-Za-z0-9_.+-]{0,199}")  # most names, recognised at once
_ALWAYS: Final = re.compile("[\x00-\x1f\x7f/%\ud800-\udfff]")
_FIRST: Final = re.compile("[^A-Za-z0-9_\x80-\U0010ffff]")
_LAST: Final = re.compile(r"\s\Z")
_NOT_ASCII: Final = re.compile("[^\x00-\x7f]")
_DIGEST: Final = 16


def shown_name(name: str, reserved: Container[str] = ()) -> str:
    """Returns the name that NetCDF has for a node, dimension or attribute: the same, if it is allowed.

    Args:
        name: The name; any text.
        reserved: Names that it must not have.
    """
    if not name:
        return "_%"
    if _ORDINARY.fullmatch(name) and name not in reserved and not name.startswith(NON_COORDINATE_PREFIX):
        return name
    parts = [*name]
    for index, character in enumerate(parts):
        if _ALWAYS.match(character):
            parts[index] = _escaped(character)
    if _FIRST.match(name) or name in reserved or name.startswith(NON_COORDINATE_PREFIX):
        parts[0] = _escaped(name[0])
    if _LAST.search(name):
        parts[-1] = _escaped(name[-1])
    # An escape ends with a letter, which an accent after it would join: ".\u0301" is in form C, and "%2E\u0301" is not.
    if not (unicodedata.is_normalized("NFC", name) and unicodedata.is_normalized("NFC", "".join(parts))):
        parts = [_escaped(part) if _NOT_ASCII.match(part) else part for part in parts]
    if parts[0] == "_" and len(parts) > 1 and parts[1].startswith("%"):
        parts[0] = _escaped("_")  # so that "_/" and "/" differ
    shown = "".join(parts)
    if shown.startswith("%"):
        shown = f"_{shown}"
    if len(shown.encode()) <= MAX_NAME_BYTES:
        return shown
    digest = hashlib.sha256(name.encode(errors="surrogatepass")).hexdigest()[:_DIGEST]
    return f"{_beginning(shown, MAX_NAME_BYTES - _DIGEST - 2)}%~{digest}"


def original_name(shown: str) -> str | None:
    """Returns the name that `shown_name` made this of; None where a part of it is a hash."""
    if shown == "_%":
        return ""
    if "%~" in shown:
        return None
    body = shown[1:] if shown.startswith("_%") else shown
    return unquote_to_bytes(body).decode(errors="surrogatepass")


def _escaped(character: str) -> str:
    return "".join(f"%{byte:02X}" for byte in character.encode(errors="surrogatepass"))


def _beginning(shown: str, size: int) -> str:
    """Returns as much of a name as fits into a number of bytes, without half a character or half an escape."""
    head = shown.encode()[:size].decode(errors="ignore")
    return re.sub(r"%[0-9A-F]?\Z", "", head)


class UniqueNames:
    """Names that are given away once each; a name that is taken gets a number."""

    def __init__(self, taken: Iterable[str] = ()) -> None:
        self._taken = set(taken)

    def take(self, name: str) -> str:
        """Returns the name, or one that begins like it where it is taken, and takes it."""
        found, number = name, 1
        while found in self._taken:
            number += 1
            found = f"{name}~{number}"
        self._taken.add(found)
        return found
