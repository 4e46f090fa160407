"""Programs that wait for a store which is slow or away: they can be ended, and a signal that they handle costs nothing.

The store answers when it is let, and until then programs must have ended; nothing here is timed.
"""

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from icefs.daemon.options import PYFUSE3
from tests.conformance.official import array_json
from tests.support.children import running
from tests.support.fault_proxy import FaultProxy
from tests.support.mounting import Mount, mounted, wait_until

CHUNK = 1 << 16
COUNT = 16
PATIENCE_S = 30

# Ends with 3 where SIGINT becomes Python's exception.
READ = """
import os, sys
try:
    fd = os.open(sys.argv[1], os.O_RDONLY)
    assert os.read(fd, 1 << 20) == bytes([int(sys.argv[2])]) * int(sys.argv[3])
except KeyboardInterrupt:
    os._exit(3)
"""

# The same by page faults, in the program itself or, on its behalf, in the kernel.
MAP = """
import mmap, os, sys
path, number, how = sys.argv[1], int(sys.argv[2]), sys.argv[3]
try:
    memory = mmap.mmap(os.open(path, os.O_RDONLY), 4096, prot=mmap.PROT_READ)
    if how == "kernel":
        source, sink = os.pipe()
        assert os.write(sink, memory) == 4096
    assert memory[:] == bytes([number]) * 4096
except KeyboardInterrupt:
    os._exit(3)
"""

# Reads with a timer that ticks, through functions that do not hide EINTR as Python's own do.
TICKING = """
import ctypes, os, signal, sys
libc = ctypes.CDLL(None, use_errno=True)
ticks = []
signal.signal(signal.SIGALRM, lambda *_: ticks.append(1))
signal.setitimer(signal.ITIMER_REAL, 0.01, 0.01)
for flags in (os.O_RDONLY, os.O_RDONLY | os.O_DIRECT):
    for number in range(int(sys.argv[2])):
        fd = libc.open(f"{sys.argv[1]}/{number}".encode(), flags)
        assert fd >= 0, os.strerror(ctypes.get_errno())
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        size = int(sys.argv[3])
        data = ctypes.create_string_buffer(size + 8192)
        start = -ctypes.addressof(data) % 4096
        count = libc.read(fd, ctypes.byref(data, start), size)
        assert count == size, os.strerror(ctypes.get_errno())
        assert data.raw[start:start + size] == bytes([number]) * size
        os.close(fd)
signal.setitimer(signal.ITIMER_REAL, 0)
assert ticks
"""

PROGRAMS = {
    "cat": lambda path, number: ["cat", path],
    "O_DIRECT": lambda path, number: ["dd", f"if={path}", f"bs={CHUNK}", "iflag=direct", "status=none"],
    "python": lambda path, number: [sys.executable, "-c", READ, path, str(number), str(CHUNK)],
}


def may_know_system_calls() -> bool:
    """Tells whether a daemon of this user can see in which system call a program is."""
    scope = Path("/proc/sys/kernel/yama/ptrace_scope")
    return os.geteuid() == 0 or not scope.exists() or scope.read_text().strip() == "0"


@pytest.fixture
def place(far_array: Callable[..., str]) -> str:
    """The location of a repository behind the proxy, for clients that wait for long."""
    chunks = {number: bytes([number]) * CHUNK for number in range(COUNT)}
    return far_array(chunks, count=COUNT, chunk_bytes=CHUNK, options="max_tries=1&read_timeout_s=100")


def start(program: str, mount: Mount, number: int) -> "subprocess.Popen[bytes]":
    return subprocess.Popen(PROGRAMS[program](str(mount / f"a/c/{number}"), number), stdout=subprocess.DEVNULL)


def sleeps(program: "subprocess.Popen[bytes]") -> bool:
    state = Path(f"/proc/{program.pid}/stat").read_text().rpartition(")")[2].split()[0]
    assert state != "Z", "it has ended already"
    return state in "SD"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL], ids=lambda number: number.name)
@pytest.mark.parametrize("what", ["chunks", "manifests"])
def test_programs_that_wait_for_the_store_can_be_ended(
    place: str, proxy: FaultProxy, what: str, number: signal.Signals
) -> None:
    with mounted(place, branch="main") as mount:
        plan = proxy.plan("wait", path=f"/{what}/", times=None)
        victims, others = [], []
        try:
            # Far from each other, so that none is fetched ahead.
            for chunk, program in zip((1, 8, 15), PROGRAMS, strict=True):
                # The second waits for the very same; where it is the page cache that it waits in, for the same pages.
                victims.append(start(program, mount, chunk))
                wait_until(lambda: plan.fired > (len(victims) - 1 if what == "chunks" else 0), "a request")
                wait_until(lambda: sleeps(victims[-1]), "a program that waits")
                # But not where a handled signal shall end it: the pages may be somebody else's to wait for then.
                others.append(start(program if program != "python" else "O_DIRECT", mount, chunk))
            wait_until(lambda: all(map(sleeps, others)), "others that wait")
            for program, victim in zip(PROGRAMS, victims, strict=True):
                if program == "python" and number == signal.SIGINT:
                    expected = 3
                    if what == "chunks" and not may_know_system_calls():
                        continue
                else:
                    expected = -number
                victim.send_signal(number)
                assert victim.wait(PATIENCE_S) == expected, program
            # Everybody else is served, and waits on.
            assert (mount / "a/zarr.json").read_bytes() == array_json((COUNT * CHUNK,), (CHUNK,))
            assert [other.poll() for other in others] == [None] * len(others)
            proxy.go_on()
            assert [other.wait(PATIENCE_S) for other in others] == [0] * len(others)
        finally:
            proxy.go_on()
            for one in (*victims, *others):
                one.kill()
                one.wait()
        stats = mount.control("stats.json")
        kind = "read" if what == "chunks" else "lookup"
        assert stats["operations"][kind]["errors"].keys() == {"EINTR"}
        assert not stats["failures"]
        wait_until(lambda: in_flight(mount) == 0, "the end of what nobody waits for")
        assert (mount / "a/c/4").read_bytes() == bytes([4]) * CHUNK
        # Nothing was asked for twice, although some of the programs that asked first are gone.
        asked = [request.path for request in proxy.requests if f"/{what}/" in request.path]
        assert asked
        assert len(asked) == len(set(asked))


@pytest.mark.parametrize("how", ["kernel", "program"])
def test_a_page_fault_does_not_fail_while_its_program_lives(place: str, proxy: FaultProxy, how: str) -> None:
    with mounted(place, branch="main") as mount:
        plan = proxy.plan("wait", path="/chunks/", times=None)
        handles, ends = (
            subprocess.Popen([sys.executable, "-c", MAP, mount / f"a/c/{number}", str(number), how])
            for number in (1, 8)
        )
        try:
            wait_until(lambda: plan.fired == 2 and sleeps(handles) and sleeps(ends), "programs that wait")
            handles.send_signal(signal.SIGINT)
            ends.send_signal(signal.SIGKILL)
            assert ends.wait(PATIENCE_S) == -signal.SIGKILL
            # A read that begins now is interrupted at a look that is later than one at the page fault.
            with running(PROGRAMS["O_DIRECT"](str(mount / "a/c/15"), 15)) as reads:
                wait_until(lambda: plan.fired == 3 and sleeps(reads), "a program that waits")
                reads.send_signal(signal.SIGINT)
                assert reads.wait(PATIENCE_S) == -signal.SIGINT
            assert handles.poll() is None
            proxy.go_on()
            assert handles.wait(PATIENCE_S) == 3
        finally:
            proxy.go_on()
            for one in (handles, ends):
                one.kill()
                one.wait()


def test_through_pyfuse3_a_program_waits_until_the_store_answers(place: str, proxy: FaultProxy) -> None:
    with mounted(place, branch="main", fuse_library=PYFUSE3) as mount:
        plan = proxy.plan("wait", path="/chunks/", times=None)
        victim = start("python", mount, 1)
        try:
            wait_until(lambda: plan.fired > 0 and sleeps(victim), "a program that waits")
            victim.send_signal(signal.SIGINT)
            with pytest.raises(subprocess.TimeoutExpired):
                victim.wait(1)
            proxy.go_on()
            assert victim.wait(PATIENCE_S) == 3
        finally:
            proxy.go_on()
            victim.kill()
            victim.wait()


def in_flight(mount: Mount) -> int:
    gauges = mount.control("stats.json")["gauges"]
    return int(gauges["chunk_fetches_in_flight"])


def test_a_timer_that_ticks_faster_than_the_store_answers_costs_nothing(place: str, proxy: FaultProxy) -> None:
    proxy.delay_s = 0.1
    with mounted(place, branch="main", memory_bytes=0) as mount:
        subprocess.run([sys.executable, "-c", TICKING, mount / "a/c", "3", str(CHUNK)], check=True)
        operations = mount.control("stats.json")["operations"]
    assert not any(told["errors"] for told in operations.values())


def test_a_daemon_ends_with_its_mount_although_the_store_does_not_answer(place: str, proxy: FaultProxy) -> None:
    """The requests under way were for programs that are gone; only the store's own patience would end it."""
    with mounted(place, branch="main") as mount:
        plan = proxy.plan("hang", path="/chunks/", times=None)
        victim = start("python", mount, 1)
        try:
            wait_until(lambda: plan.fired > 0, "a request")
            wait_until(lambda: sleeps(victim), "a program that waits")
        finally:
            victim.kill()
            victim.wait()
    # `mounted` has waited for the daemon's end, for less than the client of the store does.
    assert plan.fired
