"""What goes wrong, by command: the line names the thing once, and its hint is one that helps in this case."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from icefs.cli.main import main
from icefs.cli.support.exit_codes import FORBIDDEN, FORMAT, NOT_FOUND, STATE, STORAGE, USAGE
from tests.support.hints import check, check_json


@pytest.fixture
def places(tmp_path, demo, monkeypatch):
    """Makes what the command lines below name, and goes there."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "xdg-state"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg-cache"))
    shutil.copytree(demo, "repo")
    os.mkdir("empty")
    os.mkdir("mnt")
    shutil.copytree(demo, "damaged")
    Path("damaged/repo").write_bytes(b"nonsense")
    shutil.copytree(demo, "incomplete")
    shutil.rmtree("incomplete/chunks")
    return tmp_path


CASES = [
    ("log missing", NOT_FOUND, "no such file or directory: missing", ""),
    ("log empty", NOT_FOUND, "no Icechunk repository at ", "make one"),
    ("log repo maim", NOT_FOUND, "maim is no snapshot, branch or tag of ", "did you mean main?"),
    ("log repo@zzz", NOT_FOUND, "zzz is no snapshot, branch or tag of ", "list what exists"),
    ("log damaged", FORMAT, "", "icefs fsck --repair "),
    ("log http://127.0.0.1:1/x", STORAGE, "cannot read http://127.0.0.1:1/x/", "check the address and the network"),
    ("ls repo a/b", NOT_FOUND, "no such group, array or key", "'icefs ls'"),
    ("cat repo weather", NOT_FOUND, "a group or array is not a key", "weather/zarr.json"),
    ("cat repo weather/time/c/9", NOT_FOUND, "the array has no such chunk", "'icefs ls'"),
    ("cat incomplete weather/temperature/c/0/0/0", STORAGE, "", "restore the object from a copy"),
    ("blame repo weather/nothing", NOT_FOUND, "no array at /weather/nothing", "'icefs ls'"),
    ("branch delete main --repo repo", STATE, "the branch main cannot be deleted", "branch reset main"),
    ("branch delete warmr --repo repo", NOT_FOUND, "there is no branch warmr", "did you mean warmer?"),
    ("branch create main --repo repo", STATE, "exists already", "choose another name"),
    ("tag delete nope --repo repo", NOT_FOUND, "there is no tag nope", "there are v1.0, v1.1"),
    ("upgrade repo", STATE, "is of spec version 2 already", "nothing to upgrade"),
    ("mount repo mnt --as-of 1980-01-01", NOT_FOUND, "as old as 1980-01-01 23:59:59 UTC", "its oldest is of 20"),
    ("mount repo mnt --branch maim", NOT_FOUND, "there is no branch maim", "did you mean main?"),
    ("mount repo missing", USAGE, "the mountpoint does not exist", "mkdir -p"),
    ("mount repo repo", USAGE, "", ""),
    ("umount mnt", NOT_FOUND, "not a mountpoint: ", "findmnt"),
    ("status mnt", NOT_FOUND, "not in an icefs mount: ", ""),
    ("commit mnt -m x", NOT_FOUND, "not in an icefs mount: ", ""),
    ("config get inline_chunk --repo repo", USAGE, "there is no setting inline_chunk", "did you mean inline_chunk_thr"),
    ("config check nothing", NOT_FOUND, "no configuration file: ", "config check"),
    ("import missing repo", NOT_FOUND, "", ""),
    ("import repo repo", USAGE, "", ""),
    ("export repo out nothing", NOT_FOUND, "", "'icefs ls'"),
    ("export repo empty/../repo", STATE, "", ""),
    ("init repo", USAGE, "", ""),
    ("sessions discard abcdef", NOT_FOUND, "there is no working tree", "'icefs sessions' lists them"),
    ("inspect repo nothing", NOT_FOUND, "no branch, tag, snapshot or manifest is called nothing", "'icefs log'"),
    ("help nothing", USAGE, "there is no topic and no command nothing", "'icefs help'"),
]


@pytest.mark.parametrize(("line", "code", "said", "hinted"), CASES, ids=[case[0] for case in CASES])
def test_an_error_names_the_thing_once_and_hints_at_what_helps(places, capsys, line, code, said, hinted):
    arguments = line.split()
    assert main(arguments) == code
    told = capsys.readouterr().err
    message, hint = check(told, arguments)
    assert said in message
    assert hinted in hint
    if arguments[0] == "cat" and code == STORAGE:  # --json says where the bytes are, and does not read them
        return
    assert main([*arguments, "--json"]) == code
    captured = capsys.readouterr()
    assert captured.out == ""
    check_json(captured.err, told, code)


@pytest.mark.parametrize("line", ["log --nope", "log repo repo repo", "comit", "top --interval x", "mount repo"])
def test_a_wrong_command_line_is_told_in_json_too(places, capsys, line):
    assert main(line.split()) == USAGE
    told = capsys.readouterr().err
    assert main([*line.split(), "--json"]) == USAGE
    check_json(capsys.readouterr().err, told, USAGE)


# What permissions forbid, to a process that may do no more than others.

ICEFS = Path(sys.executable).parent / "icefs"
DENIED = [
    ("init forbidden/new", "cannot write ", "change its permissions"),
    ("export repo forbidden", "cannot write ", "change its permissions"),
    ("export repo forbidden/out", "cannot write ", "change its permissions"),
    ("import unreadable repo", "cannot read ", "change its permissions"),
    ("log unreadable", "", ""),
    ("branch create x --repo forbidden-repo", "cannot copy ", "change its permissions"),
]


@pytest.mark.parametrize(("line", "said", "hinted"), DENIED, ids=[case[0] for case in DENIED])
def test_what_is_forbidden_has_one_exit_code_and_says_where(places, line, said, hinted):
    os.mkdir("forbidden", 0o555)
    shutil.copytree("repo", "forbidden-repo")
    os.mkdir("unreadable", 0o000)
    for directory, _, _ in os.walk("forbidden-repo"):
        os.chmod(directory, 0o555)
    powerless = ["setpriv", "--bounding-set=-all", "--inh-caps=-all"] if os.geteuid() == 0 else []
    arguments = line.split()
    done = subprocess.run([*powerless, ICEFS, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == FORBIDDEN, done.stderr
    message, hint = check(done.stderr, arguments)
    assert said in message
    assert hinted in hint


def test_the_doctor_of_a_forbidden_directory_speaks_of_permissions(places):
    os.chmod("repo", 0o000)
    powerless = ["setpriv", "--bounding-set=-all", "--inh-caps=-all"] if os.geteuid() == 0 else []
    done = subprocess.run([*powerless, ICEFS, "doctor", "repo"], capture_output=True, text=True, check=False)
    assert "AWS" not in done.stdout
    assert re.search(r"problem permissions: .*Permission denied; change its permissions", done.stdout)
    if powerless:
        assert re.search(r"problem fuse: this process may not mount; CAP_SYS_ADMIN is out of reach", done.stdout)
