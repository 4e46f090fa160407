"""Arrays that are read while a file is laid out: how much fits, and the reason of those that do not."""

from icefs.views.cf.values import SmallArrays


def test_what_does_not_fit_takes_no_room():
    small = SmallArrays(max_elements=10, max_bytes=100)
    assert [small.keep(size) for size in (60, 60, 41, 40, 1)] == [True, False, False, True, False]


def test_the_reason_is_the_array_s_own_or_that_of_the_others():
    small = SmallArrays(max_elements=10, max_bytes=100)
    assert small.refusal(11, 1) == "it has 11 texts of any length, too many to be read while a file is laid out"
    assert small.refusal(10, 101) == "its texts are too large to be read while a file is laid out"
    for reason in (small.refusal(10, 100), small.refusal(10)):
        assert "other arrays of the file leave too little of the 100 bytes" in reason
