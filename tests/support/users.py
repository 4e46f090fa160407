"""Other users: what they may do, done by a process of theirs."""

import os
from collections.abc import Callable


def run_as(uid: int, gid: int, work: Callable[[], object]) -> str:
    """Does something in a process of another user; returns the name of the OSError, or what it returned."""
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        try:
            os.setgroups([])
            os.setresgid(gid, gid, gid)
            os.setresuid(uid, uid, uid)
            os.umask(0o022)
            os.chdir("/")  # the directory of the tests may be closed to other users
            try:
                answer = str(work())
            except OSError as error:
                answer = type(error).__name__
            os.write(writer, answer.encode())
        finally:
            os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as pipe:
        answer = pipe.read()
    os.waitpid(child, 0)
    return answer
