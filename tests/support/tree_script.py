"""Scripts of operations on a working tree, with what the tree must hold after each of them.

A script is made from a seed, in the process that does the operations and in the one that checks them: both get the
same list. Commits are part of it: `freeze`, `intent`, `publish`, `complete` or `abandon`, with other operations in
between.
"""

import os
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from icefs.worktree.freeze.frozen import FrozenTree
from tests.support.base_plans import complete_recovered, plan_of_commit
from tests.support.dict_base import Snapshots
from tests.support.tree_driver import Driver

UNTRACKED = ".partial"


@dataclass(frozen=True)
class Step:
    """One operation: what to do, to which paths, with which bytes."""

    kind: str
    path: str = ""
    target: str = ""
    data: bytes = field(default=b"", repr=False)


@dataclass(frozen=True)
class Model:
    """What a tree holds: files, directories, and how far a commit is.

    Attributes:
        files: The bytes by path.
        dirs: The directories; not the root.
        linked: Paths that share, or shared, a file with another one; they are never written in place.
        base: The snapshot that the tree stands on.
        base_files: What that has.
        frozen: The files at the freeze, None if nothing is frozen.
        intent: The snapshot that the frozen files are about to become.
        published: Whether they have become it.
        commits: The commits so far.
    """

    files: dict[str, bytes]
    dirs: frozenset[str]
    linked: frozenset[str] = frozenset()
    base: str = "base"
    base_files: dict[str, bytes] = field(default_factory=dict)
    frozen: dict[str, bytes] | None = None
    intent: str = ""
    published: bool = False
    commits: int = 0

    def after(self, step: Step) -> "Model":
        """Returns the model after a step."""
        files = dict(self.files)
        dirs, linked = self.dirs, self.linked
        match step.kind:
            case "write" | "replace" | "overwrite":
                files[step.path] = step.data
                if step.kind == "replace":
                    files.pop(temporary_of(step.path), None)  # of a replacement that was killed
                    linked -= {step.path, temporary_of(step.path)}
            case "patch":
                old = files[step.path]
                files[step.path] = step.data + old[len(step.data) :]
            case "append":
                files[step.path] += step.data
            case "truncate":
                files[step.path] = files[step.path][:2]
            case "unlink":
                del files[step.path]
                linked -= {step.path}
            case "mkdir":
                dirs |= {step.path}
            case "rmdir":
                dirs -= {step.path}
            case "link":
                files[step.target] = files[step.path]
                linked |= {step.path, step.target}
            case "rename":
                moved = _mover(step.path, step.target)
                files = {moved(path): data for path, data in files.items() if path != step.target}
                dirs = frozenset(map(moved, dirs))
                linked = frozenset(map(moved, linked - {step.target}))
            case "freeze":
                return replace(self, frozen=files)
            case "intent":
                return replace(self, intent=f"s{self.commits + 1}", commits=self.commits + 1)
            case "publish":
                return replace(self, published=True)
            case "complete":
                return self.completed()
            case "abandon":
                return replace(self, frozen=None, intent="", published=False)
        return replace(self, files=files, dirs=dirs, linked=linked)

    def completed(self) -> "Model":
        """Returns the model on the snapshot that was frozen."""
        return replace(self, base=self.intent, base_files=self.committed(), frozen=None, intent="", published=False)

    def committed(self) -> dict[str, bytes]:
        """Returns what the snapshot of the frozen files has."""
        assert self.frozen is not None
        return {path: data for path, data in self.frozen.items() if not path.endswith(UNTRACKED)}


def temporary_of(path: str) -> str:
    """Returns the name under which what replaces a file is written first."""
    return f"{path}.temporary"


def _mover(old: str, new: str) -> Callable[[str], str]:
    def moved(path: str) -> str:
        return new + path[len(old) :] if path == old or path.startswith(f"{old}/") else path

    return moved


def start(files: dict[str, bytes]) -> Model:
    """Returns the model of a clean tree over some files."""
    dirs = {path[:cut] for path in files for cut in range(len(path)) if path[cut] == "/"}
    return Model(files, frozenset(dirs), base_files=files)


COMMITTING = (
    "write", "write", "replace", "replace", "overwrite", "patch", "truncate", "unlink", "mkdir", "rmdir", "link",
    "rename", "rename", "commit", "commit",
)  # fmt: skip
NAMES = ("0", "1", "2", "zarr.json", "x.partial", "c", "d")
SIZES = (0, 1, 10, 5000)


def make_script(
    model: Model,
    rng: random.Random,
    length: int,
    *,
    kinds: Sequence[str] = COMMITTING,
    names: Sequence[str] = NAMES,
    sizes: Sequence[int] = SIZES,
) -> list[tuple[Step, Model]]:
    """Draws steps, each with the model after it.

    Args:
        model: Where to start.
        rng: Where chance comes from.
        length: How many steps.
        kinds: Of which kinds, each as often as it is named.
        names: What files and directories are called.
        sizes: How much is written at once.
    """
    script = []
    while len(script) < length:
        step = _draw(model, rng, kinds, names, sizes)
        if step is not None:
            model = model.after(step)
            script.append((step, model))
    return script


def _draw(
    model: Model, rng: random.Random, kinds: Sequence[str], names: Sequence[str], sizes: Sequence[int]
) -> Step | None:
    dirs = ["", *sorted(model.dirs)]
    files = sorted(model.files)
    name = rng.choice(names)
    above = rng.choice(dirs)
    path = f"{above}/{name}" if above else name
    if rng.random() < 0.2 and (gone := _gone(model)):
        path = rng.choice(gone)  # a file that was moved away or removed comes back
    data = rng.randbytes(rng.choice(sizes))
    is_free = path not in model.files and path not in model.dirs and path.count("/") < 4
    kind = rng.choice(kinds)
    own = [path for path in files if path not in model.linked]
    if kind == "commit":
        return _draw_commit(model, rng)
    if kind in {"write", "mkdir"} and is_free:
        return Step(kind, path, data=data)
    if kind == "replace" and path not in model.dirs and path.count("/") < 4:
        return Step(kind, path, data=data)
    if kind in {"overwrite", "patch", "append", "truncate"} and own:
        return Step(kind, rng.choice(own), data=data)
    if kind == "unlink" and len(files) > 3:
        return Step(kind, rng.choice(files))
    if kind == "rmdir":
        empty = [found for found in dirs[1:] if not any(p.startswith(f"{found}/") for p in (*files, *dirs))]
        return Step(kind, rng.choice(empty)) if empty else None
    if kind == "link" and files and is_free:
        return Step(kind, rng.choice(files), path)
    if kind == "rename" and (files or dirs[1:]):
        source = rng.choice([*files, *dirs[1:]])
        if path == source or path.startswith(f"{source}/") or path in model.dirs:
            return None
        if source in model.linked and path in model.linked:
            return None  # of two names of one file, neither goes
        if source in model.dirs and (path in model.files or path.count("/") > 1):
            return None
        return Step(kind, source, path)
    return None


def _gone(model: Model) -> list[str]:
    """Returns the paths that the base has, and the tree no more, in directories that are there."""
    paths = model.base_files.keys() - model.files.keys() - model.dirs
    return sorted(path for path in paths if path.rpartition("/")[0] in model.dirs | {""})


def _draw_commit(model: Model, rng: random.Random) -> Step | None:
    if model.frozen is None:
        return Step("freeze")
    if not model.intent:
        return Step(rng.choice(["intent", "intent", "abandon"]))
    if not model.published:
        return Step(rng.choice(["publish", "publish", "abandon"]))
    return Step("complete")


class Player:
    """Does the steps of a script to a tree."""

    def __init__(self, driver: Driver, snapshots: Snapshots) -> None:
        self._driver = driver
        self._snapshots = snapshots
        self._frozen: FrozenTree | None = None

    def play(self, step: Step, after: Model) -> None:
        """Does one step; returns when it is done as a program or a commit would know it."""
        driver = self._driver
        match step.kind:
            case "write" | "overwrite":
                driver.write(step.path, step.data)
            case "patch":
                driver.write(step.path, step.data, os.O_WRONLY)
            case "append":
                driver.write(step.path, step.data, os.O_WRONLY | os.O_APPEND)
            case "replace":
                temporary = temporary_of(step.path)
                if driver.exists(temporary):
                    driver.unlink(temporary)
                driver.write(temporary, step.data)
                driver.rename(temporary, step.path)
            case "truncate":
                if driver.stat(step.path).size > 2:
                    driver.truncate(step.path, 2)
            case "unlink":
                driver.unlink(step.path)
            case "mkdir":
                driver.mkdir(step.path)
            case "rmdir":
                driver.rmdir(step.path)
            case "link":
                driver.link(step.path, step.target)
            case "rename":
                driver.rename(step.path, step.target)
            case _:
                self._commit(step, after)

    def _commit(self, step: Step, after: Model) -> None:
        tree = self._driver.tree
        match step.kind:
            case "freeze":
                self._frozen = tree.freeze()
            case "intent":
                assert self._frozen is not None
                left = [path for path, _ in self._frozen.walk() if path.endswith(UNTRACKED)]
                tree.record_intent(self._frozen, after.intent, tree.base, left)
            case "publish":
                self._snapshots.add(after.intent, after.committed(), on=tree.base)
            case "complete":
                assert self._frozen is not None
                left = [path for path, _ in self._frozen.walk() if path.endswith(UNTRACKED)]
                tree.change_base(plan_of_commit(self._frozen, after.base, left))
            case "abandon":
                assert self._frozen is not None
                tree.abandon(self._frozen)


def content(driver: Driver) -> tuple[dict[str, bytes], frozenset[str]]:
    """Returns the files and directories of a tree."""
    dirs = frozenset(path for path, entry in driver.walk() if entry.attr.is_dir)
    return driver.files(), dirs


def check_after_kill(driver: Driver, before: Model, step: Step | None, after: Model) -> Model:
    """Checks a tree whose process was killed after `before`, while it did `step`.

    An operation is there as a whole or not at all, except that a file that was being written in place may have any
    part of its old and new bytes. Returns the model of what is there, and resolves a pending commit.
    """
    tree = driver.tree
    intent = tree.pending_intent
    candidates = [before] if step is None else [before, after]
    now = before
    if intent is not None:
        now = next(model for model in candidates if model.intent == intent.snapshot_id)
        if now.published:
            complete_recovered(tree)
            assert tree.pending_intent is None
            now = now.completed()
        else:
            tree.abandon_recovered()
    elif tree.base != before.base:
        assert step is not None
        assert step.kind == "complete"
        now = after
    now = replace(now, frozen=None, intent="", published=False, commits=max(model.commits for model in candidates))
    assert tree.base == now.base
    files, dirs = content(driver)
    return check_content(files, dirs, now, before, step, after)


def check_content(
    files: dict[str, bytes], dirs: frozenset[str], now: Model, before: Model, step: Step | None, after: Model
) -> Model:
    """Checks the files and directories of a tree whose process was killed after `before`, while it did `step`.

    `now` is `before`, with a commit resolved. Returns the model of what is there.
    """
    allowed = _allowed(now, step, after)
    comparable = [_without_uncertain(model, step) for model in allowed]
    found = {path: data for path, data in files.items() if path not in _uncertain(step)}
    assert any((found, dirs) == (model.files, model.dirs) for model in comparable), (
        f"while {step.kind if step else 'idle'} {step}: "
        + "; or ".join(_difference(m, found, dirs) for m in comparable)
    )
    _check_uncertain(step, before, after, files)
    # Directories of untracked or removed names may remain; what a snapshot has is dropped.
    linked = frozenset((before.linked | after.linked) & files.keys())
    return replace(now, files=files, dirs=dirs, linked=linked)


def _difference(model: Model, files: dict[str, bytes], dirs: frozenset[str]) -> str:
    changed = sorted(path for path in files.keys() & model.files.keys() if files[path] != model.files[path])
    return (
        f"missing {sorted(model.files.keys() - files.keys())}, extra {sorted(files.keys() - model.files.keys())},"
        f" changed {changed}, directories {sorted(dirs ^ model.dirs)}"
    )


def _allowed(now: Model, step: Step | None, after: Model) -> list[Model]:
    return [now] if step is None else [now, after]


def _uncertain(step: Step | None) -> set[str]:
    """Returns the paths of which an operation under way may leave anything between old and new."""
    if step is None:
        return set()
    if step.kind == "replace":
        return {temporary_of(step.path)}
    return {step.path} if step.kind in {"write", "overwrite", "patch", "append"} else set()


def _without_uncertain(model: Model, step: Step | None) -> Model:
    uncertain = _uncertain(step)
    return replace(model, files={path: data for path, data in model.files.items() if path not in uncertain})


def _check_uncertain(step: Step | None, before: Model, after: Model, files: dict[str, bytes]) -> None:
    for path in _uncertain(step):
        assert step is not None
        if path not in files:
            # A temporary file that an earlier kill had left is removed first.
            assert path not in before.files or step.kind in {"write", "replace"}, step
            continue
        # A write that was interrupted leaves a part of its bytes, over what was there or over nothing.
        old, found = before.files.get(path, b""), files[path]
        if step.kind == "append":
            assert (old + step.data).startswith(found), (step, len(found))
            assert len(found) >= len(old), (step, len(found))
            continue
        written = len(os.path.commonprefix([step.data, found]))  # noqa: RUF071  (bytes, not paths)
        assert found in {old, found[:written], found[:written] + old[written:]}, (step, len(found), written)
