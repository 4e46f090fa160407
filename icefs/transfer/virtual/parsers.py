"""Each format's arrays as references: VirtualiZarr's parsers, behind one function.

Nothing else of icefs knows that library. A parser reads through `_Store`, which serves one pinned file under a fixed
name, so that neither odd names nor credentials ever reach the library, and a file that changes meanwhile is an error.

The library gives up at the first array that it cannot refer to, or refers to the wrong bytes (data in other files,
compact storage, chunks that skipped a filter). Such arrays of HDF5 are found first, and named.
"""

import asyncio
import importlib
import re
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final

import numpy as np

from icefs.errors import InvalidInputError, StorageError, UnsupportedError
from icefs.transfer.files.documents import as_json, document_of
from icefs.transfer.files.hdf5_links import address_of, members
from icefs.transfer.files.model import FileTree, LeftOut
from icefs.transfer.files.sources import Source, SourceFile, SourceTree
from icefs.transfer.virtual.model import References, VirtualArray, VirtualTree
from icefs.transfer.virtual.zarr_trees import parse_tree

INSTALL: Final = "pip install 'icefs[virtual]'"
_URL: Final = "icefs://source/file"
_KEY: Final = "file"
_MAX_GRIB_BYTES: Final = 4 << 30
_MAX_TEXT_BYTES: Final = 1 << 20
_SKIPPABLE: Final = re.compile(r"skip_variables=\['(.*)'\]", re.DOTALL)
_HDF_MAGIC: Final = b"\x89HDF\r\n\x1a\n"
# What a parser, or a library below it, raises for what it cannot do or does not understand.
_CANNOT: Final = (ValueError, TypeError, KeyError, NotImplementedError, RuntimeError, OSError, IndexError)


class _Store:
    """One file as the object store that the library reads; names are ignored."""

    def __init__(self, file: SourceFile) -> None:
        self._file = file

    def head(self, path: str) -> dict[str, Any]:
        return {
            "path": path,
            "size": self._file.size_bytes,
            "last_modified": datetime.fromtimestamp(self._file.modified_s, UTC),
            "e_tag": self._file.etag,
            "version": None,
        }

    def get_range(self, path: str, *, start: int, end: int | None = None, length: int | None = None) -> bytes:
        stop = end if end is not None else start + (length or 0)
        return self._file.read(start, min(stop, self._file.size_bytes))

    def get_ranges(
        self,
        path: str,
        *,
        starts: Sequence[int],
        ends: Sequence[int] | None = None,
        lengths: Sequence[int] | None = None,
    ) -> list[bytes]:
        stops = ends if ends is not None else [at + size for at, size in zip(starts, lengths or (), strict=True)]
        return [self.get_range(path, start=start, end=end) for start, end in zip(starts, stops, strict=True)]

    async def head_async(self, path: str) -> dict[str, Any]:
        return self.head(path)

    async def get_range_async(
        self, path: str, *, start: int, end: int | None = None, length: int | None = None
    ) -> bytes:
        return await asyncio.to_thread(self.get_range, path, start=start, end=end, length=length)

    async def get_ranges_async(self, path: str, **ranges: Any) -> list[bytes]:
        return await asyncio.to_thread(self.get_ranges, path, **ranges)


@dataclass(slots=True)
class _Found:
    """What was found in a file so far."""

    file: SourceFile
    tree: VirtualTree
    skip: Callable[[str], bool]
    registry: Any = field(init=False)
    reader: Any = field(init=False)

    def __post_init__(self) -> None:
        from obspec_utils.readers import BlockStoreReader
        from obspec_utils.registry import ObjectStoreRegistry

        store: Any = _Store(self.file)
        self.registry = ObjectStoreRegistry({"icefs://source": store})
        self.reader = BlockStoreReader(store=store, path=_KEY)

    def leave_out(self, path: str, reason: str) -> None:
        if not self.skip(path):
            self.tree.left_out.append(LeftOut(self.tree.file, path, reason))

    def take(self, group: Any, above: str = "") -> None:
        """Takes the arrays and groups of a parser's group."""
        self.tree.groups.setdefault(above, as_json(group.metadata.attributes))
        for name, array in group.arrays.items():
            path = f"{above}/{name}".lstrip("/")
            if self.skip(path):
                continue
            try:
                self.tree.arrays[path] = array_of(array, path, self.file, self.tree.file)
            except _CANNOT as error:
                self.leave_out(path, _reason(error))
        for name, below in group.groups.items():
            self.take(below, f"{above}/{name}".lstrip("/"))


def require_library() -> None:
    """Raises UnsupportedError, with the line that installs it, where VirtualiZarr is not there."""
    try:
        import h5py
        import virtualizarr.parsers  # noqa: F401  (found out before anything is read)

        h5py.version  # noqa: B018  (as above)
    except ImportError as error:
        raise UnsupportedError(
            f"virtual references need VirtualiZarr, which is not installed ({error.name})", hint=INSTALL
        ) from None


def parse(source: Source, skip: Callable[[str], bool] = lambda path: False) -> VirtualTree:
    """Finds the arrays of a file or tree.

    Args:
        source: The file or tree.
        skip: Tells of an array's path whether the user does not want it.

    Raises:
        InvalidInputError: the format is none that is known, or the file is damaged.
        UnsupportedError: VirtualiZarr is not installed, or cannot read the file at all.
        ObjectModifiedError: the file changed meanwhile.
        StorageError: it cannot be read.
    """
    require_library()
    # The libraries warn of what they do not know in a file's metadata, and of their own experiments.
    with warnings.catch_warnings(action="ignore"):
        return _parse(source, skip)


def _parse(source: Source, skip: Callable[[str], bool]) -> VirtualTree:
    if isinstance(source, SourceTree):
        return parse_tree(source, skip)
    found = _Found(source, FileTree(source.name), skip)
    parser = _parser_of(source)
    try:
        parser(found)
    except ImportError as error:
        raise UnsupportedError(f"{source.name} cannot be read: {error.name} is not installed", hint=INSTALL) from error
    except (StorageError, InvalidInputError):
        raise
    except Exception as error:  # each library has classes of its own
        source.check()  # a file that changed is the better reason
        raise UnsupportedError(f"{source.name} cannot be referred to: {_reason(error)}", path=source.name) from error
    source.check()
    _check_extent(source, found.tree)
    return found.tree


def _check_extent(source: SourceFile, tree: VirtualTree) -> None:
    for path, array in tree.arrays.items():
        ends = array.refs.offsets + array.refs.lengths
        if len(ends) and int(ends.max()) > source.size_bytes:
            raise InvalidInputError(
                f"{source.name} is cut short: it has {source.size_bytes:,} bytes, and {path} would end at byte "
                f"{int(ends.max()):,}",
                path=source.name,
            )


def _parser_of(source: SourceFile) -> Callable[[_Found], None]:
    head = source.head()
    if head.startswith(b"CDF"):
        return _netcdf3
    if is_hdf5(head):
        return _hdf5
    if head.startswith((b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")):
        return _tiff
    if head.startswith(b"SIMPLE  ="):
        return _fits
    if head.startswith(b"GRIB"):
        return _grib
    raise InvalidInputError(
        f"{source.name} is neither NetCDF, HDF5, Zarr, GRIB, TIFF nor FITS",
        hint="name a file of one of these formats, or a directory of Zarr",
    )


def is_hdf5(head: bytes) -> bool:
    """Tells of the first bytes of a file whether it is HDF5, which may begin with a block of the user's."""
    return any(head[at:].startswith(_HDF_MAGIC) for at in (0, 512, 1024, 2048))


def _netcdf3(found: _Found) -> None:
    from virtualizarr.parsers import NetCDF3Parser

    found.take(NetCDF3Parser()(_URL, found.registry)._group)


def _fits(found: _Found) -> None:
    from virtualizarr.parsers import FITSParser

    skipped: list[str] = []
    while True:
        try:
            store = FITSParser(skip_variables=skipped)(_URL, found.registry)
        except ValueError as error:
            # It raises at the first HDU that it cannot refer to, and says how to leave that out.
            named = _SKIPPABLE.search(str(error))
            if named is None or named[1] in skipped:
                raise
            skipped.append(named[1])
            found.leave_out(named[1], _reason(error).partition(" Pass ")[0])
            continue
        found.take(store._group)
        return


def _grib(found: _Found) -> None:
    from gribberish.virtualizarr import GribberishParser
    from obspec_utils.registry import ObjectStoreRegistry
    from obstore.store import MemoryStore

    if found.file.size_bytes > _MAX_GRIB_BYTES:
        raise InvalidInputError(
            f"{found.file.name} has {found.file.size_bytes:,} bytes, and a GRIB file is read whole",
            hint="split it into smaller files",
        )
    # The parser reads the whole file, through obstore's own functions.
    memory = MemoryStore()
    memory.put(_KEY, found.file.read(0, found.file.size_bytes))
    store = GribberishParser(collapse_groups=True)(_URL, ObjectStoreRegistry({"icefs://source": memory}))
    found.take(store._group)


def _tiff(found: _Found) -> None:
    from virtualizarr.manifests import ChunkManifest

    class SparseManifest(ChunkManifest):
        """Leaves tiles without bytes out, which the library takes for an error."""

        @classmethod
        def from_arrays(cls, *, paths: Any, offsets: Any, lengths: Any, **more: Any) -> Any:
            paths = np.where(lengths == 0, np.array("", paths.dtype), paths)
            return ChunkManifest.from_arrays(paths=paths, offsets=offsets, lengths=lengths, **more)

    library: Any = importlib.import_module("virtual_tiff.parser")
    library.ChunkManifest = SparseManifest  # its name for the class, and the only way to tiles that are not there
    found.take(library.VirtualTIFF()(_URL, found.registry)._group)


def _hdf5(found: _Found) -> None:
    import h5py

    plans: list[_GroupPlan] = []
    with h5py.File(found.reader, "r") as file:
        _plan(found, file, "", plans, frozenset())
    for plan in plans:
        try:
            found.take(_parse_group(found, plan, plan.dropped), plan.path)
        except _CANNOT as error:
            if isinstance(error, StorageError):
                raise
            _parse_one_by_one(found, plan)
        for path, values in plan.compact.items():
            array = found.tree.arrays.get(path)
            if array is not None:
                array.values = values


@dataclass(slots=True)
class _GroupPlan:
    """A group of an HDF5 file.

    Attributes:
        path: Its path, without a slash at the beginning.
        arrays: The names of the arrays that can be referred to.
        dropped: The names that the parser must not see.
        compact: The values of arrays that lie in the file's metadata, by their paths.
    """

    path: str
    arrays: list[str] = field(default_factory=list)
    dropped: list[str] = field(default_factory=list)
    compact: dict[str, Any] = field(default_factory=dict)


def _plan(found: _Found, group: Any, path: str, plans: list[_GroupPlan], above: frozenset[Any]) -> None:
    import h5py

    plan = _GroupPlan(path)
    plans.append(plan)
    above |= {address_of(group)}
    for name, whole, item in members(group, path, above, found.leave_out):
        if isinstance(item, h5py.Group):
            _plan(found, item, whole, plans, above)
            continue
        reason = "" if not found.skip(whole) else "not wanted"
        reason = reason or _cannot_be_referred_to(item)
        if reason:
            found.leave_out(whole, reason)
            continue
        plan.arrays.append(name)
        if item.id.get_create_plist().get_layout() == h5py.h5d.COMPACT and item.dtype.kind != "O":
            plan.compact[whole] = np.asarray(item[()])
    referred = set(plan.arrays)
    plan.dropped = [name for name in group if name not in referred]


def _cannot_be_referred_to(dataset: Any) -> str:
    """Returns why an HDF5 dataset cannot be referred to; empty if it can, or the parser has to find out."""
    import h5py

    if dataset.is_virtual:
        return "it is a virtual dataset of HDF5, whose data are in other datasets"
    if dataset.external:
        return "its data are in another file"
    if dataset.dtype.names is not None:
        return "it has a compound type"
    if dataset.dtype.kind == "V":
        return "it has an opaque type"
    if dataset.dtype.kind == "O":
        if h5py.check_string_dtype(dataset.dtype) is None:
            return "it has a type of variable length, or of references"
        if dataset.size * 16 > _MAX_TEXT_BYTES:
            return "it has more strings of variable length than can be copied"
    if dataset.shape is None:
        return "it has no values"
    if dataset.chunks is not None and dataset.id.get_create_plist().get_nfilters():
        skipped: list[bool] = []

        def look(chunk: Any) -> bool | None:
            skipped.append(chunk.filter_mask != 0)
            return True if skipped[-1] else None

        dataset.id.chunk_iter(look)
        if any(skipped):
            return "some of its chunks are stored without one of its filters"
    return ""


def _parse_group(found: _Found, plan: _GroupPlan, dropped: Sequence[str]) -> Any:
    from virtualizarr.parsers import HDFParser

    parser = HDFParser(
        group=f"/{plan.path}", drop_variables=list(dropped), reader_factory=lambda store, path: found.reader
    )
    return parser(_URL, found.registry)._group


def _parse_one_by_one(found: _Found, plan: _GroupPlan) -> None:
    """Parses each array by itself, so that one that the parser refuses takes no other with it."""
    found.take(_parse_group(found, plan, [*plan.dropped, *plan.arrays]), plan.path)
    for name in plan.arrays:
        others = [other for other in plan.arrays if other != name]
        try:
            found.take(_parse_group(found, plan, [*plan.dropped, *others]), plan.path)
        except _CANNOT as error:
            if isinstance(error, StorageError):
                raise
            found.leave_out(f"{plan.path}/{name}".lstrip("/"), _reason(error))


def array_of(array: Any, path: str, file: SourceFile, name: str) -> VirtualArray:
    """Returns an array of a parser, all of whose references lead into one file.

    Raises:
        ValueError: it cannot be described in Zarr v3.
    """
    document = document_of(array.metadata)
    manifest = array.manifest
    there = np.asarray(manifest._paths != "")
    chunks = {tuple(index): bytes(data) for index, data in manifest._inlined.items()}
    for index in chunks:
        there[index] = False
    there &= np.asarray(manifest._lengths != 0)
    coords = [np.asarray(column, np.int64) for column in np.nonzero(there)] if there.ndim else []
    count = int(np.count_nonzero(there))
    refs = References(
        coords,
        (file,),
        np.zeros(count, np.int64),
        np.asarray(manifest._offsets[there], np.uint64).reshape(-1),
        np.asarray(manifest._lengths[there], np.uint64).reshape(-1),
    )
    return VirtualArray(path, document, name, refs, chunks)


def _reason(error: BaseException) -> str:
    """Returns the first line of what a library says."""
    text = str(error.args[0]) if isinstance(error, KeyError) and error.args else str(error)
    lines: Iterator[str] = (line.strip() for line in text.splitlines())
    return next((line for line in lines if line), type(error).__name__)
