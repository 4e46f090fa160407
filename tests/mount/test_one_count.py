"""One count of changes: `status`, `discard`, `sessions` and a commit's result agree on the same tree.

Each round makes random changes, of directories of chunks as a whole above all, drops them, makes them again and commits
them. `ICEFS_SOAK=1` goes on for some minutes.
"""

import json
import os
import random
import shutil
import time

import numpy as np
import pytest
import zarr

from icefs.cli.main import main
from icefs.engine.write.repository import WritableRepository
from icefs.storage.url import open_storage
from icefs.vfs.commit.staged_report import count_changes
from tests.support.counts import check
from tests.support.mounting import mounted
from tests.support.soak import depth

SECONDS = depth(0, 240)
ROUNDS = 8


def directories(root, *, of_chunks):
    """Returns the directories of chunks, or those of nodes, relative to the mount."""
    found = []
    for place, below, names in os.walk(root):
        inner = os.path.relpath(place, root)
        if ".icefs" in below:
            below.remove(".icefs")
        if inner == ".":
            continue
        is_node = "zarr.json" in names
        if is_node != of_chunks and (of_chunks or is_node):
            found.append(inner)
    return sorted(found)


def files(root):
    found = []
    for place, below, names in os.walk(root):
        if ".icefs" in below:
            below.remove(".icefs")
        inner = os.path.relpath(place, root)
        found += [os.path.join(inner, name) for name in names if name != "zarr.json" and "/c/" in f"{inner}/"]
    return sorted(found)


def change(root, rng):
    """Makes one change; returns what it was."""
    kind = rng.choice(["remove", "remove", "rename", "swap", "again", "unlink", "write", "untracked", "array"])
    parts, chunks = directories(root, of_chunks=True), files(root)
    if kind in ("remove", "again") and parts:
        victim = rng.choice(parts)
        shutil.rmtree(root / victim)
        if kind == "again":
            os.mkdir(root / victim)
    elif kind == "rename" and parts:
        source = rng.choice([part for part in parts if part.count("/") >= 2] or parts)
        os.rename(root / source, (root / source).with_name(str(rng.randrange(4, 6))))
    elif kind == "swap" and len(chunks) > 1:
        os.rename(root / rng.choice(chunks), root / rng.choice(chunks))
    elif kind == "unlink" and chunks:
        (root / rng.choice(chunks)).unlink()
    elif kind == "write" and chunks:
        (root / rng.choice(chunks)).write_bytes(rng.randbytes(16))
    elif kind == "untracked":
        (root / f"notes{rng.randrange(3)}").write_text("x")
    elif kind == "array" and (nodes := directories(root, of_chunks=False)):
        node = rng.choice(nodes)
        if rng.random() < 0.5:
            shutil.rmtree(root / node)
        else:
            os.rename(root / node, root / f"r{rng.randrange(1 << 30)}")
    return kind


def attempt(root, seed):
    """Makes the changes of a seed, as far as they are possible."""
    rng = random.Random(seed)
    done = []
    for _ in range(rng.randrange(1, 5)):
        try:
            done.append(change(root, rng))
        except OSError as error:  # the name is taken by a directory with entries
            done.append(str(error))
    return done


def build(repo):
    WritableRepository.create(open_storage(str(repo))).close()


def fill(root):
    for name in ("a", "b"):
        if not (root / name).exists():
            data = np.arange(64, dtype="i4").reshape(8, 8) + 1
            zarr.create_array(str(root / name), data=data, chunks=(2, 2), compressors=None, overwrite=True)
    if not (root / "zarr.json").exists():
        (root / "zarr.json").write_text('{"zarr_format": 3, "node_type": "group", "attributes": {}}')


def test_status_discard_sessions_and_commit_count_the_same(tmp_path, capsys):
    repo, state = tmp_path / "repo", tmp_path / "state"
    build(repo)
    began, number = time.monotonic(), 0
    with mounted(repo, branch="main", state_dir=str(state)) as mount:
        root = mount.path

        def status():
            return mount.control("status.json")

        while number < ROUNDS or time.monotonic() - began < SECONDS:
            number += 1
            fill(root)
            if count_changes(status()):
                assert main(["commit", str(root), "-m", "whole again", "--skip-invalid"]) == 0
                assert main(["discard", str(root), "--all"]) == 0
            capsys.readouterr()
            seed = random.randrange(1 << 30)
            done = seed, attempt(root, seed)
            expected = count_changes(status())
            assert main(["sessions", "--json", "--state-dir", str(state)]) == 0
            listed = json.loads(capsys.readouterr().out)
            assert [one["num_changes"] for one in listed] == ([expected] if listed else []), done
            assert main(["discard", str(root), "--all", "--json"]) == 0
            assert json.loads(capsys.readouterr().out)["discarded"] == expected, done
            assert count_changes(status()) == 0
            attempt(root, seed)
            again = status()
            assert count_changes(again) == expected, done
            code = main(["commit", str(root), "-m", "x", "--json", "--skip-invalid"])
            answer = json.loads(capsys.readouterr().out or "{}")
            left = count_changes(status())
            if code == 0:
                assert answer["nodes"] + answer["chunks"] + left == expected, (done, answer, again)
            else:
                assert left == expected, done
            assert main(["discard", str(root), "--all"]) == 0


def test_what_is_dropped_at_paths_one_after_the_other_adds_up(tmp_path, capsys):
    repo = tmp_path / "repo"
    build(repo)
    with mounted(repo, branch="main") as mount:
        root = mount.path
        fill(root)
        assert main(["commit", str(root), "-m", "made"]) == 0
        shutil.rmtree(root / "a/c/0")
        shutil.rmtree(root / "a/c/1")
        os.mkdir(root / "a/c/1")
        shutil.rmtree(root / "b")
        (root / "a/c/2/3").write_bytes(b"0123456789abcdef")
        (root / "notes").write_text("x")
        expected = count_changes(mount.control("status.json"))
        assert expected == 4 + 4 + 1 + 1 + 1
        capsys.readouterr()
        for path, count in (("a/c/0", 4), ("a/c/2", 1), ("b", 1), ("a", 4), ("notes", 1)):
            assert main(["discard", str(root / path)]) == 0
            assert capsys.readouterr().out == f"dropped {count} change{'s' * (count > 1)}\n"
        assert count_changes(mount.control("status.json")) == 0


@pytest.mark.parametrize("count", [0, 1, 2])
def test_number_and_word_agree_in_what_a_mount_prints(count, tmp_path, capsys):
    """So many chunks are removed with their directory, written, and so many files and nodes are new."""
    repo, state = tmp_path / "repo", tmp_path / "state"
    build(repo)
    array = np.arange(16, dtype="i4").reshape(4, 4) + 1

    def say(*arguments, code=0):
        assert main([str(argument) for argument in arguments]) == code
        captured = capsys.readouterr()
        return check(captured.out + captured.err)

    def change(root):
        if not count:
            return
        shutil.rmtree(root / "a/c/0")
        for number in range(count):
            zarr.create_array(str(root / f"n{number}"), data=array[:count, :count] + 1, chunks=(1, count))
            (root / f"notes{number}").write_text("x")
            (root / f"a/c/1/{number}").write_bytes(b"wrong" * 1000)

    with mounted(repo, branch="main", state_dir=str(state)) as mount:
        root = mount.path
        zarr.create_array(str(root / "a"), data=array, chunks=(1, 4 // max(count, 1)), compressors=None)
        say("commit", root, "-m", "made")
        change(root)
        for line in ("status", root), ("diff", root), ("sessions", "--state-dir", state):
            say(*line)
        assert say("discard", root, "--all") == ([] if not count else [count * (1 + 1 + count + 1) + count])
        change(root)
        say("commit", root, "-m", "changed", code=2 if count else 4)
        say("commit", root, "-m", "changed", "--skip-invalid", code=0 if count else 4)
        assert main(["umount", str(root), "--discard"]) == 0
        dropped = f"dropped {2 * count} changes of branch main\n" if count else ""
        assert capsys.readouterr().out == f"{dropped}unmounted {root}\n"
