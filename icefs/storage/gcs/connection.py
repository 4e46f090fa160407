"""Google's client for one bucket, with a session of its own whose answers are bounded.

The client of Google's library finds the endpoint and sends the rare requests: lists, copies, deletes, descriptions, the
begin of an upload in parts. Reads and plain uploads go through the same session, because the library neither checks
the range of an answer nor lets its caller set from which size on it sends parts.
"""

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final, override
from urllib.parse import quote, urlsplit

import requests
import urllib3
from google.api_core.client_info import ClientInfo
from google.auth.credentials import AnonymousCredentials
from google.auth.transport.requests import AuthorizedSession
from google.cloud.storage import Client
from requests.adapters import HTTPAdapter

from icefs.errors import InvalidInputError
from icefs.storage.answers import AnswerError
from icefs.storage.deadlines import ended_after, timeout_within
from icefs.storage.gcs.credentials import google_credentials_of
from icefs.storage.gcs.errors import RefusalError
from icefs.storage.gcs.options import GcsOptions

_MAX_ANSWER_BYTES: Final = 64 << 20
_MAX_REFUSAL_BYTES: Final = 64 << 10
_PIECE: Final = 1 << 16
_THIS_MACHINE: Final = ("localhost", "127.0.0.1", "::1")


class _Bounded:
    """The body of an answer that Google's library reads whole; ends with an error where it is too long."""

    def __init__(self, raw: urllib3.BaseHTTPResponse, limit_s: float | None) -> None:
        self._raw = raw
        self._limit_s = limit_s

    def stream(self, size: int, decode_content: bool | None = None) -> Iterator[bytes]:
        """Yields the body in pieces."""
        total = 0
        with ended_after(self._raw, self._limit_s):
            for piece in self._raw.stream(min(size, _PIECE), decode_content=decode_content):
                total += len(piece)
                if total > _MAX_ANSWER_BYTES:
                    self._raw.close()
                    raise AnswerError(f"{self._raw.status} with more than {_MAX_ANSWER_BYTES} bytes", self._raw.status)
                yield piece

    def close(self) -> None:
        """Closes the connection."""
        self._raw.close()

    def release_conn(self) -> None:
        """Gives the connection back."""
        self._raw.release_conn()


class _Adapter(HTTPAdapter):
    """Bounds the answers that are not read in pieces, and the time of each try; adds the user's headers."""

    def __init__(self, options: GcsOptions, attempt_limit_s: Callable[[], float | None]) -> None:
        super().__init__(pool_maxsize=options.concurrency, max_retries=0)
        self._waits_s = (options.connect_timeout_s, options.read_timeout_s)
        self._attempt_limit_s = attempt_limit_s
        self._read_headers, self._write_headers = dict(options.read_headers), dict(options.write_headers)

    @override
    def send(
        self, request: requests.PreparedRequest, stream: bool = False, timeout: Any = None, *more: Any, **others: Any
    ) -> requests.Response:
        is_read = request.method in ("GET", "HEAD")
        request.headers.update(self._read_headers if is_read else self._write_headers)
        limit_s = self._attempt_limit_s()
        waits: Any = timeout_within(*self._waits_s, limit_s)  # which the adapter takes as it is
        response = super().send(request, stream, waits, *more, **others)
        if not stream:
            response.raw = _Bounded(response.raw, limit_s)
        return response


class Connection:
    """The way to one bucket, for the process that made it. Safe for threads."""

    def __init__(self, bucket: str, options: GcsOptions, attempt_limit_s: Callable[[], float | None]) -> None:
        """Finds credentials; connects to nothing yet.

        Args:
            bucket: The bucket's name.
            options: The service.
            attempt_limit_s: Returns how long the try that begins now may take.

        Raises:
            AccessDeniedError: there are no credentials.
            InvalidInputError: a token would be sent where others could read it.
        """
        is_emulator = options.endpoint_url is None and bool(os.environ.get("STORAGE_EMULATOR_HOST"))
        keys = google_credentials_of(options, is_emulator=is_emulator)
        # Without a token of its own a session cannot get another one after a refusal.
        renewing: dict[str, Any] = {"refresh_status_codes": ()} if options.anonymous or is_emulator else {}
        self._session = AuthorizedSession(keys, **renewing)
        self._session.max_redirects = 0
        for scheme in ("https://", "http://"):
            self._session.mount(scheme, _Adapter(options, attempt_limit_s))
        self._attempt_limit_s = attempt_limit_s
        info = ClientInfo(user_agent=f"icefs {options.user_agent}".rstrip())
        # For what does not go through the client; the library's own requests name it, too.
        self._session.headers["User-Agent"] = info.to_user_agent()
        where = {} if options.endpoint_url is None else {"api_endpoint": options.endpoint_url.rstrip("/")}
        self.client = Client(
            project=options.project,
            credentials=keys,
            _http=self._session,
            client_options=where or None,
            client_info=info,
        )
        # For the attributes of traces the library asks for the bucket's description in threads of its own, again and
        # again where that fails, with its own tries, and needs a right for it that nothing else here needs.
        self.client._bucket_metadata_cache = None
        self.endpoint_url = str(self.client.api_endpoint)
        _check_secrecy(self.endpoint_url, bears_token=not isinstance(keys, AnonymousCredentials))
        self.bucket = self.client.bucket(bucket, user_project=options.user_project)
        self.timeout = (options.connect_timeout_s, options.read_timeout_s)
        self._payer = {} if options.user_project is None else {"userProject": options.user_project}
        self._payer_header = {} if options.user_project is None else {"x-goog-user-project": options.user_project}

    @contextmanager
    def read(self, name: str, parameters: Mapping[str, str], headers: Mapping[str, str]) -> Iterator[Any]:
        """Asks for an object's bytes; gives the answer of urllib3 with its body unread.

        Args:
            name: The object's full name.
            parameters: Conditions.
            headers: The range.

        Raises:
            RefusalError: the status is neither 200 nor 206.
        """
        url = f"{self.endpoint_url}/download/storage/v1/b/{self.bucket.name}/o/{quote(name, safe='')}"
        with self._receive(url, {"alt": "media", **self._payer, **parameters}, headers) as raw:
            yield raw

    @contextmanager
    def read_foreign(self, name: str, headers: Mapping[str, str]) -> Iterator[Any]:
        """Asks for an object as other programs do, whose entity tags the XML interface gives; as `read`."""
        url = f"{self.endpoint_url}/{self.bucket.name}/{quote(name, safe='/')}"
        with self._receive(url, {}, {**self._payer_header, **headers}) as raw:
            yield raw

    @contextmanager
    def _receive(self, url: str, parameters: Mapping[str, str], headers: Mapping[str, str]) -> Iterator[Any]:
        # The bytes as they are stored; and a proxy must not answer with an older version.
        sent = {"Accept-Encoding": "identity", "Cache-Control": "no-cache", **headers}
        response = self._session.request("GET", url, params=parameters, headers=sent, timeout=self.timeout, stream=True)
        with response:
            if response.status_code not in (200, 206):
                raise _refusal(response)
            with ended_after(response.raw, self._attempt_limit_s()):
                yield response.raw
            if response.raw.length_remaining == 0:
                response.raw.drain_conn()
                response.raw.release_conn()

    def upload(self, parameters: Mapping[str, str], content_type: str, body: bytes) -> Mapping[str, Any]:
        """Sends an object with its description in one request; returns the description that the service has.

        Raises:
            RefusalError: it is refused.
        """
        response = self._session.request(
            "POST",
            f"{self.endpoint_url}/upload/storage/v1/b/{self.bucket.name}/o",
            data=body,
            params={"uploadType": "multipart", **self._payer, **parameters},
            headers={"Content-Type": content_type},
            timeout=self.timeout,
        )
        return description(response)

    def upload_part(self, place: str, body: bytes, content_range: str) -> requests.Response:
        """Sends a part of an upload; the answer has the status 200, 201 or 308.

        Args:
            place: What the service calls the upload. Its path and query alone are used, so that nothing goes elsewhere.
            body: The bytes.
            content_range: Which bytes of the object they are.

        Raises:
            RefusalError: it is refused.
        """
        told, own = urlsplit(place), urlsplit(self.endpoint_url)
        response: requests.Response = self._session.request(
            "PUT",
            told._replace(scheme=own.scheme, netloc=own.netloc, fragment="").geturl(),
            data=body,
            headers={"Content-Range": content_range},
            timeout=self.timeout,
        )
        if response.status_code not in (200, 201, 308):
            raise _refusal(response)
        return response

    def close(self) -> None:
        """Closes the connections."""
        self._session.close()


def _check_secrecy(endpoint_url: str, *, bears_token: bool) -> None:
    """Refuses to send a token over a network where others could read it."""
    parts = urlsplit(endpoint_url)
    if bears_token and parts.scheme != "https" and parts.hostname not in _THIS_MACHINE:
        raise InvalidInputError(
            f"the endpoint {endpoint_url} is not encrypted, and gets no token",
            hint="use https://, or add ?anonymous=true to the location",
        )


def description(response: requests.Response) -> Mapping[str, Any]:
    """Returns the description of an object in an answer.

    Raises:
        RefusalError: it has another status.
        AnswerError: it is no description.
    """
    if response.status_code not in (200, 201):
        raise _refusal(response)
    found = response.json()
    if not isinstance(found, dict):
        raise AnswerError("with something else than a description", response.status_code)
    return found


def _refusal(response: requests.Response) -> RefusalError:
    """Takes the beginning of a body; of one that was read already, too."""
    body = b""
    for piece in response.iter_content(_PIECE):
        body += piece
        if len(body) >= _MAX_REFUSAL_BYTES:
            break
    return RefusalError(response.status_code, response.headers, body[:_MAX_REFUSAL_BYTES])
