"""Numbers and times of renamed directories, which are computed: a number leads to one path, whatever is renamed."""

from collections.abc import Iterator

from icefs.worktree.model.retained import RetainedAttrs
from icefs.worktree.model.retained_regions import Region, RetainedAttr


class Rows:
    """Ten rows of ten chunks: the number of a path is `first` and its digits; directories are above 100."""

    def __init__(self, first: int) -> None:
        self.first = first
        self.owner: object = self

    def get(self, path: str) -> RetainedAttr | None:
        parts = path.split("/")
        if len(parts) > 2 or not all(part.isdigit() and len(part) == 1 for part in parts):
            return None
        number = int("".join(parts)) + (100 if len(parts) == 1 else 0)
        return RetainedAttr(self.first + number, number)

    def path_of(self, ino: int) -> str | None:
        number = ino - self.first
        if not 0 <= number < 110:
            return None
        return f"{number - 100}" if number >= 100 else f"{number // 10}/{number % 10}"

    def owner_of(self, ino: int) -> object:
        return next((rows for rows in (OLD, OTHER) if rows.path_of(ino) is not None), None)

    def numbers(self) -> Iterator[int]:
        yield self.first


OLD, OTHER = Rows(1000), Rows(2000)


def kept(**regions: Region) -> RetainedAttrs:
    found = RetainedAttrs()
    found.regions.add(regions)
    return found


def follow(found: RetainedAttrs, moves: dict[str, str], gone: list[str]) -> None:
    found.follow(moves, gone)
    found.regions.follow(moves, sorted(gone))


def numbers(found: RetainedAttrs, *paths: str) -> list[int]:
    """Returns the numbers of paths, 0 for none, and asserts that each leads back."""
    told = []
    for path in paths:
        attr = found.get(path)
        told.append(0 if attr is None else attr.ino)
        assert attr is None or found.path_of(attr.ino) == path
    return told


def test_what_is_below_a_region_has_the_numbers_of_its_former_place() -> None:
    found = kept(n=Region(OLD, "4"), m=Region(OLD, ""))
    assert found
    assert numbers(found, "n/2", "n/9", "n/x", "n", "o/2") == [1042, 1049, 0, 0, 0]
    assert numbers(found, "m/3", "m/3/1") == [1103, 1031]
    assert found.path_of(1042) in {"n/2", "m/4/2"}
    assert found.path_of(2042) is None
    assert found.path_of(7) is None
    assert found.has_names("n")
    assert not found.has_names("o")
    assert found.in_directory("n")("7") == RetainedAttr(1047, 47)
    assert list(found.used()) == [1000]


def test_what_was_changed_is_something_else() -> None:
    found = kept(n=Region(OLD, ""))
    found.forget(["n/3/1", "n/5"])
    assert numbers(found, "n/3", "n/3/1", "n/3/2", "n/5", "n/5/0") == [1103, 0, 1032, 0, 0]
    assert found.path_of(1031) is None
    found.add("n/4", [("4", 77, 7)])
    assert numbers(found, "n/4/4", "n/4/5") == [77, 1045]
    assert found.path_of(1044) is None
    assert found.in_directory("n/4")("4") == RetainedAttr(77, 7)
    found.forget(["n/4/4"])
    assert numbers(found, "n/4/4") == [0]
    found.forget(["n"])
    assert not found


def test_regions_are_renamed_again() -> None:
    found = kept(n=Region(OLD, ""))
    found.forget(["n/3/1"])
    follow(found, {"n": "a/b"}, ["n/4/4"])
    assert numbers(found, "a/b/3/1", "a/b/3/2", "a/b/4/4", "a/b/4", "n/3/2") == [0, 1032, 0, 1104, 0]
    follow(found, {"a/b/3": "a/b/7", "a/b/7": "a/b/3"}, ["a/b/3", "a/b/7"])
    assert numbers(found, "a/b/3/0", "a/b/7/1", "a/b/7/2", "a/b/2/2") == [1070, 0, 1032, 1022]
    follow(found, {"a/b": "x", "a/b/3": "y"}, ["a/b/3"])
    assert numbers(found, "x/3/0", "y/0", "x/7/2") == [0, 1070, 1032]


def test_of_two_regions_at_a_place_the_older_has_what_it_knows() -> None:
    found = kept(n=Region(OLD, "4"))
    found.regions.add({"n": Region(OTHER, "5")})
    assert len(found.regions) == 1  # the older one says it all
    found.forget(["n/1"])
    found.regions.add({"n": Region(OTHER, "5"), "m": Region(OTHER, "6")})
    assert numbers(found, "n/1", "n/2", "m/2") == [2051, 1042, 2062]
    follow(found, {"n": "m", "m": "n"}, ["m", "n"])
    assert numbers(found, "m/1", "m/2", "n/2") == [2051, 1042, 2062]


def test_an_inner_region_counts_more() -> None:
    found = kept(n=Region(OLD, ""))
    found.forget(["n/3"])
    found.regions.add({"n/3": Region(OTHER, "6")})
    assert numbers(found, "n/3/1", "n/2/1", "n/3") == [2061, 1021, 0]
    follow(found, {"n": "m"}, [])
    assert numbers(found, "m/3/1", "m/2/1") == [2061, 1021]


def test_a_directory_that_is_renamed_over_and_over_keeps_a_bounded_account() -> None:
    found = kept(n=Region(OLD, "4"))
    for row in range(100):
        found.forget([f"n/{row % 10}"])
        found.regions.add({"n": Region(OTHER, str(row % 10))})
    assert len(found.regions) <= 16
