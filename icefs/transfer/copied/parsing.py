"""Each format's arrays, whose values are copied."""

import warnings
from collections.abc import Callable
from contextlib import ExitStack

from icefs.errors import UnsupportedError
from icefs.transfer.copied.hdf5 import parse_hdf5
from icefs.transfer.copied.model import CopiedTree
from icefs.transfer.copied.references import copied_tree
from icefs.transfer.copied.zipped import MAGIC, open_zip
from icefs.transfer.files.sources import Source, SourceFile, SourceTree
from icefs.transfer.files.times import coding_of
from icefs.transfer.virtual.parsers import INSTALL, is_hdf5, parse


def parse_values(source: Source, skip: Callable[[str], bool], opened: ExitStack) -> CopiedTree:
    """Finds the arrays of a file or tree, whose values are read while it is open.

    Args:
        source: The file or tree.
        skip: Tells of an array's path whether the user does not want it.
        opened: Closes what is open.

    Raises:
        InvalidInputError: the format is none that is known, or the file is damaged.
        UnsupportedError: a library is not installed, or cannot read the file at all.
        ObjectModifiedError: the file changed meanwhile.
        StorageError: it cannot be read.
    """
    # The libraries warn of what they do not know in a file's metadata, and of their own experiments.
    with warnings.catch_warnings(action="ignore"):
        tree = _parse(source, skip, opened)
    documents = {path: array.document for path, array in tree.arrays.items()}
    for path, array in tree.arrays.items():
        array.coding = coding_of(path, documents)
    return tree


def _parse(source: Source, skip: Callable[[str], bool], opened: ExitStack) -> CopiedTree:
    if isinstance(source, SourceFile):
        head = source.head()
        if is_hdf5(head):
            _require_h5py(source)
            return parse_hdf5(source, skip, opened)
        if head.startswith(MAGIC):
            return copied_tree(parse(open_zip(source, opened), skip), is_zarr=True)
    return copied_tree(parse(source, skip), is_zarr=isinstance(source, SourceTree))


def _require_h5py(source: SourceFile) -> None:
    try:
        import h5py  # noqa: F401  (found out before anything is read)
    except ImportError:
        raise UnsupportedError(
            f"{source.name} is HDF5, which h5py reads, and that is not installed", hint=INSTALL
        ) from None
