"""Programs that make one mistake each, run with either library, and what both make of it.

A mistake is a function of an `At`. It ends with an error of the library, or returns plain values.
`mistakes_repository.py`, `mistakes_session.py`, `mistakes_store.py` and `mistakes_values.py` hold them.
"""

import asyncio
import re
import warnings
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any, Final

from zarr.core.buffer import cpu, default_buffer_prototype
from zarr.core.sync import sync

from tests.conformance.official import GROUP, array_json

NOBODY: Final = "0" * 20
FIRST: Final = "1CECHNKREP0F1RSTCMT0"
BASE: Final = {
    "zarr.json": GROUP,
    "a/zarr.json": array_json([8, 8], [2, 2]),
    "a/c/0/0": b"zero",
    "g/zarr.json": GROUP,
    "g/b/zarr.json": array_json([6], [1]),
}
TREE: Final = (
    *("ConflictError", "RebaseFailedError", "NotFoundError", "NodeNotFoundError", "SnapshotNotFoundError"),
    *("RefNotFoundError", "RepositoryNotFoundError", "AlreadyExistsError", "ReadOnlyError", "InvalidInputError"),
    *("SessionStateError", "StorageError", "FormatError", "InternalError", "IcechunkError"),
    *("KeyError", "ValueError", "TypeError", "OverflowError", "AttributeError", "RuntimeError", "NotImplementedError"),
    *("FileNotFoundError", "OSError", "LookupError", "ImportError", "AssertionError"),
)
"""The classes by which programs catch errors."""


def put(session: Any, key: str, data: bytes = b"data") -> None:
    """Sets one key."""
    sync(session.store.set(key, cpu.Buffer.from_bytes(data)))


def get(session: Any, key: str, byte_range: Any = None) -> bytes | None:
    """Returns the value of one key."""
    found = sync(session.store.get(key, default_buffer_prototype(), byte_range))
    return None if found is None else found.to_bytes()


def run(awaitable: Awaitable[Any]) -> Any:
    """Runs a coroutine, or anything that can be awaited, to its end."""

    async def wait() -> Any:
        return await awaitable

    return asyncio.run(wait())


def collected(items: AsyncIterator[Any]) -> list[Any]:
    """Returns the items of an asynchronous iterator."""

    async def collect() -> list[Any]:
        return [item async for item in items]

    return asyncio.run(collect())


@dataclass(slots=True)
class At:
    """Where a program runs: with which library, and in which empty directory."""

    ic: ModuleType
    path: Path
    _repo: Any = field(default=None)

    def storage(self, name: str = "repo") -> Any:
        """Returns the storage of a repository in the directory."""
        return self.ic.local_filesystem_storage(str(self.path / name))

    def create(self, name: str = "repo", **options: Any) -> Any:
        """Creates a repository with the nodes of BASE, a branch `dev`, a tag `kept` and a deleted tag `gone`."""
        repo = self.ic.Repository.create(self.storage(name), **options)
        session = repo.writable_session("main")
        for key, data in BASE.items():
            put(session, key, data)
        tip = session.commit("base")
        repo.create_tag("kept", tip)
        repo.create_tag("gone", tip)
        repo.delete_tag("gone")
        repo.create_branch("dev", tip)
        return repo

    @property
    def repo(self) -> Any:
        """The repository that `create` makes, once."""
        if self._repo is None:
            self._repo = self.create()
        return self._repo

    def tip(self) -> str:
        """Returns the newest snapshot of main."""
        return str(self.repo.lookup_branch("main"))

    def writing(self) -> Any:
        """Returns a new writable session on main."""
        return self.repo.writable_session("main")

    def reading(self) -> Any:
        """Returns a new read-only session on main."""
        return self.repo.readonly_session("main")

    def moved(self) -> Any:
        """Returns a session with changes that conflict with a commit that came between."""
        session, other = self.writing(), self.writing()
        put(session, "a/c/1/1")
        put(other, "a/c/1/1", b"them")
        other.commit("other")
        return session


type Mistake = Callable[[At], Any]
MISTAKES: dict[str, Mistake] = {}


def mistake(function: Mistake) -> Mistake:
    """Registers a program under its name."""
    assert function.__name__ not in MISTAKES
    MISTAKES[function.__name__] = function
    return function


@dataclass(slots=True)
class Outcome:
    """What a program came to.

    Attributes:
        value: What it returned, as text, without what differs between two runs; None if it raised an error.
        classes: The classes of `TREE` that the error is of.
        kind: Its kind, or None where it has none.
        place: The failing call's lines and columns in the program.
        facts: Its attributes that the documentation names.
        text: What it says, in full, without what differs between two runs.
        warned: The classes of the warnings.
    """

    value: str | None = None
    classes: frozenset[str] = frozenset()
    kind: str | None = None
    place: tuple[int | None, ...] | None = None
    facts: dict[str, Any] = field(default_factory=dict)
    text: str = ""
    warned: list[str] = field(default_factory=list)


def normal(text: str, at: At) -> str:
    """Returns a text without ids, paths, and the library's name."""
    text = text.replace(str(at.path), "PATH")
    text = re.sub(r"\b(?!1CECHNKREP0F1RSTCMT0)[0-9A-HJKMNP-TV-Z]{20}\b", "ID", text)
    return re.sub(r"\bicechunk(\.\w+)?\.(?=[A-Z])|\bicefs(\.\w+)*\.(?=[A-Z])", "", text)


def outcome(program: Mistake, at: At) -> Outcome:
    """Runs a program."""
    found = Outcome()
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        try:
            value = program(at)
            found.value = normal(repr(None if value == () else value), at)  # () is Rust's None
        except Exception as error:
            found.value = None
            names = {base.__name__.replace("IcefsError", "IcechunkError") for base in type(error).__mro__}
            found.classes = frozenset(names & set(TREE))
            kind = getattr(error, "kind", None)
            found.kind = None if kind is None else str(kind)
            found.place = _place(error, program)
            for name in ("expected_parent", "actual_parent", "snapshot"):
                if hasattr(error, name):
                    found.facts[name] = normal(str(getattr(error, name)), at)
            if hasattr(error, "message"):
                found.facts["message"] = "its text" if error.message == str(error) else "another"
            if hasattr(error, "conflicts"):
                found.facts["conflicts"] = [
                    (str(each.conflict_type), each.path, each.conflicted_chunks) for each in error.conflicts
                ]
            found.text = normal(str(error), at)
    found.warned = sorted(
        each.category.__name__ for each in warned if each.category in (DeprecationWarning, UserWarning)
    )
    return found


def _place(error: BaseException, program: Mistake) -> tuple[int | None, ...]:
    frame, code = error.__traceback__, program.__code__  # type: ignore[attr-defined]
    while frame is not None and frame.tb_frame.f_code is not code:
        frame = frame.tb_next
    assert frame is not None
    return list(code.co_positions())[frame.tb_lasti // 2]


_ADVICE: Final = re.compile(
    r" \(|\. |; |: (?:[A-Z]|expected|invalid value|missing field|existing node|getting|trying|relative URL|Object)"
    r"|, (?:please|merge|read-only sessions|only fork|create|too many|see|this function|edit the)"
)
_LITTLE: Final = frozenset(
    (
        *("the", "and", "are", "for", "with", "this", "that", "was", "not", "has", "have", "its", "into", "from"),
        *("can", "could", "one", "any", "but", "only", "you", "use", "see", "error", "some", "when", "open", "https"),
    )
)


def key_words(text: str) -> list[str]:
    """Returns the words of an official message by which a program may know it.

    Those of its first line, without the part of the library that it begins with, and up to the advice or the
    reason that some give after a bracket, a colon or a full stop; without little words, and values in quotes but for
    short ones.
    """
    text = re.sub(r"ChunkIndices\((.*?)\)", r"\1", text)
    first = re.sub(r"^(session error|error rewriting manifests|storage error): ", "", text.split("\n", maxsplit=1)[0])
    first = _ADVICE.split(first)[0]
    short = re.findall(r"`([^` ]{1,60})`", first)
    words = re.findall(r"[a-z][a-z_'-]+", re.sub(r"`.*?`(?!:)|`.*", "", first).lower())
    return short + [word for word in words if len(word) > 2 and word not in _LITTLE]


def lacking(official: Outcome, ours: Outcome) -> list[str]:
    """Returns the official key words that a message lacks."""
    text = ours.text.lower()
    return [word for word in key_words(official.text) if word.lower() not in text]
