"""The same random system calls on a mounted branch and on a plain directory: results, errnos, listings and bytes.

The plain directory is the model; `tests.support.differential` lists where the two may differ. Commits, amended ones,
discards, remounts, killed daemons, the commits of others and rebases come in between. The official library, which
gets the same changes, says what becomes of a rebase.

`ICEFS_TEST_ROUNDS` is the number of examples.
"""

import os
import shutil
import stat
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import invariant, precondition, rule

from icefs.words import node_name
from icefs.zarr.keys import metadata_key, node_prefix
from tests.conformance.official import GROUP, put_all, remove
from tests.support.branch_calls import ARRAY, CONTENT, EXPLICIT_NS, PATHS, THEIR_CHANGES, BranchCalls, PathLike
from tests.support.differential import (
    Seen,
    Station,
    is_of_base,
    look,
    mark_base,
    partition,
    populate,
    restore,
)
from tests.support.mounting import scratch_directory, wait_until
from tests.support.rebase_oracle import Changes, rebased

ROUNDS = int(os.environ.get("ICEFS_TEST_ROUNDS", "25"))
# Making a failure small takes minutes: done where ICEFS_TEST_SHRINK is set.
PHASES = [Phase.generate, *([Phase.shrink] if os.environ.get("ICEFS_TEST_SHRINK") else [])]
STEPS = int(os.environ.get("ICEFS_TEST_STEPS", "40"))


class BranchMachine(BranchCalls):
    """Commits, discards, remounts, and what others commit, between the system calls."""

    # Commits, discards, remounts.

    def rpc(self, op: str, **request: Any) -> dict[str, Any]:
        return self.station.mount.rpc({"op": op, **request}, self.tree)[-1]

    def files(self) -> dict[str, bytes]:
        return {path: seen.data for path, seen in look(self.plain.root).items() if seen.data is not None}

    def history(self) -> list[str]:
        return [info.id for info in self.station.official.ancestry(branch=self.branch)]

    @rule(strict=st.booleans(), amend=st.sampled_from([False, False, True]))
    def commit(self, strict: bool, amend: bool) -> None:
        """Commits; the official library then finds what the plain directory has."""
        self.write_back_all()
        files = self.files()
        status = self.station.mount.control("status.json", self.tree)
        before = self.history()
        answer = self.rpc("commit", message="a commit", skip_invalid=not strict, amend=amend)
        if answer["type"] == "error":
            kinds = {"invalid-tree", "no-changes-to-commit"} | ({"commit-conflict"} if self.is_behind else set())
            if amend and self.official_moves(before[0]):
                kinds.add("rearrange-session-only")
            assert answer["kind"] in kinds, answer
            assert self.history() == before
            return
        assert not self.is_behind
        now = self.history()
        assert now[0] == answer["snapshot"]
        # An amended commit is replaced, whatever it was; its parent stays.
        assert now[1:] == (before[1:] if amend else before)
        self.check_committed(files, status)
        self.committed()
        # Whatever is left may have been renamed.
        self.has_renames &= bool(status["untracked"] or status["invalid"] or status["open"])

    def official_moves(self, snapshot_id: str) -> bool:
        """Tells whether a commit has moved nodes."""
        parent = self.station.official.lookup_snapshot(snapshot_id).parent_id
        diff = self.station.official.diff(from_snapshot_id=parent, to_snapshot_id=snapshot_id)
        return bool(diff.moved_nodes)

    def check_committed(self, files: dict[str, bytes], status: dict[str, Any]) -> None:
        self.base = self.station.read_branch(self.branch)
        left = left_by(status, files)
        self.drop(files.keys() - self.base.keys() - left, status["staged"]["dropped_chunks"])
        for path, data in self.base.items():
            assert path in left or files[path] == data, path

    def drop(self, gone: set[str], told: list[dict[str, Any]]) -> None:
        """Removes the chunks that go with the metadata of their array, which the status tells before."""
        counts = {node_prefix(node_name(one["path"])): one["count"] for one in told}
        found = dict.fromkeys(counts, 0)
        for path in gone:
            [prefix] = [prefix for prefix in counts if path.startswith(f"{prefix}c")] or [""]
            assert prefix, f"{path} is gone, and was not told of: {told}"
            found[prefix] += 1
            os.unlink(self.plain.at(path))
        self.last.clear()
        # Files that were rewritten here stay, and are left.
        assert all(found[prefix] <= count for prefix, count in counts.items())
        self.remove_dirs()

    def remove_dirs(self) -> None:
        """Removes directories of the base that have gone with what was in them."""
        for path in sorted((path for path, seen in look(self.plain.root).items() if seen.data is None), reverse=True):
            if not os.path.isdir(self.mounted.at(path)):
                os.rmdir(self.plain.at(path))

    def committed(self) -> None:
        """Does to the plain directory what a commit does besides its purpose: allowed difference 4."""
        mark_base(Path(self.plain.root), self.base)
        shared: dict[int, list[tuple[str, int]]] = {}
        for path in look(self.plain.root):
            told = os.stat(self.mounted.at(path))
            os.chmod(self.plain.at(path), stat.S_IMODE(told.st_mode))
            if stat.S_ISREG(told.st_mode):
                shared.setdefault(os.stat(self.plain.at(path)).st_ino, []).append((path, told.st_ino))
        for links in shared.values():
            groups: dict[int, list[str]] = {}
            for path, ino in links:
                groups.setdefault(ino, []).append(path)
            # An open file stays one file with its descriptor.
            opened = {os.fstat(fd).st_ino for fd in self.mounted.fds.values()}
            order = sorted(groups.items(), key=lambda group: (group[0] in opened, len(group[1])))
            for _, paths in order[: len(groups) - 1]:
                self.split(paths)
        of_base = {*self.base, *(path[:cut] for path in self.base for cut, char in enumerate(path) if char == "/"), ""}
        self.committed_times = {
            (seen.ino, seen.mtime_ns)
            for path, seen in look(self.plain.root).items()
            if path in of_base and seen.mtime_ns < EXPLICIT_NS
        }

    def split(self, paths: list[str]) -> None:
        """Makes some names of a file names of another file."""
        first = self.plain.at(paths[0])
        above = {os.path.dirname(self.plain.at(path)) for path in paths}
        times = {place: os.stat(place) for place in above}
        shutil.copy2(first, f"{first}.split")
        os.replace(f"{first}.split", first)
        for path in paths[1:]:
            os.unlink(self.plain.at(path))
            os.link(first, self.plain.at(path))
        for place, told in times.items():
            os.utime(place, ns=(told.st_atime_ns, told.st_mtime_ns))

    @rule()
    def discard(self) -> None:
        self.close_all()
        answer = self.rpc("discard")
        assert answer["type"] == "result", answer
        populate(Path(self.plain.root), self.base)
        self.last.clear()
        self.has_renames = False
        assert not self.has_changes()
        self.follow()

    @rule(path=PATHS)
    def discard_path(self, path: PathLike) -> None:
        """What is at a path and below it becomes what it is in the base; above it nothing changes."""
        self.close_all()
        if self.has_renames:
            return  # where a directory of the base stands elsewhere, the base is not to be seen by its paths
        path = self.text(path)
        answer = self.rpc("discard", path=path)
        assert answer["type"] == "result", answer
        root, place = Path(self.plain.root), Path(self.plain.at(path))
        above = {at: at.stat() for at in (place.parent,) if at.is_dir()}
        if not above:
            return
        if place.is_dir():
            shutil.rmtree(place)
        else:
            place.unlink(missing_ok=True)
        if is_of_base(place.parent):
            shown = {key: data for key, data in self.base.items() if key == path or key.startswith(f"{path}/")}
            for key, data in shown.items():
                restore(root, key, data)
            mark_base(root, shown)
        self.last.clear()
        self.follow()

    def has_changes(self) -> bool:
        """Tells whether the mount has anything in the branch that is not the base's."""
        [told] = self.station.mount.rpc({"op": "uncommitted"})
        return self.branch in {one["name"] for one in told["branches"]}

    @precondition(lambda self: self.remounts < 1)
    @rule(kill=st.booleans(), chance=st.integers(0, 7))
    def remount(self, kill: bool, chance: int) -> None:
        """Allowed difference 5. Takes half a second, so it is done now and then."""
        if chance != 7:
            return
        self.remounts += 1
        self.close_all()
        self.station.remount(kill=kill)
        for path, mine in look(self.plain.root).items():
            if (mine.ino, mine.mtime_ns) in self.committed_times:
                os.utime(self.plain.at(path))
        self.last = {}
        self.follow()

    @rule(
        what=st.lists(st.sampled_from(THEIR_CHANGES), min_size=1, max_size=2, unique=True),
        data=st.sampled_from([b"theirs", b"their native chunk"]),
    )
    def others_commit(self, what: list[str], data: bytes) -> None:
        """Somebody else commits to the branch, which follows if nothing is changed in it, and nothing about to be."""
        self.others += 1
        theirs = self.station.read_branch(self.branch)
        items: dict[str, bytes | None] = {}
        for one in what:
            items |= self.their_change(one, data + b"%d" % self.others, theirs)
        items = {key: value for key, value in items.items() if theirs.get(key) != value}
        if not items:
            return
        self.write_back_all()
        session = self.station.official.writable_session(self.branch)
        put_all(session.store, {key: data for key, data in items.items() if data is not None})
        remove(session.store, *(key for key, data in items.items() if data is None))
        session.commit("theirs")
        self.is_behind = True
        self.follow()

    def follow(self) -> None:
        """Lets a branch that is behind follow, which it does if nothing is changed in it, and nothing about to be."""

        def has_followed() -> bool:
            self.station.mount.refresh()
            return not self.rpc("status")["tip_moved"]

        if not self.is_behind:
            return
        if self.has_changes() or self.is_written():
            assert not has_followed()
            return
        # The kernel tells of a descriptor that was closed in its own time, and until then the file may be written to:
        # whether the branch has followed must not hang on that, for what is done next does.
        wait_until(has_followed, "a branch without changes follows")
        self.is_behind = False
        old, new = self.base, self.station.read_branch(self.branch)
        self.take_theirs({key: new.get(key) for key in old.keys() | new.keys() if old.get(key) != new.get(key)})
        self.committed()

    def is_written(self) -> bool:
        """Tells whether anything that has a name is open for writing."""
        return any(
            flags & os.O_ACCMODE != os.O_RDONLY and os.fstat(self.mounted.fds[number]).st_nlink
            for number, flags in self.flags.items()
        )

    def their_change(self, what: str, data: bytes, theirs: dict[str, bytes]) -> dict[str, bytes | None]:
        """Returns the keys of one change of others to what the branch's tip has."""
        kind, _, index = what.partition(" ")
        if kind == "group":
            return {f"o{self.others % 3}/zarr.json": GROUP if self.others % 2 else GROUP + b" "}
        if kind == "array":
            path = "b/t/zarr.json"
            return {} if path in theirs or "b/zarr.json" not in theirs else {path: ARRAY}
        if theirs.get("a/zarr.json", b"").rstrip() != ARRAY:
            return {}
        if kind == "metadata":
            return {"a/zarr.json": theirs["a/zarr.json"] + b" "}
        key = "a/c/0/0" if kind == "delete" else f"a/c/{index}"
        if kind == "delete":
            return {key: None} if key in theirs else {}
        return {key: data}

    def take_theirs(self, items: dict[str, bytes | None]) -> None:
        """Does to the plain directory what others have done, where nothing of ours is in the way."""
        root = Path(self.plain.root)
        for path, content in items.items():
            if content is None:
                (root / path).unlink(missing_ok=True)
                self.base.pop(path, None)
            else:
                restore(root, path, content)
                self.base[path] = content
            self.last.pop(path, None)
            self.touch(*(path[:cut] for cut in range(len(path) + 1) if path[cut : cut + 1] in {"", "/"}))
        self.renew_above(items)
        for path in items:
            self.prune((root / path).parent)
        mark_base(root, self.base)

    def renew_above(self, paths: Iterable[str]) -> None:
        """Gives the directories above what others changed a time of the clock: allowed difference 10."""
        for directory in {"", *(path[:cut] for path in paths for cut, char in enumerate(path) if char == "/")}:
            if os.path.isdir(self.plain.at(directory)):
                os.utime(self.plain.at(directory))

    def prune(self, directory: Path) -> None:
        """Removes directories of the base with nothing in them."""
        while directory != Path(self.plain.root) and directory.is_dir() and not any(directory.iterdir()):
            directory.rmdir()
            directory = directory.parent

    @precondition(lambda self: self.is_behind)
    @rule(how=st.sampled_from(["ours", "theirs", "fail"]), commit=st.booleans())
    def rebase(self, how: str, commit: bool) -> None:
        """Puts the changes on what others have committed, or commits them there, as the official library would."""
        self.close_all()
        files, base = self.files(), self.base
        diff = self.station.mount.control("diff.json", self.tree)
        status = self.station.mount.control("status.json", self.tree)
        changes = Changes.of(diff, files, base)
        if changes is None or (commit and diff["invalid"]):
            return
        expected = rebased(self.station.official, self.branch, status["snapshot"], changes, how)
        tip, theirs = self.history(), self.station.read_branch(self.branch)
        answer = self.rpc("commit", message="ours", rebase=how) if commit else self.rpc("rebase", how=how)
        if commit and not any(status["staged"].values()):
            assert answer["kind"] == "no-changes-to-commit", answer
            return
        if answer.get("kind") == "rebase-failed" and not answer["conflicts"]:
            self.check_refused(answer, commit)
            assert self.history() == tip
            return
        if expected is None:
            assert answer.get("kind") == "rebase-failed", answer
            assert self.history() == tip
            return
        assert answer["type"] == "result", answer
        assert self.history()[-len(tip) :] == tip
        assert len(self.history()) == len(tip) + commit
        self.is_behind = False
        self.base = self.station.read_branch(self.branch)
        if commit:
            assert self.base == expected
        committed = {*base, *changes.chunks, *map(metadata_key, changes.metadata)}
        self.become(expected, left_by(status, files), files.keys() & committed)
        self.renew_above(key for key in base.keys() | theirs.keys() if base.get(key) != theirs.get(key))
        assert not self.rpc("status")["tip_moved"]

    def check_refused(self, answer: dict[str, Any], commit: bool) -> None:
        """Allowed difference 12."""
        path = self.plain.at(answer["path"])
        if "no commit takes" in answer["message"]:
            assert os.path.isfile(path)
        elif "several names" in answer["message"]:
            assert not commit
            assert os.stat(path).st_nlink > 1
        else:
            assert not commit
            assert "renamed directory" in answer["message"]
            assert os.path.isdir(path)

    def become(self, expected: dict[str, bytes], left: set[str], committed: set[str]) -> None:
        """Lets the plain directory have other keys, and keep what is left: allowed difference 11."""
        root = Path(self.plain.root)
        for path in committed - expected.keys() - left:
            (root / path).unlink()
        for path, data in expected.items():
            if path in left:
                continue
            if not (root / path).is_file() or (root / path).read_bytes() != data:
                restore(root, path, data)
        self.remove_dirs()
        for path, seen in look(self.mounted.root).items():
            if seen.data is None:
                (root / path).mkdir(parents=True, exist_ok=True)
            os.chmod(root / path, stat.S_IMODE(seen.mode))
        mark_base(root, self.base)
        self.committed()
        self.last.clear()

    # What holds after a step.

    @invariant()
    def same(self) -> None:
        if not hasattr(self, "branch"):
            return
        self.station.check()
        self.steps += 1
        if self.steps % self.every:
            return
        expected, found = look(self.plain.root), look(self.mounted.root)
        assert found.keys() == expected.keys()
        self.unsynced = {number: ino for number, ino in self.unsynced.items() if number in self.flags}
        now: dict[str, tuple[Seen, Seen]] = {}
        for path, mine in expected.items():
            theirs = found[path]
            assert theirs.data == mine.data, path
            assert theirs.mode == mine.mode, f"{path}: {theirs.mode:o}, {mine.mode:o}"
            assert mine.data is None or theirs.nlink == mine.nlink, f"{path}: {theirs.nlink} links, {mine.nlink}"
            if mine.mtime_ns < EXPLICIT_NS:
                assert theirs.mtime_ns == mine.mtime_ns, f"{path}: its time was set"
            now[path] = theirs, mine
            # Over several steps the plain directory may use an inode number again.
            if path in self.last and self.every == 1:
                self.check_times(path, *self.last[path], theirs, mine)
        assert partition(found) == partition(expected)
        self.last = now
        self.touched.clear()

    def check_times(self, path: str, theirs: Seen, mine: Seen, theirs_now: Seen, mine_now: Seen) -> None:
        """Checks that inode numbers stay with files, and mtimes with contents."""
        if mine.ino != mine_now.ino:
            return
        assert theirs_now.ino == theirs.ino, f"{path}: another inode number for the same file"
        changed = theirs_now.mtime_ns != theirs.mtime_ns
        if mine_now.ino in self.unsynced.values():
            return
        if mine_now.data != mine.data or mine_now.mtime_ns != mine.mtime_ns:
            assert changed, f"{path}: changed, and mtime did not"
        elif mine_now.ino not in self.touched:
            assert not changed, f"{path}: mtime changed, and nothing else did"

    def teardown(self) -> None:
        if hasattr(self, "branch"):
            for side in (self.mounted, self.plain):
                for fd in side.fds.values():
                    try:
                        os.close(fd)
                    except OSError:
                        continue  # an invalid zarr.json
            self.station.drop_branch(self.branch)
            shutil.rmtree(self.plain.root)


def left_by(status: dict[str, Any], files: dict[str, bytes]) -> set[str]:
    """Returns the files that stay in the working tree; a renamed directory of chunks counts as one."""
    told = {*status["untracked"], *(one["path"] for one in (*status["invalid"], *status["open"]))}
    return {path for path in files.keys() | told if path in told or any(path.startswith(f"{one}/") for one in told)}


@pytest.fixture(scope="module", autouse=True)
def station():
    with scratch_directory() as scratch:
        BranchMachine.station = Station(Path(scratch), CONTENT)
        yield
        BranchMachine.station.stop()


# A time that runs out is taken for an example that fails now and then.
TestBranch = pytest.mark.timeout(120 + 20 * ROUNDS)(BranchMachine.TestCase)
TestBranch.settings = settings(
    max_examples=ROUNDS,
    stateful_step_count=STEPS,
    deadline=None,
    phases=PHASES,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)
