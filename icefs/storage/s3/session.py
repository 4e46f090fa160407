"""boto3: the AWS configuration, credentials of all kinds, endpoints, and the requests that are rare.

boto3's own retries are off: `retry` knows what may be repeated. Importing boto3 takes 0.3 s and making a client
0.1 s, so `client` imports this module only when a connection needs it. Only public names of boto3 and botocore are
used, and of botocore's events `before-send` and `before-call`.

Source: Boto3 documentation, "Credentials", "Configuration" and "Extensibility guide"; Botocore documentation, "Botocore
Events".
"""

import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import partial
from operator import methodcaller
from typing import Any, Final
from urllib.parse import urlsplit

import botocore
import botocore.session
from boto3.session import Session
from botocore import exceptions as boto_errors
from botocore.config import Config
from botocore.credentials import CredentialProvider, CredentialResolver, Credentials, RefreshableCredentials
from botocore.parsers import ResponseParserError  # the one error of a client that is not among botocore.exceptions

from icefs.errors import AccessDeniedError, IcefsError, InvalidInputError, UnsupportedError
from icefs.storage.answers import AnswerError
from icefs.storage.s3.errors import UNTOLD, configuration_error, credentials_error
from icefs.storage.s3.keys import Keys, KeySource, Opened, StaticKeys
from icefs.storage.s3.options import S3Client, S3Credentials, S3Options
from icefs.storage.s3.target import Target, is_aws, target_of

# "AWS4-HMAC-SHA256 Credential=<key id>/<date>/<region>/<service>/aws4_request, SignedHeaders=…"
_V4: Final = re.compile(r"AWS4-HMAC-SHA256 Credential=[^/,]*/[0-9]{8}/([^/,]+)/([^/,]+)/aws4_request,")


def open_client(options: S3Options) -> Opened:
    """Makes an S3 client; sends nothing but what finding credentials takes.

    Raises:
        InvalidInputError: the options, or the AWS configuration, are not valid.
        AccessDeniedError: the credentials could not be had.
    """
    try:
        configuration = botocore.session.Session()
        if callable(options.credentials):
            provider = CredentialResolver([_CallbackProvider(options.credentials)])
            configuration.register_component("credential_provider", provider)
        session = _session(configuration, options)
        keys = None if options.anonymous else _keys(session)
        client = _create(session, options, path_style=options.force_path_style or options.endpoint_url is not None)
        options.check_endpoint(client.meta.endpoint_url)
        if options.endpoint_url is None and options.force_path_style is None and not is_aws(client.meta.endpoint_url):
            # The environment names a service of its own (AWS_ENDPOINT_URL).
            client = _create(session, options, path_style=True)
        ca_bundle = configuration.get_config_variable("ca_bundle")
    except IcefsError:
        raise
    except UNTOLD as error:
        raise configuration_error(error) from None
    except (boto_errors.ClientError, boto_errors.BotoCoreError, ResponseParserError, ValueError) as error:
        raise configuration_error(error) from error
    return Opened(client, keys, ca_bundle)


def _session(configuration: botocore.session.Session, options: S3Options) -> Session:
    keys = options.credentials if isinstance(options.credentials, S3Credentials) else None
    return Session(
        aws_access_key_id=None if keys is None else keys.access_key_id,
        aws_secret_access_key=None if keys is None else keys.secret_access_key,
        aws_session_token=None if keys is None else keys.session_token,
        region_name=options.region,
        botocore_session=configuration,
        profile_name=options.profile,
    )


def _keys(session: Session) -> KeySource | None:
    try:
        found = session.get_credentials()
    except IcefsError:
        raise
    except (OSError, ValueError, KeyError) as error:
        raise credentials_error(error) from None
    return None if found is None else ConfiguredKeys(found)


class ConfiguredKeys:
    """Keys from wherever the AWS configuration says; boto3 refreshes them before they expire. Safe for threads."""

    def __init__(self, credentials: Credentials) -> None:
        self._credentials = credentials

    def get_frozen_credentials(self) -> Keys:
        """Returns the keys as they are now (`access_key`, `secret_key`, `token`).

        Raises:
            BotoCoreError: they could not be refreshed.
            AccessDeniedError: the program or callback that returns them failed.
            InvalidInputError: the callback returned something else.
            AnswerError: the service that issues them answered in a way that cannot be read.
        """
        try:
            keys = self._credentials.get_frozen_credentials()
        except IcefsError:
            raise
        except ResponseParserError as error:
            raise AnswerError("in a way that cannot be read") from error
        except (OSError, ValueError, KeyError) as error:
            raise credentials_error(error) from None
        if keys.access_key is None or keys.secret_key is None:
            raise boto_errors.NoCredentialsError
        return StaticKeys(keys.access_key, keys.secret_key, keys.token)


def _create(session: Session, options: S3Options, *, path_style: bool) -> S3Client:
    style: Any = "virtual" if options.force_path_style is False else "path" if path_style else "auto"
    config = Config(
        signature_version=botocore.UNSIGNED if options.anonymous else None,
        connect_timeout=options.connect_timeout_s,
        read_timeout=options.read_timeout_s,
        # One more connection than threads use, so that none is thrown away when they change hands.
        max_pool_connections=options.concurrency + 1,
        retries={"total_max_attempts": 1, "mode": "standard"},
        s3={"addressing_style": style},
        # What AWS began to add to every request in 2025 is refused by many other services.
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
        tcp_keepalive=True,
        user_agent_extra=f"icefs {options.user_agent}".rstrip(),
    )
    client = session.client(
        "s3", endpoint_url=options.endpoint_url, region_name=session.region_name or "us-east-1", config=config
    )
    client.meta.events.register("before-send.s3.HeadBucket", _do_not_search)
    client.meta.events.register("before-send.s3", _as_text)
    if options.read_headers or options.write_headers:
        client.meta.events.register("before-call.s3", partial(_add_headers, options))
    return client


def _do_not_search(**_: Any) -> None:
    """Keeps a client from asking where a bucket is when an answer redirects it without naming a region.

    The service would redirect that request, too, and the client would ask again without end.
    """
    raise boto_errors.ClientError({"ResponseMetadata": {"HTTPHeaders": {}}}, "HeadBucket")  # type: ignore[typeddict-item]


def _add_headers(options: S3Options, *, params: dict[str, Any], **_: Any) -> None:
    """Handles `before-call`, before a request is signed: adds the user's headers."""
    extra = options.read_headers if params["method"] in ("GET", "HEAD") else options.write_headers
    for name, value in extra:
        params["headers"].setdefault(name, value)


def _as_text(request: Any, **_: Any) -> None:
    """Handles `before-send`: makes text of the headers that botocore left as bytes.

    urllib3 joins a request's headers when it is redirected by a 303, fails at bytes, and leaves the connection open.
    """
    for name, value in request.headers.items():
        if isinstance(value, bytes):
            request.headers[name] = value.decode("latin-1")


def call[T](client: S3Client, operation: Callable[[S3Client], T]) -> T:
    """Does `operation` with a client.

    Raises:
        ClientError: the service refused.
        BotoCoreError: it could not be reached, or broke off.
        AnswerError: its answer cannot be read.
    """
    try:
        return operation(client)
    except ResponseParserError as error:
        raise AnswerError("in a way that cannot be read") from error


class _CallbackProvider(CredentialProvider):
    """Has a callback asked for keys, and again shortly before they expire."""

    METHOD: str | None = "icefs-callback"

    def __init__(self, callback: Callable[[], S3Credentials]) -> None:
        super().__init__()
        self._callback = callback

    def load(self) -> RefreshableCredentials:
        return RefreshableCredentials.create_from_metadata(
            self._ask(), refresh_using=self._ask, method=self.METHOD, advisory_timeout=60, mandatory_timeout=10
        )

    def _ask(self) -> dict[str, Any]:
        try:
            keys: Any = self._callback()
        except IcefsError:
            raise
        except Exception as error:
            raise AccessDeniedError(
                f"the callback that returns the keys for S3 raised {type(error).__name__}",
                hint="its own error is the cause of this one",
            ) from error
        if not isinstance(keys, S3Credentials):
            raise InvalidInputError(f"get_credentials returned {type(keys).__name__}, and not keys for S3")
        expiry: Any = keys.expires_after
        if expiry is not None and (not isinstance(expiry, datetime) or expiry.tzinfo is None):
            raise InvalidInputError("get_credentials returned keys with a time of expiry that has no time zone")
        now = datetime.now(UTC)
        if expiry is not None and expiry <= now:
            raise InvalidInputError(f"get_credentials returned keys that have expired already, at {expiry.isoformat()}")
        # Without an expiry they are good for as long as the process lives.
        expiry = expiry or now + timedelta(days=3650)
        return {
            "access_key": keys.access_key_id,
            "secret_key": keys.secret_access_key,
            "token": keys.session_token,
            "expiry_time": expiry.isoformat(),
        }


def find_target(client: S3Client, bucket: str, *, is_signed: bool) -> Target:
    """Returns where a bucket is, and how its requests are signed: as the client addresses and signs one.

    Args:
        client: Prepares a request, which is not sent.
        bucket: The bucket's name, alias or ARN.
        is_signed: Whether requests are signed.

    Raises:
        BotoCoreError: the bucket's name, or the configuration, is not valid.
        UnsupportedError: requests must be signed in another way than by Signature Version 4.
    """
    unknown = UnsupportedError(
        f"requests to the bucket {bucket} would have to be signed in another way than icefs does",
        hint="choose Signature Version 4 (s3v4) in the AWS configuration",
    )
    events = client.meta.events
    # A directory bucket's client asks for keys of its own before it signs.
    names = ("before-send.s3.HeadObject", "before-send.s3.CreateSession")
    for name in names:
        events.register_first(name, _intercept)
    try:
        call(client, methodcaller("head_object", Bucket=bucket, Key="k"))
        raise AssertionError("a request was sent that was to be intercepted")
    except _Prepared as prepared:
        url, headers = prepared.url, prepared.headers
    except boto_errors.MissingDependencyException:
        raise unknown from None
    finally:
        for name in names:
            events.unregister(name, _intercept)
    parts = urlsplit(url)
    region, service = client.meta.region_name, "s3"
    if is_signed:
        signed = _V4.match(headers.get("Authorization", ""))
        if signed is None or urlsplit(url).query:
            raise unknown
        region, service = signed.groups()
    return target_of(
        f"{parts.scheme}://{parts.netloc}{parts.path.removesuffix('k')}",
        region=region,
        service=service,
        is_signed=is_signed,
    )


class _Prepared(Exception):
    """Interrupts a client that has addressed and signed a request."""

    def __init__(self, url: str, headers: dict[str, str]) -> None:
        super().__init__(url)
        self.url = url
        self.headers = headers


def _intercept(request: Any, **_: Any) -> None:
    """Handles `before-send`; `request` is an `AWSPreparedRequest`."""
    _as_text(request)
    raise _Prepared(request.url, dict(request.headers.items()))
