"""The repositories in `tests/data/official`, which the official library wrote; read-only."""

from pathlib import Path

PROJECT = Path(__file__).parents[2]
FIXTURES = PROJECT / "tests/data/official"


def fixture_files(directory: str) -> list[Path]:
    """Lists the files of a directory (`manifests`, `transactions`, …) in all fixture repositories, in a fixed order."""
    found = sorted(FIXTURES.glob(f"*/{directory}/*"))
    assert found, f"no fixture repositories in {FIXTURES}"
    return found
