"""How a configuration has the store used: its fields in the units of the storages.

An administrator writes a configuration, or a stranger: its values are checked. A value that cannot be is refused where
it is set or given; where it is saved already, the repository opens without it, and the log names it. So it does with
fields that have no effect.
"""

import copy
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from icefs.errors import InvalidInputError
from icefs.format.config.storage import (
    StorageConcurrencySettings,
    StorageRetriesSettings,
    StorageSettings,
    StorageTimeoutSettings,
)
from icefs.format.config.values import RepositoryConfig
from icefs.storage.base import Storage
from icefs.storage.settings import StoreSettings

_log = logging.getLogger(__name__)
# A week. A longer time is a mistake of units, and would hold the readers of a mount for as long.
_MAX_TIME_MS: Final = 7 * 24 * 3600 * 1000
_MAX_CLASS: Final = 64


def _is_count(value: int) -> bool:
    return 1 <= value < 1 << 63


def _is_tries(value: int) -> bool:
    return 1 <= value <= 10_000


def _is_wait(value: int) -> bool:
    return 0 <= value <= _MAX_TIME_MS


def _is_time(value: int) -> bool:
    return 1 <= value <= _MAX_TIME_MS


def _is_class(value: str) -> bool:
    # It becomes a header of requests.
    return value.isascii() and value.isprintable() and 0 < len(value) <= _MAX_CLASS


def _is_flag(value: object) -> bool:
    return isinstance(value, bool)


_WANTED: Final[dict[Callable[..., bool], str]] = {
    _is_count: "at least 1",
    _is_tries: "from 1 to 10000",
    _is_wait: f"from 0 to {_MAX_TIME_MS} (a week)",
    _is_time: f"from 1 to {_MAX_TIME_MS} (a week)",
    _is_class: "a class of the store, as STANDARD_IA",
    _is_flag: "true or false",
}
# The official library saves them with a repository in a directory when nobody asked for anything.
_SAVED_WITH_DIRECTORIES: Final = {
    "storage.concurrency.max_concurrent_requests_for_object": 5,
    "storage.concurrency.ideal_concurrent_request_size": 4096,
}


@dataclass(frozen=True, slots=True)
class _Field:
    """A field of a configuration's `storage`.

    Attributes:
        path: The names that lead to it.
        setting: The field of StoreSettings; None for one that the engine obeys itself.
        is_valid: Tells whether it may have a value.
    """

    path: tuple[str, ...]
    setting: str | None
    is_valid: Callable[..., bool]

    @property
    def name(self) -> str:
        """The field's name in a configuration."""
        return ".".join(("storage", *self.path))

    def holder(self, config: RepositoryConfig | None) -> Any:
        """Returns the object that has the field; None where it is not set."""
        found: Any = None if config is None else config.storage
        for name in self.path[:-1]:
            found = None if found is None else getattr(found, name)
        return found

    def value(self, config: RepositoryConfig | None) -> Any:
        """Returns the field's value; None where it is not set."""
        holder = self.holder(config)
        return None if holder is None else getattr(holder, self.path[-1])


_FIELDS: Final = (
    _Field(("concurrency", "max_concurrent_requests_for_object"), None, _is_count),
    _Field(("concurrency", "ideal_concurrent_request_size"), None, _is_count),
    _Field(("retries", "max_tries"), "max_tries", _is_tries),
    _Field(("retries", "initial_backoff_ms"), "initial_backoff_s", _is_wait),
    _Field(("retries", "max_backoff_ms"), "max_backoff_s", _is_wait),
    _Field(("timeouts", "connect_timeout_ms"), "connect_timeout_s", _is_time),
    _Field(("timeouts", "read_timeout_ms"), "read_timeout_s", _is_time),
    _Field(("timeouts", "operation_timeout_ms"), "operation_timeout_s", _is_time),
    _Field(("timeouts", "operation_attempt_timeout_ms"), "operation_attempt_timeout_s", _is_time),
    _Field(("storage_class",), "storage_class", _is_class),
    _Field(("metadata_storage_class",), "metadata_storage_class", _is_class),
    _Field(("chunks_storage_class",), "chunks_storage_class", _is_class),
    _Field(("unsafe_use_conditional_create",), "conditional_create", _is_flag),
    _Field(("unsafe_use_conditional_update",), "conditional_update", _is_flag),
    _Field(("unsafe_use_metadata",), "metadata", _is_flag),
    _Field(("minimum_size_for_multipart_upload",), "multipart_threshold_bytes", _is_count),
)


def check_config(config: RepositoryConfig | None) -> None:
    """Refuses a configuration with a value that cannot be; raises InvalidInputError."""
    for field, value in _invalid(config):
        raise InvalidInputError(
            f"the configuration's {field.name} is {value!r}, and has to be {_WANTED[field.is_valid]}"
        )


def usable_config(config: RepositoryConfig) -> RepositoryConfig:
    """Returns a configuration without the values that cannot be; the log names them."""
    invalid = list(_invalid(config))
    if not invalid:
        return config
    usable = copy.deepcopy(config)
    for field, value in invalid:
        _log.warning(
            "the repository's configuration has %s=%r, which has to be %s, and is not used: "
            "'icefs config set --unset %s' removes it",
            field.name,
            value,
            _WANTED[field.is_valid],
            field.name,
        )
        setattr(field.holder(usable), field.path[-1], None)
    return usable


def store_settings(config: RepositoryConfig | None) -> StoreSettings:
    """Returns what a configuration, which `check_config` has nothing against, says about the store."""
    settings: dict[str, Any] = {}
    for field in _FIELDS:
        value = field.value(config)
        if field.setting is not None and value is not None:
            settings[field.setting] = value / 1000 if field.path[-1].endswith("_ms") else value
    return StoreSettings(**settings)


def settings_of(settings: StoreSettings) -> StorageSettings:
    """Returns settings of a store as a configuration has them; a time that no configuration can have is left out."""
    # All parts are there, so that a program can set a member of each.
    found = StorageSettings(
        concurrency=StorageConcurrencySettings(), retries=StorageRetriesSettings(), timeouts=StorageTimeoutSettings()
    )
    holder = RepositoryConfig(storage=found)
    for field in _FIELDS:
        value = None if field.setting is None else getattr(settings, field.setting)
        if value is not None and field.path[-1].endswith("_ms"):
            value = round(value * 1000)
        if value is not None and field.is_valid(value):
            setattr(field.holder(holder), field.path[-1], value)
    return found


def unheeded_fields(storage: Storage, config: RepositoryConfig) -> list[str]:
    """Returns the fields of a configuration that ask for something, and have no effect in a store."""
    unheeded = storage.unheeded_settings(store_settings(config))
    names = [field.name for field in _FIELDS if field.setting in unheeded]
    if storage.capabilities.local_files:
        # A file is read at once, by one call.
        given = {field.name: field.value(config) for field in _FIELDS if field.setting is None}
        names += [name for name, value in given.items() if value not in (None, _SAVED_WITH_DIRECTORIES[name])]
    if config.caching is not None and config.caching.num_bytes_attributes:
        names.append("caching.num_bytes_attributes")  # attributes are part of the snapshot, which is cached whole
    return names


def with_config(storage: Storage, config: RepositoryConfig) -> Storage:
    """Returns a storage of the same place that obeys a configuration; the log names the fields without an effect."""
    for name in unheeded_fields(storage, config):
        _log.warning("the configuration's %s has no effect in icefs at %s", name, storage.url)
    return storage.with_settings(store_settings(config))


def _invalid(config: RepositoryConfig | None) -> list[tuple[_Field, Any]]:
    values = [(field, field.value(config)) for field in _FIELDS]
    return [(field, value) for field, value in values if value is not None and not field.is_valid(value)]
