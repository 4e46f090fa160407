"""Whether an object store keeps the conditions of writes, which is all that stands between two writers.

A process tries a store before the first write to a repository that depends on a condition, and again after an hour: a
gateway that drops conditions may stand between this machine and a store that another one made the repository in. The
trial is one conditional write that a good store refuses (and the two requests that explain the refusal), and it leaves
nothing there. Only a good result is remembered, in the process's memory.
"""

import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Final

from icefs.errors import PreconditionFailedError, UnsupportedError
from icefs.format.config.storage import StorageSettings
from icefs.format.ids import ChunkId
from icefs.format.layout import CHUNKS, chunk_key
from icefs.storage.base import ObjectInfo, Storage

PROBE: Final = b"icefs tries whether this store keeps conditions\n"
"""What is written; a probe that was interrupted leaves it at a chunk's name, where garbage collection finds it."""
CREATE, UPDATE = "If-None-Match", "If-Match"
"""The conditions, as they are called in requests: that no object is there, and that a version is."""
_NO_VERSION: Final = "0" * 32
_TRUSTED_S: Final = 3600.0
_MOST_TRUSTED: Final = 1024


def is_probe(info: ObjectInfo) -> bool:
    """Tells whether an object is one that an interrupted trial may have left."""
    return info.key.startswith(f"{CHUNKS}/") and len(PROBE) <= info.size_bytes <= len(PROBE) + 1


def ignored_conditions(storage: Storage) -> list[str]:
    """Returns which conditions of writes a store ignores: `CREATE`, `UPDATE`.

    Writes an object of its own, and deletes it. A store that needs no trial ignores none.

    Raises:
        StorageError: the object cannot be written; or the store refuses a condition that holds.
    """
    if not storage.capabilities.must_be_tried:
        return []
    key = chunk_key(ChunkId.random())
    ignored = []
    try:
        storage.put(key, PROBE, create_only=True)
        try:
            storage.put(key, PROBE + b"2", create_only=True)
            ignored.append(CREATE)
        except PreconditionFailedError:
            pass
        try:
            storage.put(key, PROBE + b"3", if_match=_NO_VERSION)
            ignored.append(UPDATE)
        except PreconditionFailedError:
            pass
        if not ignored:
            storage.put(key, PROBE, if_match=storage.head(key).version)
    finally:
        storage.delete([key])
    return ignored


def relied_on(settings: StorageSettings | None) -> frozenset[str]:
    """Returns the conditions that a repository relies on, by its settings.

    Without conditional updates there is one writer, which needs no condition at all.
    """
    if settings is not None and settings.unsafe_use_conditional_update is False:
        return frozenset()
    if settings is not None and settings.unsafe_use_conditional_create is False:
        return frozenset((UPDATE,))
    return frozenset((CREATE, UPDATE))


class TrustedStores:
    """The stores that kept conditions when this process tried them last. Safe for threads: its steps are atomic."""

    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._monotonic = monotonic
        self._tried_at: OrderedDict[tuple[str, frozenset[str]], float] = OrderedDict()

    def check_new(self, storage: Storage, settings: StorageSettings | None) -> None:
        """Tries the store of a repository that is about to be made.

        Args:
            storage: The repository's place.
            settings: The repository's.

        Raises:
            UnsupportedError: it ignores a condition that the repository relies on.
            StorageError: as `ignored_conditions`.
        """
        needed = relied_on(settings)
        if not needed or not storage.capabilities.must_be_tried:
            return
        _refuse(
            storage,
            needed.intersection(ignored_conditions(storage)),
            "use a store that keeps conditional writes, or look for a proxy that drops the conditions; where there is"
            " never a second writer: icefs init --single-writer",
        )
        self._trust(storage, needed)

    def check(self, storage: Storage, settings: StorageSettings | None, needed: frozenset[str]) -> None:
        """Tries a store before a write that depends on conditions, unless it was tried of late.

        Args:
            storage: The repository's place.
            settings: The repository's.
            needed: The conditions that the write depends on.

        Raises:
            UnsupportedError: the store ignores one of them.
            StorageError: an object cannot be written.
        """
        needed &= relied_on(settings)
        if not needed or not storage.capabilities.must_be_tried:
            return
        identity = storage.identity
        now = self._monotonic()
        if any(
            name == identity and kept >= needed and now - at < _TRUSTED_S
            for (name, kept), at in list(self._tried_at.items())
        ):
            return
        if CREATE in needed:
            ignored = needed.intersection(ignored_conditions(storage))
        else:
            ignored = frozenset((UPDATE,)) if _ignores_update(storage) else frozenset()
        _refuse(
            storage,
            ignored,
            "reach the store without the proxy or gateway that drops the conditions of writes, or move the repository"
            " to a store that keeps them; where there is never a second writer:"
            " icefs config set storage.unsafe_use_conditional_update=false",
        )
        self._trust(storage, needed)

    def _trust(self, storage: Storage, kept: frozenset[str]) -> None:
        self._tried_at[storage.identity, kept] = self._monotonic()
        while len(self._tried_at) > _MOST_TRUSTED:
            self._tried_at.popitem(last=False)


TRUSTED: Final = TrustedStores()
"""The stores that this process has tried."""


def _refuse(storage: Storage, ignored: frozenset[str], hint: str) -> None:
    if ignored:
        raise UnsupportedError(
            f"{storage.url} ignores {' and '.join(sorted(ignored, reverse=True))}: of two commits at once one would be"
            " lost",
            hint=hint,
        )


def _ignores_update(storage: Storage) -> bool:
    """Writes over a version of an object that is not there, which a good store refuses."""
    key = chunk_key(ChunkId.random())
    try:
        storage.put(key, PROBE, if_match=_NO_VERSION)
    except PreconditionFailedError:
        return False
    storage.delete([key])
    return True
