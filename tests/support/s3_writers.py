"""A process that commits to a repository on S3 again and again, through one of the two libraries or a mount.

    python -m tests.support.s3_writers '{"how": "official", "writer": 3, …}'

waits for a line on stdin, so that all writers begin at once, and then prints what was acknowledged, one JSON list for
each: `["commit", branch, message, snapshot]` or `["tag", name, snapshot]`.
"""

import json
import os
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

SPAN = 100
"""How many chunks of the array belong to one writer."""


@dataclass(frozen=True)
class Task:
    """What one writer does.

    Attributes:
        how: `official`, `engine` or `mount`.
        writer: Its number, from 0.
        commits: How many.
        branches: Taken in turn.
        place: The bucket's and the server's facts; with `mount`, `path` is the mountpoint.
    """

    how: str
    writer: int
    commits: int
    branches: list[str]
    place: dict[str, str]

    def to_json(self) -> str:
        return json.dumps(asdict(self))


def payload(writer: int, number: int) -> bytes:
    """The bytes of a chunk, too many to be kept in a manifest."""
    return (b"%d.%d " % (writer, number)).ljust(600, b"x")


def official_storage(place: dict[str, str]) -> Any:
    """Opens a place of the S3 server with the official library."""
    import icechunk  # lazy: the other writers need not wait for it

    icechunk.set_logs_filter("off")
    return icechunk.s3_storage(
        bucket=place["bucket"],
        prefix=place["prefix"],
        endpoint_url=place["endpoint_url"],
        region="us-east-1",
        allow_http=True,
        force_path_style=True,
        access_key_id=place["access_key_id"],
        secret_access_key=place["secret_access_key"],
    )


class Writer(ABC):
    """Commits one chunk at a time; returns the snapshot that was acknowledged, None if none was."""

    @abstractmethod
    def commit(self, branch: str, number: int, data: bytes, message: str) -> str | None: ...

    @abstractmethod
    def tag(self, name: str, snapshot: str) -> None: ...


class OfficialWriter(Writer):
    """Commits with the official library."""

    def __init__(self, place: dict[str, str]) -> None:
        import icechunk

        self._ic = icechunk
        self._repo = icechunk.Repository.open(official_storage(place))

    def commit(self, branch: str, number: int, data: bytes, message: str) -> str | None:
        from tests.conformance.official import put

        session = self._repo.writable_session(branch)
        put(session.store, f"a/c/{number}", data)
        try:
            return session.commit(message, rebase_with=self._ic.ConflictDetector(), rebase_tries=1000)
        except self._ic.ConflictError:
            return None

    def tag(self, name: str, snapshot: str) -> None:
        self._repo.create_tag(name, snapshot)


class EngineWriter(Writer):
    """Commits with the engine."""

    def __init__(self, place: dict[str, str]) -> None:
        from icefs.engine.write.repository import WritableRepository
        from icefs.storage.s3.options import S3Credentials, S3Options
        from icefs.storage.s3.store import S3Storage

        keys = S3Credentials(place["access_key_id"], place["secret_access_key"])
        options = S3Options(endpoint_url=place["endpoint_url"], credentials=keys)
        self._repo = WritableRepository.open(S3Storage(place["bucket"], place["prefix"], options))

    def commit(self, branch: str, number: int, data: bytes, message: str) -> str | None:
        from icefs.engine.write.conflicts import ConflictDetector
        from icefs.errors import ConflictError

        session = self._repo.writable_session(branch)
        session.chunks.set("/a", (number,), data)
        try:
            return str(session.commit(message, rebase_with=ConflictDetector()))
        except ConflictError:
            return None

    def tag(self, name: str, snapshot: str) -> None:
        from icefs.format.ids import SnapshotId

        self._repo.create_tag(name, SnapshotId.parse(snapshot))


class MountWriter(Writer):
    """Writes to a mounted branch, and commits through its control file."""

    def __init__(self, place: dict[str, str]) -> None:
        self._root = Path(place["path"], "branches")
        self._engine = EngineWriter(place)

    def commit(self, branch: str, number: int, data: bytes, message: str) -> str | None:
        tree = self._root / branch
        (tree / "a/c").mkdir(exist_ok=True)
        (tree / f"a/c/{number}").write_bytes(data)
        while True:
            told = _ask(tree, {"op": "commit", "message": message, "rebase": "fail"})
            if told["type"] == "result":
                return str(told["snapshot"])
            if told.get("class") not in ("BranchMovedError", "RebaseFailedError", "ConflictError"):
                raise AssertionError(told)

    def tag(self, name: str, snapshot: str) -> None:
        self._engine.tag(name, snapshot)


def _ask(tree: Path, request: dict[str, Any]) -> dict[str, Any]:
    fd = os.open(tree / ".icefs/rpc", os.O_RDWR)
    try:
        os.write(fd, json.dumps(request).encode())
        answer = b""
        while part := os.read(fd, 1 << 16):
            answer += part
    finally:
        os.close(fd)
    last: dict[str, Any] = json.loads(answer.splitlines()[-1])
    return last


_KINDS: dict[str, Callable[[dict[str, str]], Writer]] = {
    "official": OfficialWriter,
    "engine": EngineWriter,
    "mount": MountWriter,
}


def main() -> None:
    """Does what the task says."""
    task = Task(**json.loads(sys.argv[1]))
    writer = _KINDS[task.how](task.place)
    print(json.dumps("ready"), flush=True)
    sys.stdin.readline()
    for number in range(task.commits):
        branch = task.branches[number % len(task.branches)]
        message = f"{task.writer}.{number}"
        snapshot = writer.commit(branch, task.writer * SPAN + number, payload(task.writer, number), message)
        if snapshot is None:
            continue
        print(json.dumps(["commit", branch, message, snapshot]), flush=True)
        if number % 5 == 0:
            writer.tag(f"t{message}", snapshot)
            print(json.dumps(["tag", f"t{message}", snapshot]), flush=True)


if __name__ == "__main__":
    main()
