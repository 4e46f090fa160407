"""Small arrays are copied instead of referred to.

A reader of an array such as `time` would otherwise make a request for each file. Copied arrays also can be joined
whatever their chunks are.
"""

from collections.abc import Collection
from typing import Final

from icefs.errors import InvalidInputError, StorageError
from icefs.transfer.files.model import LeftOut
from icefs.transfer.virtual import plain
from icefs.transfer.virtual.model import References, VirtualArray, VirtualTree

BY_DEFAULT_BYTES: Final = 1 << 20
"""How large the coordinate of a dimension is at most that is copied without being named."""
_NAMED_BYTES: Final = 256 << 20
_CANNOT: Final = (ValueError, TypeError, KeyError, NotImplementedError, RuntimeError)


def load_small(tree: VirtualTree, named: Collection[str]) -> None:
    """Copies the values of a tree's small coordinates, scalars, and named arrays, in place.

    Args:
        tree: The tree.
        named: The paths, or last names, of further arrays.

    Raises:
        InvalidInputError: a named array is too large.
        ObjectModifiedError, StorageError: a file changed, or cannot be read.
    """
    for path, array in list(tree.arrays.items()):
        name = path.rpartition("/")[2]
        is_named = path in named or name in named
        if array.values is None:
            if array.chunks or not (is_named or _is_small_coordinate(name, array)):
                continue
            if is_named and _stored_bytes(array) > _NAMED_BYTES:
                raise InvalidInputError(
                    f"{path} of {array.file} is too large to be copied: it has {_stored_bytes(array):,} bytes",
                    path=path,
                )
            try:
                array.values = plain.decode(array.document, _chunks(array))
            except StorageError:
                raise
            except _CANNOT as error:
                if is_named:
                    del tree.arrays[path]
                    tree.left_out.append(LeftOut(array.file, path, f"its values cannot be read: {error}"))
                continue
        array.document = plain.plain_document(array.document, array.values.dtype, array.shape)
        array.refs = References.none(len(array.shape))


def _is_small_coordinate(name: str, array: VirtualArray) -> bool:
    """Tells whether an array has no dimension, or is the coordinate of its only one, and is small."""
    is_coordinate = not array.shape or array.dimensions == (name,)
    return is_coordinate and isinstance(array.document["data_type"], str) and _stored_bytes(array) <= BY_DEFAULT_BYTES


def _stored_bytes(array: VirtualArray) -> int:
    return int(array.refs.lengths.sum())


def _chunks(array: VirtualArray) -> dict[tuple[int, ...], bytes]:
    refs = array.refs
    return {
        tuple(int(column[row]) for column in refs.coords): refs.files[int(refs.rows[row])].read(
            int(refs.offsets[row]), int(refs.offsets[row]) + int(refs.lengths[row])
        )
        for row in range(len(refs))
    }
