"""Repositories under their official names: ids as text, times as datetimes, keyword arguments as documented there."""

import asyncio
from collections.abc import AsyncIterator, Iterator, Mapping
from datetime import datetime
from typing import Any, Self, TypedDict

from icefs.api.aio import DualIterator, asynchronous
from icefs.api.credentials import AnyCredential, authorizations
from icefs.api.session import Session
from icefs.api.values import Diff, FeatureFlag, ManifestFileInfo, RepoStatus, SnapshotInfo, SpecVersion, Update
from icefs.engine import repository as engine
from icefs.engine.pickling import RepositoryState, repository_state, restore_repository
from icefs.format.config import RepositoryConfig
from icefs.format.ids import ManifestId, SnapshotId
from icefs.storage.base import Storage


class _Version(TypedDict):
    branch: str | None
    tag: str | None
    snapshot_id: SnapshotId | None


def _version(branch: str | None, tag: str | None, snapshot_id: str | None) -> _Version:
    """Returns the arguments that name a version, for the engine.

    Raises:
        ValueError: not exactly one was given.
        InvalidInputError: the id is malformed.
    """
    if sum(given is not None for given in (branch, tag, snapshot_id)) != 1:
        raise ValueError("give exactly one of a branch, a tag and a snapshot id")
    return _Version(branch=branch, tag=tag, snapshot_id=None if snapshot_id is None else SnapshotId.parse(snapshot_id))


class Repository:
    """An Icechunk repository.

    Methods whose name ends in `_async` do what those without it do, as coroutines.
    """

    def __init__(self, repository: engine.Repository) -> None:
        """Takes the engine's repository; use `Repository.open`."""
        self._engine = repository

    def __repr__(self) -> str:
        return f"<icefs.Repository (v{self._engine.spec_version})>\nstorage: {self._engine.storage.url}\n"

    def __reduce__(self) -> tuple[Any, ...]:
        return _restore, (repository_state(self._engine),)

    # Opening.

    @classmethod
    def open(
        cls,
        storage: Storage,
        config: RepositoryConfig | None = None,
        authorize_virtual_chunk_access: Mapping[str, AnyCredential | None] | None = None,
    ) -> Self:
        """Opens a repository of either spec version.

        Args:
            storage: Where it is.
            config: Overrides what is persisted, field by field.
            authorize_virtual_chunk_access: The URL prefixes of the containers that virtual chunks may be followed
                into, each with its credentials; see `containers_credentials`.

        Raises:
            RepositoryNotFoundError: nothing is there.
        """
        return cls(engine.Repository.open(storage, config, authorizations(authorize_virtual_chunk_access)))

    @classmethod
    def create(cls, storage: Storage, *args: Any, **kwargs: Any) -> Self:
        """Creates a repository.

        Raises:
            UnsupportedError: this version of icefs only reads.
        """
        return cls(engine.Repository.create(storage, *args, **kwargs))

    @classmethod
    def open_or_create(
        cls,
        storage: Storage,
        config: RepositoryConfig | None = None,
        authorize_virtual_chunk_access: Mapping[str, AnyCredential | None] | None = None,
        **kwargs: Any,
    ) -> Self:
        """Opens a repository if there is one, and creates it otherwise; raises as `open` and `create`."""
        return cls(
            engine.Repository.open_or_create(storage, config, authorizations(authorize_virtual_chunk_access), **kwargs)
        )

    @staticmethod
    def exists(storage: Storage, storage_settings: Any = None) -> bool:
        """Tells whether a repository of either spec version is at a location."""
        return engine.Repository.exists(storage)

    @staticmethod
    def fetch_spec_version(storage: Storage, storage_settings: Any = None) -> SpecVersion | None:
        """Returns the spec version of the repository at a location, or None where there is none."""
        version = engine.Repository.fetch_spec_version(storage)
        return None if version is None else SpecVersion(version)

    @staticmethod
    def fetch_config(storage: Storage) -> RepositoryConfig | None:
        """Returns the configuration that is persisted in a repository, or None where none is.

        Raises:
            RepositoryNotFoundError: no repository is there.
        """
        return engine.Repository.fetch_config(storage)

    def reopen(
        self,
        config: RepositoryConfig | None = None,
        authorize_virtual_chunk_access: Mapping[str, AnyCredential | None] | None = None,
    ) -> Self:
        """Opens the same location anew, by default with the same configuration and authorisations."""
        return type(self)(self._engine.reopen(config, authorizations(authorize_virtual_chunk_access)))

    @property
    def config(self) -> RepositoryConfig:
        """The defaults, overridden by the persisted configuration, overridden by the opener's."""
        return self._engine.config

    @property
    def storage(self) -> Storage:
        """Where the repository is."""
        return self._engine.storage

    @property
    def spec_version(self) -> SpecVersion:
        """The version of the format."""
        return SpecVersion(self._engine.spec_version)

    @property
    def authorized_virtual_container_prefixes(self) -> set[str]:
        """The URL prefixes that virtual chunks may be followed into."""
        return self._engine.authorized_virtual_container_prefixes

    # Refs.

    def list_branches(self) -> set[str]:
        """Returns the names of all branches."""
        return self._engine.list_branches()

    def lookup_branch(self, branch: str) -> str:
        """Returns the id of a branch's newest snapshot; raises RefNotFoundError."""
        return str(self._engine.lookup_branch(branch))

    def list_tags(self) -> set[str]:
        """Returns the names of all tags."""
        return self._engine.list_tags()

    def lookup_tag(self, tag: str) -> str:
        """Returns the id of a tag's snapshot; raises RefNotFoundError."""
        return str(self._engine.lookup_tag(tag))

    # History.

    def lookup_snapshot(self, snapshot_id: str) -> SnapshotInfo:
        """Returns what the repository knows of a snapshot without its nodes; raises SnapshotNotFoundError."""
        return SnapshotInfo.of(self._engine.lookup_snapshot(SnapshotId.parse(snapshot_id)))

    def ancestry(
        self, *, branch: str | None = None, tag: str | None = None, snapshot_id: str | None = None
    ) -> Iterator[SnapshotInfo]:
        """Yields a snapshot and its ancestors, newest first; exactly one argument says where to start.

        Raises:
            ValueError: not exactly one was given.
            RefNotFoundError, SnapshotNotFoundError: there is no such thing.
        """
        return self._ancestry(branch, tag, snapshot_id)

    def async_ancestry(
        self, *, branch: str | None = None, tag: str | None = None, snapshot_id: str | None = None
    ) -> AsyncIterator[SnapshotInfo]:
        """Yields what `ancestry` does, for `async for`."""
        return self._ancestry(branch, tag, snapshot_id)

    def _ancestry(self, branch: str | None, tag: str | None, snapshot_id: str | None) -> DualIterator[SnapshotInfo]:
        infos = self._engine.ancestry(**_version(branch, tag, snapshot_id))
        return DualIterator(map(SnapshotInfo.of, infos))

    def log(self, ref: str = "main") -> list[SnapshotInfo]:
        """Returns the history of a snapshot id, branch or tag, newest first; raises RefNotFoundError."""
        return [SnapshotInfo.of(info) for info in self._engine.log(ref)]

    def diff(
        self,
        *,
        from_branch: str | None = None,
        from_tag: str | None = None,
        from_snapshot_id: str | None = None,
        to_branch: str | None = None,
        to_tag: str | None = None,
        to_snapshot_id: str | None = None,
    ) -> Diff:
        """Returns what changed after one snapshot up to a later one of the same history.

        Raises:
            InvalidInputError: the first is not an ancestor of the second.
            ValueError: not exactly one argument names each.
            RefNotFoundError, SnapshotNotFoundError: there is no such thing.
        """
        old = self._engine.resolve(**_version(from_branch, from_tag, from_snapshot_id))
        new = self._engine.resolve(**_version(to_branch, to_tag, to_snapshot_id))
        return Diff.of(self._engine.diff(old, new))

    def ops_log(self) -> Iterator[Update]:
        """Yields what was done to the repository, newest first; spec version 2 only.

        Raises:
            FormatError: the repository is of spec version 1.
        """
        return self._ops_log()

    def ops_log_async(self) -> AsyncIterator[Update]:
        """Yields what `ops_log` does, for `async for`."""
        return self._ops_log()

    def _ops_log(self) -> DualIterator[Update]:
        return DualIterator(map(Update.of, self._engine.ops_log()))

    # Sessions.

    def readonly_session(
        self,
        branch: str | None = None,
        *,
        tag: str | None = None,
        snapshot_id: str | None = None,
        as_of: datetime | None = None,
    ) -> Session:
        """Opens a snapshot for reading.

        Args:
            branch: A branch; its newest snapshot, or with `as_of` the newest that is not younger than that.
            tag: A tag.
            snapshot_id: A snapshot.
            as_of: A time, with its time zone.

        Raises:
            ValueError: not exactly one of branch, tag and snapshot_id was given, or `as_of` without a branch.
            TypeError: `as_of` has no time zone.
            RefNotFoundError, SnapshotNotFoundError: there is no such thing.
        """
        if as_of is not None and as_of.tzinfo is None:
            raise TypeError("as_of needs a time zone")
        if as_of is not None and branch is None:
            raise ValueError("as_of goes with a branch")
        return Session(self._engine.readonly_session(**_version(branch, tag, snapshot_id), as_of=as_of))

    # What only spec version 2 has.

    def get_metadata(self) -> dict[str, Any]:
        """Returns the repository's own metadata; raises FormatError for spec version 1."""
        return dict(self._engine.get_metadata())

    @property
    def metadata(self) -> dict[str, Any]:
        """The repository's own metadata."""
        return self.get_metadata()

    def get_status(self) -> RepoStatus:
        """Returns whether the repository is online; raises FormatError for spec version 1."""
        return RepoStatus.of(self._engine.get_status())

    @property
    def status(self) -> RepoStatus:
        """Whether the repository is online."""
        return self.get_status()

    def feature_flags(self) -> list[FeatureFlag]:
        """Returns all feature flags; raises FormatError for spec version 1."""
        return [
            FeatureFlag(flag.id, flag.name, flag.default_enabled, flag.setting) for flag in self._engine.feature_flags()
        ]

    def enabled_feature_flags(self) -> list[FeatureFlag]:
        """Returns the feature flags that are on."""
        return [flag for flag in self.feature_flags() if flag.enabled]

    def disabled_feature_flags(self) -> list[FeatureFlag]:
        """Returns the feature flags that are off."""
        return [flag for flag in self.feature_flags() if not flag.enabled]

    # Looking inside.

    def list_manifest_files(self, snapshot_id: str) -> list[ManifestFileInfo]:
        """Returns the manifests that a snapshot uses."""
        return [ManifestFileInfo.of(each) for each in self._engine.list_manifest_files(SnapshotId.parse(snapshot_id))]

    def inspect_snapshot(self, snapshot_id: str) -> dict[str, Any]:
        """Describes a snapshot's file."""
        return self._engine.inspect_snapshot(SnapshotId.parse(snapshot_id))

    def inspect_repo_info(self) -> dict[str, Any]:
        """Describes the repository's `repo` file; raises FormatError for spec version 1."""
        return self._engine.inspect_repo_info()

    def inspect_manifest(self, manifest_id: str) -> dict[str, Any]:
        """Describes a manifest's file."""
        return self._engine.inspect_manifest(ManifestId.parse(manifest_id))

    def inspect_transaction_log(self, snapshot_id: str) -> dict[str, Any]:
        """Describes a snapshot's transaction log."""
        return self._engine.inspect_transaction_log(SnapshotId.parse(snapshot_id))

    @classmethod
    async def open_async(cls, *args: Any, **kwargs: Any) -> Self:
        """Does what `open` does, without blocking the event loop."""
        return await asyncio.to_thread(cls.open, *args, **kwargs)

    @classmethod
    async def create_async(cls, *args: Any, **kwargs: Any) -> Self:
        """Does what `create` does, without blocking the event loop."""
        return await asyncio.to_thread(cls.create, *args, **kwargs)

    @classmethod
    async def open_or_create_async(cls, *args: Any, **kwargs: Any) -> Self:
        """Does what `open_or_create` does, without blocking the event loop."""
        return await asyncio.to_thread(cls.open_or_create, *args, **kwargs)

    exists_async = staticmethod(asynchronous(exists))
    fetch_spec_version_async = staticmethod(asynchronous(fetch_spec_version))
    fetch_config_async = staticmethod(asynchronous(fetch_config))
    reopen_async = asynchronous(reopen)
    list_branches_async = asynchronous(list_branches)
    lookup_branch_async = asynchronous(lookup_branch)
    list_tags_async = asynchronous(list_tags)
    lookup_tag_async = asynchronous(lookup_tag)
    lookup_snapshot_async = asynchronous(lookup_snapshot)
    log_async = asynchronous(log)
    diff_async = asynchronous(diff)
    readonly_session_async = asynchronous(readonly_session)
    get_metadata_async = asynchronous(get_metadata)
    get_status_async = asynchronous(get_status)
    feature_flags_async = asynchronous(feature_flags)
    enabled_feature_flags_async = asynchronous(enabled_feature_flags)
    disabled_feature_flags_async = asynchronous(disabled_feature_flags)
    list_manifest_files_async = asynchronous(list_manifest_files)
    inspect_snapshot_async = asynchronous(inspect_snapshot)
    inspect_repo_info_async = asynchronous(inspect_repo_info)
    inspect_manifest_async = asynchronous(inspect_manifest)
    inspect_transaction_log_async = asynchronous(inspect_transaction_log)


def _restore(state: RepositoryState) -> Repository:
    return Repository(restore_repository(state))
