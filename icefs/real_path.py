"""Paths of the machine's file systems, where they lead in the end."""

import os
from typing import Final

_MAX_LINKS: Final = 40


def real_path(path: str) -> str:
    """Returns the absolute path without links.

    The last component is asked whether it is a link and for nothing else: it may be a mountpoint whose daemon is dead,
    or does not answer.
    """
    whole = os.path.abspath(os.path.expanduser(path))
    for _ in range(_MAX_LINKS):
        above, name = os.path.split(whole)
        whole = os.path.join(os.path.realpath(above), name)
        try:
            whole = os.path.normpath(os.path.join(os.path.dirname(whole), os.readlink(whole)))
        except OSError:
            break
    return whole
