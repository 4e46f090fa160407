"""For programs that write: one branch for the tests of a module, each with a directory of its own."""

import pytest

pytest.register_assert_rewrite("tests.support.programs")

from tests.support.programs import writable_branch  # noqa: E402


@pytest.fixture(scope="module")
def shared_branch(request):
    """A mounted branch that can be written to; modules say with `WHOLE` whether the whole repository is mounted."""
    with writable_branch(whole=getattr(request.module, "WHOLE", False)) as branch:
        yield branch


@pytest.fixture
def branch(shared_branch):
    """The module's branch; what a failed test has left uncommitted in it is discarded."""
    yield shared_branch
    if any(shared_branch.control("status.json")[key] for key in ("untracked", "invalid")):
        (shared_branch.path / ".icefs/discard").write_text("yes")
