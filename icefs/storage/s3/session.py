"""What botocore knows: the AWS configuration, credentials of all kinds, endpoints, and requests that are rare.

Its own retries are off, for `retry` knows better what may be repeated. botocore is used directly: boto3 on top of it
would add 0.15 s to every start and nothing that is needed. Loading it takes 0.3 s, and making a client 0.1 s, so it is
loaded where it is needed (`s3_client`).
"""

from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any, Final, NamedTuple
from urllib.parse import urlsplit

import botocore
import botocore.session
from botocore import exceptions as boto_errors
from botocore.awsrequest import AWSResponse, HTTPHeaders
from botocore.config import Config
from botocore.credentials import CredentialProvider, Credentials, RefreshableCredentials
from botocore.loaders import create_loader
from botocore.parsers import ResponseParserError

from icefs.errors import AccessDeniedError, IcefsError, InvalidInputError, UnsupportedError
from icefs.storage.s3.errors import UNTOLD, configuration_error, credentials_error
from icefs.storage.s3.options import S3Client, S3Credentials, S3Options
from icefs.storage.s3.target import Target, is_aws, target_of

# Keeps the service's description once it is read: the first client takes 80 ms, each further one 9 ms.
_LOADER: Final = create_loader()


class Opened(NamedTuple):
    """What botocore found.

    Attributes:
        client: Its client.
        credentials: Where its keys come from, refreshed when they are about to expire; None if there are none.
        ca_bundle: The file with the authorities to trust, if the AWS configuration names one.
    """

    client: S3Client
    credentials: Any
    ca_bundle: str | None


def open_client(options: S3Options) -> Opened:
    """Makes an S3 client; sends nothing but what finding credentials takes.

    Raises:
        InvalidInputError: the options, or the AWS configuration, are not valid.
        AccessDeniedError: the credentials could not be had.
    """
    try:
        session = botocore.session.Session(profile=options.profile)
        session.register_component("data_loader", _LOADER)
        if callable(options.credentials):
            session.get_component("credential_provider").providers.insert(0, _CallbackProvider(options.credentials))
        credentials = None if options.anonymous else _credentials(session, options)
        client = _create(session, options, path_style=options.force_path_style or options.endpoint_url is not None)
        options.check_endpoint(client.meta.endpoint_url)
        if options.endpoint_url is None and options.force_path_style is None and not is_aws(client.meta.endpoint_url):
            # The environment names a service of its own (AWS_ENDPOINT_URL).
            client = _create(session, options, path_style=True)
        ca_bundle = session.get_config_variable("ca_bundle")
    except IcefsError:
        raise
    except UNTOLD as error:
        raise configuration_error(error) from None
    except (boto_errors.ClientError, boto_errors.BotoCoreError, ResponseParserError, ValueError) as error:
        raise configuration_error(error) from error
    return Opened(client, credentials, ca_bundle)


def _credentials(session: botocore.session.Session, options: S3Options) -> Any:
    if isinstance(options.credentials, S3Credentials):
        keys = options.credentials
        return Credentials(keys.access_key_id, keys.secret_access_key, keys.session_token)
    try:
        return session.get_credentials()
    except (OSError, ValueError, KeyError) as error:
        if isinstance(error, IcefsError):
            raise
        raise credentials_error(error) from None


def _create(session: botocore.session.Session, options: S3Options, *, path_style: bool) -> S3Client:
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
    region = options.region or session.get_config_variable("region")
    keys: dict[str, Any] = {}
    if isinstance(options.credentials, S3Credentials):
        keys = {
            "aws_access_key_id": options.credentials.access_key_id,
            "aws_secret_access_key": options.credentials.secret_access_key,
            "aws_session_token": options.credentials.session_token,
        }
    client = session.create_client(
        "s3", endpoint_url=options.endpoint_url, region_name=region or "us-east-1", config=config, **keys
    )
    client.meta.events.register("before-call.s3", _stay_in_region)
    return client


def _stay_in_region(context: dict[str, Any], **_: Any) -> None:
    """Keeps botocore from looking for the bucket elsewhere: `S3Storage` does that, and stops.

    botocore asks about the bucket then, is redirected by the same answer, and asks again without end.
    """
    context.setdefault("s3_redirect", {})["redirected"] = True


class _CallbackProvider(CredentialProvider):
    """Lets botocore ask a callback for keys, and again shortly before they expire."""

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


def ask_target(client: S3Client, bucket: str, *, is_signed: bool) -> Target:
    """Lets botocore put a request together that is not sent, which tells where the bucket is.

    Raises:
        BotoCoreError: the bucket's name, or the configuration, is not valid.
        UnsupportedError: requests must be signed in a way that icefs does not know.
    """
    seen: dict[str, Any] = {}

    def note_signing(signing_name: str, region_name: str, signature_version: Any, **_: Any) -> None:
        seen.update(service=signing_name, region=region_name, version=signature_version)

    def note_request(request: Any, **_: Any) -> AWSResponse:
        seen["url"] = request.url
        return AWSResponse(request.url, 200, HTTPHeaders(), _NoBody())

    events = client.meta.events
    handlers = [("before-sign.s3.HeadObject", note_signing), ("before-send.s3.HeadObject", note_request)]
    for event, handler in handlers:
        events.register_first(event, handler)
    try:
        client.head_object(Bucket=bucket, Key="k")
    finally:
        for event, handler in handlers:
            events.unregister(event, handler)
    parts = urlsplit(seen["url"])
    version = seen.get("version")
    if version not in (None, "s3v4", "v4") and is_signed:
        raise UnsupportedError(
            f"requests to the bucket {bucket} would have to be signed by {version}",
            hint="choose Signature Version 4 (s3v4) in the AWS configuration",
        )
    return target_of(
        f"{parts.scheme}://{parts.netloc}{parts.path.removesuffix('k')}",
        region=seen.get("region") or "us-east-1",
        service=seen.get("service") or "s3",
        is_signed=is_signed,
    )


class _NoBody:
    """The body of the answer that botocore gets instead of one."""

    def stream(self, **_: Any) -> Iterator[bytes]:
        yield from ()
