"""The process is killed, again and again; finished steps are there, and the last one is done or not."""

import os
import random
import shutil
import signal
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from icefs.worktree.spool.files import DiskIo
from icefs.worktree.spool.journal import Batch, Intent, Journal
from icefs.worktree.tree import WorkTree
from tests.support.dict_base import Snapshots
from tests.support.forked import Child
from tests.support.tree_driver import Driver, open_tree, options
from tests.support.tree_script import Model, Player, Step, check_after_kill, content, make_script, start

BASE = {
    "zarr.json": b"root",
    "a/zarr.json": b"array",
    "a/c/0": b"chunk 0" * 300,
    "a/c/1": b"chunk 1",
    "b/zarr.json": b"group",
}


@pytest.fixture
def scratch() -> Iterator[Path]:
    """A directory in memory where there is one: a killed process leaves the page cache as it is on any disk."""
    directory = Path(tempfile.mkdtemp(prefix="icefs-kill-", dir="/dev/shm" if os.path.isdir("/dev/shm") else None))
    yield directory
    shutil.rmtree(directory)


class Deadly:
    """Kills this process at the n-th passage."""

    def __init__(self, passages: int) -> None:
        self.left = passages

    def __call__(self) -> None:
        self.left -= 1
        if not self.left:
            os.kill(os.getpid(), signal.SIGKILL)


class DeadlyIo(DiskIo):
    """Passes the gate before and after every change of a spool file."""

    def __init__(self, gate: Callable[[], None]) -> None:
        self._gate = gate

    def _passing[**P, R](self, function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        self._gate()
        result = function(*args, **kwargs)
        self._gate()
        return result

    def create(self, path: str) -> int:
        return self._passing(super().create, path)

    def pwrite(self, fd: int, data: Any, offset: int) -> int:
        return self._passing(super().pwrite, fd, data, offset)

    def truncate(self, fd: int, size: int) -> None:
        return self._passing(super().truncate, fd, size)

    def copy_range(self, source: int, target: int, size: int, offset: int) -> int:
        return self._passing(super().copy_range, source, target, size, offset)

    def unlink(self, path: str) -> None:
        return self._passing(super().unlink, path)


class DeadlyJournal(Journal):
    """Passes the gate before and after every transaction."""

    gate: Callable[[], None] = staticmethod(lambda: None)

    def apply(self, batch: Batch) -> None:
        self.gate()
        super().apply(batch)
        self.gate()

    def freeze(self, batch: Batch, limit: int) -> None:
        self.gate()
        super().freeze(batch, limit)
        self.gate()

    def record_intent(self, intent: Intent) -> None:
        self.gate()
        super().record_intent(intent)
        self.gate()

    def thaw(self, batch: Batch) -> None:
        self.gate()
        super().thaw(batch)
        self.gate()

    def replace_tree(self, *args: Any, **meta: Any) -> None:
        self.gate()
        super().replace_tree(*args, **meta)
        self.gate()


def snapshots_of(model: Model) -> Snapshots:
    """Returns the repository as it is where a model ends."""
    snapshots = Snapshots(BASE)
    snapshots.add(model.base, model.base_files)
    if model.published:
        snapshots.add(model.intent, model.committed(), on=model.base)
    return snapshots


def play(
    directory: Path, before: Model, script: list[tuple[Step, Model]], report: Callable[[str], None], gate: Deadly
) -> None:
    snapshots = snapshots_of(before)
    opts = replace(options(snapshots), base=before.base, io=DeadlyIo(gate))
    journal = type("GatedJournal", (DeadlyJournal,), {"gate": staticmethod(gate)})
    driver = Driver(WorkTree(directory, replace(opts, open_journal=journal)))
    player = Player(driver, snapshots)
    for step, after in script:
        player.play(step, after)
        driver.tree.check_invariants()
        report(step.kind)


def reopen(directory: Path, model: Model, step: Step | None, after: Model) -> Driver:
    snapshots = snapshots_of(after if after.published or after.base != model.base else model)
    snapshots.add(model.base, model.base_files)
    if model.published:
        snapshots.add(model.intent, model.committed(), on=model.base)
    return open_tree(directory, snapshots)


SCRIPT = [
    Step("write", "new", data=b"1" * 5000),
    Step("replace", "a/c/1", data=b"2" * 100),
    Step("mkdir", "d"),
    Step("write", "d/x.partial", data=b"untracked"),
    Step("rename", "a/c/0", "d/moved"),
    Step("link", "zarr.json", "d/linked"),
    Step("rename", "b", "d/b"),
    Step("freeze"),
    Step("patch", "new", data=b"changed after the freeze"),
    Step("unlink", "a/c/1"),
    Step("replace", "d/b/zarr.json", data=b"new group"),
    Step("rename", "d", "e"),
    Step("write", "a/c/7", data=b"7"),
    Step("intent"),
    Step("publish"),
    Step("complete"),
    Step("truncate", "a/zarr.json"),
    Step("freeze"),
    Step("overwrite", "a/c/7", data=b"77"),
    Step("intent"),
    Step("unlink", "e/linked"),
    Step("abandon"),
    Step("unlink", "new"),
]


def test_killed_at_every_step_of_a_script(scratch: Path) -> None:
    """Every change of the database and of a spool file is a place to die, just before and just after it."""
    models = [start(BASE)]
    for step in SCRIPT:
        models.append(models[-1].after(step))
    script = list(zip(SCRIPT, models[1:], strict=True))
    deaths: Counter[str] = Counter()
    for passage in range(1, 1000):
        directory = scratch / str(passage)
        directory.mkdir()
        child = Child(lambda report, at=passage, to=directory: play(to, models[0], script, report, Deadly(at)))  # type: ignore[misc]
        done = len(child.lines())
        status = child.wait()
        if os.WIFEXITED(status):
            break
        step, after = script[done] if done < len(script) else (None, models[-1])
        deaths[step.kind if step is not None else "end"] += 1
        driver = reopen(directory, models[done], step, after)
        check_after_kill(driver, models[done], step, after)
        driver.tree.check_invariants()
        driver.tree.close()
        shutil.rmtree(directory)
    assert done == len(SCRIPT)
    assert sum(deaths.values()) > 90
    assert deaths.keys() >= {step.kind for step in SCRIPT} - {"publish"}
    driver = reopen(directory, models[-1], None, models[-1])
    assert content(driver) == (models[-1].files, models[-1].dirs)
    driver.tree.close()


@pytest.mark.parametrize("seed", range(4))
def test_killed_at_random_moments(scratch: Path, seed: int) -> None:
    """One tree, killed sixty times by somebody else while it works, and continued from what was there each time."""
    rng = random.Random(seed)
    model = start(BASE)
    acknowledged = commits = 0
    for round_number in range(60):
        script = make_script(model, random.Random(f"{seed} {round_number}"), 400)
        child = Child(lambda report, now=model, todo=script: play(scratch, now, todo, report, Deadly(0)))  # type: ignore[misc]
        lines = child.lines(rng.randrange(1, 60))
        child.kill()
        lines += child.lines()  # what it reported before it died
        child.wait()
        done = len(lines)
        acknowledged += done
        before = script[done - 1][1] if done else model
        step, after = script[done] if done < len(script) else (None, before)
        driver = reopen(scratch, before, step, after)
        driver.tree.check_invariants()
        assert driver.tree.recovery.lost == []
        model = check_after_kill(driver, before, step, after)
        driver.tree.check_invariants()
        commits = model.commits
        driver.tree.close()
    assert acknowledged > 1000
    assert commits > 20


@pytest.mark.parametrize("seed", range(40))
def test_a_tree_holds_what_its_script_says(tmp_path: Path, seed: int) -> None:
    """Without a kill, after every step: what fails here is no matter of chance."""
    model = start(BASE)
    snapshots = snapshots_of(model)
    driver = open_tree(tmp_path / "state", snapshots)
    player = Player(driver, snapshots)
    for number, (step, after) in enumerate(make_script(model, random.Random(seed), 120)):
        player.play(step, after)
        assert content(driver) == (after.files, after.dirs), (number, step)
    driver.tree.close()
