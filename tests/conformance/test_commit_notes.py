"""A commit says which arrays the official library cannot read: exactly those."""

from pathlib import Path

import icechunk
import pytest
import zarr

import icefs
from icefs.vfs.notes.chunk_keys import commit_notes
from tests.conformance.official import GROUP

ENCODINGS = {
    "none": None,
    "slash": {"name": "default", "separator": "/"},
    "dot": {"name": "default", "separator": "."},
    "v2 dot": {"name": "v2", "separator": "."},
    "v2 slash": {"name": "v2", "separator": "/"},
}


@pytest.mark.parametrize("name", ENCODINGS)
def test_a_note_is_of_what_the_official_library_cannot_read(name: str, tmp_path: Path):
    repo = icefs.Repository.create(icefs.local_filesystem_storage(str(tmp_path / "repo")))
    session = repo.writable_session("main")
    zarr.create_array(
        session.store, name="a", shape=(4, 4), chunks=(2, 2), dtype="i4", chunk_key_encoding=ENCODINGS[name]
    )[:] = 7
    written = session._engine.node("/a").user_data
    session.commit("x")
    official = icechunk.Repository.open(icechunk.local_filesystem_storage(str(tmp_path / "repo")))
    try:
        found = zarr.open_array(official.readonly_session("main").store, path="a")[:]
        is_read = bool((found == 7).all())
    except icechunk.IcechunkError:
        is_read = False
    assert is_read == (name in {"none", "slash"})
    notes = commit_notes({"/": GROUP, "/a": written})
    assert bool(notes) == (not is_read)
    assert all(note.startswith("/a: the official library cannot read its chunks") for note in notes)


def test_notes_of_very_many_arrays_are_few():
    bad = b'{"zarr_format":3,"node_type":"array","chunk_key_encoding":{"name":"v2"}}'
    notes = commit_notes({f"/{number}": bad for number in range(50)})
    assert (len(notes), notes[-1]) == (21, "and 30 more arrays")
