"""Programs at work on a mounted branch, next to the same work in a plain directory, and with the official judge."""

import contextlib
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import icechunk
import zarr

from icefs.engine.write.repository import WritableRepository
from icefs.storage.url import open_storage
from tests.support.ci import require
from tests.support.mounting import Mount, mounted, scratch_directory

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent
ZARRITA = ROOT / ".cache/zarrita"
DEADLINE_S = 60

type Work = Callable[[Path], object]


def run(*command: object, cwd: Path | None = None, code: int = 0, **options: Any) -> str:
    """Runs a program and returns what it printed."""
    done = subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        check=False,
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        **options,
    )
    assert done.returncode == code, (command, done.returncode, done.stdout, done.stderr)
    return done.stdout


def find_program(name: str) -> str:
    """Finds a program of the test environment or of the system; skips the test without it, fails it in CI."""
    found = shutil.which(name, path=f"{BIN}{os.pathsep}{os.environ.get('PATH', '')}")
    require(found is not None, f"{name} (scripts/setup.sh tests installs it)")
    assert found is not None
    return found


def run_zarrita(script: str, *arguments: object) -> str:
    """Runs JavaScript in which `zarr` is zarrita.js, `FileSystemStore` its store, and `args` the arguments."""
    require((ZARRITA / "node_modules/zarrita").is_dir(), "zarrita.js (scripts/setup.sh tests installs it)")
    program = f"""
        import * as zarr from "zarrita";
        import FileSystemStore from "@zarrita/storage/fs";
        const args = process.argv.slice(1);
        {script}
    """
    return run(find_program("node"), "--input-type=module", "-e", program, "--", *arguments, cwd=ZARRITA)


def start_python(source: str, *arguments: object) -> "subprocess.Popen[str]":
    """Starts a Python program in a process of its own."""
    return subprocess.Popen(
        [sys.executable, "-c", source, *(str(argument) for argument in arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_all(processes: Iterable["subprocess.Popen[str]"]) -> list[str]:
    """Waits for processes, all of which have to succeed, and returns what they printed."""
    told = [(process, *process.communicate(timeout=DEADLINE_S)) for process in processes]
    assert all(process.returncode == 0 for process, _, _ in told), [error for _, _, error in told]
    return [output for _, output, _ in told]


def files_of(root: Path) -> dict[str, bytes]:
    """Reads every file below a directory, by its path in there."""
    found = {}
    for directory, _, names in os.walk(root):
        for name in names:
            path = Path(directory, name)
            found[path.relative_to(root).as_posix()] = path.read_bytes()
    return found


class Branch:
    """A mounted branch that can be written to, and a plain directory.

    Attributes:
        mount: The mount, of the branch alone or of the whole repository.
        tree: Where the branch is in the mount.
        path: Where the branch is.
        plain: The plain directory.
        repo: The repository.
    """

    def __init__(self, mount: Mount, tree: str, plain: Path, repo: Path) -> None:
        self.mount = mount
        self.tree = tree
        self.path = mount.path / tree
        self.plain = plain
        self.repo = repo
        self._commits = 0

    def session(self) -> icechunk.Session:
        """Opens the branch with the official library."""
        opened = icechunk.Repository.open(icechunk.local_filesystem_storage(str(self.repo)))
        return opened.readonly_session("main")

    def official(self, name: str) -> Any:
        """Opens a node of what is committed, with the official library and zarr-python."""
        return zarr.open(self.session().store, path=name, mode="r")

    def committed_files(self, name: str) -> dict[str, bytes]:
        """Reads every key below a node of what is committed with the official library, by its path in there."""
        return {key.removeprefix(f"{name}/"): data for key, data in read_keys(self.session().store, name).items()}

    def control(self, name: str) -> Any:
        """Reads a JSON control file of the branch."""
        return self.mount.control(name, self.tree)

    def rpc(self, request: dict[str, Any]) -> dict[str, Any]:
        """Asks the branch for something and returns the last it says."""
        return self.mount.rpc(request, self.tree)[-1]

    def commit(self, message: str = "a commit") -> dict[str, Any]:
        """Commits, in turn through the control file and through `rpc`."""
        self._commits += 1
        if self._commits % 2:
            (self.path / ".icefs/commit").write_text(f"{message}\n")
            done = self.control("commit")
        else:
            done = self.rpc({"op": "commit", "message": message})
        assert done.get("ok", done.get("type") == "result"), done
        return dict(done)

    def do(self, name: str, *rounds: Work, untracked: Iterable[str] = ()) -> None:
        """Has work done below a name in the branch and in the plain directory, with a commit after each round.

        Afterwards both hold the same files, the official library reads every one of them byte for byte, and the
        commit has changed neither numbers nor times.

        Args:
            name: The directory to work in; the work makes it.
            rounds: What is done, given the directory.
            untracked: The files below it that no commit takes.
        """
        for number, work in enumerate(rounds):
            work(self.plain / name)
            work(self.path / name)
            self.check_commit(name, f"{name}, round {number}", untracked)

    def check_commit(self, name: str, message: str = "a commit", untracked: Iterable[str] = ()) -> None:
        """Commits what was done below a name here and in the plain directory, and compares the three."""
        before = self.look(name)
        facts = self.commit(message)
        assert set(facts["untracked"]) == {f"{name}/{path}" for path in untracked}
        assert self.look(name) == before
        plain = files_of(self.plain / name)
        assert files_of(self.path / name) == plain
        committed = {_official_key(path): data for path, data in plain.items() if path not in untracked}
        assert self.committed_files(name) == committed
        assert not any(self.control("status.json")["staged"].values())

    def look(self, name: str) -> dict[str, tuple[int, int, int]]:
        """Looks at the numbers, sizes and times of all files below a name; modes are no part of a commit."""
        found = {}
        for path in (self.path / name).rglob("*"):
            if path.is_file():
                stat = path.stat()
                found[path.relative_to(self.path).as_posix()] = (
                    stat.st_ino,
                    stat.st_size,
                    stat.st_mtime_ns,
                )
        return found

    def remove(self, name: str) -> None:
        """Removes what a test has made, from the branch and from the plain directory."""
        shutil.rmtree(self.plain / name, ignore_errors=True)
        if (self.path / name).exists():
            shutil.rmtree(self.path / name)
            if any(self.control("status.json")["staged"].values()):
                self.commit(f"{name} removed")
        assert not (self.path / name).exists()


def _official_key(path: str) -> str:
    """Returns the key by which the official store knows a file: it separates by slashes whatever the array says."""
    above, _, name = path.rpartition("/")
    return f"{above}/{name.replace('.', '/')}" if re.fullmatch(r"c(\.\d+)+", name) else path


def read_keys(store: icechunk.IcechunkStore, prefix: str) -> dict[str, bytes]:
    """Reads all keys below a prefix from an official store."""
    from zarr.core.buffer import default_buffer_prototype
    from zarr.core.sync import sync

    below = f"{prefix}/" if prefix else ""

    async def read() -> dict[str, bytes]:
        found: dict[str, bytes] = {}
        if not await store.exists(f"{below}zarr.json"):
            return found
        async for key in store.list_prefix(below):
            data = await store.get(key, default_buffer_prototype())
            assert data is not None, key
            found[key] = data.to_bytes()
        return found

    return sync(read())


@contextlib.contextmanager
def writable_branch(*, whole: bool = False) -> Iterator[Branch]:
    """Makes a repository with a group at its root, mounts its branch main, and unmounts it again.

    Args:
        whole: Mount the whole repository, with the branch in `branches/main`.
    """
    with scratch_directory() as scratch:
        repo, plain = Path(scratch, "repo"), Path(scratch, "plain")
        WritableRepository.create(open_storage(str(repo))).close()
        plain.mkdir()
        with mounted(repo, branch=None if whole else "main", state_dir=str(Path(scratch, "state"))) as mount:
            branch = Branch(mount, "branches/main" if whole else "", plain, repo)
            zarr.open_group(branch.path, mode="a")
            zarr.open_group(plain, mode="w")
            branch.commit("the root")
            yield branch
            left = branch.control("status.json")
            assert not left["untracked"] + left["invalid"], left
