"""Directory entries without attributes, and who is sent them."""

import ctypes

from icefs.fuse.bare_entries import SPARSE, EntryBuffer, Listers, _find_node_id


def test_the_node_id_is_found_and_can_be_set_alone():
    buffer = EntryBuffer()
    assert buffer.node_id is not None
    buffer.entry.st_ino = 77
    assert buffer.node_id.value == 77
    buffer.node_id.value = 0
    # What readdir(3) shows stays: the second member of `struct stat`.
    assert ctypes.c_uint64.from_address(id(buffer.entry) + 40).value == 77


def test_an_object_that_looks_otherwise_is_left_alone():
    class Other:
        st_ino = 0

    assert _find_node_id(Other()) is None


def test_a_process_that_looks_nothing_up_gets_no_more_attributes():
    listers = Listers()
    listers.begin(1, pid=10)
    listers.begin(2, pid=20)
    while listers.want_attributes(1):
        assert 0 < listers.next_bare(1) < SPARSE
        listers.sent_bare(1)
        listers.sent_bare(2)
        listers.looked_up(20)
    assert listers.want_attributes(2)
    listers.end(1)
    listers.begin(3, pid=10)
    assert not listers.want_attributes(3)  # it is the same process
    listers.looked_up(10)
    assert listers.want_attributes(3)


def test_only_the_latest_processes_are_remembered():
    listers = Listers()
    for pid in range(1000):
        listers.begin(pid, pid)
        for _ in range(9):
            listers.sent_bare(pid)
        listers.end(pid)
    listers.begin(5000, pid=999)
    listers.begin(5001, pid=1)
    assert not listers.want_attributes(5000)
    assert listers.want_attributes(5001)
