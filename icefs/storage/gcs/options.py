"""The options of Google Cloud Storage: everything but the bucket."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any, Final
from urllib.parse import urlsplit

from icefs.errors import InvalidInputError, UnsupportedError
from icefs.storage.retry import RetryPolicy
from icefs.storage.settings import StoreSettings


@dataclass(frozen=True, slots=True)
class GcsKeyFile:
    """A file with the JSON of a service account, or of a user's login."""

    path: str


@dataclass(frozen=True, slots=True)
class GcsKey:
    """The JSON of a service account, or of a user's login."""

    json: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class GcsToken:
    """A bearer token; `expires_after` (aware) says when to ask for a new one, if it comes from a callback."""

    token: str = field(repr=False)
    expires_after: datetime | None = None


type GcsCredentials = GcsKeyFile | GcsKey | GcsToken | Callable[[], GcsToken]


_ENDPOINT_NAMES: Final = ("google_base_url", "base_url")
_UNSIGNED_NAMES: Final = ("google_skip_signature", "skip_signature")


def config_options(config: Mapping[str, str]) -> dict[str, Any]:
    """Reads the options that the official library knows, under their names there; returns fields of `GcsOptions`.

    Raises:
        UnsupportedError: an option has no meaning here; its value is not repeated, for it may be a key.
    """
    found: dict[str, Any] = {}
    for name, value in config.items():
        key, is_true = name.lower(), str(value).lower() in ("true", "1", "yes", "on")
        if key in _ENDPOINT_NAMES:
            found["endpoint_url"] = value
        elif key in _UNSIGNED_NAMES:
            found["anonymous"] = is_true
        elif key == "allow_http":
            found["allow_http"] = is_true
        else:
            raise UnsupportedError(
                f"icefs knows no option {name!r} of Google Cloud Storage",
                hint="it knows base_url, skip_signature and allow_http",
            )
    return found


@dataclass(frozen=True, slots=True)
class GcsOptions:
    """Everything about the service but the bucket.

    Attributes:
        endpoint_url: Where the service is; None for what `STORAGE_EMULATOR_HOST` says, or Google.
        anonymous: Send requests without a token.
        project: The project in whose name Google's library sends requests.
        user_project: The project that pays for requests; needed for buckets whose requesters pay.
        allow_http: Whether an `http://` endpoint may be used.
        credentials: Keys, a token, or a callback that returns one; None for Application Default Credentials.
        concurrency: How many connections are kept.
        connect_timeout_s: How long to wait for a connection.
        read_timeout_s: How long to wait for the next bytes of an answer.
        retry: When to try again.
        multipart_threshold_bytes: Objects from this size on are sent in parts.
        multipart_part_bytes: The size of the parts; a multiple of 256 KiB.
        read_headers: Sent with every request that reads or lists; may hold secrets.
        write_headers: Sent with every other request.
        user_agent: Added to the User-Agent header, for the owner's access logs.
        settings: The settings of the repository, as far as they are not in the other fields.
        named: The fields that the user has given, which settings do not change.
    """

    endpoint_url: str | None = None
    anonymous: bool = False
    project: str | None = None
    user_project: str | None = None
    allow_http: bool = True
    credentials: GcsCredentials | None = field(default=None, repr=False)
    concurrency: int = 32
    connect_timeout_s: float = 5.0
    read_timeout_s: float = 30.0
    retry: RetryPolicy = field(default_factory=RetryPolicy)
    multipart_threshold_bytes: int = 32 << 20
    multipart_part_bytes: int = 16 << 20
    read_headers: tuple[tuple[str, str], ...] = field(default=(), repr=False)
    write_headers: tuple[tuple[str, str], ...] = field(default=(), repr=False)
    user_agent: str = ""
    settings: StoreSettings = field(default_factory=StoreSettings)
    named: frozenset[str] = frozenset()

    def __post_init__(self) -> None:
        if self.endpoint_url is None:
            return
        parts = urlsplit(self.endpoint_url)
        if parts.username is not None or parts.password is not None:
            raise InvalidInputError("the endpoint_url must not hold a user name or password")
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise InvalidInputError("the endpoint_url does not start with http:// or https://")
        if parts.scheme == "http" and not self.allow_http:
            raise InvalidInputError(
                f"the endpoint {self.endpoint_url} is not encrypted", hint="set allow_http to use it all the same"
            )

    def with_settings(self, settings: StoreSettings) -> "GcsOptions":
        """Returns options that obey the settings, but in the fields that the user has named."""
        settings = settings.without(self.named)
        changed: dict[str, Any] = {"settings": settings, "retry": self.retry.with_settings(settings)}
        for name in ("connect_timeout_s", "read_timeout_s", "multipart_threshold_bytes"):
            value = getattr(settings, name)
            if value is not None:
                changed[name] = value
        return replace(self, **changed)
