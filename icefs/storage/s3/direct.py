"""S3 services that options and environment name in full, with their keys, so that no lookup is needed.

Most services other than AWS are used in this way, and most programs in containers. boto3 finds the same (a test
compares them), after 0.4 s of imports, which is more than most commands take.
"""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from icefs.storage.s3.keys import StaticKeys
from icefs.storage.s3.options import S3Credentials, S3Options
from icefs.storage.s3.target import Target, target_of

_KNOWN: Final = frozenset(
    (
        "AWS_ACCESS_KEY_ID",
        "AWS_SECRET_ACCESS_KEY",
        "AWS_SESSION_TOKEN",
        "AWS_DEFAULT_REGION",
        "AWS_REGION",  # boto3 ignores it
        "AWS_ENDPOINT_URL",
        "AWS_ENDPOINT_URL_S3",
        "AWS_CA_BUNDLE",
        "AWS_CONFIG_FILE",
        "AWS_SHARED_CREDENTIALS_FILE",
        "AWS_EC2_METADATA_DISABLED",
    )
)
"""The variables that this module understands; where any other is set, boto3 decides."""
_FILES: Final = (("AWS_CONFIG_FILE", "~/.aws/config"), ("AWS_SHARED_CREDENTIALS_FILE", "~/.aws/credentials"))
_BUCKET: Final = re.compile(r"[a-zA-Z0-9.\-_]{1,255}")
_REGION: Final = re.compile(r"(?!aws-)[a-z0-9-]{1,64}")  # aws-global stands for another one


@dataclass(frozen=True, slots=True)
class Direct:
    """A service, with all that there is to know of it.

    Attributes:
        endpoint_url: Where it is; buckets are part of the path.
        region: What requests are signed for.
        keys: What they are signed with; None if they are not.
        ca_bundle: The file with the authorities to trust, if one is named.
    """

    endpoint_url: str
    region: str
    keys: StaticKeys | None
    ca_bundle: str | None

    def target(self, bucket: str) -> Target | None:
        """Returns where a bucket is; None if the name is one that has to be looked at more closely."""
        if not _BUCKET.fullmatch(bucket) or bucket in (".", ".."):
            return None
        url = f"{self.endpoint_url.rstrip('/')}/{bucket}/"
        return target_of(url, region=self.region, service="s3", is_signed=self.keys is not None)


def find(options: S3Options, environment: Mapping[str, str] = os.environ) -> Direct | None:
    """Returns the service that options and environment name in full; None if boto3 has to decide."""
    if options.profile is not None or options.force_path_style is False or callable(options.credentials):
        return None
    if any(name.startswith("AWS_") and name not in _KNOWN for name in environment):
        return None
    if any(_exists(environment.get(name) or default) for name, default in _FILES):
        return None
    url = options.endpoint_url or environment.get("AWS_ENDPOINT_URL_S3") or environment.get("AWS_ENDPOINT_URL")
    region = options.region or environment.get("AWS_DEFAULT_REGION") or "us-east-1"
    keys = None if options.anonymous else _keys(options, environment)
    if url is None or not _is_plain(url) or not _REGION.fullmatch(region) or (keys is None and not options.anonymous):
        return None
    return Direct(url, region, keys, environment.get("AWS_CA_BUNDLE") or None)


def _exists(path: str) -> bool:
    return Path(path).expanduser().exists()


def _keys(options: S3Options, environment: Mapping[str, str]) -> StaticKeys | None:
    if isinstance(options.credentials, S3Credentials):
        given: Any = options.credentials
        return StaticKeys(given.access_key_id, given.secret_access_key, given.session_token or None)
    access_key, secret_key = environment.get("AWS_ACCESS_KEY_ID"), environment.get("AWS_SECRET_ACCESS_KEY")
    if not access_key or not secret_key:
        return None
    return StaticKeys(access_key, secret_key, environment.get("AWS_SESSION_TOKEN") or None)


def _is_plain(url: str) -> bool:
    """Tells whether a URL is a scheme and a host, and not one of AWS, whose hosts follow from much else."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        return False
    host = parts.hostname or ""
    is_host = parts.scheme in ("http", "https") and bool(host) and port != 0 and "@" not in parts.netloc
    is_other = is_host and "amazonaws" not in host and not host.endswith(".aws")
    return is_other and parts.path in ("", "/") and not parts.query and not parts.fragment
