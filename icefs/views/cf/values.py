"""Arrays that are read while a file is laid out, within limits for one array and for all of a file."""

import numpy as np

from icefs.views.cf.limits import MAX_SMALL_BYTES, MAX_SMALL_ELEMENTS
from icefs.views.interface import Elements


class SmallArrays:
    """Reads arrays that a file's layout depends on, as long as they are small; one for each file."""

    def __init__(self, max_elements: int = MAX_SMALL_ELEMENTS, max_bytes: int = MAX_SMALL_BYTES) -> None:
        self._max_elements = max_elements
        self._max_bytes = max_bytes
        self._left = max_bytes

    def read(self, elements: Elements) -> np.ndarray | None:
        """Returns all elements, in one dimension; None if they are too many.

        Raises:
            DecodeError, StorageError, FormatError: they cannot be read.
        """
        count = element_count(elements.shape)
        size = count * max(elements.dtype.itemsize, 8)
        if count > self._max_elements or size > self._left:
            return None
        self._left -= size
        return elements.read(0, count)

    def keep(self, size: int) -> bool:
        """Tells whether values whose size showed only when they were read still fit, and counts them if they do."""
        if size > self._left:
            return False
        self._left -= size
        return True

    def refusal(self, count: int, size: int = 0) -> str:
        """Says why texts of any length were not read or kept, by their number and, where it is known, their bytes."""
        if count > self._max_elements:
            return f"it has {count} texts of any length, too many to be read while a file is laid out"
        if size > self._max_bytes:
            return "its texts are too large to be read while a file is laid out"
        return (
            f"its texts are read while the file is laid out, and other arrays of the file leave too little of the "
            f"{self._max_bytes} bytes that such arrays may take together"
        )


def element_count(shape: tuple[int, ...]) -> int:
    """Returns how many elements an array has; one that has no dimensions has one."""
    count = 1
    for size in shape:
        count *= size
    return count
