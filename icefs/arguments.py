"""Checks of arguments whose types and ranges the official library checks when a call is made.

They raise what Python's own functions raise for such arguments, and what the official library therefore raises:
TypeError for another type, OverflowError for a number that does not fit.
"""

from datetime import datetime
from operator import index
from typing import Any, Final

U8: Final = (0, 2**8 - 1)
U16: Final = (0, 2**16 - 1)
U32: Final = (0, 2**32 - 1)
U64: Final = (0, 2**64 - 1)
I32: Final = (-(2**31), 2**31 - 1)


def check_instance(value: object, *classes: type) -> None:
    """Raises TypeError for a value that is an instance of none of the classes."""
    if not isinstance(value, classes):
        wanted = " or ".join(each.__name__ for each in classes)
        raise TypeError(f"'{type(value).__name__}' object is not an instance of '{wanted}'")


def checked_integer(value: Any, limits: tuple[int, int], name: str = "the number") -> int:
    """Returns a number as `int`.

    Args:
        value: Anything that Python takes for an integer, of NumPy as well.
        limits: The least and the greatest number.
        name: Where the number is, for the message.

    Raises:
        TypeError: it is no integer.
        OverflowError: it does not lie within the limits.
        ValueError: it is zero, and the least number is one.
    """
    number = int(index(value))
    low, high = limits
    if number == 0 and low == 1:
        raise ValueError(f"invalid zero value: {name} must be at least 1")
    if number < low:
        raise OverflowError(f"{name} is {number}, a number too small to fit: at least {low}")
    if number > high:
        raise OverflowError(f"{name} is {number}, a number too large to fit: at most {high}")
    return number


def check_time(value: object, name: str) -> None:
    """Raises TypeError for a value that is no time, and for a time without a zone."""
    check_instance(value, datetime)
    assert isinstance(value, datetime)
    if value.tzinfo is None:
        raise TypeError(f"expected a datetime with non-None tzinfo: {name} needs a time zone")
