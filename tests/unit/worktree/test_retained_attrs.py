"""Numbers and times that are kept over commits: a number leads to one path, whatever was renamed."""

from icefs.worktree.model.retained import RetainedAttrs


def kept(entries):
    found = RetainedAttrs()
    for path, (ino, mtime) in entries.items():
        parent, _, name = path.rpartition("/")
        found.add(parent, [(name, ino, mtime)])
    return found


def entries(found):
    for path, attr in found.paths():
        assert found.path_of(attr.ino) == path
    return {path: tuple(attr) for path, attr in found.paths()}


def test_what_was_removed_of_a_renamed_directory_does_not_come_along():
    found = kept({"a/4/8": (1, 1), "a/4/9": (2, 2), "a/4/sub/x": (3, 3), "a/5/9": (4, 4), "a/4": (5, 5)})
    found.follow({"a/4": "a/5", "a/5": "a/4"}, ["a/4/9", "a/4/sub"])
    assert entries(found) == {"a/5/8": (1, 1), "a/4/9": (4, 4), "a/5": (5, 5)}


def test_what_was_moved_out_of_a_renamed_directory_goes_its_own_way():
    found = kept({"a/4/9": (2, 2), "a/4/8": (1, 1), "a/40/1": (7, 7)})
    found.follow({"a/4": "b", "a/4/9": "c/1"}, ["a/4/9"])
    assert entries(found) == {"b/8": (1, 1), "c/1": (2, 2), "a/40/1": (7, 7)}


def test_a_number_leads_to_one_path():
    found = kept({"a/1": (1, 1), "a/2": (2, 2), "b/1": (3, 3)})
    found.forget_numbers([1, 3, 99])
    assert entries(found) == {"a/2": (2, 2)}
    found.forget_numbers([2])
    assert not found
