"""The options of an S3 service: everything but the bucket."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any
from urllib.parse import urlsplit

from icefs.errors import InvalidInputError
from icefs.storage.retry import RetryPolicy
from icefs.storage.s3.headers import ExtraHeaders
from icefs.storage.settings import StoreSettings

type S3Client = Any
"""A client of boto3; its methods are made at run time."""


@dataclass(frozen=True, slots=True)
class S3Credentials:
    """Keys for S3; `expires_after` (aware) says when to ask for new ones, if they come from a callback."""

    access_key_id: str = field(repr=False)
    secret_access_key: str = field(repr=False)
    session_token: str | None = field(default=None, repr=False)
    expires_after: datetime | None = None


@dataclass(frozen=True, slots=True)
class S3Options:
    """Everything about a service but the bucket.

    Attributes:
        endpoint_url: Where the service is; None for AWS, or what the AWS environment says.
        region: None for what the AWS environment says, else `us-east-1`.
        profile: A profile of the AWS configuration files.
        anonymous: Send requests unsigned.
        force_path_style: Put the bucket into the path. None does so for every service but AWS.
        allow_http: Whether an `http://` endpoint may be used.
        requester_pays: Agree to pay for reading.
        credentials: Keys, or a callback that returns them; None leaves it to the AWS environment.
        concurrency: How many connections are kept.
        connect_timeout_s: How long to wait for a connection.
        read_timeout_s: How long to wait for the next bytes of an answer.
        retry: When to try again.
        multipart_threshold_bytes: Objects from this size on are sent in parts.
        multipart_part_bytes: The size of the parts.
        user_agent: Added to the User-Agent header, for the owner's access logs.
        read_headers: Added to requests that read or list.
        write_headers: Added to all other requests.
        checksum_algorithm: Which checksum is sent with uploads and deletions; one of `checksums.ALGORITHMS`. None for
            none but where the service demands one.
        legacy_rooted_keys: Whether keys begin with a slash, at the root of a bucket; None finds out.
        settings: What the repository's configuration says about classes, conditions and metadata of objects.
        named: The names of the settings that the user has named, and that a repository's leave as they are.
    """

    endpoint_url: str | None = None
    region: str | None = None
    profile: str | None = None
    anonymous: bool = False
    force_path_style: bool | None = None
    allow_http: bool = True
    requester_pays: bool = False
    credentials: S3Credentials | Callable[[], S3Credentials] | None = field(default=None, repr=False)
    concurrency: int = 32
    connect_timeout_s: float = 5.0
    read_timeout_s: float = 30.0
    retry: RetryPolicy = field(default_factory=RetryPolicy)
    multipart_threshold_bytes: int = 100 << 20
    multipart_part_bytes: int = 16 << 20
    user_agent: str = ""
    read_headers: ExtraHeaders = field(default=(), repr=False)
    write_headers: ExtraHeaders = field(default=(), repr=False)
    checksum_algorithm: str | None = None
    legacy_rooted_keys: bool | None = None
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

    def with_settings(self, settings: StoreSettings) -> "S3Options":
        """Returns options that obey the settings, but in the fields that the user has named."""
        settings = settings.without(self.named)
        changed: dict[str, Any] = {"settings": settings, "retry": self.retry.with_settings(settings)}
        for name in ("connect_timeout_s", "read_timeout_s", "multipart_threshold_bytes"):
            value = getattr(settings, name)
            if value is not None:
                changed[name] = value
        return replace(self, **changed)

    def check_endpoint(self, url: str) -> None:
        """Raises InvalidInputError if an endpoint is not encrypted, and has to be."""
        if urlsplit(url).scheme == "http" and not self.allow_http:
            raise InvalidInputError(
                f"the endpoint {url} is not encrypted", hint="set allow_http to use it all the same"
            )
