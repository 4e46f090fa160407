"""Branches and tags, of both spec versions, as one value.

Spec 2 keeps them in `repo`. Spec 1 keeps each in an object of its own, `refs/branch.<name>/ref.json`; a deleted
tag leaves a tombstone next to its file, a deleted branch may leave an empty directory.
A repository may be upgraded while a program has it open as spec 1. The files of spec 1 may be left then, and nobody
reads them any more: each look at the refs, and each write of one, also asks whether `repo` is there.

Source: spec 1 "References"; format notes §7.6.
"""

import hashlib
import logging
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final

from icefs.engine.read.assets import AssetManager
from icefs.errors import FormatError, ObjectNotFoundError, RefNotFoundError, StaleError
from icefs.format.ids import SnapshotId
from icefs.format.layout import REFS_V1, REPO_INFO
from icefs.format.repo.refs_v1 import RefFile, branch_key, parse_ref, parse_ref_key
from icefs.storage.base import ObjectInfo, Storage, Version
from icefs.words import known_names, quoted, suggestion

_log = logging.getLogger(__name__)
_NONE: Final[Mapping[str, FormatError]] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Refs:
    """All refs of a repository at one moment.

    Attributes:
        branches: The tip of each branch.
        tags: The snapshot of each tag.
        version: Differs between two values if anything changed in between that refs show; opaque.
        broken_branches: What is wrong with each branch whose file is malformed (spec 1).
        broken_tags: The same for tags.
    """

    branches: Mapping[str, SnapshotId]
    tags: Mapping[str, SnapshotId]
    version: Version
    broken_branches: Mapping[str, FormatError] = field(default=_NONE)
    broken_tags: Mapping[str, FormatError] = field(default=_NONE)

    def branch(self, name: str) -> SnapshotId:
        """Returns the tip of a branch.

        Raises:
            RefNotFoundError: there is no such branch.
            FormatError: its file is malformed.
        """
        return _look_up("branch", name, self.branches, self.broken_branches)

    def tag(self, name: str) -> SnapshotId:
        """Returns the snapshot of a tag.

        Raises:
            RefNotFoundError: there is no such tag.
            FormatError: its file is malformed.
        """
        return _look_up("tag", name, self.tags, self.broken_tags)


def _look_up(kind: str, name: str, refs: Mapping[str, SnapshotId], broken: Mapping[str, FormatError]) -> SnapshotId:
    snapshot_id = refs.get(name)
    if snapshot_id is not None:
        return snapshot_id
    if name in broken:
        raise broken[name].with_traceback(None)  # which would grow with each raising
    hint = suggestion(name, refs) or known_names(kind, refs)
    raise RefNotFoundError(f"there is no {kind} {quoted(name)}", hint=hint, ref=name)


def is_repository_v1(storage: Storage) -> bool:
    """Tells whether a spec 1 repository is at a location: it has a branch `main`, which cannot be deleted."""
    try:
        storage.head(branch_key("main"))
    except ObjectNotFoundError:
        return False
    return True


def check_not_upgraded(storage: Storage) -> None:
    """Refuses to go on with a repository that was opened as spec 1 and is of spec 2 by now.

    Raises:
        StaleError: it was upgraded meanwhile (kind `repository-upgraded`).
    """
    try:
        storage.head(REPO_INFO)
    except ObjectNotFoundError:
        return
    raise StaleError(
        f"{storage.url} was upgraded to spec version 2 after it was opened here",
        kind="repository-upgraded",
        hint="open it again; a mount of it: unmount it, and mount it again",
    )


class RefsV1:
    """Reads the refs of a spec 1 repository: one listing, and one request for each ref that changed since.

    Concurrency: `_lock` is held while the refs are read, so that an answer never replaces a newer one.
    """

    def __init__(self, assets: AssetManager) -> None:
        self._assets = assets
        self._lock = threading.Lock()
        self._files: dict[str, tuple[Version, SnapshotId | FormatError]] = {}
        self._refs: Refs | None = None

    def fetch(self, *, refresh: bool = True) -> Refs:
        """Returns all refs; without `refresh`, what was last seen will do.

        Raises:
            StaleError: the repository was upgraded since it was opened.
        """
        refs = self._refs
        if refs is not None and not refresh:
            return refs
        with self._lock:
            self._refs = refs = self._fetch()
            return refs

    def _fetch(self) -> Refs:
        files: dict[RefFile, ObjectInfo] = {}
        for info in self._assets.storage.iter_objects(f"{REFS_V1}/"):
            found = parse_ref_key(info.key)
            if found is not None:  # other things that lie around are none of our business
                files[found] = info
        live = [
            (file, info)
            for file, info in sorted(files.items())
            if not file.is_tombstone and RefFile(file.kind, file.name, True) not in files
        ]
        read = self._assets.workers.map(self._read, [info for _, info in live])
        refs: dict[str, dict[str, SnapshotId]] = {"branch": {}, "tag": {}}
        broken: dict[str, dict[str, FormatError]] = {"branch": {}, "tag": {}}
        seen: dict[str, tuple[Version, SnapshotId | FormatError]] = {}
        digest = hashlib.blake2b(digest_size=16)
        for (file, info), entry in zip(live, read, strict=True):
            if entry is None:
                continue  # deleted since it was listed
            seen[info.key] = entry
            digest.update(f"{info.key}\0{entry[0]}\0".encode())
            if isinstance(entry[1], FormatError):
                broken[file.kind][file.name] = entry[1]
            else:
                refs[file.kind][file.name] = entry[1]
        self._files = seen
        # Asked last: an upgrade writes `repo` before it deletes the first ref.
        check_not_upgraded(self._assets.storage)
        return Refs(refs["branch"], refs["tag"], digest.hexdigest(), broken["branch"], broken["tag"])

    def _read(self, info: ObjectInfo) -> tuple[Version, SnapshotId | FormatError] | None:
        known = self._files.get(info.key)
        if known is not None and known[0] == info.version:
            return known
        try:
            changed = self._assets.storage.get_if_changed(info.key, None if known is None else known[0])
        except ObjectNotFoundError:
            return None
        if changed is None:
            return known
        try:
            return changed.version, parse_ref(changed.data, name=info.key)
        except FormatError as error:
            _log.warning("ignoring a branch or tag: %s", error)
            return changed.version, error
