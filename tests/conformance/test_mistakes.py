"""A mistake is the same one with either library: the call that fails, the error's classes, kind, facts and words."""

import warnings
from pathlib import Path

import icechunk
import pytest

import icefs
from tests.conformance import mistakes_repository, mistakes_session, mistakes_store, mistakes_values
from tests.conformance.mistakes import MISTAKES, At, Outcome, key_words, lacking, outcome

GROUPS = (mistakes_repository, mistakes_session, mistakes_store, mistakes_values)

# Programs that come to something else, with the reason. Whether they still do is tested, too.
OTHERWISE: dict[str, str] = {
    # Errors that say more.
    "read_a_damaged_repository": "the message says which file is damaged, and how",
    "read_a_repository_that_is_cut_off": "a damaged file is a FormatError, not a failure of the storage",
    "inspect_a_malformed_snapshot": "a malformed id is one wherever it is given, not an unexpected error",
    "a_virtual_chunk_behind_the_end_of_its_file": "an object that is too short is one, wherever the chunk begins in it",
    "read_of_a_range_backwards": "the official library panics; here it is an invalid range",
    "partial_values_of_a_key_that_is_no_key": "the official library fails on a missing value; here the key is invalid",
    "an_array_of_zarr_two": "the message says that Zarr v2 cannot be stored, not that a key is missing",
    "s3_credentials_from_a_number": "what is no function is a wrong argument, not a failure of the store",
    # Errors that come earlier.
    "read_a_snapshot_that_was_removed": "a session reads its snapshot when it is opened, and fails there",
    "reopen_where_all_was_deleted": "reopening reads the repository, and fails where it is gone",
    "a_session_of_a_snapshot_that_was_collected_meanwhile": "as for any session of a snapshot that is gone",
    "chunks_of_a_group_as_columns": "Divergence 75",
    # Errors where the official library goes on with what nobody means.
    "shift_by_too_few_axes": "Divergence 67",
    "a_chunk_with_too_few_axes": "Divergence 11",
    "virtual_chunks_with_too_few_axes": "Divergence 11",
    "a_store_that_may_not_write": "a store that was asked to be read-only deletes nothing",
    "a_gcs_storage_with_two_kinds_of_credentials": "refused, as two kinds of credentials are for S3 and Azure",
    "gcs_credentials_of_two_kinds": "refused, as two kinds of credentials are for S3 and Azure",
    "size_of_a_missing_key": "the size of a missing key is none, as in zarr-python's own stores",
    # More is possible.
    "size_of_a_missing_directory": "a directory without keys has no bytes, as in zarr-python's own stores",
    "read_of_a_suffix_that_is_too_long": "a suffix that is longer than the value is all of it, as Zarr has it",
    "a_key_with_a_slash_at_its_beginning": "a slash at the beginning of a key is left out",
    "list_of_a_prefix_with_a_slash_at_the_beginning": "a slash at the beginning of a prefix is left out",
    "a_box_of_virtual_chunks_with_lists_as_offsets": "lists are taken as arrays are",
    "s3_credentials_from_a_lambda_that_is_pickled": "a function has to be picklable when something is pickled",
    "a_chunk_type_of_nine": "Divergence 84: the enumerations are Python's, which make members of values",
    "a_version_of_nine": "Divergence 84",
}


@pytest.fixture(autouse=True)
def silent() -> None:
    icechunk.set_logs_filter("off")


def differences(official: Outcome, ours: Outcome) -> list[str]:
    """Returns the ways in which a program came to something else."""
    found = [
        f"{name}: {getattr(official, name)!r} became {getattr(ours, name)!r}"
        for name in ("value", "place", "warned")
        if getattr(official, name) != getattr(ours, name)
    ]
    if official.facts != {name: value for name, value in ours.facts.items() if name in official.facts}:
        found.append(f"facts: {official.facts} became {ours.facts}")
    # An error of the official library without a kind, or of an unknown one, may have one here.
    if official.kind not in (None, "unknown") and official.kind != ours.kind:
        found.append(f"kind: {official.kind} became {ours.kind}")
    if not official.classes <= ours.classes or (ours.classes and not official.classes):
        found.append(f"classes: {sorted(official.classes)} became {sorted(ours.classes)}: {ours.text}")
    # Python's own messages are not the library's.
    if official.classes & {"IcechunkError", "ValueError"} and (lacks := lacking(official, ours)):
        found.append(f"words: {ours.text!r} lacks {lacks} of {official.text!r}")
    return found


@pytest.mark.parametrize("name", list(MISTAKES))
def test_a_mistake_is_the_same_with_either_library(name: str, tmp_path: Path) -> None:
    outcomes = []
    for ic in (icechunk, icefs):
        path = tmp_path / ic.__name__
        path.mkdir()
        outcomes.append(outcome(MISTAKES[name], At(ic, path)))
    found = differences(*outcomes)
    assert bool(found) == (name in OTHERWISE), found or f"{name} is no longer different"


def test_the_rows_are_of_programs_that_there_are() -> None:
    assert OTHERWISE.keys() <= MISTAKES.keys()
    assert len(MISTAKES) >= 350
    assert {module.__name__ for module in GROUPS} == {program.__module__ for program in MISTAKES.values()}


def test_the_comparison_sees_differences(tmp_path: Path) -> None:
    """Every kind of difference is one, for the tests above would pass without that."""
    (tmp_path / "x").mkdir()
    official = outcome(lambda at: at.ic.Repository.open(at.storage()), At(icechunk, tmp_path / "x"))
    assert official.kind == "repository-not-found"
    assert key_words(official.text) == ["repository", "doesn't", "exist"]
    for change in (
        {"value": "done"},
        {"place": (1, 1, 1, 1)},
        {"kind": "io"},
        {"classes": frozenset({"IcechunkError"})},
        {"text": "nothing here"},
        {"warned": ["UserWarning"]},
        {"facts": {"snapshot": "ID"}},
    ):
        changed = Outcome(**{name: getattr(official, name) for name in Outcome.__dataclass_fields__} | change)
        assert differences(official, changed), change
    assert not differences(official, official)


def test_warnings_are_seen(tmp_path: Path) -> None:
    def warns(at: At) -> None:
        warnings.warn("old", DeprecationWarning, stacklevel=1)

    assert outcome(warns, At(icefs, tmp_path)).warned == ["DeprecationWarning"]
