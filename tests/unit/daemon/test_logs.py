import json
import logging
import subprocess
import sys

import pytest

from icefs.daemon.log_files import LogFile
from icefs.daemon.logs import LineFormatter, branch_in
from icefs.daemon.options import MountOptions, parse_address
from icefs.daemon.redaction import redact_secrets, secrets_of
from icefs.daemon.repeats import Repeats
from icefs.errors import InvalidInputError
from icefs.log_context import current_branch, in_branch

KEY_ID = "AKIA" + "ABCDEFGHIJKLMNOP"


def record(message, *args, level=logging.WARNING, **extra):
    made = logging.LogRecord("icefs.x", level, __file__, 1, message, args, extra.pop("exc_info", None))
    made.__dict__.update(extra)
    return made


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


def test_lines_know_their_mount_and_branch():
    lines = LineFormatter("text", "/mnt/x", None)
    assert lines.format(record("hello %s", "you")).endswith(" WARNING icefs.x [/mnt/x]: hello you")
    assert lines.format(record("a", branch="dev")).endswith(" [/mnt/x dev]: a")
    assert in_branch("b", lambda: lines.format(record("a")))().endswith(" [/mnt/x b]: a")
    assert current_branch() is None
    assert LineFormatter("text", "/mnt/x", "main").format(record("a")).endswith(" [/mnt/x main]: a")


def test_a_line_of_json_is_an_object_without_secrets():
    try:
        raise ValueError('password="abc123"')
    except ValueError:
        failure = sys.exc_info()
    line = LineFormatter("json", "/mnt/x", "main").format(
        record('a "quoted" Authorization: Basic abc" word', exc_info=failure, level=logging.ERROR)
    )
    assert "\n" not in line
    told = json.loads(line)
    assert (told["level"], told["logger"], told["mount"], told["branch"]) == ("error", "icefs.x", "/mnt/x", "main")
    assert told["message"] == 'a "quoted" Authorization: ***" word'
    assert "Traceback" in told["trace"]
    assert "abc123" not in line
    assert told["time"].endswith("Z")


def test_lines_for_the_journal_have_priorities():
    lines = LineFormatter("text", "/m", None, journal=True)
    assert lines.format(record("a\nb", level=logging.ERROR)) == "<3>ERROR icefs.x [/m]: a\\nb"
    error = record("a", level=logging.ERROR)
    error.exc_info = (ValueError, ValueError("b"), None)
    assert lines.format(error) == "<3>ERROR icefs.x [/m]: a\n<3>ValueError: b"


class Kept(logging.Handler):
    def __init__(self):
        super().__init__()
        self.lines = []

    def emit(self, record):
        self.lines.append(record.getMessage())


def test_repeats_are_counted_and_told_later():
    now, kept = [0.0], Kept()
    repeats = Repeats([kept], lambda: now[0])
    for _ in range(1000):
        repeats.handle(record("a %d", 1))
    repeats.handle(record("b"))
    assert kept.lines == ["a 1", "b"]
    now[0] = 59.0
    repeats.tick()
    assert kept.lines == ["a 1", "b"]
    now[0] = 60.0
    repeats.tick()
    assert kept.lines == ["a 1", "b", "a 1 … repeated 999 times"]
    repeats.handle(record("a %d", 1))
    repeats.handle(record("a %d", 1))
    repeats.close()
    assert kept.lines[3:] == ["a 1", "a 1 … repeated 1 time"]


def test_lines_of_one_kind_are_counted_although_their_words_differ():
    now, kept = [0.0], Kept()
    repeats = Repeats([kept], lambda: now[0])
    for number in range(5):
        repeats.handle(record("try %d", number, repeat_key="tries"))
    repeats.handle(record("try %d", 7, repeat_key="other tries"))
    now[0] = 60.0
    repeats.tick()
    assert kept.lines == ["try 0", "try 7", "try 4 … the last of 4 more of its kind"]


def test_facts_of_a_line_are_json_without_secrets():
    lines = LineFormatter("json", "/m", None, secrets=["abc/123"])
    told = json.loads(lines.format(record("a", facts={"object": "s3://b/abc/123", "attempt": 2})))
    assert told["facts"] == {"object": "s3://b/***", "attempt": 2}
    assert "facts" not in json.loads(lines.format(record("a")))


def test_details_are_never_left_out():
    kept = Kept()
    repeats = Repeats([kept], lambda: 0.0)
    for _ in range(3):
        repeats.handle(record("a", level=logging.DEBUG))
    assert kept.lines == ["a"] * 3


def test_lines_that_are_known_are_bounded():
    kept = Kept()
    repeats = Repeats([kept], lambda: 0.0)
    repeats.handle(record("first"))
    repeats.handle(record("first"))
    for number in range(5000):
        repeats.handle(record("%d", number))
    assert len(repeats._known) <= 512
    assert "first … repeated 1 time" in kept.lines


def test_a_log_file_may_be_renamed_away(tmp_path):
    path = tmp_path / "log"
    file = LogFile(str(path), takes_stderr=False)
    file.handle(record("one"))
    path.rename(tmp_path / "log.1")
    file.handle(record("two"))
    file.close()
    assert (tmp_path / "log.1").read_text() == "one\n"
    assert path.read_text() == "two\n"


def test_stderr_follows_the_log_file(tmp_path):
    program = f"""
import logging, os
from icefs.daemon.logs import LogFile
path = {str(tmp_path / "log")!r}
os.dup2(os.open(path, os.O_CREAT | os.O_WRONLY | os.O_APPEND), 2)
file = LogFile(path, takes_stderr=True)
os.rename(path, path + ".1")
file.handle(logging.makeLogRecord({{"msg": "line"}}))
os.write(2, b"stacks\\n")
"""
    subprocess.run([sys.executable, "-c", program], check=True)
    assert (tmp_path / "log").read_text() == "line\nstacks\n"
    assert (tmp_path / "log.1").read_text() == ""


@pytest.mark.parametrize(
    ("path", "branch"),
    [
        ("/branches/main/a/c/0", "main"),
        ("/branches/feature%2Fx", "feature/x"),
        ("/branches", None),
        ("/tags/main", None),
        ("/a/branches/main", None),
        ("", None),
    ],
)
def test_the_branch_of_a_path(path, branch):
    assert branch_in(path) == branch


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("9100", ("127.0.0.1", 9100)),
        (":9100", ("127.0.0.1", 9100)),
        ("0.0.0.0:1", ("0.0.0.0", 1)),
        ("[::1]:80", ("::1", 80)),
    ],
)
def test_addresses(text, address):
    assert parse_address(text) == address


@pytest.mark.parametrize("text", ["", "host", "host:", "host:x", "1:70000", "-1"])
def test_what_is_no_address_is_refused(text):
    with pytest.raises(InvalidInputError):
        parse_address(text)
    with pytest.raises(InvalidInputError):
        MountOptions(repository="r", mountpoint="m", metrics=text)


def test_an_unknown_format_is_refused():
    with pytest.raises(InvalidInputError):
        MountOptions(repository="r", mountpoint="m", log_format="xml")
