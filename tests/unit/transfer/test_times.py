"""Numbers of one unit and date become those of another that name the same times, as cftime sees them."""

import cftime
import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from icefs.transfer.files.times import Coding, coding_of, scale_of, translation

CALENDARS = ("standard", "gregorian", "proleptic_gregorian", "julian", "noleap", "365_day", "all_leap", "360_day")
UNITS = ("days", "hours", "minutes", "seconds", "milliseconds")


@st.composite
def dates(draw):
    year, month, day = draw(st.integers(1, 2400)), draw(st.integers(1, 12)), draw(st.integers(1, 28))
    clock = draw(st.sampled_from(["", " 06:00:00", "T12:30", " 01:02:03Z", " 18:00:00 -06:00"]))
    return f"{year:04}-{month:02}-{day:02}{clock}"


@pytest.mark.filterwarnings("ignore:this date/calendar/year zero")  # cftime's word about years before the first
@given(
    calendar=st.sampled_from(CALENDARS),
    units=st.tuples(st.sampled_from(UNITS), st.sampled_from(UNITS)),
    origins=st.tuples(dates(), dates()),
    values=st.lists(st.integers(-(10**5), 10**5), min_size=1, max_size=5),
)
def test_translated_numbers_name_the_same_times(calendar, units, origins, values):
    theirs, ours = (Coding(f"{unit} since {origin}", calendar) for unit, origin in zip(units, origins, strict=True))
    try:
        translate = translation(theirs, ours)
        found = translate(np.array(values, "i8"))
    except ValueError:
        assume(False)
    expected = cftime.num2date(values, theirs.units, calendar)
    assert list(cftime.num2date(found, ours.units, calendar)) == list(expected)


@given(values=st.lists(st.floats(-(10.0**4), 10.0**4), min_size=1), calendar=st.sampled_from(CALENDARS))
def test_floating_point_numbers_name_them_to_half_a_millisecond(values, calendar):
    theirs, ours = Coding("hours since 2000-03-01", calendar), Coding("days since 1900-01-01", calendar)
    given_ = np.array([*values, np.nan])
    found = translation(theirs, ours)(given_)
    back = translation(ours, theirs)(found)
    assert np.abs(back[:-1] - given_[:-1]).max() * 3600 <= 0.001
    assert np.isnan(found[-1])


def test_numbers_that_stand_for_no_time_stay():
    translate = translation(Coding("days since 2000-01-02"), Coding("days since 2000-01-01"), np.array([-1, 9], "i2"))
    assert list(translate(np.array([0, -1, 5], "i2"))) == [1, -1, 6]
    with pytest.raises(ValueError, match="no int16 numbers"):
        translate(np.array([8], "i2"))  # 9, which stands for no time


@pytest.mark.parametrize(
    ("theirs", "ours", "values"),
    [
        (Coding("hours since 2000-01-01"), Coding("days since 2000-01-01"), np.array([25])),
        (Coding("days since 2000-01-01"), Coding("days since 1900-01-01"), np.array([100], "i1")),
        (Coding("seconds since 2000-01-01"), Coding("days since 1900-01-01"), np.array([1], "f4")),
        (Coding("days since 1600-01-01", "proleptic_gregorian"), Coding("days since 1600-01-01"), np.array([-9999])),
    ],
)
def test_numbers_that_the_type_cannot_hold_are_refused(theirs, ours, values):
    with pytest.raises(ValueError, match=r"no .* numbers of"):
        translation(theirs, ours)(values)


def test_the_mixed_calendar_is_the_gregorian_one_from_1582_on():
    translate = translation(Coding("days since 2000-01-02", "proleptic_gregorian"), Coding("days since 2000-01-01"))
    assert list(translate(np.array([1]))) == [2]
    with pytest.raises(ValueError, match="different calendars"):
        translation(Coding("days since 1500-01-01"), Coding("days since 2000-01-01"))
    with pytest.raises(ValueError, match="different calendars"):
        translation(Coding("days since 1500-01-01"), Coding("days since 1500-01-01", "julian"))


@pytest.mark.parametrize(
    ("coding", "match"),
    [
        (Coding("years since 2000-01-01"), "no fixed length"),
        (Coding("days since yesterday"), "not understood"),
        (Coding("days since 2001-02-29"), "no day"),
        (Coding("days since 2000-13-01"), "no day"),
        (Coding("days since 2000-02-30", "all_leap"), "no day"),
        (Coding("days since 2000-01-01", "mayan"), "not known"),
    ],
)
def test_what_is_not_understood_is_an_error(coding, match):
    with pytest.raises(ValueError, match=match):
        scale_of(coding)


def test_bounds_have_the_coding_of_their_coordinate():
    time = {"attributes": {"units": "days since 2000-01-01", "calendar": "Noleap", "bounds": "b"}}
    documents = {
        "g/time": time,
        "g/b": {"attributes": {}},
        "b": {"attributes": {}},
        "g/k": {"attributes": {"units": "K"}},
    }
    coding = Coding("days since 2000-01-01", "noleap")
    assert [coding_of(path, documents) for path in documents] == [coding, coding, None, None]
