"""Whether a program is to end: found out of real processes, stopped so that signals wait for them."""

import os
import signal
import subprocess
import sys

import pytest

from icefs.fuse.interrupts import is_to_end

PROGRAM = """
import os, signal, sys, threading
how, number = sys.argv[1], int(sys.argv[2])
if how == "caught":
    signal.signal(number, lambda *_: None)
elif how == "ignored":
    signal.signal(number, signal.SIG_IGN)
elif how == "blocked":
    signal.pthread_sigmask(signal.SIG_BLOCK, [number])
else:
    signal.signal(number, signal.SIG_DFL)
if sys.argv[3] == "thread":
    ready = threading.Event()
    def wait():
        print(threading.get_native_id(), flush=True)
        ready.set()
        threading.Event().wait()
    threading.Thread(target=wait, daemon=True).start()
    ready.wait()
else:
    print(os.getpid(), flush=True)
os.kill(os.getpid(), signal.SIGSTOP)
"""


def answer(how, number, who="process", *, may_be_fault=False):
    """Asks of a program for which a signal waits."""
    child = subprocess.Popen([sys.executable, "-c", PROGRAM, how, str(int(number)), who], stdout=subprocess.PIPE)
    try:
        thread = int(child.stdout.readline())
        _, status = os.waitpid(child.pid, os.WUNTRACED)
        assert os.WIFSTOPPED(status)
        assert not is_to_end(thread, may_be_fault)
        child.send_signal(number)
        return is_to_end(thread, may_be_fault)
    finally:
        child.kill()
        child.wait()
        child.stdout.close()
        assert not is_to_end(child.pid, may_be_fault)  # it is gone


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGQUIT, signal.SIGALRM, signal.SIGUSR1])
def test_a_signal_that_nobody_handles_ends_a_program(number):
    assert answer("default", number)


@pytest.mark.parametrize("number", [signal.SIGALRM, signal.SIGPROF, signal.SIGUSR1, signal.SIGTERM, signal.SIGCHLD])
def test_a_signal_that_is_handled_does_not(number):
    assert not answer("caught", number)


def test_ctrl_c_is_meant_to_end_what_is_under_way_also_where_it_is_handled():
    assert answer("caught", signal.SIGINT)
    # But not where it would become a SIGBUS. That a read does not is seen on a mount only.
    assert not answer("caught", signal.SIGINT, may_be_fault=True)
    assert answer("default", signal.SIGINT, may_be_fault=True)


@pytest.mark.parametrize("how", ["ignored", "blocked"])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_that_is_ignored_or_blocked_does_not(how, number):
    assert not answer(how, number)


@pytest.mark.parametrize("number", [signal.SIGTSTP, signal.SIGTTOU, signal.SIGWINCH, signal.SIGURG, signal.SIGCHLD])
def test_what_stops_a_program_or_tells_it_something_does_not(number):
    assert not answer("default", number)


def test_a_signal_for_the_process_is_one_for_its_threads():
    assert answer("default", signal.SIGTERM, "thread")
    assert not answer("caught", signal.SIGALRM, "thread")


def test_of_who_has_no_number_here_nothing_is_known():
    assert not is_to_end(0, False)
