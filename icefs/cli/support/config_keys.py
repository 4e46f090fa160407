"""The settings of a repository's configuration, by dotted key."""

from typing import Any

from icefs.format.config.codec import encode_config
from icefs.format.config.values import RepositoryConfig
from icefs.format.flat.flexbuffer import decode_flexbuffer


def settings_tree(config: RepositoryConfig) -> Any:
    """Returns a configuration as nested dictionaries of plain values, as it is stored."""
    return decode_flexbuffer(encode_config(config))


def known_keys() -> list[str]:
    """Returns the keys of all settings, as `compression.level`, and of what they are parts of."""
    found: list[str] = []

    def walk(value: Any, prefix: str) -> None:
        for name, inner in value.items():
            found.append(f"{prefix}{name}")
            if isinstance(inner, dict):
                walk(inner, f"{prefix}{name}.")

    walk(settings_tree(RepositoryConfig().effective()), "")
    return found
