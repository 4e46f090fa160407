"""Keys that requests are signed with, and where they come from.

Source: AWS Identity and Access Management, "AWS security credentials".
"""

import re
from typing import Final, NamedTuple, Protocol, Self

from icefs.errors import AccessDeniedError
from icefs.storage.s3.options import S3Client

_SENDABLE: Final = re.compile("[!-~]+")


class Keys(Protocol):
    """An access key, and the session token that temporary keys have."""

    @property
    def access_key(self) -> str:
        """The access key id, which requests name."""
        ...

    @property
    def secret_key(self) -> str:
        """The secret access key, which signs them."""
        ...

    @property
    def token(self) -> str | None:
        """The session token."""
        ...


class KeySource(Protocol):
    """Where keys come from; as botocore's credentials."""

    def get_frozen_credentials(self) -> Keys:
        """Returns the keys as they are now."""
        ...


class StaticKeys(NamedTuple):
    """Keys that stay as they are; their own source."""

    access_key: str
    secret_key: str
    token: str | None

    def get_frozen_credentials(self) -> Self:
        """Returns the keys."""
        return self

    def __repr__(self) -> str:
        return "StaticKeys(...)"


class Opened(NamedTuple):
    """What boto3 found in the AWS configuration.

    Attributes:
        client: An S3 client.
        keys: The source of its keys; None if there are none.
        ca_bundle: The file with the certificate authorities to trust, if the configuration names one.
    """

    client: S3Client
    keys: KeySource | None
    ca_bundle: str | None


def check_keys(keys: Keys) -> None:
    """Refuses keys that cannot be sent; never repeats them.

    Raises:
        AccessDeniedError: they have a line break, or something else that no header can hold.
    """
    # The secret key is never sent, but a line break from a file makes it another one.
    is_fit = {
        "access key id": _SENDABLE.fullmatch(keys.access_key) is not None,
        "secret access key": keys.secret_key.isprintable() and keys.secret_key == keys.secret_key.strip(),
        "session token": not keys.token or _SENDABLE.fullmatch(keys.token) is not None,
    }
    for name, fits in is_fit.items():
        if not fits:
            raise AccessDeniedError(
                f"the {name} for S3 has characters that no header can hold",
                hint="look for a line break or a space at its end",
            )
