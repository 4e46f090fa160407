"""Open files, as their programs see them."""

import os

from icefs.paths import ROOT_DIRECTORY
from icefs.worktree.base import BaseAttr, BaseTree
from icefs.worktree.model.nodes import FileNode


class Handle:
    """An open file.

    INVARIANT: exactly one of `node` and `path` says what is open: `path` while the file is untouched.

    Attributes:
        node: The file's node.
        path: The base path; `base_tree` and `attr` are those of the moment when it was opened.
        readable: Open for reading.
        writable: Open for writing.
        has_work: Opened to write or to create.
        appends: Every write goes to the end.
    """

    __slots__ = ("appends", "attr", "base_tree", "has_work", "node", "path", "readable", "writable")

    def __init__(self, flags: int) -> None:
        access = flags & os.O_ACCMODE
        self.readable = access != os.O_WRONLY
        self.writable = access != os.O_RDONLY
        self.has_work = self.writable or bool(flags & os.O_CREAT)
        self.appends = bool(flags & os.O_APPEND)
        self.node: FileNode | None = None
        self.path = ROOT_DIRECTORY
        self.base_tree: BaseTree | None = None
        self.attr: BaseAttr | None = None
