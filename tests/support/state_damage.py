"""Damage to the files of a state directory: each file that a real one has, in every way that disks and people know."""

import os
import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final, NamedTuple

type Inflict = Callable[[Path, Path, random.Random], None]
"""Damages a file; takes the file, an older copy of it, and chance."""


def _gone(path: Path, older: Path, rng: random.Random) -> None:
    path.unlink()


def _empty(path: Path, older: Path, rng: random.Random) -> None:
    os.truncate(path, 0)


def _cut_short(path: Path, older: Path, rng: random.Random) -> None:
    os.truncate(path, rng.randrange(path.stat().st_size))


def _one_bit_wrong(path: Path, older: Path, rng: random.Random) -> None:
    with path.open("rb+") as file:
        at = rng.randrange(path.stat().st_size)
        file.seek(at)
        byte = file.read(1)[0]
        file.seek(at)
        file.write(bytes([byte ^ 1 << rng.randrange(8)]))


def _zeroes_at_its_end(path: Path, older: Path, rng: random.Random) -> None:
    size = path.stat().st_size
    start = rng.randrange(size)
    with path.open("rb+") as file:
        file.seek(start)
        file.write(bytes(size - start))


def _zeroes_behind_its_end(path: Path, older: Path, rng: random.Random) -> None:
    os.truncate(path, path.stat().st_size + rng.randint(1, 5000))


def _older(path: Path, older: Path, rng: random.Random) -> None:
    path.write_bytes(older.read_bytes())
    status = older.stat()
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


KINDS: Final[dict[str, Inflict]] = {
    "gone": _gone,
    "empty": _empty,
    "cut": _cut_short,
    "bit": _one_bit_wrong,
    "zeroes": _zeroes_at_its_end,
    "longer": _zeroes_behind_its_end,
    "older": _older,
}


class Case(NamedTuple):
    """One damage.

    Attributes:
        file: The file, relative to the state directory.
        kind: One of `KINDS`.
        turn: Tells cases with the same file and kind apart.
    """

    file: str
    kind: str
    turn: int

    def inflict(self, directory: Path, older: Path) -> bool:
        """Damages the file; returns whether that changed anything."""
        path = directory / self.file
        if self.kind == "older" and not (older / self.file).is_file():
            return False
        if not path.stat().st_size and self.kind not in ("gone", "longer", "older"):
            return False
        before = path.read_bytes()
        KINDS[self.kind](path, older / self.file, random.Random(f"{self.file} {self.kind} {self.turn}"))
        return not path.exists() or path.read_bytes() != before


def files_of(directory: Path) -> list[str]:
    """Lists every file of a state directory."""
    return sorted(str(path.relative_to(directory)) for path in directory.rglob("*") if path.is_file())


def cases(directory: Path, turns: int) -> Iterator[Case]:
    """Yields every file of a state directory, damaged in every way; what depends on chance several times."""
    for file in files_of(directory):
        for kind in KINDS:
            for turn in range(turns if kind in ("cut", "bit", "zeroes", "longer") else 1):
                yield Case(file, kind, turn)


def copy(directory: Path, target: Path) -> Path:
    """Copies a state directory with all times, as it is after its process was killed where it is open."""
    shutil.copytree(directory, target)
    return target
