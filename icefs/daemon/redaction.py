"""Takes secrets out of log lines."""

import re
from collections.abc import Mapping, Sequence
from typing import Final

_HIDDEN: Final = "***"
_SECRET_VARIABLES: Final = ("AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_ACCESS_KEY_ID")
_MIN_SECRET: Final = 8
_SECRET_NAME: Final = r"[\w.-]*(?:secret|token|passw(?:or)?d|signature|credential|access[_-]?key|api[_-]?key)[\w-]*"
_SECRETS: Final = (
    # https://user:password@host
    (re.compile(r"(?<=://)[^/\s?#\"']*@"), f"{_HIDDEN}@"),
    # Authorization: AWS4-HMAC-SHA256 Credential=…, Signature=…
    (re.compile(r"(?i)(authorization[\"']?\s*[:=]\s*[\"']?)(?:[^\"'\r\n]+)"), rf"\1{_HIDDEN}"),
    # ?X-Amz-Signature=…&sig=…
    (re.compile(rf"(?i)([?&](?:{_SECRET_NAME}|sig|key|auth)=)[^&\s\"'#]+"), rf"\1{_HIDDEN}"),
    # secret_access_key='…'
    (re.compile(rf"(?i)(\b{_SECRET_NAME}\s*=\s*[\"']?)[^\s\"',;&}}]+"), rf"\1{_HIDDEN}"),
    # "SessionToken": "…"
    (re.compile(rf"(?i)([\"']{_SECRET_NAME}[\"']\s*:\s*[\"']?)[^\s\"',;&}}]+"), rf"\1{_HIDDEN}"),
    # x-amz-security-token: …
    (re.compile(r"(?i)(\bx-amz-security-token\s*:\s*)\S+"), rf"\1{_HIDDEN}"),
    # The ids of AWS keys, wherever they are.
    (re.compile(r"\b(?:AKIA|ASIA|AROA|AIDA)[A-Z0-9]{16}\b"), _HIDDEN),
)


def redact_secrets(text: str, secrets: Sequence[str] = ()) -> str:
    """Returns a log line without passwords in URLs, signatures, keys, and secrets that are known by value."""
    for secret in secrets:
        text = text.replace(secret, _HIDDEN)
    for pattern, hidden in _SECRETS:
        text = pattern.sub(hidden, text)
    return text


def secrets_of(environment: Mapping[str, str]) -> list[str]:
    """Returns the secrets that an environment holds, the longest first."""
    found = {environment.get(name, "") for name in _SECRET_VARIABLES}
    return sorted((secret for secret in found if len(secret) >= _MIN_SECRET), key=len, reverse=True)
