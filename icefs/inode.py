"""Inode numbers."""

from typing import Final, NewType

Ino = NewType("Ino", int)
"""The number of a file or directory of a mount, as stat(2) shows it."""

ROOT_INO: Final = Ino(1)
"""The root of a mount (`FUSE_ROOT_ID`)."""
