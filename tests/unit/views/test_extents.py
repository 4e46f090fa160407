"""Files put together from extents, against plain bytes."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from icefs.views.extents import ElementSource, ExtentLayout, Literal
from icefs.views.interface import Elements, Extent

TYPES = ["u1", "<i2", ">i2", "<f4", ">f8", "<c8", "M8[s]", "S3"]


class PlainElements(Elements):
    """The elements of an array in memory."""

    def __init__(self, array):
        self._flat = array.reshape(-1)
        self.shape, self.dtype, self.chunk_shape = array.shape, array.dtype, array.shape

    def read(self, start, stop):
        assert 0 <= start <= stop <= len(self._flat)
        found = self._flat[start:stop].view()
        found.flags.writeable = False
        return found

    def at_hand(self, start, stop):
        return self.read(start, stop) if start % 2 else None

    def chunk(self, index):
        return self._flat.reshape(self.shape)


@st.composite
def sources(draw):
    """A source, and the bytes that it should have."""
    if draw(st.booleans()):
        data = draw(st.binary(max_size=20))
        return Literal(data), data
    array = np.arange(draw(st.integers(0, 30)), dtype="i8")
    first = draw(st.integers(0, len(array)))
    count = draw(st.integers(0, len(array) - first))
    dtype = np.dtype(draw(st.sampled_from(TYPES)))
    convert = draw(st.sampled_from([None, np.negative]))
    run = array[first : first + count]
    expected = (run if convert is None else convert(run)).astype(dtype).tobytes()
    return ElementSource(PlainElements(array), dtype, convert, first=first, count=count), expected


@given(st.lists(st.tuples(sources(), st.integers(0, 9)), max_size=5), st.integers(0, 9), st.data())
def test_any_range_is_that_of_the_plain_bytes(parts, tail, data):
    plain, extents = b"", []
    for (source, expected), gap in parts:
        plain += bytes(gap)
        extents.append(Extent(len(plain), len(expected), source))
        plain += expected
    layout = ExtentLayout(extents, len(plain) + tail)
    plain += bytes(tail)
    assert layout.size == len(plain)
    assert bytes(layout.read(0, len(plain))) == plain
    for _ in range(5):
        offset, size = data.draw(st.integers(0, len(plain) + 3)), data.draw(st.integers(0, len(plain) + 3))
        assert bytes(layout.read(offset, size)) == plain[offset : offset + size]
        at_hand = layout.at_hand(offset, size)
        assert at_hand is None or bytes(at_hand) == plain[offset : offset + size]


def test_the_size_is_the_end_of_the_last_extent_by_default():
    assert ExtentLayout([Extent(3, 2, Literal(b"ab"))]).size == 5
    assert ExtentLayout([]).size == 0
    assert bytes(ExtentLayout([], 4).read(1, 9)) == bytes(3)


def test_a_source_of_all_elements():
    array = np.arange(12, dtype="<u2").reshape(3, 4)
    source = ElementSource(PlainElements(array), np.dtype(">u2"))
    assert source.size == 24
    assert bytes(source.read(1, 24)) == array.astype(">u2").tobytes()[1:]
    assert bytes(ElementSource(PlainElements(array)).read(3, 8)) == array.tobytes()[3:8]


@pytest.mark.parametrize("offsets", [(0, 1), (4, 0)])
def test_extents_that_overlap_or_are_not_ordered_are_refused(offsets):
    with pytest.raises(ValueError, match="begins before"):
        ExtentLayout([Extent(offset, 2, Literal(b"ab")) for offset in offsets])


def test_extents_beyond_the_file_are_refused():
    with pytest.raises(ValueError, match="in a file of 3 bytes"):
        ExtentLayout([Extent(2, 2, Literal(b"ab"))], 3)
