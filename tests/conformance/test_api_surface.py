"""Every public name, method and parameter of the official library is there, but for what is listed with its reason."""

import inspect
import logging
import pickle
import re
import traceback
from enum import Enum
from pathlib import Path
from typing import Any

import icechunk
import pytest
import zarr

import icefs

# By class.
MISSING: dict[str, dict[str, str]] = {
    "GCSummary": {"throttled_batches": "the transport waits and tries again, and does not count it"},
    "IcechunkStore": {"set_partial_values": "the official one has no such thing either: it raises"},
    "ManifestPreloadCondition": dict.fromkeys(("False", "NumRefs", "True"), "functions of lower case make them"),
}
# Parameters of functions and methods that are there.
OTHERWISE: dict[str, str] = {}
CLASSES = sorted(name for name in icechunk.__all__ if inspect.isclass(getattr(icechunk, name)) and hasattr(icefs, name))


def is_error(cls: Any) -> bool:
    return issubclass(cls, BaseException)


def public(value: Any) -> set[str]:
    return {name for name in dir(value) if not name.startswith("_")}


def test_names_of_the_module():
    official = set(icechunk.__all__) | public(icechunk)
    missing = {name for name in official if not hasattr(icefs, name)}
    assert missing == set()


@pytest.mark.parametrize("name", CLASSES)
def test_members_of_a_class(name: str):
    official, ours = getattr(icechunk, name), getattr(icefs, name)
    missing = {each for each in public(official) if not hasattr(ours, each)}
    if is_error(official):
        missing -= {"kind", "message"}
        assert {"kind", "message"} <= public(ours("what happened"))
    fields = getattr(ours, "__dataclass_fields__", {})
    assert missing - set(fields) == MISSING.get(name, {}).keys()


# What icefs has besides, which programs that have to run on the official library, too, leave alone.
ADDITIONS = {"cherry_pick", "log", "merge", "restore", "revert", "clone", "pull", "push"}


def test_additions_to_a_repository():
    added = public(icefs.Repository) - public(icechunk.Repository)
    assert added == ADDITIONS | {f"{name}_async" for name in ADDITIONS}


def functions() -> list[tuple[str, Any, Any]]:
    found = [
        (name, getattr(icechunk, name), getattr(icefs, name))
        for name in icechunk.__all__
        if hasattr(icefs, name) and inspect.isroutine(getattr(icechunk, name))
    ]
    for cls in ("ForkSession", "IcechunkStore", "Repository", "Session", "Storage"):
        official, ours = getattr(icechunk, cls), getattr(icefs, cls)
        for name in sorted(public(official) & public(ours)):
            if callable(getattr(official, name)):
                found.append((f"{cls}.{name}", getattr(official, name), getattr(ours, name)))
    return found


@pytest.mark.parametrize(("name", "official", "ours"), functions(), ids=[name for name, *_ in functions()])
def test_parameters_of_a_function(name: str, official: Any, ours: Any):
    theirs, mine = (dict(inspect.signature(each).parameters) for each in (official, ours))
    for each in (theirs, mine):
        each.pop("self", None)
    same = all(
        parameter in mine
        and (mine[parameter].kind, repr(mine[parameter].default)) == (wanted.kind, repr(wanted.default))
        for parameter, wanted in theirs.items()
    )
    positional = [
        [parameter.name for parameter in each.values() if parameter.kind is parameter.POSITIONAL_OR_KEYWORD]
        for each in (theirs, mine)
    ]
    same = same and positional[0] == positional[1][: len(positional[0])]
    assert same != (name in OTHERWISE), (theirs, mine)


def test_what_is_listed_is_missing_still():
    for cls, names in MISSING.items():
        assert not [name for name in names if hasattr(getattr(icefs, cls), name)]


# Special names, texts and calls that programs depend on.

SPECIAL = ("_repr_html_", "__int__", "__iter__", "__len__", "__getitem__", "__add__", "__and__", "__or__")
_SHOWN_AS_TEXT = (
    "Attribution CachingConfig CompressionConfig Conflict FeatureFlag GCSummary ManifestConfig ManifestFileInfo "
    "ManifestPreloadConfig ManifestSplittingConfig ManifestVirtualChunkLocationCompressionConfig ObjectStoreConfig "
    "RepositoryConfig S3Options S3StaticCredentials StorageConcurrencySettings "
    "StorageRetriesSettings StorageSettings StorageTimeoutSettings Update VirtualChunkContainer"
)
SPECIAL_MISSING = {
    **{name: {"_repr_html_"} for name in _SHOWN_AS_TEXT.split()},  # a notebook shows their repr
}


@pytest.mark.parametrize("name", CLASSES)
def test_special_members_of_a_class(name: str):
    official, ours = getattr(icechunk, name), getattr(icefs, name)
    missing = {each for each in SPECIAL if hasattr(official, each) and not hasattr(ours, each)}
    if issubclass(ours, Enum):  # Divergence 84
        missing -= {"__iter__", "__len__", "__getitem__"}
    assert missing == SPECIAL_MISSING.get(name, set())


@pytest.mark.parametrize("name", sorted(public(icechunk.ConflictType)))
def test_kinds_of_conflict_read_alike(name: str):
    official, ours = getattr(icechunk.ConflictType, name), getattr(icefs.ConflictType, name)
    assert (str(ours), repr(ours), int(ours)) == (str(official), repr(official), int(official))


def test_errors_are_made_with_the_official_arguments():
    for ic in (icechunk, icefs):
        rebase = ic.RebaseFailedError("SNAP", [])
        assert (rebase.snapshot, rebase.conflicts, rebase.kind) == ("SNAP", [], "rebase-failed")
        conflict = ic.ConflictError("a", "b")
        assert (conflict.expected_parent, conflict.actual_parent, conflict.kind) == ("a", "b", "commit-conflict")
        nowhere = ic.ConflictError(None, None)
        assert (nowhere.expected_parent, nowhere.actual_parent) == (None, None)
        error = ic.IcechunkError("m", "io")
        assert (error.message, error.kind, str(error)) == ("m", "io", "m")
        assert ic.IcechunkError("m").kind == "unknown"
        with pytest.raises(TypeError):
            ic.IcechunkError()


def shown(ic: Any) -> dict[str, str]:
    """Returns texts that programs and people see, with the library's name taken out."""
    repo = ic.Repository.create(ic.in_memory_storage())
    session = repo.writable_session("main")
    zarr.create_array(session.store, name="a", shape=(2,), chunks=(1,), dtype="i4")[:] = 1
    texts = {
        "writing": session,
        "status": session.status(),
        "writing store": session.store,
        "fork": ic.Repository.create(ic.in_memory_storage()).writable_session("main"),
    }
    found = {name: f"{value}{value!r}" for name, value in texts.items()}
    session.commit("x")
    reader = repo.readonly_session("main")
    first = list(repo.ancestry(branch="main"))[-1].id
    texts = {
        "reading": reader,
        "reading store": reader.store,
        "diff": repo.diff(from_snapshot_id=first, to_branch="main"),
    }
    found |= {name: f"{value}{value!r}" for name, value in texts.items()}
    return {
        name: re.sub(r"icechunk\.session\.|icechunk\.|icefs\.", "", re.sub(r"id: \w+", "id: X", text))
        for name, text in found.items()
    }


def test_values_are_shown_alike():
    assert shown(icefs) == shown(icechunk)


def test_deprecated_ways_say_so(tmp_path: Path):
    for ic in (icechunk, icefs):
        storage = ic.local_filesystem_storage(str(tmp_path / ic.__name__))
        repo = ic.Repository.create(storage)
        with pytest.warns(DeprecationWarning, match="file:///data/"):
            ic.Repository.open(storage, authorize_virtual_chunk_access={"file:///data/": None})
        with pytest.warns(DeprecationWarning, match="chunk_storage_stats"):
            assert repo.total_chunks_storage() == 0


@pytest.mark.parametrize("directive", ["icechunk:debug", "false", "verbose", "nonsense["])
def test_a_filter_of_messages_never_ends_a_program(
    directive: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    caplog.set_level(logging.getLogger("icefs").level, "icefs")  # and back at the end
    icechunk.set_logs_filter(directive)
    with pytest.warns(UserWarning, match="is no level of messages"):
        icefs.set_logs_filter(directive)
    monkeypatch.setenv("ICECHUNK_LOG", directive)
    with pytest.warns(UserWarning, match="ICECHUNK_LOG"):
        icefs.initialize_logs()
    icechunk.set_logs_filter("warn")


def test_what_differs_is_listed():
    """Divergence 81, Divergence 82 and Divergence 84."""
    found = {}
    for ic in (icechunk, icefs):
        storage = ic.in_memory_storage()
        repo = ic.Repository.create(storage)
        session = repo.writable_session("main")
        zarr.open_group(session.store, mode="a").create_group("a")
        session.commit("x")
        slow, quick = repo.writable_session("main"), repo.writable_session("main")
        for each, name in ((slow, "slow"), (quick, "quick")):
            zarr.open_group(each.store).create_group(name)
        quick.commit("quick")
        with pytest.raises(ic.ConflictError) as caught:
            slow.commit("slow")
        moving = repo.rearrange_session("main")
        moving.move("/a", "/b")
        moving.move("/b", "/a")
        found[ic] = (
            type(caught.value) is ic.ConflictError,
            moving.has_uncommitted_changes,
            isinstance(ic.CompressionAlgorithm.Zstd, Enum),
        )
    assert found == {icechunk: (True, True, False), icefs: (False, False, True)}


def test_a_storage_lists_its_objects_alike(tmp_path: Path):
    written = icechunk.local_filesystem_storage(str(tmp_path))
    icechunk.Repository.create(written).create_branch("more", icechunk.Repository.open(written).lookup_branch("main"))
    read = icefs.local_filesystem_storage(tmp_path)
    assert read.list_objects() == sorted(written.list_objects())
    for prefix in ("snapshots", "snapshots/", "refs", "snap"):
        assert read.list_objects(prefix=prefix) == sorted(written.list_objects(prefix=prefix))
        theirs = sorted(written.list_objects_metadata(prefix=prefix), key=lambda each: each.key)
        ours = read.list_objects_metadata(prefix=prefix)
        assert [(each.key, each.size_bytes) for each in ours] == [(each.key, each.size_bytes) for each in theirs]
        # a storage gives times in microseconds
        assert [each.created_at for each in ours] == [each.created_at for each in theirs]


def test_hints_are_in_tracebacks_and_errors_arrive_whole():
    with pytest.raises(icefs.IcechunkError) as caught:
        icefs.Repository.create(icefs.in_memory_storage()).lookup_branch("nope")
    error = caught.value
    assert f"hint: {error.hint}" in traceback.format_exception(error)[-1]
    error.is_transient = True
    error.add_note("said on the way")
    made = [error, icefs.RebaseFailedError("SNAP", []), icefs.ConflictError("a", "b")]
    for before in made:
        after = pickle.loads(pickle.dumps(before))
        assert type(after) is type(before)
        assert (after.message, after.kind, after.hint, after.facts) == (
            before.message,
            before.kind,
            before.hint,
            before.facts,
        )
        assert getattr(after, "__notes__", []) == getattr(before, "__notes__", [])
        assert after.is_transient == before.is_transient


# --- constructors that programs call: options, credentials, settings ---

VALUE_CLASSES = [
    name
    for name in CLASSES
    if name.endswith(("Options", "Settings", "Config", "Credential", "Credentials", "Container"))
    and not is_error(getattr(icechunk, name))
]
POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)


def constructors() -> list[tuple[str, Any, Any]]:
    found = []
    for name in VALUE_CLASSES:
        official, ours = getattr(icechunk, name), getattr(icefs, name)
        variants = [each for each in sorted(public(official)) if inspect.isclass(getattr(official, each))]
        found += [(f"{name}.{each}", getattr(official, each), getattr(ours, each)) for each in variants]
        if not variants:
            found.append((name, official, ours))
    return found


@pytest.mark.parametrize(("name", "official", "ours"), constructors(), ids=[name for name, *_ in constructors()])
def test_constructors_take_the_official_arguments(name: str, official: Any, ours: Any):
    theirs, mine = (list(inspect.signature(each).parameters.values()) for each in (official, ours))
    by_place = [parameter for parameter in theirs if parameter.kind in POSITIONAL]
    for wanted, parameter in zip(by_place, mine, strict=False):
        assert parameter.kind in POSITIONAL
        # `_0` is what a place without a name is called, and what the official library pickles is its own.
        assert wanted.name in (parameter.name, "_0", "_1", "pickled_function"), name
    assert len(mine) >= len(by_place)
    names = {parameter.name for parameter in mine}
    assert names >= {parameter.name for parameter in theirs} - {"_0", "_1", "pickled_function"}
    needed = {parameter.name for parameter in mine if parameter.default is inspect.Parameter.empty}
    given = {parameter.name for parameter in mine[: len(theirs)]}
    assert needed <= given
