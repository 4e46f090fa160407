"""What a missing tool means: a skipped test on a developer's machine, a failure where CI is true."""

import os

import pytest

IN_CI = os.environ.get("CI", "").lower() in ("1", "true", "yes")


def require(condition: object, reason: str) -> None:
    """Skips the test if the condition does not hold; fails it in CI."""
    if condition:
        return
    if IN_CI:
        pytest.fail(f"needed in CI: {reason}", pytrace=False)
    pytest.skip(reason)
