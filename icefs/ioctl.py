"""The ioctl that hands a request to a mount, or a part of one, through a descriptor that may only read.

Its command has the layout of `asm-generic/ioctl.h`: a direction (the program gives, the kernel takes), the length of
the part, a type and a number. The kernel copies as many bytes as the command says and hands them to the daemon.
"""

from typing import Final

MAX_PART_BYTES: Final = (1 << 14) - 1
"""The most that one ioctl can carry: its length has 14 bits."""

_GIVES: Final = 1 << 30
_LENGTH_SHIFT: Final = 16
_REQUEST: Final = ord("I") << 8 | 0xCE


def request_command(length: int) -> int:
    """Returns the command that hands over `length` bytes, at most `MAX_PART_BYTES`."""
    return _GIVES | length << _LENGTH_SHIFT | _REQUEST


def is_request(command: int) -> bool:
    """Tells whether the command of an ioctl hands over a request, or a part of one."""
    return command & ~(MAX_PART_BYTES << _LENGTH_SHIFT) == _GIVES | _REQUEST
