"""A storage that fails on demand: at the n-th call, before it happened or after.

    faulty = FaultyStorage(MemoryStorage())
    faulty.fail(at=3)                               # the third call from now raises, and nothing happened
    faulty.fail(methods="put", at=2, times=5)       # the second to sixth put
    faulty.lose_answer(methods="put", keys="repo")  # the next put of `repo` happens, and raises
    late = faulty.delay(keys="repo")                # the next put of `repo` raises, and happens at late.land()
    faulty.interfere(writer, methods="put", keys="repo", at=1)  # calls writer() just before it
    faulty.calls                                    # what was called, in order

`each_call_in_turn` runs an operation once for each of its calls, with a fault at that call.
"""

import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import Enum

from icefs.errors import StorageError, UnreachableError
from icefs.storage.base import Object, ObjectInfo, Storage, Version

METHODS = ("get", "get_if_changed", "head", "put", "copy", "iter_objects", "list_dir", "delete", "sync")


class When(Enum):
    """What becomes of the call that a rule meets."""

    BEFORE = "nothing happens"
    AFTER = "it happens, and the answer is lost"
    BESIDE = "something else happens first"
    LATER = "it happens later, when the test says so, after the caller has given up"


@dataclass(frozen=True)
class Call:
    """One call of a storage: `key` is the prefix for listings, the source for copies, empty for `sync`."""

    method: str
    key: str
    conditional: bool = False


@dataclass
class Rule:
    """One planned fault; `fired` counts how often it met a call."""

    when: When
    methods: frozenset[str]
    keys: str | None
    at: int
    times: int | None
    error: Callable[[Call], Exception] | None = None
    action: Callable[[], object] | None = None
    seen: int = field(default=0)
    fired: int = field(default=0)
    held: list[Callable[[], object]] = field(default_factory=list)

    def land(self) -> None:
        """Lets the store carry out what was delayed; conditions are looked at now."""
        while self.held:
            self.held.pop(0)()

    def meets(self, call: Call) -> bool:
        """Counts the call if it is of the kind, and tells whether it is one to be hit."""
        if call.method not in self.methods or (self.keys is not None and not call.key.startswith(self.keys)):
            return False
        self.seen += 1
        hit = self.seen >= self.at and (self.times is None or self.seen < self.at + self.times)
        self.fired += hit
        return hit


def _unreachable(call: Call) -> UnreachableError:
    error = UnreachableError(f"planned fault: {call.method} {call.key}", planned=True)
    if call.conditional:
        error.facts["maybe_written"] = True
    return error


class FaultyStorage(Storage):
    """Passes everything on to `inner`, but for what the rules say. Safe for threads."""

    def __init__(self, inner: Storage) -> None:
        self.inner = inner
        self.capabilities = inner.capabilities
        self.calls: list[Call] = []
        self.rules: list[Rule] = []
        self._lock = threading.Lock()

    @property
    def url(self) -> str:
        return self.inner.url

    # --- planning ---

    def fail(
        self,
        *,
        at: int = 1,
        methods: str | Iterable[str] = METHODS,
        keys: str | None = None,
        times: int | None = 1,
        error: Callable[[Call], Exception] = _unreachable,
    ) -> Rule:
        """Plans that the `at`-th call of the methods (of keys that start so) raises without having happened."""
        return self._plan(Rule(When.BEFORE, _methods(methods), keys, at, times, error))

    def lose_answer(
        self,
        *,
        at: int = 1,
        methods: str | Iterable[str] = METHODS,
        keys: str | None = None,
        times: int | None = 1,
        error: Callable[[Call], Exception] = _unreachable,
    ) -> Rule:
        """Plans that the `at`-th call happens, and raises all the same."""
        return self._plan(Rule(When.AFTER, _methods(methods), keys, at, times, error))

    def delay(self, *, at: int = 1, keys: str | None = None, times: int | None = 1) -> Rule:
        """Plans that the `at`-th put raises as if nobody had answered, and happens at the rule's `land`."""
        return self._plan(Rule(When.LATER, _methods("put"), keys, at, times, _unreachable))

    def interfere(
        self,
        action: Callable[[], object],
        *,
        at: int = 1,
        methods: str | Iterable[str] = METHODS,
        keys: str | None = None,
        times: int | None = 1,
    ) -> Rule:
        """Plans that `action` runs just before the `at`-th call: another writer, or `event.wait` for a delay."""
        return self._plan(Rule(When.BESIDE, _methods(methods), keys, at, times, action=action))

    def clear(self) -> None:
        """Forgets all rules and calls."""
        with self._lock:
            self.rules.clear()
            self.calls.clear()

    def _plan(self, rule: Rule) -> Rule:
        with self._lock:
            self.rules.append(rule)
        return rule

    @contextmanager
    def _call(
        self, method: str, key: str, *, conditional: bool = False, later: Callable[[], object] | None = None
    ) -> Iterator[None]:
        call = Call(method, key, conditional)
        with self._lock:
            self.calls.append(call)
            met = [rule for rule in self.rules if rule.meets(call)]
        for rule in met:
            if rule.when is When.BESIDE:
                assert rule.action is not None
                rule.action()
        self._raise(met, When.BEFORE, call)
        for rule in met:
            if rule.when is When.LATER:
                assert later is not None
                rule.held.append(later)
        self._raise(met, When.LATER, call)
        yield
        self._raise(met, When.AFTER, call)

    def _raise(self, met: list[Rule], when: When, call: Call) -> None:
        for rule in met:
            if rule.when is when:
                assert rule.error is not None
                raise rule.error(call)

    # --- the storage ---

    def get(self, key: str, *, start: int = 0, end: int | None = None) -> Object:
        with self._call("get", key):
            return self.inner.get(key, start=start, end=end)

    def get_if_changed(self, key: str, known: Version | None) -> Object | None:
        with self._call("get_if_changed", key):
            return self.inner.get_if_changed(key, known)

    def head(self, key: str) -> ObjectInfo:
        with self._call("head", key):
            return self.inner.head(key)

    def put(
        self, key: str, data: bytes | memoryview, *, if_match: Version | None = None, create_only: bool = False
    ) -> Version:
        def put() -> Version:
            return self.inner.put(key, data, if_match=if_match, create_only=create_only)

        with self._call("put", key, conditional=create_only or if_match is not None, later=put):
            return put()

    def put_file(self, key: str, path: str, *, is_final: bool = False) -> Version:
        with self._call("put", key):
            return self.inner.put_file(key, path, is_final=is_final)

    def copy(self, source: str, target: str, *, if_match: Version | None = None) -> None:
        with self._call("copy", source):
            self.inner.copy(source, target, if_match=if_match)

    def iter_objects(self, prefix: str = "") -> Iterator[ObjectInfo]:
        with self._call("iter_objects", prefix):
            return iter(list(self.inner.iter_objects(prefix)))

    def list_dir(self, prefix: str = "") -> Iterator[str]:
        with self._call("list_dir", prefix):
            return iter(list(self.inner.list_dir(prefix)))

    def delete(self, keys: Iterable[str]) -> list[str]:
        keys = list(keys)
        with self._call("delete", keys[0] if keys else ""):
            return self.inner.delete(keys)

    def sync(self) -> None:
        with self._call("sync", ""):
            self.inner.sync()

    @property
    def local_root(self):
        return self.inner.local_root

    def local_opener(self, prefix: str):
        return self.inner.local_opener(prefix)

    def list_foreign(self):
        return self.inner.list_foreign()

    def close(self) -> None:
        self.inner.close()

    def __reduce__(self):
        return (FaultyStorage, (self.inner,))


def _methods(methods: str | Iterable[str]) -> frozenset[str]:
    chosen = frozenset([methods] if isinstance(methods, str) else methods)
    assert chosen <= set(METHODS), chosen
    return chosen


def each_call_in_turn(
    make: Callable[[], Storage],
    operation: Callable[[FaultyStorage], object],
    plan: Callable[[FaultyStorage, int], Rule],
    *,
    limit: int = 500,
) -> Iterator[tuple[int, FaultyStorage, StorageError | None]]:
    """Runs an operation again and again, hitting its first call, then its second, until there is none left to hit.

    Args:
        make: Makes the storage to start from, the same each time.
        operation: What is tried; may raise `StorageError`s only.
        plan: Plans the fault at the n-th call, such as `lambda storage, n: storage.fail(at=n)`.
        limit: More calls than any operation should need.

    Yields:
        Which call was hit, the storage afterwards (its rules cleared), and what the operation raised.
    """
    for number in range(1, limit + 1):
        faulty = FaultyStorage(make())
        rule = plan(faulty, number)
        raised = None
        try:
            operation(faulty)
        except StorageError as error:
            raised = error
        if not rule.fired:
            return
        faulty.clear()
        yield number, faulty, raised
    raise AssertionError(f"the operation still made calls after {limit}")
