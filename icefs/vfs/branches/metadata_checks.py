"""What a `zarr.json` must be: no file of another content gets or keeps the name without a refusal."""

import os

from icefs.errors import InvalidMetadataError, ReservedNameError
from icefs.format.zarr_json import parse_zarr_json
from icefs.vfs.branches.refusals import Refusals
from icefs.worktree.model.nodes import NodeRef
from icefs.worktree.tree import WorkTree


class MetadataChecks:
    """Checks the metadata documents of a working tree, and records what was refused.

    Attributes:
        refusals: The last writes that were refused.
    """

    def __init__(self, spec_version: int) -> None:
        """Takes the version of the repository's format, which decides what a document may say."""
        self.refusals = Refusals()
        self._spec_version = spec_version

    def check_open(self, work: WorkTree, fh: int) -> None:
        """Checks a `zarr.json` that was written through a handle of the working tree and is closed.

        Raises:
            InvalidMetadataError: it is none; it is kept.
        """
        where = work.files.where(fh)
        # An empty one waits for its writer, which has just cut it; a commit says if nothing came.
        if work.files.getattr(fh).size:
            self.check(work, where, work.entries.path_of(where))

    def check(self, work: WorkTree, where: NodeRef, path: str) -> None:
        """Checks the content of a file that is, or is to be, the `zarr.json` at a path; raises as `check_open`."""
        attr = work.entries.attr(where)
        if attr.is_dir:
            return
        fh = work.files.open(where, os.O_RDONLY)
        try:
            data = work.files.read(fh, 0, attr.size)
        finally:
            work.files.release(fh)
        try:
            parse_zarr_json(data, name=path, spec_version=self._spec_version)
        except InvalidMetadataError as error:
            self.refusals.note(path, str(error.facts["reason"]))
            raise
        self.refusals.accepted(path)

    def note_reserved(self, path: str, error: ReservedNameError) -> None:
        """Records that a name was refused which Zarr reserves."""
        self.refusals.note(path, error.own_message)
