"""Repositories under their official names: ids as text, times as datetimes, keyword arguments as documented there."""

from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from textwrap import indent
from typing import TYPE_CHECKING, Any, Self, TypedDict

from icefs.api.aio import DualIterator, asynchronous
from icefs.api.attribution import Attribution, attributed
from icefs.api.bringing import Bringing
from icefs.api.credentials import AnyCredential, authorizations
from icefs.api.exchanging import Exchanging
from icefs.api.graph import AncestryGraph
from icefs.api.notebook import as_html
from icefs.api.session import Session
from icefs.api.upkeep import Upkeep
from icefs.api.values import Diff, FeatureFlag, ManifestFileInfo, RepoStatus, SnapshotInfo, SpecVersion, Update
from icefs.arguments import check_instance, check_time
from icefs.engine.history.diff import diff_snapshots
from icefs.engine.history.graph import graph_rows
from icefs.engine.read import inspect, repo_state
from icefs.engine.write.conflicts import ConflictSolver
from icefs.engine.write.pickling import RepositoryState, repository_state, restore_repository
from icefs.engine.write.repository import WritableRepository
from icefs.errors import InvalidInputError
from icefs.format.config.values import RepositoryConfig
from icefs.format.ids import ManifestId, SnapshotId
from icefs.format.metadata import normalise
from icefs.storage.base import Storage

if TYPE_CHECKING:
    from icefs.api.store import IcechunkStore


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
        raise ValueError("Must provide exactly one of branch, tag, or snapshot_id")
    return _Version(branch=branch, tag=tag, snapshot_id=None if snapshot_id is None else SnapshotId.parse(snapshot_id))


def _check_opening(storage: object, config: object) -> None:
    check_instance(storage, Storage)
    if config is not None:
        check_instance(config, RepositoryConfig)


def _spec_version(version: SpecVersion | int | None) -> int | None:
    """Returns a spec version as a number; raises ValueError for one that there is not."""
    if version is None:
        return None
    if not isinstance(version, int):
        raise ValueError(f"Couldn't parse a valid version: {version!r}")
    if version not in (1, 2):
        raise ValueError(f"Unsupported version {version}: 1 or 2")
    return int(version)


class Repository(Upkeep, Bringing, Exchanging):
    """An Icechunk repository.

    Methods whose name ends in `_async` do the same as those without it, as coroutines.
    """

    def __init__(self, repository: WritableRepository, attribution: Attribution | None = None) -> None:
        """Takes the engine's repository; use `Repository.open` or `Repository.create`."""
        self._engine = repository
        self._attribution = attribution or Attribution()

    def __repr__(self) -> str:
        storage = indent(repr(self._engine.storage), "    ")
        return f"<icefs.Repository (v{self._engine.spec_version})>\nstorage:\n{storage}config: <RepositoryConfig ...>\n"

    _repr_html_ = as_html

    def __reduce__(self) -> tuple[Any, ...]:
        engine = self._engine
        return _restore, (repository_state(engine.context), self._attribution, engine.context.default_commit_metadata)

    # Opening.

    @classmethod
    def open(
        cls,
        storage: Storage,
        config: RepositoryConfig | None = None,
        authorize_virtual_chunk_access: Mapping[str, AnyCredential | None] | None = None,
        attribution: Attribution | None = None,
    ) -> Self:
        """Opens a repository of either spec version.

        Args:
            storage: Where it is.
            config: Overrides the persisted configuration, field by field.
            authorize_virtual_chunk_access: The URL prefixes of the containers that virtual chunks may be followed
                into, each with its credentials; see `containers_credentials`.
            attribution: Labels for the requests that are made.

        Raises:
            RepositoryNotFoundError: nothing is there.
        """
        _check_opening(storage, config)
        labelled = attributed(storage, attribution)
        return cls(
            WritableRepository.open(labelled, config, authorizations(authorize_virtual_chunk_access)), attribution
        )

    @classmethod
    def create(
        cls,
        storage: Storage,
        config: RepositoryConfig | None = None,
        authorize_virtual_chunk_access: Mapping[str, AnyCredential | None] | None = None,
        spec_version: SpecVersion | int | None = None,
        check_clean_root: bool = True,
        attribution: Attribution | None = None,
    ) -> Self:
        """Creates a repository with the branch `main` and no nodes.

        Args:
            storage: Where to.
            config: Persisted, if it is not the default.
            authorize_virtual_chunk_access: As for `open`.
            spec_version: 1 or 2; by default 2.
            check_clean_root: Refuse a location that holds anything.
            attribution: As for `open`.

        Raises:
            InvalidInputError: something is there already (`parent-directory-not-clean`).
            ConflictError: another writer created one at the same moment.
            ValueError: there is no such spec version.
        """
        _check_opening(storage, config)
        return cls(
            WritableRepository.create(
                attributed(storage, attribution),
                config,
                authorizations(authorize_virtual_chunk_access),
                spec_version=_spec_version(spec_version),
                check_clean_root=check_clean_root,
            ),
            attribution,
        )

    @classmethod
    def open_or_create(
        cls,
        storage: Storage,
        config: RepositoryConfig | None = None,
        authorize_virtual_chunk_access: Mapping[str, AnyCredential | None] | None = None,
        create_version: SpecVersion | int | None = None,
        check_clean_root: bool = True,
        attribution: Attribution | None = None,
    ) -> Self:
        """Opens a repository if there is one, and creates it otherwise; arguments and errors as `open` and `create`."""
        _check_opening(storage, config)
        return cls(
            WritableRepository.open_or_create(
                attributed(storage, attribution),
                config,
                authorizations(authorize_virtual_chunk_access),
                create_version=_spec_version(create_version),
                check_clean_root=check_clean_root,
            ),
            attribution,
        )

    @staticmethod
    def exists(storage: Storage, storage_settings: Any = None) -> bool:
        """Tells whether a repository of either spec version is at a location."""
        return WritableRepository.exists(storage)

    @staticmethod
    def fetch_spec_version(storage: Storage, storage_settings: Any = None) -> SpecVersion | None:
        """Returns the spec version of the repository at a location, or None where there is none."""
        version = WritableRepository.fetch_spec_version(storage)
        return None if version is None else SpecVersion(version)

    @staticmethod
    def fetch_config(storage: Storage) -> RepositoryConfig | None:
        """Returns the configuration that is persisted in a repository, or None where none is.

        Raises:
            RepositoryNotFoundError: no repository is there.
        """
        return WritableRepository.fetch_config(storage)

    def reopen(
        self,
        config: RepositoryConfig | None = None,
        authorize_virtual_chunk_access: Mapping[str, AnyCredential | None] | None = None,
    ) -> Self:
        """Opens the same location again, by default with the same configuration and authorisations."""
        return type(self)(
            self._engine.reopen(config, authorizations(authorize_virtual_chunk_access)), self._attribution
        )

    @property
    def config(self) -> RepositoryConfig:
        """The defaults, overridden by the persisted configuration, overridden by the opener's."""
        return self._engine.config

    @property
    def storage(self) -> Storage:
        """Where the repository is."""
        return self._engine.storage

    @property
    def attribution(self) -> Attribution:
        """The labels on the requests that are made."""
        return self._attribution

    @property
    def spec_version(self) -> SpecVersion:
        """The version of the format."""
        return SpecVersion(self._engine.spec_version)

    @property
    def authorized_virtual_container_prefixes(self) -> set[str]:
        """The URL prefixes that virtual chunks may be followed into."""
        return self._engine.authorized_virtual_container_prefixes

    def save_config(self) -> None:
        """Persists the configuration.

        Raises:
            ConflictError: another writer changed it at the same moment (spec version 1).
        """
        self._engine.save_config()

    def default_commit_metadata(self) -> dict[str, Any]:
        """Returns the metadata that every commit gets."""
        return dict(self._engine.context.default_commit_metadata)

    def set_default_commit_metadata(self, metadata: dict[str, Any]) -> None:
        """Sets metadata that every commit of this object's sessions gets; the commit's own values win.

        Raises:
            TypeError: a value is none that JSON has.
        """
        check_instance(metadata, Mapping)
        self._engine.context.default_commit_metadata = normalise(metadata)  # raises here, not at the next commit

    # Refs.

    def create_branch(self, branch: str, snapshot_id: str) -> None:
        """Creates a branch; raises AlreadyExistsError, SnapshotNotFoundError."""
        self._engine.create_branch(branch, SnapshotId.parse(snapshot_id))

    def reset_branch(self, branch: str, snapshot_id: str, *, from_snapshot_id: str | None = None) -> None:
        """Points a branch at another snapshot; its history before that is lost.

        Args:
            branch: The branch.
            snapshot_id: Its new tip.
            from_snapshot_id: Where it must point now, if that matters.

        Raises:
            RefNotFoundError, SnapshotNotFoundError: there is no such thing.
            ConflictError: it points elsewhere (`branch-update-conflict`).
        """
        expected = None if from_snapshot_id is None else SnapshotId.parse(from_snapshot_id)
        self._engine.reset_branch(branch, SnapshotId.parse(snapshot_id), expected=expected)

    def delete_branch(self, branch: str) -> None:
        """Deletes a branch; raises RefNotFoundError, and SessionStateError for `main`."""
        self._engine.delete_branch(branch)

    def create_tag(self, tag: str, snapshot_id: str) -> None:
        """Creates a tag; raises AlreadyExistsError (also for a deleted tag's name), SnapshotNotFoundError."""
        self._engine.create_tag(tag, SnapshotId.parse(snapshot_id))

    def delete_tag(self, tag: str) -> None:
        """Deletes a tag, whose name cannot be used again; raises RefNotFoundError."""
        self._engine.delete_tag(tag)

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
        """Returns the description of a snapshot, without its nodes; raises SnapshotNotFoundError."""
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
        """Yields the same as `ancestry`, for `async for`."""
        return self._ancestry(branch, tag, snapshot_id)

    def _ancestry(self, branch: str | None, tag: str | None, snapshot_id: str | None) -> DualIterator[SnapshotInfo]:
        infos = self._engine.ancestry(**_version(branch, tag, snapshot_id))
        return DualIterator(map(SnapshotInfo.of, infos))

    def ancestry_graph(
        self,
        *,
        branch: str | None = None,
        tag: str | None = None,
        snapshot_id: str | None = None,
        plain: bool = False,
    ) -> AncestryGraph:
        """Draws the history of a version, or of all branches.

        Args:
            branch: Draw the ancestors of this branch; without any of these three, of all branches.
            tag: A tag.
            snapshot_id: A snapshot.
            plain: Without colours.

        Raises:
            ValueError: more than one version was given.
            RefNotFoundError, SnapshotNotFoundError: there is no such thing.
        """
        refs = self._engine.refs()
        tips = list(refs.branches.values())
        if (branch, tag, snapshot_id) != (None, None, None):
            tips = [self._engine.resolve(**_version(branch, tag, snapshot_id))]
        names: dict[SnapshotId, list[str]] = {}
        for name, target in sorted(refs.branches.items()) + sorted(refs.tags.items()):
            names.setdefault(target, []).append(name)
        return AncestryGraph(graph_rows(self._engine.context, tips), names, plain=plain)

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
        """Returns the changes after one snapshot up to a later one of the same history.

        Raises:
            InvalidInputError: the first is not an ancestor of the second.
            ValueError: not exactly one argument names each.
            RefNotFoundError, SnapshotNotFoundError: there is no such thing.
        """
        old = self._engine.resolve(**_version(from_branch, from_tag, from_snapshot_id))
        new = self._engine.resolve(**_version(to_branch, to_tag, to_snapshot_id))
        return Diff.of(diff_snapshots(self._engine.context, old, new))

    def ops_log(self) -> Iterator[Update]:
        """Yields the updates of the repository, newest first; spec version 2 only.

        Raises:
            FormatError: the repository is of spec version 1.
        """
        return self._ops_log()

    def ops_log_async(self) -> AsyncIterator[Update]:
        """Yields the same as `ops_log`, for `async for`."""
        return self._ops_log()

    def _ops_log(self) -> DualIterator[Update]:
        return DualIterator(map(Update.of, repo_state.ops_log(self._engine.context)))

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
        if as_of is not None:
            check_time(as_of, "as_of")
        if as_of is not None and branch is None:
            raise ValueError("as_of argument must be provided together with a branch name")
        return Session(self._engine.readonly_session(**_version(branch, tag, snapshot_id), as_of=as_of))

    def writable_session(self, branch: str) -> Session:
        """Opens a session that writes, on the tip of a branch.

        Raises:
            RefNotFoundError: there is no such branch.
            ReadOnlyError: the repository's status is not online.
        """
        return Session(self._engine.writable_session(branch))

    def rearrange_session(self, branch: str) -> Session:
        """Opens a session that moves nodes and does nothing else, on the tip of a branch (spec version 2).

        Raises:
            RefNotFoundError, ReadOnlyError: as `writable_session`.
            FormatError: the repository is of spec version 1.
        """
        return Session(self._engine.rearrange_session(branch))

    @contextmanager
    def transaction(
        self,
        branch: str,
        *,
        message: str,
        metadata: dict[str, Any] | None = None,
        rebase_with: ConflictSolver | None = None,
        rebase_tries: int = 1000,
    ) -> "Iterator[IcechunkStore]":
        """Yields the store of a session that is committed when the block ends well; an exception leaves no commit.

        Arguments and errors are those of `writable_session` and `Session.commit`.
        """
        session = self.writable_session(branch)
        yield session.store
        session.commit(message, metadata, rebase_with=rebase_with, rebase_tries=rebase_tries)

    # What only spec version 2 has.

    def get_metadata(self) -> dict[str, Any]:
        """Returns the repository's own metadata; raises FormatError for spec version 1."""
        return dict(repo_state.metadata(self._engine.context))

    @property
    def metadata(self) -> dict[str, Any]:
        """The repository's own metadata."""
        return self.get_metadata()

    def set_metadata(self, metadata: dict[str, Any]) -> None:
        """Replaces the repository's own metadata."""
        self._engine.set_metadata(metadata)

    def update_metadata(self, metadata: dict[str, Any]) -> dict[str, Any]:
        """Adds to the repository's own metadata, replacing members of the same name, and returns all of it."""
        return dict(self._engine.update_metadata(metadata))

    def set_status(self, status: RepoStatus) -> None:
        """Sets whether the repository may be written to; allowed in either state."""
        check_instance(status, RepoStatus)
        self._engine.set_status(status.stored(self._engine.context.clock()))

    def get_status(self) -> RepoStatus:
        """Returns whether the repository is online; raises FormatError for spec version 1."""
        return RepoStatus.of(repo_state.status(self._engine.context))

    @property
    def status(self) -> RepoStatus:
        """Whether the repository is online."""
        return self.get_status()

    def feature_flags(self) -> list[FeatureFlag]:
        """Returns all feature flags; raises FormatError for spec version 1."""
        return [
            FeatureFlag(flag.id, flag.name, flag.default_enabled, flag.setting)
            for flag in repo_state.feature_flags(self._engine.context)
        ]

    def enabled_feature_flags(self) -> list[FeatureFlag]:
        """Returns the feature flags that are on."""
        return [flag for flag in self.feature_flags() if flag.enabled]

    def disabled_feature_flags(self) -> list[FeatureFlag]:
        """Returns the feature flags that are off."""
        return [flag for flag in self.feature_flags() if not flag.enabled]

    def set_feature_flag(self, name: str, setting: bool | None) -> None:
        """Switches a feature on or off, or back to its default with None.

        Raises:
            InvalidInputError: there is no such flag (`invalid-feature-flag`).
        """
        known = {flag.name: flag.id for flag in repo_state.feature_flags(self._engine.context)}
        if name not in known:
            raise InvalidInputError(
                f"there is no feature flag {name!r}",
                kind="invalid-feature-flag",
                hint=f"one of {', '.join(known)}",
                name=name,
            )
        self._engine.set_feature_flag(known[name], setting)

    # Looking inside.

    def list_manifest_files(self, snapshot_id: str) -> list[ManifestFileInfo]:
        """Returns the manifests that a snapshot uses."""
        snapshot = self._engine.assets.fetch_snapshot(SnapshotId.parse(snapshot_id))
        return [ManifestFileInfo.of(each) for each in snapshot.manifest_files.values()]

    def inspect_snapshot(self, snapshot_id: str) -> dict[str, Any]:
        """Describes a snapshot's file."""
        return inspect.inspect_snapshot(self._engine.assets, SnapshotId.parse(snapshot_id))

    def inspect_repo_info(self) -> dict[str, Any]:
        """Describes the repository's `repo` file; raises FormatError for spec version 1."""
        return inspect.inspect_repo_info(self._engine.context)

    def inspect_manifest(self, manifest_id: str) -> dict[str, Any]:
        """Describes a manifest's file."""
        return inspect.inspect_manifest(self._engine.assets, ManifestId.parse(manifest_id))

    def inspect_transaction_log(self, snapshot_id: str) -> dict[str, Any]:
        """Describes a snapshot's transaction log."""
        return inspect.inspect_transaction_log(self._engine.context, SnapshotId.parse(snapshot_id))

    open_async = classmethod(asynchronous(open.__func__))  # type: ignore[attr-defined]  # noqa: A003
    create_async = classmethod(asynchronous(create.__func__))  # type: ignore[attr-defined]
    open_or_create_async = classmethod(asynchronous(open_or_create.__func__))  # type: ignore[attr-defined]
    exists_async = staticmethod(asynchronous(exists))
    fetch_spec_version_async = staticmethod(asynchronous(fetch_spec_version))
    fetch_config_async = staticmethod(asynchronous(fetch_config))
    reopen_async = asynchronous(reopen)
    save_config_async = asynchronous(save_config)
    create_branch_async = asynchronous(create_branch)
    reset_branch_async = asynchronous(reset_branch)
    delete_branch_async = asynchronous(delete_branch)
    create_tag_async = asynchronous(create_tag)
    delete_tag_async = asynchronous(delete_tag)
    writable_session_async = asynchronous(writable_session)
    rearrange_session_async = asynchronous(rearrange_session)
    set_metadata_async = asynchronous(set_metadata)
    update_metadata_async = asynchronous(update_metadata)
    set_status_async = asynchronous(set_status)
    set_feature_flag_async = asynchronous(set_feature_flag)
    list_branches_async = asynchronous(list_branches)
    lookup_branch_async = asynchronous(lookup_branch)
    list_tags_async = asynchronous(list_tags)
    lookup_tag_async = asynchronous(lookup_tag)
    lookup_snapshot_async = asynchronous(lookup_snapshot)
    log_async = asynchronous(log)
    ancestry_graph_async = asynchronous(ancestry_graph)
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


def _restore(
    state: RepositoryState, attribution: Attribution, commit_metadata: dict[str, Any] | None = None
) -> Repository:
    repository = restore_repository(state)
    assert isinstance(repository, WritableRepository)  # that is what `Repository` holds
    # What was received of one repository shares its caches and connections, but not what its setters set.
    return Repository(repository.with_commit_metadata(commit_metadata or {}), attribution)
