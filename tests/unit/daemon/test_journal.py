"""What the journal gets; `tests/mount/test_systemd.py` asks a real one."""

import logging
import os
import socket
import struct

import pytest

from icefs.daemon.journal import JournalHandler, is_journal, priority
from icefs.daemon.logs import LineFormatter
from icefs.daemon.repeats import Repeats
from tests.support.log_records import KEY_ID, KeptLines, record


def test_levels_have_priorities():
    levels = (logging.CRITICAL, logging.ERROR, logging.WARNING, logging.INFO, logging.DEBUG)
    assert [priority(level) for level in levels] == [2, 3, 4, 6, 7]


def test_the_journal_is_known_by_its_descriptor(tmp_path):
    with (tmp_path / "journal").open("wb") as file:
        status = os.fstat(file.fileno())
        environment = {"JOURNAL_STREAM": f"{status.st_dev}:{status.st_ino}"}
        assert is_journal(environment, file.fileno())
        assert not is_journal({"JOURNAL_STREAM": f"{status.st_dev}:{status.st_ino + 1}"}, file.fileno())
        assert not is_journal({}, file.fileno())
        assert not is_journal({"JOURNAL_STREAM": "nonsense"}, file.fileno())


def parse(entry):
    """Reads the journal's format, from its description."""
    fields = {}
    while entry:
        line, _, entry = entry.partition(b"\n")
        name, equals, value = line.partition(b"=")
        if not equals:
            (size,) = struct.unpack_from("<Q", entry)
            value, entry = entry[8 : 8 + size], entry[8 + size :]
            assert entry.startswith(b"\n")
            entry = entry[1:]
        fields[name.decode()] = value.decode()
    return fields


class Journal:
    def __init__(self, place, kind="text"):
        self.address = str(place / "journal")
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(self.address)
        self.socket.settimeout(10)
        self.lines = KeptLines()
        self.handler = JournalHandler(
            LineFormatter(kind, "/m", None, journal=True, secrets=["abc/123"]).journal_fields, self.lines, self.address
        )

    def receive(self):
        return parse(self.socket.recv(1 << 20))


@pytest.fixture
def journal(tmp_path):
    journal = Journal(tmp_path)
    yield journal
    journal.handler.close()
    journal.socket.close()


def test_an_entry_has_fields(journal):
    facts = {"object": "s3://b/abc/123", "attempt": 2}
    journal.handler.handle(record("a %d", 1, branch="main", facts=facts))
    assert journal.receive() == {
        "MESSAGE": "WARNING icefs.x [/m main]: a 1",
        "PRIORITY": "4",
        "SYSLOG_IDENTIFIER": "icefs",
        "LOGGER": "icefs.x",
        "ICEFS_MOUNT": "/m",
        "ICEFS_BRANCH": "main",
        "ICEFS_OBJECT": "s3://b/***",
        "ICEFS_ATTEMPT": "2",
    }
    journal.handler.handle(record("b", level=logging.DEBUG))
    told = journal.receive()
    assert (told["PRIORITY"], "ICEFS_BRANCH" in told) == ("7", False)
    assert journal.lines.lines == []


def test_no_message_makes_a_field_or_a_line_of_its_own(journal):
    message = f"a\nPRIORITY=0\n=b\x00c \udcff {KEY_ID}\n"
    journal.handler.handle(record(message, level=logging.ERROR))
    told = journal.receive()
    assert told["MESSAGE"] == "ERROR icefs.x [/m]: a\\nPRIORITY=0\\n=b\\x00c \\xff ***\\n"
    assert told["PRIORITY"] == "3"


def test_what_the_journal_does_not_take_becomes_a_line(journal):
    journal.handler.handle(record("long " * 200_000))
    assert [line[:4] for line in journal.lines.lines] == ["long"]
    journal.handler.handle(record("short"))
    assert "short" in journal.receive()["MESSAGE"]
    os.unlink(journal.address)
    journal.handler.handle(record("gone"))
    assert journal.lines.lines[1:] == ["gone"]


def test_a_journal_that_is_stuck_is_not_waited_for(journal):
    for number in range(10_000):
        journal.handler.handle(record("%d", number))
    assert journal.lines.lines[-1] == "9999"
    assert "0" not in journal.lines.lines


def test_repeats_are_entries_too(journal):
    repeats = Repeats([journal.handler], lambda: 0.0)
    for _ in range(3):
        repeats.handle(record("a"))
    repeats.flush()
    assert [journal.receive()["MESSAGE"][-20:] for _ in range(2)] == [
        "NING icefs.x [/m]: a",
        "a … repeated 2 times",
    ]
