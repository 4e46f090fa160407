"""Numbers of divergences, in code and tests, are those of the list."""

import re
from pathlib import Path

from tests.conformance.divergences import DIVERGENCES

_ROOT = Path(__file__).parents[2]
_NUMBER = re.compile(r"Divergences? (\d+)(?: and (\d+))?")


def test_every_number_is_listed():
    named: dict[int, list[str]] = {}
    for directory in ("icefs", "tests"):
        for path in (_ROOT / directory).rglob("*.py"):
            for found in _NUMBER.finditer(path.read_text()):
                for number in filter(None, found.groups()):
                    named.setdefault(int(number), []).append(str(path.relative_to(_ROOT)))
    assert named.keys() <= DIVERGENCES.keys(), {number: named[number] for number in named.keys() - DIVERGENCES.keys()}
    assert named.keys() == DIVERGENCES.keys(), f"nothing shows {sorted(DIVERGENCES.keys() - named.keys())}"
