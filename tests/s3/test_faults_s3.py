"""Nothing is lost: each request of each operation meets each fault, and the repository is whole, before or after.

The official library is the judge of what is there. In turn:

    passing    one request meets the fault, and is tried again: the operation succeeds
    lasting    from one request on all meet it: the operation fails, or does not; its object is there or not,
               never by half; and when the store answers again, it can be done again, and is then done once
"""

import itertools
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

import icechunk
import pytest
from zarr.core.buffer import default_buffer_prototype
from zarr.core.sync import sync

from icefs.engine.upkeep.expiration import ExpirationRequest
from icefs.engine.upkeep.expiration import expire as expire_snapshots
from icefs.engine.upkeep.fsck import fsck
from icefs.engine.upkeep.garbage import collect_garbage
from icefs.engine.write.conflicts import BasicConflictSolver, VersionSelection
from icefs.engine.write.repository import WritableRepository
from icefs.errors import AlreadyExistsError, IcefsError, RefNotFoundError
from icefs.format.config.storage import StorageRetriesSettings
from icefs.format.config.values import RepositoryConfig, RepoUpdateRetryConfig
from icefs.storage.memory import MemoryStorage
from icefs.storage.retry import Retrier, RetryPolicy
from icefs.storage.s3.store import S3Storage
from tests.conformance.official import GROUP, array_json
from tests.support.fault_proxy import FaultProxy, Plan
from tests.support.s3_server import ADMIN, SeaweedServer
from tests.support.s3_writers import official_storage

BUCKET: Final = "icefs-tests"
FAST: Final = RetryPolicy(max_tries=4, first_contact_tries=4, initial_backoff_s=0.001, max_backoff_s=0.002)
IMPATIENT: Final = RetryPolicy(max_tries=2, first_contact_tries=2, initial_backoff_s=0.001, max_backoff_s=0.002)
UPDATE_RETRIES: Final = RepoUpdateRetryConfig(StorageRetriesSettings(7, 1, 2))
STEADY: Final = RetryPolicy(max_tries=100, first_contact_tries=100, initial_backoff_s=0.001, max_backoff_s=0.002)
"""Of a store that answers, perhaps slowly: this machine may have other work."""
NEVER_ANSWERED: Final = ("stall", "hang")
SHORT_S: Final = 0.25
"""How long a client waits that meets one of these; any other one waits as long as by default."""
ON_CONDITION: Final = ("conflict", "mismatch")
"""The faults that only writes on a condition meet."""
EVERY_FAULT: Final = os.environ.get("ICEFS_TEST_ROUNDS") is not None
"""Whether each request meets each fault; else they take turns, and no request is left out."""

PASSING: Final = ("lose", "refuse", "throttle", "error", "truncate", "too many", "conflict", "stall", "hang")
LASTING: Final = ("lose", "refuse", "throttle", "error", "deny", "mismatch", "conflict", "truncate", "stall")
STARTED: Final = {f"a/c/{number}": bytes([number]) * 600 for number in range(3)}

pytestmark = pytest.mark.timeout(900 if EVERY_FAULT else 300)

type Facts = dict[str, Any]
"""What the official library tells: branches with their messages, tags, and the chunks of each branch."""


def chunk(number: int, value: int) -> tuple[tuple[int], bytes]:
    return (number,), bytes([value]) * 600


class Base:
    """A repository to start from, object by object, and its snapshots by their messages."""

    def __init__(self) -> None:
        storage = MemoryStorage()
        repository = WritableRepository.create(storage)
        with repository.transaction("main", message="start") as session:
            session.nodes.put("/", GROUP)
            session.nodes.put("/a", array_json((6000,), (600,)))
            for number in range(3):
                session.chunks.set("/a", *chunk(number, number))
        with repository.transaction("main", message="early") as session:
            session.chunks.set("/a", *chunk(0, 9))
        with repository.transaction("main", message="base") as session:
            session.chunks.set("/a", *chunk(0, 0))
        repository.create_branch("behind", repository.lookup_branch("main"))
        repository.create_branch("gone", repository.lookup_branch("main"))
        with repository.transaction("gone", message="gone") as session:
            session.chunks.set("/a", *chunk(7, 7))
        repository.delete_branch("gone")
        repository.create_tag("old", repository.lookup_branch("main"))
        with repository.transaction("main", message="second") as session:
            session.chunks.set("/a", *chunk(3, 3))
        self.ids = {info.message: info.id for info in repository.log("main")}
        self.objects = {info.key: storage.get(info.key).data for info in storage.iter_objects()}


class Case:
    """One run of an operation: the storage that it uses, and what it has to remember."""

    def __init__(self, storage: S3Storage, retrier: Retrier, base: Base) -> None:
        self.storage = storage
        self.retrier = retrier
        self.base = base
        self.session: Any = None

    def open(self) -> WritableRepository:
        return WritableRepository.open(self.storage, RepositoryConfig(repo_update_retries=UPDATE_RETRIES))


@dataclass(frozen=True)
class Operation:
    """Something that is done to a repository.

    Attributes:
        run: Does it; after a failure, called again with the same case.
        change: Does to the facts before what it does to the repository.
        again: The errors that it may raise when it is repeated after it had been done unnoticed.
    """

    run: Callable[[Case], object]
    change: Callable[[Facts], None] = lambda facts: None
    again: tuple[type[IcefsError], ...] = ()


def read(case: Case) -> None:
    session = case.open().readonly_session("main")
    for number in range(3):
        assert session.read_chunk(session.chunk_ref("/a", (number,))) == STARTED[f"a/c/{number}"]


def begin(case: Case) -> Any:
    """Returns the session with what is to be committed; after a failure, the same."""
    if case.session is None:
        session = case.open().writable_session("main")
        session.chunks.set("/a", *chunk(5, 5))
        session.nodes.put("/n", array_json((2,), (1,)))
        case.session = session
    return case.session


def committed(branch: str, messages: list[str], **chunks: bytes) -> Callable[[Facts], None]:
    def change(facts: Facts) -> None:
        facts["branches"][branch] = messages
        facts["chunks"][branch] = facts["chunks"]["behind"] | {f"a/c/{at[1:]}": data for at, data in chunks.items()}

    return change


def create_branch(facts: Facts) -> None:
    facts["branches"]["new"] = facts["branches"]["behind"]
    facts["chunks"]["new"] = facts["chunks"]["behind"]


def delete_branch(facts: Facts) -> None:
    del facts["branches"]["behind"], facts["chunks"]["behind"]


def reset_branch(facts: Facts) -> None:
    facts["branches"]["main"] = facts["branches"]["behind"]
    facts["chunks"]["main"] = facts["chunks"]["behind"]


def expire(facts: Facts) -> None:
    facts["branches"] |= {"main": ["second", "base", INIT], "behind": ["base", INIT]}


INIT, C3, C5 = "Repository initialized", b"\x03" * 600, b"\x05" * 600
BEHIND = ["base", "early", "start", INIT]
SOLVER = BasicConflictSolver(VersionSelection.UseOurs)
OPERATIONS: Final[dict[str, Operation]] = {
    "read": Operation(read),
    "commit": Operation(
        lambda case: begin(case).commit("third"),
        committed("main", ["third", "second", *BEHIND], _3=C3, _5=C5),
    ),
    "amend": Operation(lambda case: begin(case).amend("other"), committed("main", ["other", *BEHIND], _3=C3, _5=C5)),
    "commit after a rebase": Operation(
        lambda case: rebase(case).commit("third", rebase_with=SOLVER),
        committed("main", ["third", "second", *BEHIND], _3=C3, _5=C5),
    ),
    "create a branch": Operation(
        lambda case: case.open().create_branch("new", case.base.ids["base"]), create_branch, (AlreadyExistsError,)
    ),
    "delete a branch": Operation(lambda case: case.open().delete_branch("behind"), delete_branch, (RefNotFoundError,)),
    "reset a branch": Operation(lambda case: case.open().reset_branch("main", case.base.ids["base"]), reset_branch),
    "create a tag": Operation(
        lambda case: case.open().create_tag("new", case.base.ids["second"]),
        lambda facts: facts["tags"].update(new="second"),
        (AlreadyExistsError,),
    ),
    "delete a tag": Operation(
        lambda case: case.open().delete_tag("old"), lambda facts: facts["tags"].pop("old"), (RefNotFoundError,)
    ),
    "expire": Operation(
        lambda case: expire_snapshots(case.open(), ExpirationRequest(1 << 60)),
        expire,
    ),
    "collect garbage": Operation(lambda case: collect_garbage(case.open(), 1 << 60)),
}


def rebase(case: Case) -> Any:
    """Opens a session that stands behind the branch, as if others had committed since."""
    if case.session is None:
        repository = case.open()
        session = repository.writable_session_at("main", case.base.ids["base"])
        session.chunks.set("/a", *chunk(5, 5))
        case.session = session
    return case.session


class Place:
    """A repository on the server that is set back before each run."""

    def __init__(self, server: SeaweedServer, prefix: str, base: Base) -> None:
        self.base = base
        self.direct = S3Storage(BUCKET, prefix, server.options())
        keys = {"access_key_id": ADMIN.access_key_id, "secret_access_key": ADMIN.secret_access_key}
        self._place = {"bucket": BUCKET, "prefix": prefix, "endpoint_url": server.endpoint_url, **keys}
        self._official: icechunk.Repository | None = None

    def set_back(self, *, whole: bool) -> None:
        """Puts the repository into its first state; `whole` also brings back what was deleted, and removes the rest."""
        if whole or self._official is None:
            self.direct.delete([info.key for info in self.direct.iter_objects() if info.key not in self.base.objects])
            for key, data in self.base.objects.items():
                self.direct.put(key, data)
        self.direct.put("repo", self.base.objects["repo"])

    def facts(self) -> Facts:
        """Asks the official library."""
        self._official = repo = self._official or icechunk.Repository.open(official_storage(self._place))
        branches = {name: list(repo.ancestry(branch=name)) for name in repo.list_branches()}
        messages = {info.id: info.message for history in branches.values() for info in history}
        return {
            "branches": {name: [info.message for info in history] for name, history in branches.items()},
            "tags": {name: messages[repo.lookup_tag(name)] for name in repo.list_tags()},
            "chunks": {name: chunks_of(repo.readonly_session(name).store) for name in branches},
        }

    def check(self) -> None:
        report = fsck(self.direct)
        assert (report.findings, report.lost) == ([], [])


def chunks_of(store: Any) -> dict[str, bytes]:
    async def read_all() -> dict[str, bytes]:
        keys = [key async for key in store.list_prefix("a") if key.startswith("a/c/")]
        return {key: (await store.get(key, default_buffer_prototype())).to_bytes() for key in keys}

    return sync(read_all())


@pytest.fixture(scope="module")
def base() -> Base:
    return Base()


def copies(facts: Facts) -> Facts:
    return {kind: dict(values) for kind, values in facts.items()}


class Trial:
    """An operation that is done to one place again and again, each time from its first state."""

    def __init__(self, server: SeaweedServer, prefix: str, base: Base, proxy: FaultProxy, name: str) -> None:
        self.operation = OPERATIONS[name]
        self.proxy = proxy
        self._first = list(OPERATIONS).index(name)
        self._plan: Plan | None = None
        self._server, self._prefix, self._base = server, prefix, base
        self.place = Place(server, prefix, base)
        self.place.set_back(whole=True)
        self.before = self.place.facts()
        self.after = copies(self.before)
        self.operation.change(self.after)
        self._is_whole = name in ("expire", "collect garbage")

    @contextmanager
    def case(self, retry: RetryPolicy, fault: str | None = None) -> Iterator[Case]:
        self.place.set_back(whole=self._is_whole)
        self.proxy.clear()
        timeouts = {"read_timeout_s": SHORT_S} if fault in NEVER_ANSWERED else {}
        options = self._server.options(endpoint_url=self.proxy.endpoint_url, retry=retry, **timeouts)
        retrier = Retrier(retry)
        storage = S3Storage(BUCKET, self._prefix, options, retrier=retrier)
        yield Case(storage, retrier, self._base)
        storage.close()
        self.proxy.wait_idle()  # a write that was given up and is late would change the next case

    def plan(self, fault: str, **options: Any) -> None:
        """Plans the fault of the present turn."""
        self._plan = self.proxy.plan(fault, **options)

    def turns(self, faults: tuple[str, ...]) -> Iterator[tuple[int, str]]:
        """Yields the number of each request with the faults that it meets.

        Ends after a run that made no request of that number, so that none is left out, however many there are.
        """
        for number in itertools.count():
            for fault in faults if EVERY_FAULT else (faults[(self._first + number) % len(faults)],):
                self._plan = None
                yield number, fault
                if self._plan is not None and not self._plan.fired and fault not in ON_CONDITION:
                    return

    def count_conditional_writes(self) -> int:
        """Does the operation undisturbed."""
        with self.case(STEADY) as case:
            self.operation.run(case)
        assert self.place.facts() == self.after
        return sum(request.is_conditional_write for request in self.proxy.requests)


@pytest.mark.parametrize("name", OPERATIONS)
def test_a_fault_that_passes_changes_nothing(
    s3_server: SeaweedServer, s3_prefix: str, base: Base, proxy: FaultProxy, name: str
) -> None:
    trial = Trial(s3_server, s3_prefix, base, proxy, name)
    for number, fault in trial.turns(PASSING):
        with trial.case(STEADY if fault in NEVER_ANSWERED else FAST, fault) as case:
            trial.plan(fault, method="PUT" if fault == "conflict" else None, skip=number)
            trial.operation.run(case)
        assert trial.place.facts() == trial.after, (number, fault)
    trial.place.check()


@pytest.mark.parametrize("name", OPERATIONS)
def test_a_fault_that_lasts_leaves_all_or_nothing(
    s3_server: SeaweedServer, s3_prefix: str, base: Base, proxy: FaultProxy, name: str
) -> None:
    trial = Trial(s3_server, s3_prefix, base, proxy, name)
    operation, before, after = trial.operation, trial.before, trial.after
    conditional = trial.count_conditional_writes()
    for number, fault in trial.turns(LASTING):
        is_conditional = fault in ON_CONDITION
        if is_conditional and not conditional:
            continue
        with trial.case(IMPATIENT, fault) as case:
            trial.plan(
                fault,
                skip=number % conditional if is_conditional else number,
                times=None,
                conditional=is_conditional,
            )
            failure = attempt(operation, case)
            proxy.clear()
            found = trial.place.facts()
            where = (number, fault, failure)
            assert found == after if failure is None else found in (before, after), where
            if failure is not None:
                # Connections that the last answers left behind may end only now: each costs a try.
                case.retrier.policy = STEADY
                again = attempt(operation, case)
                assert again is None or (found == after != before and isinstance(again, operation.again)), where
                assert trial.place.facts() == after, where
    trial.place.check()


def attempt(operation: Operation, case: Case) -> IcefsError | None:
    try:
        operation.run(case)
    except IcefsError as error:
        return error
    return None
