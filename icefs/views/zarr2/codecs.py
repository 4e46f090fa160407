"""Codecs of Zarr v3 that Zarr v2 has names for, so that chunks can be shown with the bytes that are stored.

A chunk of Zarr v2 is an array in C or Fortran order, little- or big-endian, with at most one compressor. So the codecs
of a v3 array may be: a transposition that reverses all axes, `bytes`, and one of these compressors.

Source: Zarr v2 "Storage specification"; numcodecs for the compressors' members.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from icefs.views.zarr2.documents import Codec

_SHUFFLES: Final = {"noshuffle": 0, "shuffle": 1, "bitshuffle": 2}
_PLAIN: Final[Mapping[str, tuple[str, Mapping[str, Any]]]] = {
    "gzip": ("gzip", {"level": 5}),
    "numcodecs.gzip": ("gzip", {"level": 1}),
    "numcodecs.zlib": ("zlib", {"level": 1}),
    "numcodecs.bz2": ("bz2", {"level": 1}),
    "numcodecs.zstd": ("zstd", {"level": 0}),
    "zstd": ("zstd", {"level": 0}),
    "numcodecs.lz4": ("lz4", {"acceleration": 1}),
}
"""By the name in v3, that in v2 and the members with their defaults; decoding needs none of them."""


@dataclass(frozen=True, slots=True)
class Kept:
    """How Zarr v2 describes chunks whose bytes are kept.

    Attributes:
        order: `C` or `F`.
        is_big_endian: Their byte order.
        compressor: The `compressor` of a `.zarray`.
        filters: The `filters` of a `.zarray`.
    """

    order: str
    is_big_endian: bool
    compressor: Mapping[str, Any] | None
    filters: Sequence[Mapping[str, Any]] | None = None


def kept(codecs: Sequence[Codec], ndim: int) -> Kept | None:
    """Returns how Zarr v2 describes the chunks of an array; None where it cannot."""
    rest = list(codecs)
    order = "C"
    if rest and rest[0].name == "transpose":
        axes = rest.pop(0).configuration.get("order")
        if axes == list(range(ndim))[::-1]:
            order = "F"
        elif axes != list(range(ndim)):
            return None
    if not rest or rest[0].name not in {"bytes", "vlen-utf8"}:
        return None
    packed = rest.pop(0)
    filters = [{"id": "vlen-utf8"}] if packed.name == "vlen-utf8" else None
    is_big_endian = packed.configuration.get("endian") == "big"
    if not rest:
        return Kept(order, is_big_endian, None, filters)
    compressor = _compressor(rest[0]) if len(rest) == 1 else None
    return None if compressor is None else Kept(order, is_big_endian, compressor, filters)


def kept_dtype(dtype: np.dtype, chunks: Kept) -> Any:
    """Returns the type of the elements in chunks whose bytes are kept; texts of any length are objects."""
    if chunks.filters:
        return np.dtype(object)
    return dtype.newbyteorder(">" if chunks.is_big_endian else "<")


def _compressor(codec: Codec) -> Mapping[str, Any] | None:
    if codec.name in {"blosc", "numcodecs.blosc"}:
        return _blosc(codec.configuration)
    if codec.name not in _PLAIN:
        return None
    name, members = _PLAIN[codec.name]
    found = {"id": name} | {
        member: value if type(value := codec.configuration.get(member)) is int else default
        for member, default in members.items()
    }
    # Where it is false it is left out: older libraries do not know it.
    return found | ({"checksum": True} if name == "zstd" and codec.configuration.get("checksum") is True else {})


def _blosc(configuration: Mapping[str, Any]) -> Mapping[str, Any] | None:
    shuffle = configuration.get("shuffle")
    if isinstance(shuffle, str):
        shuffle = _SHUFFLES.get(shuffle)
    cname, level, size = (configuration.get(member) for member in ("cname", "clevel", "blocksize"))
    if not isinstance(cname, str) or type(level) is not int or type(shuffle) is not int:
        return None
    return {
        "id": "blosc",
        "cname": cname,
        "clevel": level,
        "shuffle": shuffle,
        "blocksize": size if type(size) is int else 0,
    }
