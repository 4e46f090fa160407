"""The repositories in `../shared/fixtures`, which the official library wrote; read-only."""

from pathlib import Path

from tests.support.ci import require

FIXTURES = Path(__file__).parents[2] / "../shared/fixtures"


def fixture_files(directory: str) -> list[Path]:
    """Lists the files of a directory (`manifests`, `transactions`, …) in all fixture repositories, in a fixed order."""
    found = sorted(FIXTURES.glob(f"*/{directory}/*"))
    require(found, f"no fixture repositories in {FIXTURES}")
    return found
