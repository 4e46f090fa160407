"""Log files, which others may rename or delete at any time."""

import subprocess
import sys

from icefs.daemon.log_files import LogFile
from tests.support.log_records import record


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
from icefs.daemon.log_files import LogFile
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
