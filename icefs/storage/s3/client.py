"""How to reach an S3 service: with or without boto3.

`requests` sends most requests by itself. The keys, endpoint and region that it needs are known in full (`direct`), or
boto3 finds them (`session`). In the first case boto3 is imported for rare requests alone.
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
from icefs.storage.s3.errors import CLIENT_ERRORS
from icefs.storage.s3.keys import Keys, KeySource, Opened, check_keys
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
        """Asks boto3 for everything that is not known yet; raises as `connect`."""
        self.is_anonymous = options.anonymous
        self._options = options
        self._direct = direct
        self._lock = threading.Lock()
        self._client: S3Client | None = None
        self._source: KeySource | None
        self.last_keys: Keys | None = None
        if direct is not None:
            self.endpoint_url, self.ca_bundle, self._source = direct.endpoint_url, direct.ca_bundle, direct.keys
        else:
            self._client, self._source, self.ca_bundle = _open(options)
            self.endpoint_url = self._client.meta.endpoint_url

    @property
    def client(self) -> S3Client:
        """A client of boto3; raises as `connect`."""
        if not self.is_anonymous:
            self.keys()  # checks the keys that boto3 would put into headers
        with self._lock:
            if self._client is None:
                self._client = _open(self._options).client
            return self._client

    def call[T](self, operation: Callable[[S3Client], T]) -> T:
        """Does `operation` with a client of boto3.

        Raises:
            ClientError: the service refused.
            BotoCoreError: it could not be reached, or broke off.
            AnswerError: its answer cannot be read.
            InvalidInputError, AccessDeniedError: as `connect`.
        """
        from icefs.storage.s3.session import call  # lazy: it imports boto3

        return call(self.client, operation)

    def target(self, bucket: str) -> Target:
        """Returns where a bucket is.

        Raises:
            BotoCoreError: the bucket's name, or the configuration, is not valid.
            UnsupportedError: requests must be signed in a way that icefs does not know.
        """
        found = None if self._direct is None else self._direct.target(bucket)
        if found is None:
            from icefs.storage.s3.session import find_target  # lazy: it imports boto3

            found = find_target(self.client, bucket, is_signed=not self.is_anonymous)
        return found

    def keys(self) -> Keys:
        """Returns the keys as they are now.

        Raises:
            BotoCoreError: there are none, or they could not be refreshed.
            AccessDeniedError: they could not be refreshed, or cannot be sent.
            AnswerError: the service that issues them answered in a way that cannot be read.
            InvalidInputError: the callback that returns keys returned none.
        """
        if self._source is None:
            raise boto_errors.NoCredentialsError
        keys = self._source.get_frozen_credentials()
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
                if renewed.keys() == stale.last_keys:
                    return False
            except IcefsError as error:
                return _give_up_renewal(error)
            except CLIENT_ERRORS as error:
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


def _open(options: S3Options) -> Opened:
    from icefs.storage.s3.session import open_client  # lazy: it imports boto3

    return open_client(options)
