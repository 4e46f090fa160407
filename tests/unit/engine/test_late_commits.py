"""A publishing write that the store carries out after the session has given it up: it is the session's own commit."""

import pytest

from icefs.engine.write.conflicts import ConflictDetector
from icefs.engine.write.repository import WritableRepository
from icefs.errors import BranchMovedError, PreconditionFailedError, UnreachableError
from icefs.storage.memory import MemoryStorage
from tests.support.faulty import FaultyStorage
from tests.support.transactions import commit_start

START = ["start", "Repository initialized"]
PUBLISHED = {2: "repo", 1: "refs/branch.main/"}
LOOKED_AT = {2: "repo", 1: "refs/"}


@pytest.fixture(params=[2, 1], ids=["v2", "v1"])
def repo(request):
    repo = WritableRepository.create(MemoryStorage(), spec_version=request.param)
    commit_start(repo)
    return repo


@pytest.fixture
def storage(repo):
    return FaultyStorage(repo.storage)


@pytest.fixture
def session(storage):
    session = WritableRepository.open(storage).writable_session("main")
    session.chunks.set("/a", (1, 1), b"ours")
    return session


def give_up(session, storage, message, how="commit", **options):
    """Commits in vain, and returns what the store has yet to carry out, and the snapshot's id."""
    ids = []
    late = storage.delay(keys=PUBLISHED[session.context.spec_version])
    with pytest.raises(UnreachableError):
        getattr(session, how)(message, before_publish=ids.append, **options)
    assert late.held
    return late, ids[0]


def messages(repo):
    return [info.message for info in repo.ancestry(branch="main")]


def commit_theirs(repo):
    theirs = repo.writable_session("main")
    theirs.chunks.set("/a", (2, 2), b"theirs")
    return theirs.commit("theirs")


@pytest.mark.parametrize("rebase_with", [None, ConflictDetector()], ids=["no rebase", "rebase"])
@pytest.mark.parametrize("which", [0, 1, 2])
@pytest.mark.parametrize("is_built_on", [False, True], ids=["tip", "ancestor"])
def test_any_of_several_tries_may_have_been_carried_out(repo, storage, session, which, rebase_with, is_built_on):
    tries = [give_up(session, storage, f"try {number}", rebase_with=rebase_with) for number in range(3)]
    tries[which][0].land()
    expected = [f"try {which}", *START]
    if is_built_on:
        commit_theirs(repo)
        expected.insert(0, "theirs")
    assert session.commit("again", rebase_with=rebase_with) == tries[which][1]
    assert session.read_only
    assert session.snapshot_id == tries[which][1]
    for number, (late, _) in enumerate(tries):
        if number != which:
            with pytest.raises(PreconditionFailedError):
                late.land()
    assert messages(repo) == expected


@pytest.mark.parametrize("at", ["look", "put"])
@pytest.mark.parametrize("rebase_with", [None, ConflictDetector()], ids=["no rebase", "rebase"])
def test_a_try_that_is_carried_out_while_the_next_one_is_made(repo, storage, session, at, rebase_with):
    late, snapshot_id = give_up(session, storage, "try")
    # Between the look for it, and the check of the tip, or the publishing write.
    if at == "put":
        storage.interfere(late.land, methods="put", keys="snapshots/")
    else:
        storage.interfere(
            late.land, methods=["get_if_changed", "iter_objects"], keys=LOOKED_AT[repo.spec_version], at=2
        )
    assert session.commit("again", rebase_with=rebase_with) == snapshot_id
    assert messages(repo) == ["try", *START]


def test_a_session_that_was_changed_since_is_behind(repo, storage, session):
    late, _ = give_up(session, storage, "try")
    session.chunks.set("/a", (1, 1), b"changed since")
    late.land()
    with pytest.raises(BranchMovedError):
        session.commit("again")
    assert messages(repo) == ["try", *START]


def test_what_others_have_done_is_theirs(repo, storage, session):
    late, _ = give_up(session, storage, "try")
    commit_theirs(repo)
    with pytest.raises(BranchMovedError):
        session.commit("again")
    with pytest.raises(PreconditionFailedError):
        late.land()
    assert session.commit("again", rebase_with=ConflictDetector())
    assert messages(repo) == ["again", "theirs", *START]


@pytest.mark.parametrize("repo", [2], indirect=True)
def test_an_amended_commit(repo, storage, session):
    late, snapshot_id = give_up(session, storage, "try", "amend")
    storage.interfere(late.land, methods="put", keys="snapshots/")
    assert session.amend("again") == snapshot_id
    assert messages(repo) == ["try", "Repository initialized"]
