"""Manifests that are fetched when a session opens, before a reader needs them.

Source: format notes §4 (`manifest.preload`); upstream icechunk/src/session.rs.
"""

import logging
from collections.abc import Iterator
from typing import Final

from icefs.engine.read.assets import AssetManager
from icefs.engine.read.patterns import is_in_name, is_in_path
from icefs.errors import IcefsError
from icefs.format.config.manifest import ManifestPreloadCondition, ManifestPreloadConfig
from icefs.format.config.values import RepositoryConfig
from icefs.format.ids import ManifestId
from icefs.format.snapshot.reader import Snapshot
from icefs.paths import NodePath

_log: Final = logging.getLogger(__name__)


class Preloading:
    """Fetches manifests ahead, on one worker of the repository, so that readers have the others.

    Nothing is fetched unless a configuration asks for it: a session needs few manifests, and fetches them in parallel.
    """

    def __init__(self, assets: AssetManager, config: RepositoryConfig) -> None:
        self._assets = assets
        manifest = config.manifest
        effective = config.effective().manifest if manifest is not None and manifest.preload is not None else None
        self._config = None if effective is None else effective.preload

    def begin(self, snapshot: Snapshot) -> None:
        """Begins to fetch the manifests of a snapshot that the configuration names; returns at once."""
        config = self._config
        if config is not None and config.max_total_refs and config.max_arrays_to_scan:
            self._assets.workers.submit(self._fetch, snapshot, config)

    def _fetch(self, snapshot: Snapshot, config: ManifestPreloadConfig) -> None:
        try:
            for manifest_id in chosen_manifests(snapshot, config):
                if self._assets.manifests.peek(manifest_id) is None:
                    self._assets.fetch_manifest(manifest_id)
        except IcefsError as error:
            _log.info("the manifests of snapshot %s are not fetched ahead: %s", snapshot.id, error)


def chosen_manifests(snapshot: Snapshot, config: ManifestPreloadConfig) -> Iterator[ManifestId]:
    """Yields the manifests that a configuration says to fetch ahead, each once.

    Raises:
        FormatError: the snapshot is malformed.
    """
    condition = config.preload_if or ManifestPreloadCondition.false()
    left, arrays = config.max_total_refs or 0, config.max_arrays_to_scan or 0
    seen: set[ManifestId] = set()
    for node in snapshot.nodes():
        if node.array is None:
            continue
        if not arrays:
            return
        arrays -= 1
        for ref in node.array.manifests:
            info = snapshot.manifest_files.get(ref.manifest_id)
            if info is None or info.id in seen or info.num_chunk_refs > left:
                continue
            if _is_for(condition, node.path, info.num_chunk_refs):
                seen.add(info.id)
                left -= info.num_chunk_refs
                yield info.id


def _is_for(condition: ManifestPreloadCondition, path: NodePath, num_refs: int) -> bool:
    match condition.kind:
        case "true":
            return True
        case "false":
            return False
        case "or":
            return any(_is_for(part, path, num_refs) for part in condition.conditions)
        case "and":
            return all(_is_for(part, path, num_refs) for part in condition.conditions)
        case "path_matches":
            return is_in_path(condition.regex, path)
        case "name_matches":
            return is_in_name(condition.regex, path)
        case "num_refs":
            return _is_between(condition, num_refs)


def _is_between(condition: ManifestPreloadCondition, num_refs: int) -> bool:
    low, high = condition.from_refs, condition.to_refs
    reaches = low is None or num_refs > low[1] or (low[0] == "included" and num_refs == low[1])
    return reaches and (high is None or num_refs < high[1] or (high[0] == "included" and num_refs == high[1]))
