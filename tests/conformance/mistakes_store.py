"""Mistakes with stores: keys, values, ranges and virtual chunks."""

from datetime import UTC, datetime

import numpy as np
import zarr
from zarr.abc.store import OffsetByteRequest, RangeByteRequest, SuffixByteRequest
from zarr.core.buffer import cpu, default_buffer_prototype
from zarr.core.sync import sync

from tests.conformance.mistakes import At, collected, get, mistake, put
from tests.conformance.official import GROUP, array_json


@mistake
def an_array_that_is_not_there(at: At) -> object:
    return zarr.open_array(at.reading().store, path="nope", mode="r")


@mistake
def a_group_that_is_not_there(at: At) -> object:
    return zarr.open_group(at.reading().store, path="nope", mode="r")


@mistake
def a_group_opened_as_array(at: At) -> object:
    return zarr.open_array(at.reading().store, path="g", mode="r")


@mistake
def an_array_opened_as_group(at: At) -> object:
    return zarr.open_group(at.reading().store, path="a", mode="r")


@mistake
def an_array_made_in_a_reading_session(at: At) -> object:
    return zarr.create_array(at.reading().store, name="n", shape=(1,), dtype="i4")


@mistake
def an_array_made_twice(at: At) -> object:
    session = at.writing()
    return zarr.create_array(session.store, name="a", shape=(1,), dtype="i4")


@mistake
def an_array_opened_for_writing_in_a_reading_session(at: At) -> object:
    return zarr.open_array(at.reading().store, path="a", mode="r+")


@mistake
def an_array_written_in_a_reading_session(at: At) -> object:
    array = zarr.open_array(at.reading().store, path="g/b", mode="r")
    array[0] = 1


@mistake
def an_array_of_zarr_two(at: At) -> object:
    return zarr.create_array(at.writing().store, name="n", shape=(1,), dtype="i4", zarr_format=2)


@mistake
def a_chunk_of_a_missing_array(at: At) -> object:
    return put(at.writing(), "nope/c/0")


@mistake
def a_chunk_of_a_group(at: At) -> object:
    return put(at.writing(), "g/c/0")


@mistake
def a_chunk_outside_of_the_array(at: At) -> object:
    return put(at.writing(), "a/c/4/0")


@mistake
def a_chunk_with_too_few_axes(at: At) -> object:
    return put(at.writing(), "a/c/0")


@mistake
def an_empty_chunk(at: At) -> object:
    return put(at.writing(), "a/c/0/0", b"")


@mistake
def a_key_that_is_no_key(at: At) -> object:
    return put(at.writing(), "a/notes.txt")


@mistake
def an_empty_key(at: At) -> object:
    return put(at.writing(), "")


@mistake
def a_key_with_a_slash_at_its_beginning(at: At) -> object:
    return put(at.writing(), "/a/c/0/0")


@mistake
def a_key_of_zarr_two(at: At) -> object:
    return put(at.writing(), "a/.zarray", b"{}")


@mistake
def metadata_that_is_no_document(at: At) -> object:
    return put(at.writing(), "n/zarr.json", b"nonsense")


@mistake
def metadata_of_an_unknown_node_type(at: At) -> object:
    return put(at.writing(), "n/zarr.json", b'{"zarr_format":3,"node_type":"table"}')


@mistake
def metadata_of_an_array_without_shape(at: At) -> object:
    return put(at.writing(), "n/zarr.json", b'{"zarr_format":3,"node_type":"array"}')


@mistake
def a_group_in_place_of_an_array(at: At) -> object:
    return put(at.writing(), "a/zarr.json", GROUP)


@mistake
def an_array_in_place_of_a_group(at: At) -> object:
    return put(at.writing(), "g/zarr.json", array_json([1], [1]))


@mistake
def a_value_that_is_bytes(at: At) -> object:
    return sync(at.writing().store.set("a/c/0/0", b"data"))


@mistake
def a_value_that_is_text(at: At) -> object:
    return sync(at.writing().store.set("a/c/0/0", "data"))


@mistake
def a_key_that_is_a_number(at: At) -> object:
    return sync(at.writing().store.set(3, cpu.Buffer.from_bytes(b"data")))


@mistake
def read_of_a_key_that_is_no_key(at: At) -> object:
    return get(at.reading(), "a/notes.txt")


@mistake
def read_of_an_empty_key(at: At) -> object:
    return get(at.reading(), "")


@mistake
def read_of_a_missing_chunk(at: At) -> object:
    return get(at.reading(), "a/c/3/3")


@mistake
def read_of_a_chunk_outside_of_the_array(at: At) -> object:
    return get(at.reading(), "a/c/30/30")


@mistake
def read_of_a_missing_node(at: At) -> object:
    return get(at.reading(), "nope/zarr.json")


@mistake
def read_from_behind_the_end(at: At) -> object:
    return get(at.reading(), "a/c/0/0", OffsetByteRequest(100))


@mistake
def read_of_a_range_behind_the_end(at: At) -> object:
    return get(at.reading(), "a/c/0/0", RangeByteRequest(100, 110))


@mistake
def read_of_a_range_backwards(at: At) -> object:
    return get(at.reading(), "a/c/0/0", RangeByteRequest(3, 1))


@mistake
def read_of_a_suffix_that_is_too_long(at: At) -> object:
    return get(at.reading(), "a/c/0/0", SuffixByteRequest(100))


@mistake
def read_of_a_slice(at: At) -> object:
    return get(at.reading(), "a/c/0/0", slice(0, 2))


@mistake
def read_of_a_tuple(at: At) -> object:
    return get(at.reading(), "a/c/0/0", (0, 2))


@mistake
def partial_values_of_a_key_that_is_no_key(at: At) -> object:
    store = at.reading().store
    return sync(store.get_partial_values(default_buffer_prototype(), [("a/notes.txt", None)]))


@mistake
def size_of_a_missing_key(at: At) -> object:
    return sync(at.reading().store.getsize("a/c/3/3"))


@mistake
def size_of_a_missing_directory(at: At) -> object:
    return sync(at.reading().store.getsize_prefix("nope"))


@mistake
def existence_of_a_key_that_is_no_key(at: At) -> object:
    return sync(at.reading().store.exists("a/notes.txt"))


@mistake
def list_of_a_missing_directory(at: At) -> object:
    return collected(at.reading().store.list_dir("nope"))


@mistake
def list_with_a_slash_at_the_beginning(at: At) -> object:
    return sorted(collected(at.reading().store.list_dir("/a")))


@mistake
def list_of_a_prefix_with_a_slash_at_the_beginning(at: At) -> object:
    return sorted(collected(at.reading().store.list_prefix("/a")))


@mistake
def delete_of_a_missing_chunk(at: At) -> object:
    return sync(at.writing().store.delete("a/c/3/3"))


@mistake
def delete_of_a_missing_node(at: At) -> object:
    return sync(at.writing().store.delete("nope/zarr.json"))


@mistake
def delete_of_a_key_that_is_no_key(at: At) -> object:
    return sync(at.writing().store.delete("a/notes.txt"))


@mistake
def delete_in_a_reading_session(at: At) -> object:
    return sync(at.reading().store.delete("a/c/0/0"))


@mistake
def delete_of_a_directory_in_a_reading_session(at: At) -> object:
    return sync(at.reading().store.delete_dir("a"))


@mistake
def delete_of_a_missing_directory(at: At) -> object:
    return sync(at.writing().store.delete_dir("nope"))


@mistake
def clear_of_a_reading_session(at: At) -> object:
    return sync(at.reading().store.clear())


@mistake
def synchronous_clear_of_a_reading_session(at: At) -> object:
    return at.reading().store.sync_clear()


@mistake
def set_if_not_exists_of_a_key_that_is_no_key(at: At) -> object:
    return sync(at.writing().store.set_if_not_exists("a/notes.txt", cpu.Buffer.from_bytes(b"x")))


@mistake
def a_store_that_may_not_write(at: At) -> object:
    return sync(at.writing().store.with_read_only(read_only=True).delete("a/c/0/0"))


@mistake
def a_reading_store_made_writable(at: At) -> object:
    return sync(at.reading().store.with_read_only(read_only=False).delete("a/c/0/0"))


@mistake
def a_store_compared_with_text(at: At) -> object:
    return at.reading().store == "store"


# Virtual chunks

_PLACE = "file:///data/x.bin"


def configured(at: At, *, authorized: bool = True) -> object:
    """Creates a repository with a virtual chunk container, and returns a writable session."""
    ic, url = at.ic, f"file://{at.path}/data/"
    (at.path / "data").mkdir()
    (at.path / "data" / "x.bin").write_bytes(b"0123456789")
    config = ic.RepositoryConfig.default()
    config.set_virtual_chunk_container(ic.VirtualChunkContainer(url, ic.local_filesystem_store(str(at.path))))
    access = ic.containers_credentials({url: ic.credentials.LocalFileSystemAccess}) if authorized else None
    repo = at.create(config=config, authorize_virtual_chunk_access=access)
    return repo.writable_session("main")


def place(at: At, name: str = "x.bin") -> str:
    return f"file://{at.path}/data/{name}"


@mistake
def a_virtual_chunk_without_container(at: At) -> object:
    return at.writing().store.set_virtual_ref("a/c/0/0", _PLACE, offset=0, length=4)


@mistake
def a_virtual_chunk_without_container_that_is_not_checked(at: At) -> object:
    session = at.writing()
    session.store.set_virtual_ref("a/c/0/0", _PLACE, offset=0, length=4, validate_container=False)
    return get(session, "a/c/0/0")


@mistake
def a_virtual_chunk_that_is_not_authorized(at: At) -> object:
    session = configured(at, authorized=False)
    session.store.set_virtual_ref("a/c/0/0", place(at), offset=0, length=4)
    return get(session, "a/c/0/0")


@mistake
def a_virtual_chunk_of_a_missing_file(at: At) -> object:
    session = configured(at)
    session.store.set_virtual_ref("a/c/0/0", place(at, "nope.bin"), offset=0, length=4)
    return get(session, "a/c/0/0")


@mistake
def a_virtual_chunk_behind_the_end_of_its_file(at: At) -> object:
    session = configured(at)
    session.store.set_virtual_ref("a/c/0/0", place(at), offset=100, length=4)
    return get(session, "a/c/0/0")


@mistake
def a_virtual_chunk_that_is_longer_than_its_file(at: At) -> object:
    session = configured(at)
    session.store.set_virtual_ref("a/c/0/0", place(at), offset=8, length=4)
    return get(session, "a/c/0/0")


@mistake
def a_virtual_chunk_that_was_modified(at: At) -> object:
    session = configured(at)
    session.store.set_virtual_ref("a/c/0/0", place(at), offset=0, length=4, checksum=datetime(2001, 1, 1, tzinfo=UTC))
    return get(session, "a/c/0/0")


@mistake
def a_virtual_chunk_with_another_tag(at: At) -> object:
    session = configured(at)
    session.store.set_virtual_ref("a/c/0/0", place(at), offset=0, length=4, checksum="nope")
    return get(session, "a/c/0/0")


@mistake
def a_virtual_chunk_in_a_reading_session(at: At) -> object:
    return at.reading().store.set_virtual_ref("a/c/0/0", _PLACE, offset=0, length=4, validate_container=False)


@mistake
def virtual_metadata(at: At) -> object:
    return at.writing().store.set_virtual_ref("a/zarr.json", _PLACE, offset=0, length=4, validate_container=False)


@mistake
def a_virtual_chunk_of_a_missing_array(at: At) -> object:
    return at.writing().store.set_virtual_ref("nope/c/0", _PLACE, offset=0, length=4, validate_container=False)


@mistake
def a_virtual_chunk_outside_of_the_array(at: At) -> object:
    return at.writing().store.set_virtual_ref("a/c/9/9", _PLACE, offset=0, length=4, validate_container=False)


@mistake
def a_virtual_chunk_under_a_key_that_is_no_key(at: At) -> object:
    return at.writing().store.set_virtual_ref("a/notes.txt", _PLACE, offset=0, length=4, validate_container=False)


@mistake
def a_virtual_chunk_at_a_location_without_scheme(at: At) -> object:
    return at.writing().store.set_virtual_ref("a/c/0/0", "x.bin", offset=0, length=4, validate_container=False)


@mistake
def a_virtual_chunk_of_an_unknown_scheme(at: At) -> object:
    return at.writing().store.set_virtual_ref("a/c/0/0", "ftp://h/x", offset=0, length=4, validate_container=False)


@mistake
def a_virtual_chunk_at_a_negative_offset(at: At) -> object:
    return at.writing().store.set_virtual_ref("a/c/0/0", _PLACE, offset=-1, length=4, validate_container=False)


@mistake
def a_virtual_chunk_with_an_offset_as_text(at: At) -> object:
    return at.writing().store.set_virtual_ref("a/c/0/0", _PLACE, offset="0", length=4, validate_container=False)


@mistake
def a_virtual_chunk_without_length(at: At) -> object:
    return at.writing().store.set_virtual_ref("a/c/0/0", _PLACE, offset=0)


@mistake
def a_virtual_chunk_of_no_bytes(at: At) -> object:
    return at.writing().store.set_virtual_ref("a/c/0/0", _PLACE, offset=0, length=0, validate_container=False)


@mistake
def a_virtual_chunk_with_a_number_as_checksum(at: At) -> object:
    return at.writing().store.set_virtual_ref(
        "a/c/0/0", _PLACE, offset=0, length=4, checksum=3, validate_container=False
    )


@mistake
def virtual_chunks_without_container(at: At) -> object:
    spec = at.ic.VirtualChunkSpec([0, 0], _PLACE, 0, 4)
    return at.writing().store.set_virtual_refs("a", [spec])


@mistake
def virtual_chunks_of_a_missing_array(at: At) -> object:
    spec = at.ic.VirtualChunkSpec([0, 0], _PLACE, 0, 4)
    return at.writing().store.set_virtual_refs("nope", [spec], validate_containers=False)


@mistake
def virtual_chunks_in_a_reading_session(at: At) -> object:
    spec = at.ic.VirtualChunkSpec([0, 0], _PLACE, 0, 4)
    return at.reading().store.set_virtual_refs("a", [spec], validate_containers=False)


@mistake
def virtual_chunks_that_are_tuples(at: At) -> object:
    return at.writing().store.set_virtual_refs("a", [([0, 0], _PLACE, 0, 4)])


@mistake
def virtual_chunks_with_too_few_axes(at: At) -> object:
    spec = at.ic.VirtualChunkSpec([0], _PLACE, 0, 4)
    return at.writing().store.set_virtual_refs("a", [spec], validate_containers=False)


@mistake
def a_box_of_virtual_chunks_with_too_few_locations(at: At) -> object:
    numbers = np.zeros(4, np.uint64)
    return at.writing().store.set_virtual_refs_arr("a", (2, 2), [_PLACE] * 3, numbers, numbers + np.uint64(1))


@mistake
def a_box_of_virtual_chunks_with_too_few_offsets(at: At) -> object:
    numbers = np.zeros(3, np.uint64)
    return at.writing().store.set_virtual_refs_arr("a", (2, 2), [_PLACE] * 4, numbers, numbers + np.uint64(1))


@mistake
def a_box_of_virtual_chunks_with_an_offset_of_other_axes(at: At) -> object:
    numbers = np.zeros(1, np.uint64)
    return at.writing().store.set_virtual_refs_arr(
        "a", (1, 1), [_PLACE], numbers, numbers + np.uint64(1), arr_offset=(1,)
    )


@mistake
def a_box_of_virtual_chunks_with_lists_as_offsets(at: At) -> object:
    return at.writing().store.set_virtual_refs_arr("a", (1, 1), [_PLACE], [0], [1], validate_containers=False)


@mistake
def chunks_of_a_group_as_columns(at: At) -> object:
    return collected(at.reading().store.array_chunk_iterator("g"))
