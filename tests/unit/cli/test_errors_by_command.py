"""Every class of error × every command that can meet it: one line that says what, to what, and what to do next.

Most are met for real, in repositories that are damaged, missing, closed or full, and at stores that refuse. For the
rest the storage that the commands open raises them. Of each line, in text and in JSON: the exit code is the one of the
table, the thing is named once, and a command in it is a command line.
"""

import ast
import builtins
import contextlib
import errno
import inspect
import io
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import click
import pytest

from icefs import errors
from icefs.cli.main import main
from icefs.cli.support import repos
from icefs.cli.support.exit_codes import ERROR_TABLE, STORAGE, exit_row
from icefs.cli.support.registry import COMMANDS
from icefs.storage.url import open_storage
from tests.support.bent_store import Bend, BentStore, Stored
from tests.support.command_lines import EVERY_LINE, ON_A_MOUNT, ON_A_REPOSITORY, check_commands, leaves, parse
from tests.support.faulty import FaultyStorage

PROJECT = Path(__file__).resolve().parents[3]
TIP, OLD = "CMRY8V1FN88DGANQ3Y0G", "NKKE18TJP3R1XYBXQRYG"
ARRAY = "weather/temperature"
GROUP = '{"zarr_format": 3, "node_type": "group", "attributes": {}}'
# A mount is another process; tests/mount has what goes wrong with one.
LEAVES = [leaf for leaf in ON_A_REPOSITORY if leaf != "mount"]


def words(leaf, repository="repo"):
    line = EVERY_LINE[leaf].format(R="{R}", Z="Z", O="out", M="mnt", S="state", T=OLD, A=ARRAY, K=f"{ARRAY}/c/0/0/0")
    return [word.replace("{R}", repository) for word in line.split()]


def fresh(demo):
    """Makes what the command lines name, in the current directory."""
    for name in ("repo", "out", "mnt", "state", "Z"):
        if os.path.isdir(name) and not os.path.islink(name):
            shutil.rmtree(name)
        elif os.path.lexists(name):
            os.unlink(name)
    shutil.copytree(demo, "repo", copy_function=os.link)
    os.mkdir("mnt")
    os.mkdir("Z")
    Path("Z/zarr.json").write_text(GROUP)


@pytest.fixture(scope="module")
def demo(demo, tmp_path_factory):
    """The repository of the demo, to be linked to."""
    return shutil.copytree(demo, tmp_path_factory.mktemp("errors") / "demo")


@pytest.fixture
def place(tmp_path, demo, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "xdg-state"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg-cache"))
    fresh(demo)
    return tmp_path


@pytest.fixture
def output(monkeypatch):
    """Runs a command line; returns its exit code and what it printed on both streams."""

    def call(arguments):
        streams = [io.TextIOWrapper(io.BytesIO(), encoding="utf-8") for _ in range(2)]
        with monkeypatch.context() as patch:
            patch.setattr(sys, "stdout", streams[0])
            patch.setattr(sys, "stderr", streams[1])
            code = main(arguments)
        for stream in streams:
            stream.flush()
        return code, *(stream.buffer.getvalue().decode(errors="replace") for stream in streams)

    return call


# What is true of every error.

_PATH = re.compile(r"(?<![\w/.:-])(?:/[^\s:;,'\"]+|(?:https?|s3)://[^\s;,'\"]+)")


def check_line(line, document, code, *, named):
    """Holds an error's line, and the same for programs, to the rules.

    Args:
        line: What was printed for people.
        document: What was printed for programs.
        code: The exit code.
        named: What the line may say it is about; one of them it has to.
    """
    assert line.count("\n") == 1, line
    assert line.startswith("icefs: "), line
    told = json.loads(document)["error"]
    error = getattr(errors, told["type"], None) or getattr(builtins, told["type"])
    assert code == told["exit_code"] == exit_row(error("x")).exit_code, line
    assert code != 70, line
    assert told["hint"], line
    assert line.strip() == f"icefs: {told['message'].rstrip('.')}; {told['hint']}"
    assert any(name in told["message"] for name in named), line
    assert re.search(r"(\S+): \1:", told["message"]) is None, line
    paths = _PATH.findall(told["message"])
    assert len(paths) == len(set(paths)), line
    check_commands(line)
    assert "`" not in line, line


NAMED = ("repo", *(f"{kind}/" for kind in ("snapshots", "manifests", "transactions", "chunks", "refs")))


def check(leaf, output, repository="repo", named=NAMED):
    """Runs a command twice, for people and for programs; tells whether it failed, and holds it to the rules if so."""
    code, out, err = output(words(leaf, repository))
    if leaf in ("fsck", "doctor") and not err:
        found = [line for line in out.splitlines() if re.match(r"problem |damaged: |newer: ", line)]
        assert bool(code) == bool(found), out
        if leaf == "doctor":
            assert all("; " in line for line in found), out
        elif code:
            assert "\nnote: " in out, out
        check_commands(out)
        return code != 0
    if code and err.startswith("cannot be exported:"):
        assert code == STORAGE
        assert len(check_commands(err)) == 1, err
        return True
    if not code:
        return False
    assert err, (leaf, out)
    if leaf == "cat" and "chunks/" in err:  # for programs it says where the bytes are, and reads none
        check_commands(err)
        return True
    shutil.rmtree("out", ignore_errors=True)
    again, _, document = output([*words(leaf, repository), "--json"])
    assert again == code, (leaf, err, document)
    check_line(err, document, code, named=named)
    return True


def test_each_command_has_a_line():
    assert sorted(leaves()) == sorted(EVERY_LINE)


# Local repositories.


def _each(below, change):
    def damage():
        for path in Path("repo", below).iterdir():
            if path.is_file():
                change(path)

    return damage


def _write(path, data):
    path.unlink()  # the file itself is shared
    path.write_bytes(data)


def _newer(path):
    data = bytearray(path.read_bytes())
    data[36] = 3
    _write(path, data)


def _replace(make):
    def change(path):
        path.unlink()
        make(path)

    return change


CHANGES = {
    "nonsense": lambda path: _write(path, b"nonsense"),
    "cut": lambda path: _write(path, path.read_bytes()[:40]),
    "newer": _newer,
    "gone": Path.unlink,
    "a FIFO": _replace(os.mkfifo),
    "a link": _replace(lambda path: path.symlink_to("/etc/hostname")),
}
SITUATIONS = {f"repo {name}": (lambda change=change: change(Path("repo/repo"))) for name, change in CHANGES.items()}
SITUATIONS |= {
    f"{below} {name}": _each(below, change)
    for below in ("snapshots", "manifests", "transactions", "chunks")
    for name, change in CHANGES.items()
    if below != "chunks" or name not in ("nonsense", "newer")
}


def _remove():
    shutil.rmtree("repo")


def _file():
    _remove()
    Path("repo").write_bytes(b"x")


def _empty():
    _remove()
    os.mkdir("repo")


SITUATIONS |= {
    "missing": _remove,
    "a file": _file,
    "empty": _empty,
    "the lock is a directory": lambda: os.mkdir("repo/icefs.lock#0"),
    "the lock is a link": lambda: os.symlink("/dev/null", "repo/icefs.lock#0"),
    "whole": lambda: None,
}

# Which commands fail; those that do not need what is amiss do not.
_WRITING = ("branch create", "branch delete", "branch reset", "tag create", "tag delete", "import", "config set")
_BRINGING = ("merge", "cherry-pick", "revert", "restore")
_CHANGING = (*_WRITING, *_BRINGING, "init", "clone", "export", "expire", "gc", "rewrite-manifests", "upgrade")
_NEED_REPO = {leaf for leaf in LEAVES if leaf != "init"}
FAILS = {
    "repo": _NEED_REPO,
    "snapshots": {"diff", "blame", "ls", "cat", "export", "stats", "fsck", "gc", "clone", *_BRINGING},
    "manifests": {"blame", "cat", "export", "stats", "fsck", "gc", "clone", *_BRINGING},
    "transactions": {"diff", "fsck"},
    "chunks": {"cat", "export", "fsck", "clone"},
    "missing": _NEED_REPO,
    "a": _NEED_REPO,
    "empty": _NEED_REPO,
    "the": {*_WRITING, *_BRINGING, "gc", "expire", "rewrite-manifests"} - {"import"},
    "whole": set(),
}


@pytest.mark.parametrize("situation", SITUATIONS)
def test_what_is_wrong_with_a_local_repository(situation, place, demo, output):
    damage = SITUATIONS[situation]
    failed = set()

    def again():
        fresh(demo)
        damage()

    again()
    for leaf in LEAVES:
        if check(leaf, output):
            failed.add(leaf)
        elif leaf in _CHANGING:
            again()
    assert FAILS[situation.partition(" ")[0]] <= failed | {"upgrade"}, situation
    if situation == "whole":
        assert failed == {"init", "upgrade"}  # it is there, and of the newest version


# What is closed, or full, to a process that is not root.

_DRIVER = """
import json, sys
from tests.unit.cli.test_errors_by_command import driven
print(json.dumps(driven(json.loads(sys.argv[1]))))
"""


def driven(lines):
    """Runs command lines in a process that may do less than others; returns the exit code and the errors of each."""
    found = {}
    for leaf, arguments in lines.items():
        out, err = io.TextIOWrapper(io.BytesIO(), encoding="utf-8", errors="replace"), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = main(arguments)
        found[leaf] = code, re.sub(r"/[0-9A-Z]{20}\b|\.\d{14}\.[0-9A-Z]{20}", "/ID", err.getvalue())
    return found


def drive(lines):
    powerless = ["setpriv", "--bounding-set=-all", "--inh-caps=-all"] if os.geteuid() == 0 else []
    done = subprocess.run(
        [*powerless, sys.executable, "-c", _DRIVER, json.dumps(lines)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": str(PROJECT)},
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def close(place):
    """Takes permissions away: to write anywhere in the repository, or to read one thing in it."""
    if place == "for writing":
        for directory, _, _ in os.walk("repo"):
            os.chmod(directory, 0o555)
        return
    if os.path.isfile(place):  # it is linked to the demo's, which other tests read
        shutil.copy(place, "own")
        os.replace("own", place)
    os.chmod(place, 0)


@pytest.mark.parametrize("closed", ["repo", "repo/repo", "repo/snapshots", "for writing"])
def test_what_may_not_be_read_or_written(closed, place, demo):
    if closed == "for writing":
        lines = {leaf: words(leaf) for leaf in (*_WRITING, "rewrite-manifests", "gc", "expire")}
    else:
        lines = {leaf: words(leaf) for leaf in LEAVES if leaf not in ("doctor", "fsck", "upgrade")}
    if closed == "repo/snapshots":
        lines = {leaf: line for leaf, line in lines.items() if leaf not in _WRITING}  # which would do their work
    close(closed)
    told = drive(lines)
    fresh(demo)  # some of them have done their work
    close(closed)
    for_programs = drive({leaf: [*line, "--json"] for leaf, line in lines.items()})
    failed = {leaf for leaf, (code, _) in told.items() if code}
    assert len(failed) >= (8 if closed == "repo/snapshots" else 4), failed
    for leaf in failed:
        assert for_programs[leaf][0] == told[leaf][0], (leaf, told[leaf], for_programs[leaf])
        check_line(told[leaf][1], for_programs[leaf][1], told[leaf][0], named=NAMED)


# Stores that refuse.

BENDS = {
    "refused": Bend(403),
    "no credentials": Bend(401),
    "asks for less": Bend(503),
    "broken": Bend(500),
    "a login page": Bend(200, "page"),
    "elsewhere": Bend(301),
}


@pytest.fixture(scope="module")
def bucket():
    with BentStore() as store:
        root = PROJECT / "tests/conformance/data/demo-repo"
        for path in root.rglob("*"):
            if path.is_file():
                store.objects[f"bucket/pre/{path.relative_to(root)}"] = Stored(path.read_bytes())
        yield store


@pytest.mark.parametrize("scheme", ["s3", "http"])
@pytest.mark.parametrize("bend", BENDS)
def test_what_a_store_answers(bend, scheme, bucket, place, output, monkeypatch, caplog):
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AN-ID")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "a-secret-to-keep")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    where = {
        "s3": f"s3://bucket/pre?endpoint_url={bucket.url}&region=us-east-1&allow_http=true&max_tries=1",
        "http": f"{bucket.url}/bucket/pre?max_tries=1",
    }[scheme]
    bucket.set_bend(BENDS[bend])
    try:
        for leaf in LEAVES:
            if leaf == "doctor":
                continue  # which tries for as long as it takes
            shutil.rmtree("out", ignore_errors=True)
            assert check(leaf, output, where, named=("s3://bucket/pre", bucket.url)), leaf
    finally:
        bucket.set_bend(None)


# The other classes, from the storage that the commands open.

ERRORS = [
    value
    for value in vars(errors).values()
    if inspect.isclass(value) and issubclass(value, errors.IcefsError) and value.__module__ == errors.__name__
]
# Those that the engine takes for an answer: a file that is not there, a moment that passes.
_TAKEN = (errors.ObjectNotFoundError, errors.PreconditionFailedError)
OS_ERRORS = [
    OSError(code, os.strerror(code), "/somewhere/else")
    for code in (errno.EIO, errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.ESTALE, errno.EACCES, errno.EMFILE)
]


def _raised():
    for error in ERRORS:
        yield error("the thing at snapshots/X is in no state to be used")
        yield error("the thing at snapshots/X is in no state to be used", hint="use another thing")
    yield from OS_ERRORS


@pytest.mark.parametrize(
    "raised", list(_raised()), ids=lambda error: f"{type(error).__name__}{getattr(error, 'hint', '')}"
)
def test_an_error_of_any_class_reaches_the_user_from_every_command(raised, place, demo, output, monkeypatch):
    told = []

    def open_faulty(url, **options):
        storage = FaultyStorage(open_storage(url, **options))
        storage.fail(at=1, times=None, error=lambda call: raised)
        told.append(storage)
        return storage

    monkeypatch.setattr(repos, "open_storage", open_faulty)
    row = exit_row(raised)
    for leaf in LEAVES:
        if leaf in ("init", "doctor", "fsck"):
            continue
        told.clear()
        code, out, err = output(words(leaf))
        assert told, leaf
        if isinstance(raised, _TAKEN):
            continue
        assert (code, out) == (row.exit_code, ""), (leaf, err)
        assert err.count("\n") == 1, err
        hint = getattr(raised, "hint", None) or row.hint
        message = getattr(raised, "own_message", None) or f"{raised.strerror}: {raised.filename}"
        assert err == f"icefs: {message}{f'; {hint}' if hint else ''}\n", leaf
        check_commands(err)
        again, out, document = output([*words(leaf), "--json"])
        assert (again, out) == (code, ""), leaf
        assert json.loads(document)["error"]["hint"] == hint
        assert json.loads(document)["error"]["exit_code"] == code


def test_each_hint_of_the_table_gives_command_lines_that_parse():
    for row in ERROR_TABLE:
        check_commands(f"x; {row.hint}")


@pytest.mark.parametrize("leaf", ON_A_MOUNT)
def test_what_needs_a_mount_says_so_where_there_is_none(leaf, place, demo, output):
    check(leaf, output, named=(str(place / "mnt"),))
    shutil.rmtree("mnt")
    check(leaf, output, named=("mnt", str(place)))


def test_the_repository_that_is_damaged_is_mended_by_the_command_that_is_printed(place, output):
    with contextlib.closing(open_storage("repo")) as storage:
        _write(Path("repo/repo"), b"nonsense")
        assert [*storage.iter_objects("overwritten/")]
    code, _, err = output(["log", "repo"])
    [line] = check_commands(err)
    assert output(shlex.split(line)[1:])[0] == 1  # repaired
    assert output(["log", "repo"])[0] == 0
    assert code == 8


# The command lines that the source has in its texts.


def _texts():
    """Yields the strings of the source, with X for what is put into them, and the pages of help, line by line."""
    for path in sorted((PROJECT / "icefs").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.JoinedStr):
                parts = (str(part.value) if isinstance(part, ast.Constant) else "X" for part in node.values)
                yield path, "".join(parts)
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                yield path, node.value


def test_each_command_line_in_the_source_is_one():
    found, wrong = set(), []
    for path, text in _texts():
        for line in re.findall(r"[`']icefs ([a-z][^`'\n]*)[`']", text):
            found.add(line)
            words = shlex.split(line.partition(" | ")[0])
            if words[0] in COMMANDS and (len(words) == 1 or words[1] == "…"):
                continue  # names a command
            try:
                parse(words)
            except (click.MissingParameter, click.exceptions.NoArgsIsHelpError, click.exceptions.Exit):
                continue  # names a part of one
            except click.ClickException as error:
                wrong.append(f"{path}: icefs {line}: {error.format_message()}")
    assert wrong == []
    assert len(found) > 40


@pytest.mark.parametrize(
    ("option", "said", "hinted"),
    [
        ("--state-dir", "where working trees are kept: Permission denied", "another --state-dir"),
        ("--log-file", "cannot write the log file ", "choose a --log-file"),
    ],
)
def test_a_place_of_a_mount_that_may_not_be_written_is_named_before_anything_is_mounted(place, option, said, hinted):
    os.mkdir("closed")
    if os.geteuid() == 0:
        os.chown("closed", 4201, 4201)
    os.chmod("closed", 0o500)
    line = ["mount", "repo", "mnt", "--branch", "main", "--state-dir", "state", option, "closed/inner"]
    told = drive({"text": line, "JSON": [*line, "--json"]})
    (code, text), (again, document) = told["text"], told["JSON"]
    assert code == again
    check_line(text, document, code, named=(str(place / "closed/inner"),))
    assert said in text
    assert hinted in text
    assert not os.path.ismount("mnt")
