"""The kinds of stores: their schemes, the options of their locations, and the arguments that no URL may hold.

Each kind has one row; `url` parses and opens by it.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final


def _boolean(text: str) -> bool:
    value = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}.get(text.lower())
    if value is None:
        raise ValueError(f"{text!r} is neither true nor false")
    return value


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise ValueError(f"{text} is less than 1")
    return value


def _seconds(text: str) -> float:
    value = float(text)
    if not 0 < value < float("inf"):
        raise ValueError(f"{text} is no time")
    return value


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of store.

    Attributes:
        name: The kind, as `Location.scheme` gives it.
        schemes: The schemes of its URLs.
        form: How its locations are written.
        options: What the query of a location may hold, with the functions that parse the values.
        arguments: What `open_storage` takes besides; never part of a URL, where others could read it.
        keys_belong: Where those are given instead; the end of "put it into …".
        is_remote: Whether a service holds the objects, which is not always there and takes its time.
    """

    name: str
    schemes: tuple[str, ...]
    form: str
    options: Mapping[str, Callable[[str], Any]] = field(default_factory=dict)
    arguments: tuple[str, ...] = ()
    keys_belong: str = "the environment"
    is_remote: bool = True


COMMON_OPTIONS: Final[dict[str, Callable[[str], Any]]] = {
    "concurrency": _positive,
    "max_tries": _positive,
    "connect_timeout_s": _seconds,
    "read_timeout_s": _seconds,
}

_S3: Final = Kind(
    "s3",
    ("s3",),
    "s3://BUCKET/PREFIX",
    {
        "endpoint_url": str,
        "region": str,
        "profile": str,
        "anonymous": _boolean,
        "force_path_style": _boolean,
        "allow_http": _boolean,
        "requester_pays": _boolean,
        "checksum_algorithm": str.upper,
        "legacy_rooted_keys": _boolean,
        **COMMON_OPTIONS,
    },
    ("access_key_id", "secret_access_key", "session_token", "credentials", "headers", "read_headers", "write_headers"),
    "the AWS environment or configuration files",
)
_GCS: Final = Kind(
    "gcs",
    ("gs", "gcs"),
    "gs://BUCKET/PREFIX",
    {
        "endpoint_url": str,
        "anonymous": _boolean,
        "project": str,
        "user_project": str,
        "allow_http": _boolean,
        **COMMON_OPTIONS,
    },
    ("credentials",),
    "the environment (GOOGLE_APPLICATION_CREDENTIALS)",
)
_AZURE: Final = Kind(
    "azure",
    ("az", "azure", "abfs", "abfss"),
    "az://CONTAINER/PREFIX, or abfs://CONTAINER@ACCOUNT.dfs.core.windows.net/PREFIX",
    {
        "account": str,
        "endpoint_url": str,
        "anonymous": _boolean,
        "allow_http": _boolean,
        **COMMON_OPTIONS,
    },
    ("account_key", "sas_token", "bearer_token", "connection_string", "credentials"),
    "the environment (AZURE_STORAGE_KEY, AZURE_STORAGE_SAS_TOKEN, AZURE_STORAGE_CONNECTION_STRING)",
)

KINDS: Final[Mapping[str, Kind]] = {
    kind.name: kind
    for kind in (
        Kind("file", ("file",), "file:///PATH", {"durable": _boolean}, is_remote=False),
        Kind("memory", ("memory",), "memory:NAME", is_remote=False),
        Kind("http", ("http", "https"), "https://HOST/PATH", {"redirect_to": str, **COMMON_OPTIONS}, ("headers",)),
        _S3,
        _GCS,
        _AZURE,
    )
}
"""All kinds of stores, by name."""

KIND_OF_SCHEME: Final[Mapping[str, Kind]] = {scheme: kind for kind in KINDS.values() for scheme in kind.schemes}
"""The kind of each scheme."""
