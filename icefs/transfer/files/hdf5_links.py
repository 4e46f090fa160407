"""The members of a group of an HDF5 file, whose links may lead anywhere."""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple


class Member(NamedTuple):
    """A group or dataset of h5py.

    Attributes:
        name: Its name in its group.
        path: Its path, without a slash at the beginning.
        item: It.
    """

    name: str
    path: str
    item: Any


def members(group: Any, path: str, above: frozenset[Any], leave_out: Callable[[str, str], None]) -> Iterator[Member]:
    """Yields the groups and datasets of a group, and leaves out what its links do not lead to in the same file.

    Args:
        group: The group, of h5py.
        path: Its path.
        above: The addresses of it and of the groups above it (see `address_of`).
        leave_out: Called with the path of what is left out, and the reason.
    """
    import h5py

    for name in group:
        whole = f"{path}/{name}".lstrip("/")
        link = group.get(name, getlink=True)
        if isinstance(link, h5py.ExternalLink):
            leave_out(whole, f"it is a link into another file, {link.filename}")
            continue
        item = group.get(name)
        if item is None:
            leave_out(whole, "it is a link that leads nowhere")
        elif isinstance(item, h5py.Group):
            if address_of(item) in above:
                leave_out(whole, "it is a link to a group above it")
            else:
                yield Member(name, whole, item)
        elif isinstance(item, h5py.Dataset):
            yield Member(name, whole, item)
        # Else it is a named type, which holds nothing.


def address_of(group: Any) -> Any:
    """Returns the address of a group in its file, which all its names share."""
    import h5py

    return h5py.h5o.get_info(group.id).addr
