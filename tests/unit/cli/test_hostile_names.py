"""Every command on a repository whose path, refs, nodes and messages mislead: nothing is obeyed, nothing forged.

Each name stands in all places at once. Text shows no raw control character and no line that a name made;
JSON has the names as they are; a printed command, read by a shell, does what it says to what it names.
"""

import io
import json
import os
import sys

import pytest

from icefs.cli.main import main
from icefs.format.snapshot.nodes import NodeType
from icefs.format.transaction_log import Move
from icefs.storage.url import open_storage
from tests.support.hostile_words import HOSTILE, TOGETHER, hidden_in, printed_commands, words_that_arrive
from tests.support.repo_builder import RepoBuilder, group, inline, node_id
from tests.support.soak import SOAK, share_of
from tests.support.zarr_documents import array_document

FORGED = "Nothing to commit"


class Hostile:
    """A repository with one name in all places.

    Attributes:
        name: The name; where it must be Unicode and not empty, `word` stands for it.
        path: The repository.
        old, new: Its two snapshots after the first.
    """

    def __init__(self, name, directory):
        self.name = name
        self.word = name.encode("utf-8", "surrogateescape").decode("utf-8", "replace") or "w"
        self.path = os.path.join(directory, name or "r")
        builder = RepoBuilder(open_storage(self.path))
        user_data = array_document("codecs")  # any size of a chunk will do
        array = builder.array("/a", 2, (2,), inline((0,), (1,)), user_data=user_data)
        self.old = builder.commit([group("/", 1), array], message=self.word, chunks={2: [(0,), (1,)]})
        moved = builder.array(f"/{self.word}", 2, (2,), inline((0,), (1,)), user_data=user_data)
        group_path = f"/{self.word}g"
        self.new = builder.commit(
            [group("/", 1), moved, group(group_path, 3)],
            message=f"{self.word}\n\n{self.word}",
            new_groups=[3],
            moves=(Move("/a", f"/{self.word}", node_id(2), NodeType.ARRAY),),
            chunks={2: [(1,)]},
        )
        builder.branches |= {self.word: self.new, f"{self.word}2": self.old}
        builder.tags[self.word] = self.old
        builder.publish()

    def reading(self):
        """Yields command lines that change nothing."""
        repo, word = self.path, self.word
        old, new = str(self.old), str(self.new)
        yield from (["ls", *flags, "--", repo] for flags in ([], ["-l"], ["-R"], ["-lR"], ["--keys"], ["--keys", "-l"]))
        yield ["ls", "--", repo, word]
        yield from (["log", *flags, repo] for flags in ([], ["--oneline"], ["--graph"]))
        yield ["log", f"--follow={word}", repo]
        yield from ([kind, "list", "--", repo] for kind in ("branch", "tag"))
        yield ["diff", "--map", "--chunks", "--", repo, old, new]
        yield ["blame", "--", repo, word]
        yield from ([name, "--", repo] for name in ("info", "stats", "fsck", "doctor"))
        yield ["gc", "--dry-run", "--older-than", "0s", "--", repo]
        yield [
            "expire",
            "--dry-run",
            "--older-than",
            "0s",
            "--delete-expired-branches",
            "--delete-expired-tags",
            "--",
            repo,
        ]
        yield ["rewrite-manifests", "--dry-run", f"--branch={word}", "--", repo]
        yield ["config", "get", f"--repo={repo}"]

    def failing(self):
        """Yields command lines that fail, and say to what."""
        repo, word = self.path, self.word
        missing = f"{word}!missing"
        yield ["ls", "--", repo, missing]
        yield ["cat", "--", repo, missing]
        yield ["log", f"{repo}@{missing}"]
        yield ["log", f"--follow={missing}", repo]
        yield ["diff", "--", repo, missing, "main"]
        yield ["blame", "--", repo, missing]
        yield ["inspect", "--", repo, missing]
        yield from (
            ["ls", "--", missing],
            ["status", "--", missing],
            ["umount", "--", missing],
            ["mount", "--", missing, missing],
        )
        yield ["branch", "delete", f"--repo={repo}", "--", missing]
        yield ["branch", "create", f"--repo={repo}", "--", word]
        yield ["tag", "delete", f"--repo={repo}", "--", missing]
        yield ["config", "get", f"--repo={repo}", "--", missing]
        yield ["config", "set", f"--repo={repo}", "--", missing]
        yield ["config", "check", "--", missing]
        yield ["export", "--", repo, missing, missing]
        yield ["import", "--", missing, repo]
        yield ["help", "--", missing]
        yield ["--", missing]
        yield ["sessions", "discard", "--", missing]


# Each name alone is a matter of minutes, for long runs; some together show the same.
_NAMES = share_of(HOSTILE) if SOAK else TOGETHER


@pytest.fixture(params=_NAMES, ids=ascii)
def hostile(request, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return Hostile(request.param, str(tmp_path))


@pytest.fixture(params=["pipe", "terminal"])
def output(request, monkeypatch):
    """Runs a command line for a pipe or a terminal; returns its exit code, and what it printed on both streams."""

    def call(arguments):
        streams = [io.TextIOWrapper(io.BytesIO(), encoding="utf-8") for _ in range(2)]
        for stream in streams:
            stream.isatty = lambda: request.param == "terminal"
        with monkeypatch.context() as patch:
            patch.setattr(sys, "stdout", streams[0])
            patch.setattr(sys, "stderr", streams[1])
            patch.setattr("os.get_terminal_size", lambda *_: os.terminal_size((500, 50)))
            patch.setenv("COLUMNS", "500")
            code = main(arguments)
        for stream in streams:
            stream.flush()
        return code, *(stream.buffer.getvalue().decode() for stream in streams)

    return call


def test_texts_obey_nothing_and_no_name_makes_a_line(hostile, output):
    for arguments in [*hostile.reading(), *hostile.failing()]:
        code, out, err = output(arguments)
        assert code != 70, (arguments, err)
        assert not hidden_in(out + err, colours=True), (arguments, out, err)
        assert FORGED not in (out + err).splitlines(), arguments
        assert not any(line.startswith(f"{FORGED}/") for line in out.splitlines()), arguments
        if out == "" and err.startswith("icefs: ") and arguments[0] != "doctor":
            assert err.count("\n") == 1, (arguments, err)


def test_json_has_the_names_as_they_are(hostile, output):
    for arguments in hostile.reading():
        if "--graph" in arguments:
            continue
        code, out, err = output(with_json(arguments))
        assert out, (arguments, err)
        found = json.loads(out)
        assert not hidden_in(out), arguments
        assert code in (0, 1), (arguments, err)
        if arguments[0] in ("ls", "branch", "tag") or arguments[:2] == ["log", "--oneline"]:
            assert json.dumps(hostile.word)[1:-1] in json.dumps(found), arguments


def with_json(arguments):
    at = arguments.index("--") if "--" in arguments else len(arguments)
    return [*arguments[:at], "--json", *arguments[at:]]


def test_printed_commands_do_what_they_say(hostile, output, tmp_path):
    repo, word = hostile.path, hostile.word

    def refs(kind):
        _, out, _ = output([kind, "list", "--json", "--", repo])
        return {one["name"]: one["snapshot_id"] for one in json.loads(out)}

    def commands_of(*arguments):
        code, out, err = output(list(arguments))
        assert code == 0, err
        assert not hidden_in(out)
        found = [words_that_arrive(line) for line in printed_commands(out)]
        assert found
        return found

    before = refs("branch")
    for change in (
        ["branch", "reset", f"--repo={repo}", "--", word, str(hostile.old)],
        ["branch", "delete", f"--repo={repo}", "--", word],
    ):
        (undo,) = commands_of(*change)
        assert refs("branch") != before
        assert output(undo)[0] == 0
        assert refs("branch") == before
    (other,) = commands_of("tag", "delete", f"--repo={repo}", "--", word)
    assert word not in refs("tag")
    assert output(["NAME-2" if part == "NAME" else part for part in other])[0] == 0
    assert refs("tag") == {"NAME-2": str(hostile.old)}
    made = os.path.join(tmp_path, f"made{hostile.name}")
    (mount,) = commands_of("init", made)
    assert mount == ["mount", made, "MNT"]
    assert not os.path.lexists(tmp_path / "owned")
