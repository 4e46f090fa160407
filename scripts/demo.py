"""`make demo`: mounts a small repository, looks around in it with ordinary programs, and unmounts; a few seconds."""

import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

PROJECT = Path(__file__).resolve().parents[1]
DEMO_REPOSITORY = PROJECT / "tests/conformance/data/demo-repo"
ICEFS = Path(sys.executable).with_name("icefs")
ARRAY = "weather/temperature"


def main() -> int:
    """Runs the demo and cleans up after it, also when it fails or is interrupted."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    workspace = Path(tempfile.mkdtemp(prefix="icefs-demo-"))
    mountpoint = workspace / "mnt"
    try:
        mountpoint.mkdir()
        shutil.copytree(DEMO_REPOSITORY, workspace / "repo")
        tour(workspace / "repo", mountpoint)
    except (AssertionError, OSError, subprocess.CalledProcessError) as exc:
        print(f"demo: failed: {exc}", file=sys.stderr)
        return 1
    finally:
        if mountpoint.is_mount():
            subprocess.run([ICEFS, "umount", "--lazy", mountpoint], check=False)
        shutil.rmtree(workspace, ignore_errors=True)
    return 0


def tour(repository: Path, mountpoint: Path) -> None:
    """Mounts, reads and unmounts, saying what it does."""
    icefs("mount", repository, mountpoint)
    trees = {name: mountpoint / kind / name for kind, name in REFS}
    for name, tree in trees.items():
        say(f"ls {tree.parent.name}/{name}/weather", listing(tree / "weather"))
    snapshots = sorted((mountpoint / "snapshots").iterdir())
    first = next(path for path in snapshots if not (path / "zarr.json").exists())
    say(f"ls snapshots/ | wc -l; ls snapshots/{first.name}", f"{len(snapshots)}; it was empty then")
    before = with_zarr_python(trees["main"] / ARRAY)
    say(f"zarr-python: mean of branches/main/{ARRAY}", f"{before:.2f} °C")
    after = with_tensorstore(trees["warmer"] / ARRAY)
    say(f"tensorstore (C++): mean of branches/warmer/{ARRAY}", f"{after:.2f} °C")
    assert abs(after - before - 2) < 0.001, "the branch 'warmer' is two degrees warmer"
    icefs("log", "--oneline", trees["warmer"])
    icefs("umount", mountpoint)
    assert not mountpoint.is_mount(), "unmounted"


REFS = (("branches", "main"), ("tags", "v1.0"), ("branches", "warmer"))


def icefs(*arguments: Any) -> None:
    """Runs an icefs command as a user would, and shows both the command and what it prints."""
    words = [str(argument) for argument in arguments]
    print("$ icefs", *words, flush=True)
    subprocess.run([ICEFS, *words], check=True)


def say(what: str, result: str) -> None:
    """Narrates one step."""
    print(f"> {what}: {result}", flush=True)


def listing(directory: Path) -> str:
    """Lists a directory in one line."""
    return " ".join(sorted(path.name + "/" * path.is_dir() for path in directory.iterdir()))


def with_zarr_python(path: Path) -> float:
    """Reads a whole array with zarr-python and returns its mean."""
    import zarr

    return float(zarr.open_array(path, mode="r")[:].mean())  # type: ignore[union-attr,call-arg]


def with_tensorstore(path: Path) -> float:
    """Reads a whole array with tensorstore, which is C++, and returns its mean."""
    import tensorstore

    store = tensorstore.open({"driver": "zarr3", "kvstore": {"driver": "file", "path": f"{path}/"}}, open=True).result()
    return float(store.read().result().mean())


if __name__ == "__main__":
    sys.exit(main())
