"""The boundary: exit codes, one line on stderr, lazy imports."""

import inspect
import subprocess
import sys

import click
import pytest

from icefs import errors
from icefs.cli import main as cli
from icefs.cli.main import describe, icefs, main
from icefs.cli.support import exit_codes
from icefs.cli.support.exit_codes import ERROR_TABLE, EXIT_CODES, exit_row
from icefs.cli.support.registry import COMMANDS

ERROR_CLASSES = [
    value
    for value in vars(errors).values()
    if inspect.isclass(value) and issubclass(value, errors.IcefsError) and value.__module__ == errors.__name__
]


@pytest.fixture
def failing(monkeypatch):
    """Lets the command `status` raise what the test wants."""

    def install(exc):
        @click.command()
        def command():
            raise exc

        monkeypatch.setattr(cli.LazyGroup, "get_command", lambda *_: command)

    return install


@pytest.mark.parametrize("error", ERROR_CLASSES)
def test_each_error_class_has_a_row_of_its_own(error):
    assert [row.error for row in ERROR_TABLE].count(error) == 1
    assert exit_row(error("x")).error is error


def test_each_exit_code_is_documented_and_none_is_made_up():
    used = {row.exit_code for row in ERROR_TABLE}
    assert used <= set(EXIT_CODES)
    assert 0 not in used
    assert used | {0, exit_codes.INTERRUPTED} == set(EXIT_CODES)


def test_an_error_class_gives_a_hint_only_where_it_helps_in_every_case():
    """The place that raises one of the others knows what helps: a class of many causes would send people astray."""
    silent = {row.error for row in ERROR_TABLE if row.hint is None}
    assert silent == {
        errors.ReadOnlyError,
        errors.InvalidMetadataError,
        errors.InvalidInputError,
        errors.DecodeError,
        errors.NotShownError,
        errors.NotADirectoryTreeError,
        errors.BadHandleError,
        errors.NotPermittedError,
        errors.TreeError,
        errors.SessionStateError,
        errors.StaleError,
        errors.UnsupportedError,
        errors.AccessDeniedError,
        errors.StorageError,
        errors.IcefsError,
        PermissionError,
        OSError,
    }


@pytest.mark.parametrize(
    ("arguments", "meant"),
    [
        (["comit"], "commit"),
        (["branch", "lst"], "list"),
        (["help", "comit"], "commit"),
        (["help", "conflict"], "conflicts"),
        (["help", "branch", "deletes"], "delete"),
    ],
)
def test_misspelt_commands_and_topics_get_a_suggestion(arguments, meant, capsys):
    assert main(arguments) == exit_codes.USAGE
    assert f"did you mean {meant}" in capsys.readouterr().err


def test_one_line_of_what_happened_to_what_and_what_to_do(failing, capsys):
    failing(errors.RefNotFoundError("no such branch: x", hint="try\n  main"))
    assert main(["status"]) == exit_codes.NOT_FOUND
    assert capsys.readouterr().err == "icefs: no such branch: x; try\\n  main\n"


def test_what_a_terminal_would_obey_is_taken_out(failing, capsys):
    failing(errors.RefNotFoundError("no such branch: \x1b[31mx", hint="y"))
    main(["status"])
    assert capsys.readouterr().err == "icefs: no such branch: \\x1b[31mx; y\n"


def test_an_error_without_hint_gets_the_one_of_its_class():
    assert describe(errors.UnreachableError("no answer: http://x")) == (
        exit_codes.STORAGE,
        "no answer: http://x; check the endpoint and the network",
    )


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (
            FileNotFoundError(2, "No such file or directory", "/x"),
            exit_codes.NOT_FOUND,
            "No such file or directory: /x;",
        ),
        (PermissionError(13, "Permission denied", b"/x"), exit_codes.FORBIDDEN, "Permission denied: /x"),
        (OSError(5, "Input/output error"), exit_codes.FAILED, "Input/output error"),
        (ZeroDivisionError("division by zero"), exit_codes.BUG, "unexpected ZeroDivisionError: division by zero;"),
        (ExceptionGroup("nursery", [errors.ReadOnlyError("no")]), exit_codes.FORBIDDEN, "no"),
        (ExceptionGroup("two", [ValueError(), ValueError()]), exit_codes.BUG, "unexpected ExceptionGroup:"),
    ],
)
def test_other_exceptions(error, code, line, failing, capsys):
    failing(error)
    assert main(["status"]) == code
    err = capsys.readouterr().err
    assert err.startswith(f"icefs: {line}")
    assert err.count("\n") == 1


@pytest.mark.parametrize("arguments", [["--debug", "status"], ["status", "--debug"]])
def test_debug_shows_the_traceback(arguments, capsys, tmp_path):
    place = [str(tmp_path)]
    assert main([*arguments, *place]) == exit_codes.NOT_FOUND
    err = capsys.readouterr().err
    assert "Traceback" in err
    assert err.splitlines()[-1].startswith("icefs: not in an icefs mount")
    assert main(["status", *place]) == exit_codes.NOT_FOUND
    assert "Traceback" not in capsys.readouterr().err


def test_interrupt_exits_like_a_shell_says(failing):
    failing(KeyboardInterrupt())
    assert main(["status"]) == 130


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["nothing"], "icefs: no such command 'nothing'; see 'icefs --help'\n"),
        (["status", "--nope"], "icefs: no such option '--nope'; see 'icefs status --help'\n"),
        (["status", "a", "b"], "icefs: got unexpected extra argument (b); see 'icefs status --help'\n"),
    ],
)
def test_a_wrong_command_line_is_one_line_and_code_2(arguments, line, capsys):
    assert main(arguments) == exit_codes.USAGE
    assert capsys.readouterr().err == line


def test_without_arguments_the_help_is_an_answer_but_no_success(capsys):
    assert main([]) == exit_codes.USAGE
    assert "Commands:" in capsys.readouterr().err


def test_help_lists_every_command_and_exit_code_without_importing_the_commands():
    code = (
        "import sys; from icefs.cli.main import main; code = main(['--help']);"
        "print(*(m for m in sys.modules if m.startswith('icefs.'))); sys.exit(code)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    *text, modules = done.stdout.splitlines()
    shown = [line.split()[0] for line in text if line.startswith("  ") and line.split()]
    assert set(COMMANDS) <= set(shown)
    assert {str(code) for code in EXIT_CODES} <= set(shown)
    assert set(modules.split()) == {
        "icefs.cli",
        "icefs.cli.main",
        "icefs.cli.support",
        "icefs.cli.support.exit_codes",
        "icefs.cli.support.options",
        "icefs.cli.support.registry",
        "icefs.clock",
        "icefs.errors",
        "icefs.official_words",
        "icefs.words",
    }


@pytest.mark.parametrize("name", COMMANDS)
def test_the_list_of_commands_says_what_the_command_says(name):
    command = icefs.get_command(click.Context(icefs), name)
    assert command.name == name
    assert command.get_short_help_str(limit=200) == COMMANDS[name]


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_json_and_debug(name):
    command = icefs.get_command(click.Context(icefs), name)
    leaves = command.commands.values() if isinstance(command, click.Group) else [command]
    for leaf in leaves:
        options = {option for param in leaf.params for option in param.opts}
        assert {"--json", "--debug"} <= options, leaf.name


def test_version(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.split()[0] == "icefs"


def test_a_reader_that_went_away_is_no_error_worth_a_word():
    code = "import sys; from icefs.cli.main import main; sys.exit(main(['--help']))"
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    process.stdout.close()
    assert process.wait() == exit_codes.PIPE_CLOSED
    assert process.stderr.read() == b""
    process.stderr.close()


def test_completion_names_the_commands(monkeypatch):
    code = "import sys; from icefs.cli.main import main; sys.exit(main())"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={"_ICEFS_COMPLETE": "bash_complete", "COMP_WORDS": "icefs umo", "COMP_CWORD": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout == "plain,umount\n"
