"""How a store is to be used: what an administrator saved in a repository, in the units of the storages.

Every field may be None, which leaves it to the store's own default. `Storage.with_settings` takes them; a storage names
those that it cannot obey in `Storage.unheeded_settings`, so that the opener of the repository can say so.

Source: format notes §4 and §7.7 (`StorageSettings`).
"""

from collections.abc import Collection
from dataclasses import dataclass, fields, replace
from typing import Final


@dataclass(frozen=True, slots=True)
class StoreSettings:
    """How a store is to be used.

    Attributes:
        max_tries: How many tries a request gets in all.
        initial_backoff_s: The longest wait before the second try.
        max_backoff_s: The longest wait before any try.
        connect_timeout_s: How long to wait for a connection.
        read_timeout_s: How long to wait for the next bytes of an answer.
        operation_timeout_s: How long a request may take with all its tries.
        operation_attempt_timeout_s: How long one try may take.
        storage_class: The class of every object without a class of its own kind.
        metadata_storage_class: The class of snapshots, manifests and transaction logs.
        chunks_storage_class: The class of chunks.
        conditional_create: False to create objects without asking that there is none.
        conditional_update: False to replace and copy objects without asking for their version.
        metadata: False to send no user metadata.
        multipart_threshold_bytes: Objects from this size on are sent in parts.
    """

    max_tries: int | None = None
    initial_backoff_s: float | None = None
    max_backoff_s: float | None = None
    connect_timeout_s: float | None = None
    read_timeout_s: float | None = None
    operation_timeout_s: float | None = None
    operation_attempt_timeout_s: float | None = None
    storage_class: str | None = None
    metadata_storage_class: str | None = None
    chunks_storage_class: str | None = None
    conditional_create: bool | None = None
    conditional_update: bool | None = None
    metadata: bool | None = None
    multipart_threshold_bytes: int | None = None

    def given(self, usual: "StoreSettings | None" = None) -> tuple[str, ...]:
        """Returns the names of the fields that ask for anything but what the store does anyway, in their order.

        Args:
            usual: Values that a program saves with every repository of such a store; they ask for nothing.
        """
        asked = [field.name for field in fields(self) if not _is_usual(getattr(self, field.name))]
        return tuple(name for name in asked if usual is None or getattr(self, name) != getattr(usual, name))

    def without(self, names: Collection[str]) -> "StoreSettings":
        """Returns the settings without the fields of those names."""
        return replace(self, **{field.name: None for field in fields(self) if field.name in names})

    def storage_class_of(self, key: str) -> str | None:
        """Returns the class that an object should have; None for the store's own default.

        Args:
            key: The object's key, relative to the repository's root.
        """
        kind = key.partition("/")[0]
        if kind == "chunks":
            return self.chunks_storage_class or self.storage_class
        if kind in ("snapshots", "manifests", "transactions"):
            return self.metadata_storage_class or self.storage_class
        return self.storage_class


OF_THIS_MACHINE: Final = StoreSettings(
    max_tries=1, initial_backoff_s=0.0, max_backoff_s=0.0, conditional_update=False, metadata=False
)
"""What the official library saves with a repository in a directory or in memory when nobody asked for anything."""


def _is_usual(value: object) -> bool:
    """Tells whether a field asks for nothing; a number of 1, which equals True, asks for something."""
    return value is None or value is True
