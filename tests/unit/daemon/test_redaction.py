"""Log lines have no secrets."""

import pytest

from icefs.daemon.redaction import redact_secrets, secrets_of
from tests.support.log_records import KEY_ID


@pytest.mark.parametrize(
    ("text", "secret", "kept"),
    [
        ("GET https://ada:hunter2@host/path failed", "hunter2", "@host/path failed"),
        ("GET https://h/b/k?X-Amz-Signature=abc123&X-Amz-Date=2026", "abc123", "X-Amz-Date=2026"),
        ("https://h/k?sv=1&sig=abc%2F123&x=2", "abc%2F123", "&x=2"),
        ("https://h/k?token=abc123 is gone", "abc123", "is gone"),
        ("credentials secret_access_key='abc/123+x', region='eu'", "abc/123+x", "region='eu'"),
        ('{"SessionToken": "abc123", "Region": "eu"}', "abc123", '"Region": "eu"'),
        ("AWS_SECRET_ACCESS_KEY=abc/123", "abc/123", "AWS_SECRET_ACCESS_KEY="),
        ("x-amz-security-token: abc123", "abc123", "x-amz-security-token"),
        (f"the key {KEY_ID} is not known", KEY_ID, "is not known"),
        (f"Authorization: AWS4-HMAC-SHA256 Credential={KEY_ID}/2026, Signature=abc123", "abc123", "Authorization"),
        ("{'Authorization': 'Bearer abc.123'}", "abc.123", "Authorization"),
        ("password=abc123", "abc123", "password="),
    ],
)
def test_no_line_has_secrets(text, secret, kept):
    shown = redact_secrets(text)
    assert secret not in shown
    assert kept in shown
    assert "***" in shown
    assert redact_secrets(shown) == shown


@pytest.mark.parametrize(
    "text",
    [
        "read /branches/main/secret_area/token: EIO: FormatError: bad",
        "moved to 7GJRK6BXFNKBN0AZDCXG: 3 names",
        "serves s3://bucket/prefix?region=eu-west-1&endpoint_url=http://localhost:9000 at /mnt",
        "mail ada@example.org",
    ],
)
def test_what_is_no_secret_stays(text):
    assert redact_secrets(text) == text


def test_secrets_of_the_environment_are_known_by_value():
    secrets = secrets_of(
        {"AWS_SECRET_ACCESS_KEY": "wJalrXUtnFEMI", "AWS_SESSION_TOKEN": "", "AWS_ACCESS_KEY_ID": "test"}
    )
    assert secrets == ["wJalrXUtnFEMI"]
    assert redact_secrets("it is wJalrXUtnFEMI.", secrets) == "it is ***."
