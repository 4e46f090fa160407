"""The directory `as-of`: what a branch was at a time."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from icefs.clock import read_last_moment, to_datetime, to_micros
from icefs.engine.repository import Repository
from icefs.errors import NotFoundError, StorageError, TreeError
from icefs.format.ids import INITIAL_SNAPSHOT_ID
from icefs.format.layout import snapshot_key
from icefs.vfs.refs.branch_history import BranchHistory, fetch_history
from tests.support.repo_builder import SECOND, START, RepoBuilder, group, snapshot_id
from tests.support.vfs_driver import mounted

DAY = to_datetime(START).date().isoformat()


def history(spec_version=2, commits=4):
    builder = RepoBuilder(spec_version=spec_version)
    for _ in range(commits):
        builder.commit([group("/", 1)])
    return builder


def text_of(micros):
    return to_datetime(micros).isoformat()


def target(number):
    return f"../../snapshots/{snapshot_id(number)}"


async def link(driver, path):
    return await driver.fs.readlink((await driver.walk(path)).ino)


@pytest.mark.parametrize("spec_version", [1, 2])
async def test_a_time_leads_to_what_was_the_tip_then(spec_version):
    async with mounted(history(spec_version).publish()) as driver:
        for number in (1, 2, 3):
            exact = START + number * SECOND
            assert await link(driver, f"as-of/main/{text_of(exact)}") == target(number)
            assert await link(driver, f"as-of/main/{text_of(exact + SECOND - 1)}") == target(number)
        assert await link(driver, f"as-of/main/{DAY}") == target(4)
        assert await link(driver, "as-of/main/9999-12-31") == target(4)
        assert not await driver.exists(f"as-of/main/{text_of(START - 1)}")
        attr = await driver.walk(f"as-of/main/{DAY}")
        assert (attr.size, attr.mtime_ns) == (len(target(4)), (START + 4 * SECOND) * 1000)


async def test_the_days_with_commits_are_listed():
    builder = history()
    async with mounted(builder.publish()) as driver:
        assert await driver.listdir("as-of") == ["main"]
        assert await driver.listdir("as-of/main") == [DAY]
        [_, _, (_, listed)] = await driver.entries((await driver.walk("as-of/main")).ino)
        assert listed == await driver.walk(f"as-of/main/{DAY}")


@pytest.mark.parametrize("name", ["today", "2026-13-01", "2026", ".", "9999-12-31T23:59:59.9999999999Z+", "-1", "main"])
async def test_names_that_are_no_times(name):
    async with mounted(history().publish()) as driver:
        assert not await driver.exists(f"as-of/main/{name}")


async def test_branches_come_and_go():
    builder = history()
    async with mounted(builder.publish()) as driver:
        assert not await driver.exists("as-of/a%2Fb")
        builder.commit([group("/", 1)], branch="a/b", parent=snapshot_id(2))
        builder.publish()
        await driver.mount.follower.refresh()
        assert await link(driver, f"as-of/a%2Fb/{DAY}") == target(5)
        gone = (await driver.walk("as-of/a%2Fb")).ino
        del builder.branches["a/b"]
        builder.publish()
        await driver.mount.follower.refresh()
        assert not await driver.exists("as-of/a%2Fb")
        assert not (await driver.fs.lookup(gone, DAY)).ino


async def test_a_branch_that_moves_is_followed():
    builder = history()
    async with mounted(builder.publish()) as driver:
        assert await link(driver, f"as-of/main/{DAY}") == target(4)
        builder.commit([group("/", 1)])
        builder.publish()
        await driver.mount.follower.refresh()
        assert await link(driver, f"as-of/main/{DAY}") == target(5)
        assert (await driver.walk(f"as-of/main/{DAY}")).entry_timeout_s == 0
        builder.branches["main"] = snapshot_id(2)  # a reset
        builder.publish()
        await driver.mount.follower.refresh()
        assert await link(driver, f"as-of/main/{DAY}") == target(2)


async def test_what_is_no_link_and_what_is_no_directory():
    async with mounted(history().publish()) as driver:
        with pytest.raises(TreeError, match="symbolic link"):
            await driver.fs.readlink((await driver.walk("as-of/main")).ino)
        day = (await driver.walk(f"as-of/main/{DAY}")).ino
        with pytest.raises(TreeError, match="not a directory"):
            await driver.fs.lookup(day, "x")
        with pytest.raises(TreeError, match="not a directory"):
            await driver.fs.opendir(day)


@pytest.mark.parametrize("spec_version", [1])
async def test_a_history_that_ends_in_a_missing_file_is_shown_as_far_as_it_goes(spec_version):
    builder = history(spec_version)
    storage = builder.publish()
    storage.delete([snapshot_key(snapshot_id(2))])
    async with mounted(storage) as driver:
        assert await link(driver, f"as-of/main/{text_of(START + 3 * SECOND)}") == target(3)
        assert await driver.listdir("as-of/main") == [DAY]
        with pytest.raises((StorageError, NotFoundError)):
            await driver.walk(f"as-of/main/{text_of(START + 2 * SECOND)}")


def test_a_history_goes_on_from_one_that_is_known():
    builder = history()
    repository = Repository.open(builder.publish())
    known = BranchHistory.of([snapshot_id(2), snapshot_id(1)], [7, 5])
    found = fetch_history(repository, snapshot_id(4), known)
    assert list(found.ids) == [snapshot_id(number) for number in (4, 3, 2, 1)]
    assert list(found.times) == [START + 4 * SECOND, START + 3 * SECOND, 7, 5]
    whole = fetch_history(repository, snapshot_id(4), BranchHistory.of([snapshot_id(9)], [1]))
    assert list(whole.ids) == [*(snapshot_id(number) for number in (4, 3, 2, 1)), INITIAL_SNAPSHOT_ID][: len(whole.ids)]


@given(st.lists(st.integers(0, 20), min_size=1, max_size=12), st.integers(0, 21))
def test_the_newest_that_is_not_younger_whatever_the_clocks_of_writers(times, asked):
    ids = [snapshot_id(number) for number in range(len(times))]
    position = BranchHistory.of(ids, times).find(asked)
    expected = next((at for at, time in enumerate(times) if time <= asked), None)
    assert position == expected


UNITS = [
    ("2026-01-31", timedelta(days=1)), ("20260131", timedelta(days=1)), ("2026-W05-6", timedelta(days=1)),
    ("2026-01-31T12:00", timedelta(seconds=1)), ("2026-01-31 12:00:00", timedelta(seconds=1)),
    ("2026-01-31T12:00:00Z", timedelta(seconds=1)), ("2026-01-31T13:00:00+01:00", timedelta(seconds=1)),
    ("2026-01-31T12:00:00.000000Z", timedelta(microseconds=1)), ("2026-01-31T12:00:00.5", timedelta(microseconds=1)),
    ("2026-01-31T00:00:00", timedelta(seconds=1)),
]  # fmt: skip


@pytest.mark.parametrize(("text", "span"), UNITS)
def test_what_a_time_stands_for(text, span):
    begin = datetime.fromisoformat(text)
    begin = begin if begin.tzinfo else begin.replace(tzinfo=UTC)
    assert to_micros(read_last_moment(text)) == to_micros(begin + span) - 1


@pytest.mark.parametrize("text", ["", "yesterday", "2026-02-30", "2026", "12:00", "2026-01-31T25:00"])
def test_what_is_no_time(text):
    with pytest.raises(ValueError, match=r"\S"):
        read_last_moment(text)


def test_times_beyond_what_can_be_written_lead_to_the_tip_and_are_not_listed():
    far = (1 << 63) - 1
    found = BranchHistory.of([snapshot_id(2), snapshot_id(1)], [far, START])
    assert found.find(to_micros(read_last_moment(DAY))) == 1
    assert list(found.days) == [START // (86_400 * SECOND)]
