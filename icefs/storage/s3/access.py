"""Requests about the objects of one bucket, each sent until there is an answer."""

from collections.abc import Callable
from typing import Any

from botocore.exceptions import ClientError

from icefs.errors import StorageError, UnreachableError
from icefs.storage.retry import Retrier
from icefs.storage.s3.answers import check_client_refusal
from icefs.storage.s3.client import ClientHolder
from icefs.storage.s3.errors import CLIENT_ERRORS, SKEWED, UNTOLD, region_told, s3_error
from icefs.storage.s3.options import S3Client, S3Options
from icefs.storage.s3.requests import S3Requests


class BucketAccess:
    """The way to one bucket: its connections, the tries, and the remedies for failures. Safe for threads.

    After a failure whose cause can be removed from here (keys that have expired, a clock that is off, another region),
    a request is sent again; after one that passes by itself, as the retrier's policy says.

    Attributes:
        bucket: The bucket's name.
        options: The service.
        retrier: Decides when to try again.
        clients: The connections.
        payer: The arguments of boto3's methods that agree to pay for reading.
        lean_payer: The headers that do so.
    """

    def __init__(self, bucket: str, options: S3Options, retrier: Retrier) -> None:
        """Makes no request yet."""
        self.bucket = bucket
        self.options = options
        self.retrier = retrier
        self.clients = ClientHolder(options)
        self.payer: dict[str, Any] = {"RequestPayer": "requester"} if options.requester_pays else {}
        self.lean_payer = {"x-amz-request-payer": "requester"} if options.requester_pays else {}
        self._requests: S3Requests | None = None

    def url(self, name: str) -> str:
        """Returns the URL of an object by its full name, for messages."""
        return f"s3://{self.bucket}/{name}"

    def run[T](
        self,
        verb: str,
        name: str,
        operation: Callable[[S3Client], T],
        *,
        on_failure: Callable[[StorageError], None] | None = None,
        is_conditional: bool = False,
    ) -> T:
        """Sends requests of boto3's about an object until there is an answer.

        Args:
            verb: What they do, for messages, as "read".
            name: The object's full name.
            operation: Sends them.
            on_failure: Is called at each passing failure.
            is_conditional: Whether a refused condition is among the answers that are expected.

        Raises:
            StorageError: there is no answer, or a refusal.
        """

        def ask(requests: S3Requests) -> T:
            try:
                return requests.connection.call(operation)
            except ClientError as error:
                check_client_refusal(error.response, is_conditional=is_conditional)
                raise

        return self.run_lean(verb, name, ask, on_failure=on_failure)

    def run_lean[T](
        self,
        verb: str,
        name: str,
        operation: Callable[[S3Requests], T],
        *,
        on_failure: Callable[[StorageError], None] | None = None,
        conflicts_pass: bool = False,
    ) -> T:
        """Does as `run` with requests that do not go through boto3; `conflicts_pass` tries again after a 409."""
        where = self.url(name)
        if not where.isprintable():
            where = ascii(where)

        def once() -> T:
            requests = self.requests()
            try:
                return operation(requests)
            except CLIENT_ERRORS as error:
                failure = s3_error(error, action=f"{verb} {where}", endpoint=requests.connection.endpoint_url)
                if isinstance(failure, StorageError) and self._is_remedied(requests, error, failure):
                    failure.is_transient = True
                if conflicts_pass and failure.facts.get("status") == 409:
                    failure = UnreachableError(failure.own_message, hint=failure.hint, **failure.facts)
                # What a program that gives keys has printed is in its error, and perhaps keys are in that.
                raise failure from (None if isinstance(error, UNTOLD) else error)

        return self.retrier.run(once, verb=verb, name=where, on_failure=on_failure)

    def requests(self) -> S3Requests:
        """Returns what sends requests over the present connection, made if need be."""
        connection = self.clients.connection()
        requests = self._requests
        if requests is None or requests.connection is not connection:
            # Two threads may do this at once; what one of them made is then used by that thread alone, once.
            if requests is not None:
                requests.close_reads()
            requests = self._requests = S3Requests(connection, self.bucket, self.options, self.retrier.attempt_limit_s)
        return requests

    def _is_remedied(self, requests: S3Requests, error: Exception, failure: StorageError) -> bool:
        """Removes the cause of a failure, where that can be done from here; tells whether to try again."""
        connection = requests.connection
        if not isinstance(error, ClientError):
            return False
        if failure.facts.get("code") in SKEWED:
            return requests.adjust_clock(error)
        if failure.facts.get("expired") or failure.facts.get("status") in (401, 403):
            # Whatever the refusal is called: keys that were replaced are unknown, wrong, or allow nothing.
            return self.clients.renew(connection)
        region = region_told(error) if failure.facts.get("status") in (301, 307, 400) else None
        return region is not None and self.clients.move(connection, region)

    def ready_requests(self) -> S3Requests | None:
        """Returns what sends requests at once; None where a connection has to be made, or keys fetched, before."""
        requests = self._requests
        if self.options.retry.has_deadlines:
            return None  # those that nobody waits for have no end
        return requests if requests is not None and self.clients.is_current(requests.connection) else None

    def close(self) -> None:
        """Ends the connections; every try from now on is the last."""
        self.retrier.close()
        if self._requests is not None:
            self._requests.close()
        self.clients.close()
