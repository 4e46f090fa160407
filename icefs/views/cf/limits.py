"""How much a file describes at most: metadata come from repositories that nobody vouches for."""

from typing import Final

MAX_VARIABLES: Final = 4096
"""Variables of one file, with all of its groups."""

MAX_DIMENSIONS: Final = 32
"""Dimensions of one variable, as in HDF5."""

MAX_ATTRIBUTES: Final = 8192
"""Attributes of one group or array; the others are left out."""

MAX_ATTRIBUTE_BYTES: Final = 1 << 20
"""Bytes of one attribute; a larger one is left out."""

MAX_HEADER_BYTES: Final = 32 << 20
"""Bytes of all attributes and names of a file."""

MAX_FILE_BYTES: Final = 1 << 62
"""Bytes of a file: what both HDF5 and Linux address, with room to spare."""

MAX_SMALL_ELEMENTS: Final = 1 << 16
"""Elements of an array that is read while its file is laid out: a coordinate, or texts of any length."""

MAX_SMALL_BYTES: Final = 8 << 20
"""Bytes of all arrays of a file that are read while it is laid out."""

MAX_NAMED_BYTES: Final = 16 << 10
"""Bytes of the attribute that names what a file leaves out."""
