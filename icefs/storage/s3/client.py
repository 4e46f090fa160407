"""How to reach an S3 service: with or without botocore.

`s3_requests` sends most requests by itself. What it needs for that (keys, endpoint, region) botocore finds out
(`s3_session`), or it is there already (`s3_direct`): then botocore is only loaded for what is rarely asked.
"""

import logging
import os
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Final

from botocore import exceptions as boto_errors

from icefs.errors import IcefsError
from icefs.storage.s3 import direct as s3_direct
from icefs.storage.s3.errors import check_keys, client_errors, credentials_error
from icefs.storage.s3.options import S3Client, S3Credentials, S3Options
from icefs.storage.s3.target import Target

_log = logging.getLogger(__name__)
_FILES: Final = (
    ("AWS_SHARED_CREDENTIALS_FILE", "~/.aws/credentials"),
    ("AWS_CONFIG_FILE", "~/.aws/config"),
    ("AWS_WEB_IDENTITY_TOKEN_FILE", ""),
)
_RENEWAL_PAUSE_S: Final = 60.0


class Connection:
    """What is known of a service, and a client that is made when it is needed. Safe for threads.

    Attributes:
        endpoint_url: Where the service is.
        is_anonymous: Whether requests go unsigned.
        ca_bundle: The file with the authorities to trust, if the AWS configuration names one.
        last_keys: What requests were signed with last.
    """

    def __init__(self, options: S3Options, direct: s3_direct.Direct | None) -> None:
        """Asks botocore for what is not there; raises as `connect`."""
        self.is_anonymous = options.anonymous
        self._options = options
        self._direct = direct
        self._lock = threading.Lock()
        self._client: S3Client | None = None
        self._credentials: Any
        self.last_keys: Any = None
        if direct is not None:
            self.endpoint_url, self.ca_bundle, self._credentials = direct.endpoint_url, direct.ca_bundle, direct.keys
        else:
            self._client, self._credentials, self.ca_bundle = _open(options)
            self.endpoint_url = self._client.meta.endpoint_url

    @property
    def client(self) -> S3Client:
        """A client of botocore; raises as `connect`."""
        if not self.is_anonymous:
            self.frozen_credentials()  # which looks at what botocore would put into headers
        with self._lock:
            if self._client is None:
                self._client = _open(self._options).client
            return self._client

    def target(self, bucket: str) -> Target:
        """Returns where a bucket is.

        Raises:
            BotoCoreError: the bucket's name, or the configuration, is not valid.
            UnsupportedError: requests must be signed in a way that icefs does not know.
        """
        found = None if self._direct is None else self._direct.target(bucket)
        if found is None:
            from icefs.storage.s3.session import ask_target  # lazy: it loads botocore

            found = ask_target(self.client, bucket, is_signed=not self.is_anonymous)
        return found

    def frozen_credentials(self) -> Any:
        """Returns the keys as they are now (`access_key`, `secret_key`, `token`).

        Raises:
            BotoCoreError: there are none, or they could not be refreshed.
            AccessDeniedError: they could not be refreshed, or cannot be sent.
            InvalidInputError: the callback that returns keys returned none.
        """
        if self._credentials is None:
            raise boto_errors.NoCredentialsError
        try:
            keys = self._credentials.get_frozen_credentials()
        except (OSError, ValueError, KeyError) as error:
            if isinstance(error, IcefsError):
                raise
            raise credentials_error(error) from None
        if keys != self.last_keys:
            check_keys(keys)
            self.last_keys = keys
        return keys

    def close(self) -> None:
        """Closes the client's connections."""
        with self._lock:
            if self._client is not None:
                self._client.close()


class ClientHolder:
    """Connects when that is first needed, and again when credentials expired on the disk.

    One connection serves all threads. `_lock` protects the fields; it is made under it, which asks no network but what
    finding credentials takes.
    """

    def __init__(self, options: S3Options, *, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._options = options
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._connection: Connection | None = None
        self._renewed_at = float("-inf")
        self._files: Any = None

    def connection(self) -> Connection:
        """Returns what is known of the service.

        Raises:
            InvalidInputError: the options, or the AWS configuration, are not valid.
            AccessDeniedError: there are no credentials.
        """
        connection = self._connection
        if connection is None:
            with self._lock:
                connection = self._connection
                if connection is None:
                    self._files = _files()
                    connection = self._connection = connect(self._options)
        return connection

    def is_current(self, connection: Connection) -> bool:
        """Tells whether a connection is the one that `connection` would return; never waits."""
        return self._connection is connection

    def renew(self, stale: Connection) -> bool:
        """Reads the AWS configuration again, or asks the callback; tells whether that gives other keys.

        It is done once in a minute, and whenever one of the files has changed.
        """
        if isinstance(self._options.credentials, S3Credentials) or self._options.anonymous:
            return False
        with self._lock:
            if self._connection is not stale:
                return True
            now, files = self._monotonic(), _files()
            if now - self._renewed_at < _RENEWAL_PAUSE_S and files == self._files:
                return False
            self._renewed_at, self._files = now, files
            try:
                renewed = connect(self._options)
                if renewed.frozen_credentials() == stale.last_keys:
                    return False
            except IcefsError as error:
                return _give_up_renewal(error)
            except client_errors() as error:
                return _give_up_renewal(error)
            self._connection = renewed
            return True

    def move(self, stale: Connection, region: str) -> bool:
        """Makes the next `connection` talk to another region; tells whether that is news."""
        with self._lock:
            if self._connection is not stale:
                return True
            if self._options.region == region:
                return False
            self._options = replace(self._options, region=region)
            self._connection = None
            return True

    def close(self) -> None:
        """Closes the client's connections."""
        with self._lock:
            if self._connection is not None:
                self._connection.close()


def _give_up_renewal(error: Exception) -> bool:
    _log.info("the keys for S3 could not be read again: %s", type(error).__name__)
    return False


def _files() -> list[tuple[int, int, int] | None]:
    """Returns what tells whether the files that keys come from have changed."""
    found: list[tuple[int, int, int] | None] = []
    for name, default in _FILES:
        try:
            status = os.stat(os.path.expanduser(os.environ.get(name) or default))
            found.append((status.st_mtime_ns, status.st_size, status.st_ino))
        except OSError:
            found.append(None)
    return found


def connect(options: S3Options) -> Connection:
    """Connects to a service; sends nothing but what finding credentials takes.

    Raises:
        InvalidInputError: the options, or the AWS configuration, are not valid.
        AccessDeniedError: the credentials could not be had.
    """
    direct = s3_direct.find(options)
    if direct is not None:
        options.check_endpoint(direct.endpoint_url)
    return Connection(options, direct)


def make_client(options: S3Options) -> S3Client:
    """Makes a client of botocore; raises as `connect`."""
    return _open(options).client


def _open(options: S3Options) -> Any:
    from icefs.storage.s3.session import open_client  # lazy: it loads botocore

    return open_client(options)
