"""`make demo`: the whole story in under a minute: write, commit, look back, meet a conflict and settle it."""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

ICEFS = Path(sys.executable).with_name("icefs")
REPOSITORY, MOUNT = Path("weather"), Path("mnt")
BRANCH = MOUNT / "branches/main"
DAYS, SHAPE = 30, (18, 36)
CONFLICT = 5


def main() -> int:
    """Runs the demo in a directory of its own, and leaves nothing behind, also when it fails or is interrupted."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    workspace = Path(tempfile.mkdtemp(prefix="icefs-demo-"))
    try:
        os.chdir(workspace)
        os.environ["XDG_STATE_HOME"] = str(workspace / "state")  # working trees, and the daemon's log
        MOUNT.mkdir()
        story()
    except (AssertionError, OSError, subprocess.CalledProcessError) as exc:
        print(f"demo: failed: {exc}", file=sys.stderr)
        for log in Path("state").rglob("*.log"):
            print(log.read_text(), file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    finally:
        os.chdir("/")
        if f" {workspace / MOUNT} " in Path("/proc/mounts").read_text():  # is_mount() is false for a dead one
            subprocess.run([ICEFS, "umount", "--lazy", workspace / MOUNT], check=False)
        shutil.rmtree(workspace, ignore_errors=True)
    return 0


def story() -> None:
    """Tells it."""
    say("An empty repository, and its branches, tags and snapshots as directories:")
    icefs("init", REPOSITORY)
    icefs("mount", REPOSITORY, MOUNT)

    say("zarr-python writes a month of temperature, as it would to any directory:")
    with_zarr_python(BRANCH)
    icefs("status", BRANCH)
    icefs("commit", BRANCH, "-m", "A month of temperature")
    first = (BRANCH / ".icefs/head").readlink().name

    say("tensorstore (C++) makes the first day five degrees warmer:")
    with_tensorstore(BRANCH / "temperature", 5)
    icefs("diff", BRANCH)
    icefs("commit", BRANCH, "-m", "A correction", "--meta", "author=Ada")

    say("Both versions are there, and every one before:")
    icefs("log", "--oneline", BRANCH)
    then, now = mean(MOUNT / "snapshots" / first / "temperature"), mean(BRANCH / "temperature")
    say(f"mean of the first day: {then:.1f} °C in snapshots/{first}, {now:.1f} °C in branches/main")
    assert (then, now) == (10, 15)

    say("Meanwhile somebody else, with the official icechunk library, commits to the same chunk as we write to:")
    somebody_else()
    with_tensorstore(BRANCH / "temperature", 2)
    icefs("commit", BRANCH, "-m", "Another correction", expected=CONFLICT)
    icefs("rebase", BRANCH, expected=CONFLICT)
    say("Nothing is lost, nothing was overwritten. We decide that ours counts:")
    icefs("rebase", "--ours", BRANCH)
    icefs("commit", BRANCH, "-m", "Another correction")
    icefs("log", "--oneline", BRANCH)
    say(f"mean of the first day, read by the official library: {officially():.1f} °C")
    assert officially() == mean(BRANCH / "temperature") == 17
    icefs("umount", MOUNT)
    assert not MOUNT.is_mount(), "still mounted"


def icefs(*arguments: str | Path, expected: int = 0) -> None:
    """Runs an icefs command as a user would, and shows both the command and what it prints."""
    words = [str(argument) for argument in arguments]
    print("$ icefs", *(f"'{word}'" if " " in word else word for word in words), flush=True)
    done = subprocess.run([ICEFS, *words], check=False, stderr=subprocess.STDOUT)
    if done.returncode != expected:
        raise subprocess.CalledProcessError(done.returncode, ["icefs", *words])


def say(text: str) -> None:
    """Narrates one step."""
    print(f"# {text}", flush=True)


def with_zarr_python(directory: Path) -> None:
    """Writes a group with one array of a chunk a day."""
    import zarr

    group = zarr.create_group(directory, attributes={"title": "Made-up weather"})
    array = group.create_array("temperature", shape=(DAYS, *SHAPE), chunks=(1, *SHAPE), dtype="f4")
    array[:] = np.linspace(10, 20, DAYS, dtype="f4")[:, None, None]


def with_tensorstore(path: Path, degrees: float) -> None:
    """Makes the first day warmer."""
    store = _open(path)
    store[0] = store[0].read().result() + degrees


def mean(path: Path) -> float:
    """Reads the first day."""
    return float(_open(path)[0].read().result().mean())


def _open(path: Path):  # noqa: ANN202  (tensorstore's types are not known here)
    import tensorstore

    spec = {"driver": "zarr3", "kvstore": {"driver": "file", "path": f"{path.resolve()}/"}}
    return tensorstore.open(spec, open=True).result()


def somebody_else() -> None:
    """Commits a change of the first day with the official library."""
    import zarr

    session = _official().writable_session("main")
    zarr.open_array(session.store, path="temperature")[0] = 11
    session.commit("Somebody else's correction")


def officially() -> float:
    """Reads the first day with the official library."""
    import zarr

    array = zarr.open_array(_official().readonly_session("main").store, path="temperature", mode="r")
    return float(np.mean(array[0]))  # type: ignore[arg-type]


def _official():  # noqa: ANN202
    import icechunk

    icechunk.set_logs_filter("error")  # it warns of local repositories, which two programs may use at once
    return icechunk.Repository.open(icechunk.local_filesystem_storage(str(REPOSITORY.resolve())))


if __name__ == "__main__":
    sys.exit(main())
