"""Requests about the blobs of one container, each sent until there is an answer."""

import logging
import os
import threading
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

from azure.core.pipeline.transport import RequestsTransport
from azure.storage.blob import BlobClient, ContainerClient
from requests import Session

from icefs.errors import AccessDeniedError, IcefsError, StorageError
from icefs.storage.azure.credentials import Signing, find_signing
from icefs.storage.azure.errors import CLIENT_ERRORS, azure_error
from icefs.storage.azure.options import AzureCredentials, AzureOptions
from icefs.storage.azure.session import new_session
from icefs.storage.base import MAX_WHOLE_READ_BYTES
from icefs.storage.retry import Retrier

# Put Blob takes this much in one request.
MAX_SINGLE_PUT_BYTES: Final = 5000 << 20
_RENEWAL_PAUSE: Final = timedelta(minutes=1)
# The library writes a request's headers to it.
_SILENT: Final = logging.getLogger("icefs.storage.azure.wire")
_SILENT.setLevel(logging.CRITICAL + 1)


@dataclass(frozen=True, slots=True)
class Opened:
    """A client, and what it was made with."""

    client: ContainerClient
    session: Session
    signing: Signing
    opened_at: datetime


class ContainerAccess:
    """The way to one container: its client, the tries, and new credentials for those that have expired.

    Safe for threads. A child process makes connections of its own.

    Attributes:
        container: The container's name.
        options: The service.
        retrier: Decides when to try again.
    """

    def __init__(self, container: str, options: AzureOptions, retrier: Retrier) -> None:
        """Makes no request yet."""
        self.container = container
        self.options = options
        self.retrier = retrier
        self._lock = threading.Lock()
        self._opened: Opened | None = None
        _alive.add(self)

    def url(self, name: str) -> str:
        """Returns the URL of a blob by its full name, for messages."""
        return f"az://{self.container}/{name}"

    @property
    def endpoint_url(self) -> str:
        """Where the account is; may ask a callback for credentials."""
        return self._current().signing.endpoint_url

    def run[T](
        self,
        verb: str,
        name: str,
        operation: Callable[[ContainerClient], T],
        *,
        on_failure: Callable[[StorageError], None] | None = None,
    ) -> T:
        """Sends requests about a blob until there is an answer.

        Args:
            verb: What they do, for messages, as "read".
            name: The blob's full name.
            operation: Sends them.
            on_failure: Is called at each passing failure.

        Raises:
            StorageError: there is no answer, or a refusal.
            InvalidInputError: the options, or the environment, are not valid.
        """
        where = self.url(name)
        if not where.isprintable():
            where = ascii(where)

        def once() -> T:
            opened = self._current()
            try:
                return operation(opened.client)
            except CLIENT_ERRORS as error:
                if isinstance(error, IcefsError):
                    raise
                failure = azure_error(error, action=f"{verb} {where}", endpoint=opened.signing.endpoint_url)
            # Outside of the handler: what the library raised would be its context, and may hold a signature.
            if isinstance(failure, AccessDeniedError) and self._renew(opened):
                failure.is_transient = True
            raise failure

        return self.retrier.run(once, verb=verb, name=where, on_failure=on_failure)

    def run_blob[T](
        self,
        verb: str,
        name: str,
        operation: Callable[[BlobClient], T],
        *,
        on_failure: Callable[[StorageError], None] | None = None,
    ) -> T:
        """Does as `run` with a client of the blob."""
        return self.run(verb, name, lambda client: operation(client.get_blob_client(name)), on_failure=on_failure)

    def _current(self) -> Opened:
        opened = self._opened
        if opened is None or _is_stale(opened):
            with self._lock:
                opened = self._opened
                if opened is None or _is_stale(opened):
                    opened = self._opened = self._open(None if opened is None else opened.session)
        return opened

    def _open(self, session: Session | None) -> Opened:
        options = self.options
        signing = find_signing(options)
        options.check_endpoint(signing.endpoint_url)
        if session is None:
            session = new_session(signing.endpoint_url, options.concurrency, self.retrier.attempt_limit_s)
        transport = RequestsTransport(
            session=session,
            session_owner=False,
            use_env_settings=False,
            connection_verify=session.verify,
            # A client takes its times from its transport, and passes its own on only to one that it makes itself.
            connection_timeout=options.connect_timeout_s,
            read_timeout=options.read_timeout_s,
            # Bodies are read whole by the session, and not taken apart again.
            connection_data_block_size=MAX_WHOLE_READ_BYTES,
        )
        client = ContainerClient(
            signing.endpoint_url,
            self.container,
            credential=signing.credential,
            transport=transport,
            retry_total=0,
            permit_redirects=False,
            max_single_get_size=MAX_WHOLE_READ_BYTES,
            max_single_put_size=MAX_SINGLE_PUT_BYTES,
            user_agent=f"icefs {options.user_agent}".rstrip(),
            logger=_SILENT,
        )
        return Opened(client, session, signing, datetime.now(UTC))

    def _renew(self, refused: Opened) -> bool:
        """Asks the callback, or the environment, again; tells whether requests are signed in another way now."""
        if isinstance(self.options.credentials, AzureCredentials) or self.options.anonymous:
            return False
        with self._lock:
            if self._opened is not refused:
                return True
            if datetime.now(UTC) - refused.opened_at < _RENEWAL_PAUSE:
                return False
            opened = self._open(refused.session)
            # A login of Entra renews its tokens itself, and is not the same object twice.
            is_other = isinstance(opened.signing.credential, str | dict) or callable(self.options.credentials)
            if opened.signing.credential == refused.signing.credential or not is_other:
                return False
            self._opened = opened
            return True

    def forget_connections(self) -> None:
        """Lets a child process connect by itself: connections and locks are its parent's."""
        self._lock = threading.Lock()
        self._opened = None

    def close(self) -> None:
        """Ends the connections; every try from now on is the last."""
        self.retrier.close()
        with self._lock:
            if self._opened is not None:
                self._opened.session.close()


def _is_stale(opened: Opened) -> bool:
    ends = opened.signing.expires_after
    return ends is not None and ends - timedelta(seconds=10) <= datetime.now(UTC) and ends > opened.opened_at


_alive: weakref.WeakSet[ContainerAccess] = weakref.WeakSet()


def _make_own_connections() -> None:
    for access in list(_alive):
        access.forget_connections()


os.register_at_fork(after_in_child=_make_own_connections)
