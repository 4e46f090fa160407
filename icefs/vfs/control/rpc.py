"""`rpc`: a control file for programs. Open it read-write, write one request, read the answer until it ends.

Where the kernel refuses writers, as the mount only reads, it is opened to read, and takes the request by an ioctl
(see `icefs.ioctl`).

    request    one JSON object: {"op": NAME, …}
    answer     JSON objects, one a line: any number of {"type": "progress", …}, then one of
               {"type": "result", …} and {"type": "error", "error": …, "kind": …, "message": …, "hint": …}

The request is carried out when the answer is first read; through a descriptor that only writes, by the write. A program
that closes the descriptor before the end of an answer cancels the request, where that is still possible.
"""

import json
import os
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping
from contextlib import aclosing
from typing import Any, Final, Protocol, runtime_checkable

from icefs.engine.write.conflicts import Conflict
from icefs.errors import IcefsError, InvalidInputError
from icefs.inode import Ino
from icefs.vfs.interface import FileHandle
from icefs.words import node_key, visible_json

MAX_REQUEST_BYTES: Final = 1 << 20
_TOLD: Final = frozenset(
    (
        *("invalid", "open", "snapshot", "path", "commits", "amended", "conflicts", "discard", "sides"),
        *("expected_parent", "actual_parent", "made", "remain"),
    )
)


class Answer(Protocol):
    """The lines of an answer; an async generator is one."""

    def __aiter__(self) -> AsyncIterator[Mapping[str, Any]]:
        """Returns the lines."""

    def aclose(self) -> Awaitable[None]:
        """Ends the answer."""


@runtime_checkable
class Abandonable(Protocol):
    """An answer that can be called off: its job is cancelled where that is still possible."""

    def abandon(self) -> None:
        """Cancels, as no program will ask for the rest."""


type Operation = Callable[[Mapping[str, Any]], Answer]
"""Carries out a request: yields progress (`type` "progress"), and last the result, without a `type`.

An answer may be `Abandonable`.
"""


def error_facts(error: IcefsError) -> dict[str, Any]:
    """Describes an error in JSON; the facts that concern a user's data come along."""
    facts = {key: value for key, value in error.facts.items() if key in _TOLD}
    if isinstance(facts.get("path"), str):
        facts["path"] = node_key(facts["path"])
    if "conflicts" in facts:
        facts["conflicts"] = [conflict_facts(conflict) for conflict in facts["conflicts"]]
    return {
        "error": type(error).__name__,
        "kind": error.kind,
        "message": error.own_message,
        "hint": error.hint,
        **facts,
    }


def conflict_facts(conflict: Any) -> Any:
    """Describes a conflict in JSON; what another process has described already stays as it is."""
    if not isinstance(conflict, Conflict):
        return conflict
    return {
        "type": conflict.conflict_type.name,
        "path": conflict.path and node_key(conflict.path),
        "chunks": conflict.conflicted_chunks,
    }


class RpcHandle(FileHandle):
    """One conversation.

    Concurrency: a conversation belongs to one process, which waits for each of its calls; two at once are answered
    in turns without damage, and without sense.
    """

    __slots__ = ("_answer", "_operations", "_pending", "_request", "_running", "_runs_on_write")

    direct_io = True
    nonseekable = True
    reading_acts = True

    def __init__(self, ino: Ino, operations: Mapping[str, Operation], flags: int = os.O_RDWR) -> None:
        super().__init__(ino)
        self._operations = operations
        self._runs_on_write = flags & os.O_ACCMODE == os.O_WRONLY
        self._request = b""
        self._answer: AsyncGenerator[Mapping[str, Any]] | None = None
        self._running: Answer | None = None
        self._pending = b""

    async def write(self, offset: int, data: bytes | memoryview) -> int:
        """Takes a request, or a part of one."""
        await self.take_request(bytes(data))
        if self._runs_on_write:
            while (await self._next_line()) is not None:
                pass
        return len(data)

    async def take_request(self, data: bytes) -> None:
        """Takes a request, or a part of one; the mode of the file keeps out users who may not write."""
        if len(self._request) + len(data) > MAX_REQUEST_BYTES:
            raise InvalidInputError(f"a request has at most {MAX_REQUEST_BYTES} bytes")
        self._request += data

    def read_nowait(self, offset: int, size: int) -> bytes | None:
        """Returns what of the answer is there."""
        if not self._pending:
            return None
        data, self._pending = self._pending[:size], self._pending[size:]
        return data

    async def read(self, offset: int, size: int) -> bytes:
        """Carries the request out as far as the next line of its answer; returns nothing after the last."""
        if not self._pending:
            self._pending = await self._next_line() or b""
        return self.read_nowait(offset, size) or b""

    def release(self) -> None:
        """Cancels a request whose answer was not read to its end."""
        running: object = self._running
        if isinstance(running, Abandonable):
            running.abandon()
        self._end_answer()

    def _end_answer(self) -> None:
        """Closes what tells the answer. It stands at a line that it has told, so that closing it waits for nothing."""
        answer, self._answer = self._answer, None
        if answer is not None:
            closing = answer.aclose()
            try:
                closing.send(None)
            except (StopIteration, RuntimeError):
                return  # closed; or still at work for a program that is gone, which closes it
            closing.close()

    async def _next_line(self) -> bytes | None:
        if self._request:
            request, self._request = self._request, b""
            self._answer = self._carry_out(request)
        if self._answer is None:
            return None
        answer = self._answer
        line = await anext(answer, None)
        if self._answer is not answer:  # released meanwhile
            await answer.aclose()
            return None
        if line is None:
            self._answer = None
            return None
        return visible_json(json.dumps(line, ensure_ascii=False, default=str)).encode() + b"\n"

    async def _carry_out(self, data: bytes) -> AsyncGenerator[Mapping[str, Any]]:
        try:
            request = _parse(data)
            operation = self._operations.get(request["op"])
            if operation is None:
                raise InvalidInputError(
                    f"unknown operation {request['op']!r}", hint=f"known are {', '.join(self._operations)}"
                )
            async with aclosing(operation(request)) as self._running:
                async for line in self._running:
                    yield line if "type" in line else {"type": "result", **line}
        except IcefsError as error:
            yield {"type": "error", **error_facts(error)}
        self._running = None


def _parse(data: bytes) -> dict[str, Any]:
    try:
        request = json.loads(data)
    except ValueError as error:
        raise InvalidInputError(f"the request is not JSON: {error}") from error
    if not isinstance(request, dict) or not isinstance(request.get("op"), str):
        raise InvalidInputError('the request is not an object with an "op"')
    return request
