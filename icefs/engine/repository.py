"""A repository: its refs, its history, and sessions on its snapshots."""

from collections.abc import Iterator
from datetime import datetime
from types import TracebackType
from typing import Self

from icefs.clock import to_micros
from icefs.engine.history import ancestry
from icefs.engine.read.assets import AssetManager
from icefs.engine.read.context import ReadContext
from icefs.engine.read.refs import Refs, is_repository_v1
from icefs.engine.read.session import Session, session_at
from icefs.engine.read.store_settings import check_config, usable_config, with_config
from icefs.engine.read.virtual import Authorizations
from icefs.engine.read.virtual_endpoints import endpoints_of_config
from icefs.errors import (
    InvalidInputError,
    ObjectNotFoundError,
    RefNotFoundError,
    RepositoryNotFoundError,
    SnapshotNotFoundError,
)
from icefs.format.config.codec import parse_config, parse_config_yaml
from icefs.format.config.values import RepositoryConfig
from icefs.format.ids import SnapshotId
from icefs.format.layout import CONFIG_V1, REPO_INFO
from icefs.format.repo.snapshot_table import SnapshotInfo
from icefs.storage.base import Storage
from icefs.storage.cache.disk import DiskCache
from icefs.words import quoted, suggestion


class Repository:
    """An open repository, for reading.

    Safe to use from any thread. Methods that ask the store for something that may have changed (refs, ancestry by
    ref) make one conditional request in spec 2.

    Attributes:
        storage: Where the repository is. It obeys the configuration; the one that `open` was given is its opener's to
            close.
        spec_version: 1 or 2.
        config: The defaults, overridden by the persisted configuration, overridden by the opener's.
        assets: The repository's files.
        virtual: Reads virtual chunks.
    """

    def __init__(self, context: ReadContext) -> None:
        """Takes what `open` has made; not for callers."""
        self._context = context
        self.storage = context.storage
        self.spec_version = context.spec_version
        self.config = context.config
        self.assets = context.assets
        self.virtual = context.virtual

    @property
    def context(self) -> ReadContext:
        """What sessions and histories need of the repository."""
        return self._context

    # Opening.

    @classmethod
    def open(
        cls,
        storage: Storage,
        config: RepositoryConfig | None = None,
        authorize_virtual_chunk_access: Authorizations | None = None,
        *,
        cache: DiskCache | None = None,
        named_endpoints: frozenset[str] | None = None,
    ) -> Self:
        """Opens a repository of either spec version.

        Args:
            storage: Where it is.
            config: Overrides what is persisted, field by field.
            authorize_virtual_chunk_access: The URL prefixes of the containers that virtual chunks may be followed
                into, each with its credentials, or None for those of the environment.
            cache: Where to keep what is read from a remote store, of a local repository its virtual chunks; closed
                with the repository.
            named_endpoints: The S3 endpoints that the user has named; None for those in `config`.

        Raises:
            RepositoryNotFoundError: nothing is there.
            FormatError: `repo` or `config.yaml` is malformed.
            InvalidInputError: `config` has values that cannot be; of a persisted one they are left out.
        """
        check_config(config)
        assets = AssetManager(storage, cache=cache)
        persisted, spec_version = _fetch_config(assets)
        assets.snapshots_change = spec_version == 1
        merged = RepositoryConfig() if persisted is None else persisted
        if config is not None:
            merged = merged.merge(config)
        merged = usable_config(merged)
        assets.set_limits(merged)
        obeying = with_config(storage, merged)
        assets.use(obeying)
        named = endpoints_of_config(config) if named_endpoints is None else named_endpoints
        return cls._of(obeying, spec_version, merged, assets, authorize_virtual_chunk_access, named, opened_as=storage)

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
            ReadContext(
                storage,
                spec_version,
                config,
                assets,
                authorizations,
                named_endpoints=named_endpoints,
                opened_as=opened_as,
            )
        )

    @staticmethod
    def exists(storage: Storage) -> bool:
        """Tells whether a repository of either spec version is at a location."""
        return Repository.fetch_spec_version(storage) is not None

    @staticmethod
    def fetch_spec_version(storage: Storage) -> int | None:
        """Returns the spec version of the repository at a location, or None where there is none."""
        try:
            storage.head(REPO_INFO)
        except ObjectNotFoundError:
            return 1 if is_repository_v1(storage) else None
        return 2

    @staticmethod
    def fetch_config(storage: Storage) -> RepositoryConfig | None:
        """Returns the configuration that is persisted in a repository, or None where none is.

        Raises:
            RepositoryNotFoundError: no repository is there.
        """
        return _fetch_config(AssetManager(storage))[0]

    def reopen(
        self,
        config: RepositoryConfig | None = None,
        authorize_virtual_chunk_access: Authorizations | None = None,
    ) -> Self:
        """Opens the same location again, by default with the same configuration and authorisations."""
        known = self.context
        authorized = known.authorizations if authorize_virtual_chunk_access is None else authorize_virtual_chunk_access
        named = known.named_endpoints | endpoints_of_config(config)
        chosen = self.config if config is None else config
        return type(self).open(known.opened_as, chosen, authorized, named_endpoints=named)

    @property
    def authorized_virtual_container_prefixes(self) -> set[str]:
        """The URL prefixes that virtual chunks may be followed into."""
        return set(self.context.authorizations)

    def close(self) -> None:
        """Ends the repository's threads and connections to virtual chunks' stores."""
        self.context.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    # Refs.

    def refs(self, *, refresh: bool = True) -> Refs:
        """Returns all branches and tags; see `ReadContext.refs`."""
        return self.context.refs(refresh=refresh)

    def list_branches(self) -> set[str]:
        """Returns the names of all branches."""
        return set(self.refs().branches)

    def list_tags(self) -> set[str]:
        """Returns the names of all tags."""
        return set(self.refs().tags)

    def lookup_branch(self, name: str) -> SnapshotId:
        """Returns the tip of a branch; raises RefNotFoundError."""
        return self.refs().branch(name)

    def lookup_tag(self, name: str) -> SnapshotId:
        """Returns the snapshot of a tag; raises RefNotFoundError."""
        return self.refs().tag(name)

    def resolve(
        self,
        *,
        branch: str | None = None,
        tag: str | None = None,
        snapshot_id: SnapshotId | None = None,
        as_of: datetime | int | None = None,
    ) -> SnapshotId:
        """Returns the snapshot that exactly one of a branch, a tag and a snapshot id names.

        Args:
            branch: A branch; its tip, or with `as_of` its newest snapshot that is not younger than that.
            tag: A tag.
            snapshot_id: A snapshot, which must be part of the repository's history.
            as_of: A time, or microseconds since the epoch.

        Raises:
            InvalidInputError: not exactly one was given, or `as_of` with something else than a branch.
            RefNotFoundError, SnapshotNotFoundError: there is no such thing.
        """
        if sum(given is not None for given in (branch, tag, snapshot_id)) != 1:
            raise InvalidInputError("exactly one of branch, tag and snapshot_id must be given")
        if as_of is not None and branch is None:
            raise InvalidInputError("as_of goes with a branch only")
        if branch is not None:
            tip = self.lookup_branch(branch)
            if as_of is None:
                return tip
            micros = to_micros(as_of) if isinstance(as_of, datetime) else as_of
            return ancestry.snapshot_as_of(self.context, branch, tip, micros)
        if tag is not None:
            return self.lookup_tag(tag)
        assert snapshot_id is not None  # exactly one is given
        return self.lookup_snapshot(snapshot_id).id

    def resolve_ref(self, ref: str) -> SnapshotId:
        """Returns what a name means: a snapshot id, else a branch, else a tag.

        Raises:
            RefNotFoundError: it means nothing here.
        """
        try:
            return self.lookup_snapshot(SnapshotId.parse(ref)).id
        except (InvalidInputError, SnapshotNotFoundError):
            refs = self.refs()
        snapshot_id = refs.branches.get(ref) or refs.tags.get(ref)
        if snapshot_id is None:
            raise RefNotFoundError(
                f"{quoted(ref)} is no snapshot, branch or tag of {self.storage.url}",
                hint=suggestion(ref, [*refs.branches, *refs.tags]),
                ref=ref,
            )
        return snapshot_id

    # History.

    def lookup_snapshot(self, snapshot_id: SnapshotId) -> SnapshotInfo:
        """Returns what the repository knows of a snapshot without its nodes; see `ancestry.lookup_snapshot`."""
        return ancestry.lookup_snapshot(self.context, snapshot_id)

    def snapshot_info(self, snapshot_id: SnapshotId) -> SnapshotInfo:
        """Does what `lookup_snapshot` does, without a request if the state as last read has the snapshot."""
        return ancestry.snapshot_as_seen(self.context, snapshot_id)

    def ancestry(
        self, *, branch: str | None = None, tag: str | None = None, snapshot_id: SnapshotId | None = None
    ) -> Iterator[SnapshotInfo]:
        """Returns a snapshot and its ancestors, newest first; arguments and errors as `resolve`.

        Errors about the argument are raised by the call itself, those about an ancestor by the iterator.
        """
        return ancestry.walk(self.context, self.resolve(branch=branch, tag=tag, snapshot_id=snapshot_id))

    def ancestry_as_seen(self, snapshot_id: SnapshotId) -> Iterator[SnapshotInfo]:
        """Does what `ancestry` does, without a request if the state as last read has the snapshot."""
        return ancestry.ancestry_as_seen(self.context, snapshot_id)

    def log(self, ref: str = "main") -> Iterator[SnapshotInfo]:
        """Returns the ancestry of what `resolve_ref` makes of a name."""
        return ancestry.walk(self.context, self.resolve_ref(ref))

    # Sessions.

    def session_at(self, snapshot_id: SnapshotId, branch: str | None = None) -> Session:
        """Opens any snapshot that has a file, also one that no ref reaches; raises as `read.session.session_at`."""
        session = session_at(self.context, snapshot_id, branch)
        self.context.preloading.begin(session.snapshot)
        return session

    def readonly_session(
        self,
        branch: str | None = None,
        *,
        tag: str | None = None,
        snapshot_id: SnapshotId | None = None,
        as_of: datetime | int | None = None,
    ) -> Session:
        """Opens a snapshot for reading; arguments and errors as `resolve`."""
        found = self.resolve(branch=branch, tag=tag, snapshot_id=snapshot_id, as_of=as_of)
        return self.session_at(found, branch)


def _fetch_config(assets: AssetManager) -> tuple[RepositoryConfig | None, int]:
    """Reads the persisted configuration of a repository, or None, and finds out its spec version.

    `repo` decides: where there are refs of spec 1 as well, a migration published it and has yet to clean up.
    """
    try:
        info, _ = assets.fetch_repo_info()
    except RepositoryNotFoundError:
        if not is_repository_v1(assets.storage):
            raise
    else:
        return (None if info.config is None else parse_config(info.config, name=REPO_INFO)), 2
    try:
        data = assets.storage.get(CONFIG_V1).data
    except ObjectNotFoundError:
        return None, 1
    return parse_config_yaml(data, name=CONFIG_V1), 1
