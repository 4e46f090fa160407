"""Damaged files, one kind at a time: both libraries refuse, icefs with an error that names the file."""

import asyncio
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from zarr.core.buffer import default_buffer_prototype

from icefs.errors import IcefsError
from tests.conformance.official import GeneratedRepo, open_official
from tests.conformance.oracle import error_facts
from tests.conformance.reading import open_icefs

FIRST = "1CECHNKREP0F1RSTCMT0"
KEY = "axis/c/9/7"

# Bytes 36, 37 and 38 of a file are the spec version, its type and its compression; the body starts at 39.
DAMAGES: dict[str, Callable[[bytes], bytes | None]] = {
    "missing": lambda data: None,
    "empty": lambda data: b"",
    "half a header": lambda data: data[:20],
    "cut in half": lambda data: data[: 39 + (len(data) - 39) // 2],
    "without its last byte": lambda data: data[:-1],
    "other magic": lambda data: b"X" + data[1:],
    "unknown type": lambda data: data[:37] + b"\x09" + data[38:],
    "type of another file": lambda data: data[:37] + (b"\x01" if data[37] != 1 else b"\x02") + data[38:],
    "unknown spec version": lambda data: data[:36] + b"\x03" + data[37:],
    "spec version 0": lambda data: data[:36] + b"\x00" + data[37:],
    "said not to be compressed": lambda data: data[:38] + b"\x00" + data[39:],
    "garbage behind the header": lambda data: data[:39] + b"garbage" * 20,
    "zeros": lambda data: bytes(len(data)),
}

# Divergence 36: what the official library calls trouble with the disk.
UNREADABLE_BODIES = {"cut in half", "without its last byte", "garbage behind the header"}


def read_refs(repo: Any) -> Any:
    return repo.list_branches()


def read_nodes(repo: Any) -> Any:
    return repo.readonly_session("main").get_node_id("/axis")


def read_changes(repo: Any) -> Any:
    return repo.diff(from_snapshot_id=FIRST, to_branch="main").updated_arrays


def read_chunk(repo: Any) -> Any:
    store = repo.readonly_session("main").store
    return asyncio.run(store.get(KEY, default_buffer_prototype())).to_bytes()


FILES: dict[str, Callable[[Any], Any]] = {
    "repo": read_refs,
    "snapshots": read_nodes,
    "transactions": read_changes,
    "manifests": read_chunk,
}


def damage(path: Path, where: str, how: Callable[[bytes], bytes | None]) -> None:
    """Damages all files of a kind but those of the first snapshot, which both libraries know by heart."""
    for file in [path / where] if where == "repo" else sorted((path / where).iterdir()):
        if file.name == FIRST:
            continue
        data = how(file.read_bytes())
        file.unlink()
        if data is not None:
            file.write_bytes(data)


def ask(opener: Callable[[GeneratedRepo], Any], generated: GeneratedRepo, question: Callable[[Any], Any]) -> Any:
    try:
        return question(opener(generated))
    except Exception as error:
        return error


@pytest.mark.parametrize("how", list(DAMAGES))
@pytest.mark.parametrize(
    ("where", "version"), [(where, version) for where in FILES for version in (1, 2) if (where, version) != ("repo", 1)]
)
def test_a_damaged_file(generated, tmp_path, where, version, how):
    whole = generated(f"split-manifests-v{version}")
    copy = replace(whole, path=tmp_path / "copy")
    shutil.copytree(whole.path, copy.path, copy_function=os.link)  # `damage` replaces files
    damage(copy.path, where, DAMAGES[how])
    official, ours = ask(open_official, copy, FILES[where]), ask(open_icefs, copy, FILES[where])
    assert isinstance(ours, IcefsError), ours
    expected = error_facts(official)
    if how in UNREADABLE_BODIES:
        assert expected == ("StorageError", "io")  # Divergence 36
        expected = ("FormatError", "invalid-file-format")
    elif (how, where) == ("empty", "manifests"):
        assert expected == ("StorageError", "object-store")  # Divergence 36
        expected = ("FormatError", "invalid-file-format")
    elif how == "spec version 0":
        assert expected[0] == "FormatError"
        expected = ("FormatError", "invalid-file-format")
    assert error_facts(ours) == expected
    if expected[0] == "FormatError":
        assert where in ours.facts["file"]
        assert ours.facts["reason"]


@pytest.mark.parametrize("where", [where for where in FILES if where not in {"repo", "snapshots"}])
def test_what_does_not_need_the_damaged_file_still_reads(generated, tmp_path, where):
    whole = generated("split-manifests-v2")
    copy = replace(whole, path=tmp_path / "copy")
    shutil.copytree(whole.path, copy.path, copy_function=os.link)  # `damage` replaces files
    damage(copy.path, where, DAMAGES["zeros"])
    repo, sound = open_icefs(copy), open_icefs(whole)
    for other in FILES.keys() - {where}:
        assert FILES[other](repo) == FILES[other](sound)
    store = repo.readonly_session("main").store
    assert asyncio.run(store.get("axis/zarr.json", default_buffer_prototype())) is not None


@pytest.mark.parametrize("data", [None, b"", b"short"])
def test_a_damaged_chunk(generated, tmp_path, data):
    whole = generated("split-manifests-v2")
    copy = replace(whole, path=tmp_path / "copy")
    shutil.copytree(whole.path, copy.path, copy_function=os.link)  # `damage` replaces files
    assert read_chunk(open_icefs(copy)) == b"resplit too"
    damage(copy.path, "chunks", lambda _: data)
    official, ours = ask(open_official, copy, read_chunk), ask(open_icefs, copy, read_chunk)
    assert error_facts(ours) == ("StorageError", "object-not-found" if data is None else "invalid-object-size")
    if data:
        assert official == data  # Divergence 37
    else:
        assert error_facts(official)[0] == "StorageError"
