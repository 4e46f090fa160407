"""Repositories, mountpoints, branches, nodes and messages with misleading names, on real mounts.

Nothing that is printed, or read from control files, is obeyed by a terminal or makes a line of its own; each command
line that is printed, read by a shell, does what it says.
"""

import json
import os
import subprocess

import pytest

from icefs.cli.main import main
from icefs.daemon.mountinfo import mounted_at
from icefs.engine.write.repository import WritableRepository
from icefs.storage.url import open_storage
from tests.support.hostile_words import TOGETHER, hidden_in, printed_commands, words_that_arrive
from tests.support.mounting import scratch_directory

FORGED = "Nothing to commit"


@pytest.fixture(params=TOGETHER, ids=ascii)
def name(request):
    return request.param


@pytest.fixture
def scratch(monkeypatch):
    with scratch_directory() as place:
        for variable in ("STATE", "CACHE"):
            monkeypatch.setenv(f"XDG_{variable}_HOME", os.path.join(place, variable))
        monkeypatch.chdir(place)
        yield place
        monkeypatch.chdir("/")


@pytest.fixture
def run(capfd):
    """Runs a command line that must succeed; what it prints shows nothing hidden; returns that."""

    def call(*arguments, code=0):
        capfd.readouterr()
        done = main([str(argument) for argument in arguments])
        captured = capfd.readouterr()
        assert done == code, (arguments, captured.err)
        text = captured.out + captured.err
        assert not hidden_in(text), (arguments, text)
        return text

    return call


def commands(text):
    return [words_that_arrive(line)[0:] for line in printed_commands(text)]


def test_a_session_with_misleading_names(name, scratch, run):
    word = name.encode("utf-8", "surrogateescape").decode("utf-8", "replace").replace("/", "")
    repo, place = os.path.join(scratch, f"r{name}"), os.path.join(scratch, f"m{name}")
    os.mkdir(place)
    run("init", repo)
    with WritableRepository.open(open_storage(repo)) as repository:
        session = repository.writable_session("main")
        session.nodes.put("/", b'{"zarr_format":3,"node_type":"group"}')
        repository.create_branch(word, session.commit(word))
        repository.create_tag(word, repository.lookup_branch("main"))
    try:
        text = run("mount", repo, place, f"--branch={word}")
        assert ["umount", place] in commands(text)
        group = os.path.join(place, word)
        os.mkdir(group)
        with open(os.path.join(group, "zarr.json"), "w") as file:
            file.write('{"zarr_format":3,"node_type":"group"}')
        for untracked in (word, f"{word}.bad"):
            with open(os.path.join(place, f"{untracked}~"), "w") as file:
                file.write("x")
        for arguments in (["status"], ["diff"], ["info"], ["top", "--once", "--interval", "0.1"], ["log-level"]):
            text = run(*arguments, "--", place)
            assert FORGED not in text.splitlines(), arguments
            assert json.loads(run(*arguments, "--json", "--", place)) is not None
        for control in ("status", "diff", "log", "accesslog"):
            with open(os.path.join(place, ".icefs", control), errors="surrogateescape") as file:
                assert not hidden_in(file.read()), control
        run("doctor", "--", place)
        text = run("commit", f"-m{word}", "--", place)
        assert "untracked, not committed: " in text
        run("log", place)
        run("refresh", "--", place)
        text = run("umount", "--", place)
        (back,) = commands(text)
        assert back[0] == "mount"
        assert mounted_at(place) is None
        (look,) = [words for words in commands(run(*back)) if words[0] == "status"]
        assert "Untracked" in run(*look)
        run("sessions")
        (one,) = json.loads(run("sessions", "--json"))
        assert (one["branch"], one["mountpoint"], one["state"]) == (word, place, "mounted")
        run("umount", "--discard", "--", place)
        missing = [["status", "--", f"{place}x"], ["umount", "--", place], ["commit", "-mx", "--", scratch]]
        for arguments in missing:
            assert run(*arguments, code=3).count("\n") == 1
    finally:
        if mounted_at(place) is not None:
            subprocess.run(["fusermount3", "-uz", "--", place], check=True)
    assert not os.path.lexists(os.path.join(scratch, "owned"))
