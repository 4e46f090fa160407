"""A repository that is written to: made, committed to, and administered."""

import contextlib
import os
from collections.abc import Iterator, Mapping
from typing import Any, Self

from icefs.clock import Clock, system_clock
from icefs.engine.read.assets import AssetManager
from icefs.engine.read.store_settings import check_config, store_settings
from icefs.engine.read.virtual import Authorizations
from icefs.engine.repository import Repository
from icefs.engine.write import publish, transactions
from icefs.engine.write.context import WriteContext
from icefs.engine.write.session import WritableSession
from icefs.engine.write.store_probe import TRUSTED, is_probe
from icefs.errors import (
    ConflictError,
    InvalidInputError,
    ObjectNotFoundError,
    PreconditionFailedError,
)
from icefs.format.config.codec import encode_config, encode_config_yaml
from icefs.format.config.values import RepositoryConfig
from icefs.format.ids import INITIAL_SNAPSHOT_ID, ChunkId, SnapshotId
from icefs.format.layout import CONFIG_V1, REPO_INFO, backup_key, backup_name, snapshot_key, transaction_log_key
from icefs.format.repo import update as edits
from icefs.format.repo.info import MAIN_BRANCH, encode_repo_info
from icefs.format.repo.ops_log import RepoStatus
from icefs.format.repo.refs_v1 import branch_key, encode_ref
from icefs.format.repo.snapshot_table import SnapshotInfo
from icefs.format.snapshot.writer import encode_snapshot
from icefs.format.transaction_log import TransactionLog, encode_transaction_log
from icefs.storage.base import Storage
from icefs.storage.base import Version as StorageVersion

_FIRST_MESSAGE = "Repository initialized"
_FIRST_METADATA: dict[str, Any] = {"__icechunk": {"is_root": True}}


class WritableRepository(Repository):
    """An open repository, for reading and writing."""

    def __init__(self, context: WriteContext) -> None:
        """Takes what `open` has made; not for callers."""
        super().__init__(context)
        self._write_context = context

    @property
    def context(self) -> WriteContext:
        """What sessions, histories and updates need of the repository."""
        return self._write_context

    @classmethod
    def _of(
        cls,
        storage: Storage,
        spec_version: int,
        config: RepositoryConfig,
        assets: AssetManager,
        authorizations: Authorizations | None,
        named_endpoints: frozenset[str],
        *,
        opened_as: Storage,
    ) -> Self:
        return cls(
            WriteContext(
                storage,
                spec_version,
                config,
                assets,
                authorizations,
                named_endpoints=named_endpoints,
                opened_as=opened_as,
            )
        )

    def with_commit_metadata(self, metadata: Mapping[str, Any]) -> Self:
        """Returns an object for the same repository with default commit metadata of its own.

        Both share the files that were read, the caches and the connections.
        """
        return type(self)(self.context.with_commit_metadata(metadata))

    @classmethod
    def create(
        cls,
        storage: Storage,
        config: RepositoryConfig | None = None,
        authorize_virtual_chunk_access: Authorizations | None = None,
        *,
        spec_version: int | None = None,
        check_clean_root: bool = True,
        check_conditions: bool = True,
        clock: Clock = system_clock,
    ) -> Self:
        """Makes a repository with the branch `main` and no nodes.

        Args:
            storage: Where to.
            config: Persisted, if it is not the default.
            authorize_virtual_chunk_access: As for `open`.
            spec_version: 1 or 2 (the default).
            check_clean_root: Refuse a location that holds anything but what an interrupted `create` left.
            check_conditions: Refuse a store that ignores the conditions of writes that the configuration relies on:
                with `storage.unsafe_use_conditional_update` false, none.
            clock: Where to read the time.

        Raises:
            InvalidInputError: something is there already (kind `parent-directory-not-clean`).
            UnsupportedError: the store ignores conditions, so that of two writers one would lose its commits.
            ConflictError: somebody else made one at the same moment (kind `repo-info-updated`).
        """
        check_config(config)
        version = 2 if spec_version is None else spec_version
        if version not in (1, 2):
            raise InvalidInputError(f"there is no spec version {version}", hint="choose 1 or 2")
        if check_clean_root:
            _check_clean(storage)
        elif cls.exists(storage):
            # Found out before the first snapshot's file, which has the same name in all repositories, is replaced.
            raise _made_already(storage)
        if check_conditions:
            TRUSTED.check_new(storage, None if config is None else config.storage)
        now = clock()
        obeying = storage.with_settings(store_settings(config))
        try:
            cls._write_first(obeying, config, version, now)
        finally:
            if obeying is not storage:
                obeying.close()
        opened = cls.open(storage, config, authorize_virtual_chunk_access)
        opened.context.clock = clock
        return opened

    @classmethod
    def _write_first(cls, storage: Storage, config: RepositoryConfig | None, version: int, now: int) -> None:
        """Writes what a new repository consists of; raises ConflictError."""
        _write_first_snapshot(storage, version, now)
        storage.sync()
        settings = None if config is None or config == RepositoryConfig() else config
        try:
            if version == 1:
                if settings is not None:
                    _create_config_v1(storage, encode_config_yaml(settings))
                _create(storage, branch_key(MAIN_BRANCH), encode_ref(INITIAL_SNAPSHOT_ID))
            else:
                first = SnapshotInfo(INITIAL_SNAPSHOT_ID, None, now, _FIRST_MESSAGE, _FIRST_METADATA, ())
                encoded = None if settings is None else encode_config(settings)
                info = edits.initial_repo_info(first, now=now, config=encoded)
                _create(storage, REPO_INFO, encode_repo_info(info))
        except PreconditionFailedError as error:
            if cls.exists(storage):
                raise _made_already(storage) from error
            raise

    @classmethod
    def open_or_create(
        cls,
        storage: Storage,
        config: RepositoryConfig | None = None,
        authorize_virtual_chunk_access: Authorizations | None = None,
        *,
        create_version: int | None = None,
        check_clean_root: bool = True,
    ) -> Self:
        """Opens a repository if there is one, and makes it otherwise; raises as `open` and `create`."""
        if cls.exists(storage):
            return cls.open(storage, config, authorize_virtual_chunk_access)
        return cls.create(
            storage,
            config,
            authorize_virtual_chunk_access,
            spec_version=create_version,
            check_clean_root=check_clean_root,
        )

    # Sessions.

    def writable_session(self, branch: str) -> WritableSession:
        """Opens a session on the tip of a branch.

        Raises:
            RefNotFoundError: there is no such branch.
            ReadOnlyError: the repository's status is not online.
        """
        self.context.check_online()
        return self._session(branch, self.lookup_branch(branch))

    def rearrange_session(self, branch: str) -> WritableSession:
        """Opens a session that moves nodes, on the tip of a branch (spec 2).

        Raises:
            UnsupportedSpecVersionError: the repository is of spec 1.
            RefNotFoundError, ReadOnlyError: as `writable_session`.
            SessionStateError: the feature flag `move_node` is off.
        """
        publish.require_v2(self.context, "moves of nodes")
        info, _ = self.assets.fetch_repo_info()
        self.context.check_online(info)
        publish.check_flag(info, publish.MOVE_NODE, "move_node")
        return self._session(branch, self.lookup_branch(branch), is_rearrange=True)

    def writable_session_at(
        self, branch: str, snapshot_id: SnapshotId, *, is_rearrange: bool = False
    ) -> WritableSession:
        """Opens a session on a snapshot that was a branch's tip once; a commit fails unless it still is."""
        return self._session(branch, snapshot_id, is_rearrange=is_rearrange)

    def _session(self, branch: str, snapshot_id: SnapshotId, *, is_rearrange: bool = False) -> WritableSession:
        snapshot = self.assets.fetch_snapshot(snapshot_id)
        self.context.preloading.begin(snapshot)
        return WritableSession(self.context, snapshot, branch, is_rearrange=is_rearrange)

    @contextlib.contextmanager
    def transaction(
        self, branch: str, *, message: str, metadata: dict[str, Any] | None = None, **options: Any
    ) -> Iterator[WritableSession]:
        """Yields a session and commits it when the block ends well; an exception leaves no commit."""
        session = self.writable_session(branch)
        yield session
        session.commit(message, metadata, **options)

    # Refs.

    def create_branch(self, name: str, snapshot_id: SnapshotId) -> None:
        """Creates a branch; raises AlreadyExistsError, SnapshotNotFoundError."""
        self.context.check_online()
        publish.create_branch(self.context, name, snapshot_id)

    def reset_branch(self, name: str, snapshot_id: SnapshotId, *, expected: SnapshotId | None = None) -> None:
        """Points a branch at another snapshot; raises RefNotFoundError, SnapshotNotFoundError, ConflictError."""
        self.context.check_online()
        publish.reset_branch(self.context, name, snapshot_id, expected=expected)

    def delete_branch(self, name: str) -> None:
        """Deletes a branch; raises RefNotFoundError, and SessionStateError for `main`."""
        self.context.check_online()
        publish.delete_branch(self.context, name)

    def create_tag(self, name: str, snapshot_id: SnapshotId) -> None:
        """Creates a tag; raises AlreadyExistsError (also for a deleted tag's name), SnapshotNotFoundError."""
        self.context.check_online()
        publish.create_tag(self.context, name, snapshot_id)

    def delete_tag(self, name: str) -> None:
        """Deletes a tag for good; raises RefNotFoundError."""
        self.context.check_online()
        publish.delete_tag(self.context, name)

    # What is kept about the repository itself.

    def set_metadata(self, metadata: Mapping[str, Any]) -> None:
        """Replaces the repository's own metadata (spec 2)."""
        publish.require_v2(self.context, "metadata of its own")
        publish.update_repo_info(self.context, lambda info, stamp: edits.set_metadata(info, metadata, stamp))

    def update_metadata(self, metadata: Mapping[str, Any]) -> dict[str, Any]:
        """Adds to the repository's own metadata (spec 2), and returns all of it."""
        publish.require_v2(self.context, "metadata of its own")
        changed = publish.update_repo_info(
            self.context, lambda info, stamp: edits.set_metadata(info, {**info.metadata, **metadata}, stamp)
        )
        return changed.metadata

    def set_status(self, status: RepoStatus) -> None:
        """Sets whether the repository may be written to (spec 2); allowed whatever it is now."""
        publish.require_v2(self.context, "status")
        publish.update_repo_info(
            self.context, lambda info, stamp: edits.set_status(info, status, stamp), check_online=False
        )

    def set_feature_flag(self, flag: int, setting: bool | None) -> None:
        """Switches a feature on or off, or back to its default with None (spec 2)."""
        publish.require_v2(self.context, "feature flags")
        publish.update_repo_info(self.context, lambda info, stamp: edits.set_feature_flag(info, flag, setting, stamp))

    def rewrite_manifests(
        self, message: str, *, branch: str, metadata: dict[str, Any] | None = None, replace_tip: bool = False
    ) -> SnapshotId:
        """Commits a branch's manifests again, divided as the configuration says; see `transactions`."""
        draft = self.writable_session(branch).draft
        return transactions.rewrite_manifests(self.context, draft, message, metadata=metadata, replace_tip=replace_tip)

    def save_config(self) -> None:
        """Persists the present configuration.

        Raises:
            ConflictError: spec 1: somebody else changed it at the same moment (kind `config-updated`).
            StaleError: spec 1: the repository was upgraded since it was opened.
            InvalidInputError: it has values that cannot be.
        """
        check_config(self.config)
        if self.spec_version == 2:
            data = encode_config(self.config)
            # On any store: the configuration may be the one that says that there is a single writer.
            publish.update_repo_info(
                self.context, lambda info, stamp: edits.set_config(info, data, stamp), check_store=False
            )
            return
        self.context.check_not_upgraded()
        try:
            known = self.storage.head(CONFIG_V1).version
        except ObjectNotFoundError:
            known = None
        self._put_config_v1(known)
        self.context.check_not_upgraded()

    def _put_config_v1(self, known: StorageVersion | None) -> None:
        data = encode_config_yaml(self.config)
        try:
            if known is None:
                self.storage.put(CONFIG_V1, data, create_only=True)
                return
            backup = backup_key(backup_name(CONFIG_V1, self.context.clock(), ChunkId.random()))
            self.storage.copy(CONFIG_V1, backup, if_match=known)
            self.storage.put(CONFIG_V1, data, if_match=known)
        except PreconditionFailedError as error:
            raise ConflictError(
                "somebody else changed the configuration at the same moment",
                kind="config-updated",
                hint="look at theirs, then save again",
            ) from error


def _check_clean(storage: Storage) -> None:
    """Refuses a location that holds anything but what an interrupted creation left.

    Raises:
        InvalidInputError: it does (kind `parent-directory-not-clean`).
    """
    root = storage.local_root
    if root is not None and os.path.exists(root) and not os.path.isdir(root):
        raise InvalidInputError(
            f"{root} is not a directory", kind="parent-directory-not-clean", hint="choose another location"
        )
    if next(iter(storage.list_dir()), None) is None:
        return
    first = snapshot_key(INITIAL_SNAPSHOT_ID), transaction_log_key(INITIAL_SNAPSHOT_ID), CONFIG_V1
    is_made = Repository.exists(storage)
    others = (info for info in storage.iter_objects() if info.key not in first and not is_probe(info))
    if is_made or next(others, None) is not None:
        raise InvalidInputError(
            f"{storage.url} is not empty",
            kind="parent-directory-not-clean",
            hint="choose another location, or open the repository that is there"
            if is_made
            else "choose another location",
        )


def _create_config_v1(storage: Storage, data: bytes) -> None:
    """Writes the configuration of a new repository, perhaps over that of an interrupted creation."""
    try:
        _create(storage, CONFIG_V1, data)
    except PreconditionFailedError:
        if Repository.exists(storage):
            raise
        storage.put(CONFIG_V1, data, if_match=storage.head(CONFIG_V1).version)


def _made_already(storage: Storage) -> ConflictError:
    return ConflictError(f"somebody else made a repository at {storage.url}", kind="repo-info-updated", hint="open it")


def _create(storage: Storage, key: str, data: bytes) -> None:
    """Writes an object that is not there yet; raises PreconditionFailedError."""
    try:
        storage.put(key, data, create_only=True)
    except PreconditionFailedError as error:
        # The answer to an earlier try may have been lost.
        if not error.facts.get("maybe_written") or storage.get(key).data != data:
            raise


def _write_first_snapshot(storage: Storage, spec_version: int, now: int) -> None:
    data = encode_snapshot(
        snapshot_id=INITIAL_SNAPSHOT_ID,
        flushed_at=now,
        message=_FIRST_MESSAGE,
        metadata=_FIRST_METADATA,
        nodes=(),
        manifest_files=(),
        spec_version=spec_version,
    )
    storage.put(snapshot_key(INITIAL_SNAPSHOT_ID), data)
    if spec_version == 2:
        log = TransactionLog(id=INITIAL_SNAPSHOT_ID)
        storage.put(transaction_log_key(INITIAL_SNAPSHOT_ID), encode_transaction_log(log, spec_version=2))
