"""`make demo`: mounts a small repository, looks around in it with ordinary programs, and unmounts; a few seconds."""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[1]
DEMO_REPOSITORY = PROJECT / "tests/conformance/data/demo-repo"
ICEFS = Path(sys.executable).with_name("icefs")
ARRAY = "weather/temperature"
MOUNT = Path("mnt")


def main() -> int:
    """Runs the demo in a directory of its own, and leaves nothing behind, also when it fails or is interrupted."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    workspace = Path(tempfile.mkdtemp(prefix="icefs-demo-"))
    try:
        os.chdir(workspace)
        os.environ["XDG_STATE_HOME"] = str(workspace / "state")  # the daemon's log
        MOUNT.mkdir()
        shutil.copytree(DEMO_REPOSITORY, "demo-repo")
        tour()
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


def tour() -> None:
    """Mounts, reads and unmounts, saying what it does."""
    icefs("mount", "demo-repo", MOUNT)
    main, warmer, tag = MOUNT / "branches/main", MOUNT / "branches/warmer", MOUNT / "tags/v1.0"
    snapshot = MOUNT / "snapshots" / (tag / ".icefs/head").readlink().name
    for directory in (MOUNT / "branches", main / "weather", tag / "weather", snapshot / "weather"):
        say(f"ls {directory}", " ".join(sorted(path.name for path in directory.iterdir())))
    now = with_zarr_python(main / ARRAY)
    say(f"mean of {main / ARRAY}, by zarr-python", f"{now:.2f} °C")
    what_if = with_tensorstore(warmer / ARRAY)
    say(f"mean of {warmer / ARRAY}, by tensorstore (C++)", f"{what_if:.2f} °C")
    assert abs(what_if - now - 2) < 0.001, "the branch 'warmer' is two degrees warmer"
    icefs("log", "--oneline", warmer)
    icefs("umount", MOUNT)
    assert not MOUNT.is_mount(), "still mounted"


def icefs(*arguments: str | Path) -> None:
    """Runs an icefs command as a user would, and shows both the command and what it prints."""
    words = [str(argument) for argument in arguments]
    print("$ icefs", *words, flush=True)
    subprocess.run([ICEFS, *words], check=True)


def say(what: str, result: str) -> None:
    """Narrates one step."""
    print(f"> {what}: {result}", flush=True)


def with_zarr_python(path: Path) -> float:
    """Reads a whole array with zarr-python and returns its mean."""
    import zarr

    return float(zarr.open_array(path, mode="r")[:].mean())  # type: ignore[union-attr,call-arg]


def with_tensorstore(path: Path) -> float:
    """Reads a whole array with tensorstore, which is C++, and returns its mean."""
    import tensorstore

    store = tensorstore.open(
        {"driver": "zarr3", "kvstore": {"driver": "file", "path": f"{path.resolve()}/"}}, open=True
    ).result()
    return float(store.read().result().mean())


if __name__ == "__main__":
    sys.exit(main())
