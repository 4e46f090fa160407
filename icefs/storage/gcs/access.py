"""Requests about the objects of one bucket, each sent until there is an answer."""

import os
import threading
from collections.abc import Callable
from weakref import WeakSet

from icefs.errors import IcefsError, StorageError
from icefs.storage.gcs.connection import Connection
from icefs.storage.gcs.errors import CLIENT_ERRORS, gcs_error
from icefs.storage.gcs.options import GcsOptions
from icefs.storage.retry import Retrier


class BucketAccess:
    """The way to a bucket. Safe for threads; makes no request before it is used.

    A forked child makes a connection of its own: two processes on one connection would read each other's answers.
    """

    def __init__(self, bucket: str, options: GcsOptions, retrier: Retrier) -> None:
        self.bucket = bucket
        self.options = options
        self.retrier = retrier
        self._connection: Connection | None = None
        self._lock = threading.Lock()
        _all.add(self)

    def forget(self) -> None:
        """Leaves the connection to the process that made it; for a forked child."""
        self._connection = None
        self._lock = threading.Lock()

    def connection(self) -> Connection:
        """Returns the connection of this process; raises AccessDeniedError where there are no credentials."""
        found = self._connection
        if found is not None:
            return found
        with self._lock:
            if self._connection is None:
                self._connection = Connection(self.bucket, self.options, self.retrier.attempt_limit_s)
            return self._connection

    def url(self, name: str) -> str:
        """Returns the URL of an object, for messages."""
        where = f"gs://{self.bucket}/{name}"
        return where if where.isprintable() else ascii(where)

    def run[T](
        self,
        verb: str,
        name: str,
        operation: Callable[[Connection], T],
        *,
        on_failure: Callable[[StorageError], None] | None = None,
    ) -> T:
        """Does `operation` until there is an answer.

        Args:
            verb: What it does, as "read".
            name: The object's full name.
            operation: Sends requests.
            on_failure: Is called at each passing failure.

        Raises:
            StorageError: there is no answer, or a refusal.
        """
        where = self.url(name)

        def once() -> T:
            connection = self.connection()
            try:
                return operation(connection)
            except IcefsError:
                raise
            except CLIENT_ERRORS as error:
                failure = gcs_error(error, action=f"{verb} {where}", endpoint=connection.endpoint_url)
                # The texts of Google's errors repeat whole answers, and requests with the ids of uploads.
                raise failure from None

        return self.retrier.run(once, verb=verb, name=where, on_failure=on_failure)

    def close(self) -> None:
        """Ends the connections; every try from now on is the last."""
        self.retrier.close()
        if self._connection is not None:
            self._connection.close()


_all: WeakSet[BucketAccess] = WeakSet()


def _forget_all() -> None:
    for access in _all:
        access.forget()


os.register_at_fork(after_in_child=_forget_all)
