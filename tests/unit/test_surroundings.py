"""How the tests are run: the same from every shell, and never without an end."""

import os
import shlex
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[2]
PYTEST = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider"]


def run_tests(
    directory: Path, source: str, *options: str, prefix: str = "", **more: str
) -> subprocess.CompletedProcess:
    """Runs a test module below the project's own conftest, from a shell command with the given beginning."""
    (directory / "conftest.py").write_text(
        "from tests.conftest import *\nfrom tests.conftest import pytest_configure\n"
    )
    (directory / "test_it.py").write_text(textwrap.dedent(source))
    own = [f"--basetemp={directory / 'own'}", "--rootdir", str(directory)]  # and not what other runs have left behind
    command = [*PYTEST, "-c", str(PROJECT / "pyproject.toml"), *own, *options, str(directory)]
    environment = {**os.environ, "PYTHONPATH": str(PROJECT), **more}
    return subprocess.run(
        ["sh", "-c", f"{prefix} exec {shlex.join(command)}"],
        env=environment,
        capture_output=True,
        text=True,
        timeout=100,
    )


SURROUNDINGS = """
    import os, signal, subprocess, sys

    def test_signals_end_a_child():
        for number in (signal.SIGINT, signal.SIGQUIT, signal.SIGHUP, signal.SIGTERM):
            child = subprocess.Popen(["sleep", "60"])
            child.send_signal(number)
            assert child.wait(5) == -number

    def test_an_interrupt_is_pythons():
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler

    def test_files_are_readable(tmp_path):
        (tmp_path / "file").touch()
        assert (tmp_path / "file").stat().st_mode & 0o777 == 0o644

    def test_nothing_of_the_user_is_seen():
        assert "AWS_PROFILE" not in os.environ
        assert "http_proxy" not in os.environ
        assert "COLUMNS" not in os.environ
        assert not os.environ["XDG_STATE_HOME"].startswith(os.path.expanduser("~"))

    def test_standard_descriptors_are_taken(tmp_path):
        assert os.open(tmp_path, os.O_RDONLY) > 2
"""


@pytest.mark.parametrize(
    "prefix",
    ["trap '' INT QUIT HUP TERM;", "umask 077;", "exec <&-;", ""],
    ids=["ignored signals", "umask", "no standard input", "plain"],
)
def test_the_way_of_starting_does_not_matter(tmp_path, prefix):
    done = run_tests(
        tmp_path,
        SURROUNDINGS,
        prefix=prefix,
        AWS_PROFILE="mine",
        http_proxy="http://127.0.0.1:9",
        COLUMNS="20",
        XDG_STATE_HOME=os.path.expanduser("~/.local/state"),
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "5 passed" in done.stdout


HANGING = """
    import contextlib, subprocess

    def test_waits_for_two_children_on_its_way_out():
        with subprocess.Popen(["sleep", "1000"]), subprocess.Popen(["sleep", "1000"]):
            raise AssertionError("the reason")

    def test_reads_twice_from_daemons():
        command = ["setsid", "sh", "-c", "sleep 1000 & wait"]
        with contextlib.ExitStack() as stack:
            for _ in range(2):
                daemon = stack.enter_context(subprocess.Popen(command, stdout=subprocess.PIPE))
                stack.callback(daemon.stdout.read)
            raise AssertionError("the reason")

    def test_afterwards():
        pass
"""


def test_a_failing_test_does_not_hang_the_run(tmp_path):
    done = run_tests(tmp_path, HANGING, "--timeout", "1", ICEFS_TEST_GRACE_S="4")
    assert done.returncode == 1, done.stdout + done.stderr
    assert "2 failed, 1 passed" in done.stdout
    assert done.stderr.count("does not end; its processes are killed") == 2


def test_a_test_that_nothing_ends_is_named(tmp_path):
    source = """
        import signal, time

        def test_is_deaf():
            signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGALRM])
            time.sleep(1000)
    """
    done = run_tests(tmp_path, source, "--timeout", "1", ICEFS_TEST_GRACE_S="1")
    assert done.returncode == 70
    assert "test_is_deaf does not end even so:" in done.stderr
    assert "test_it.py" in done.stderr  # in the stacks
