"""The attributes of a working tree's files, and the entries of its directories, as the kernel has them."""

from collections.abc import Iterable, Iterator

from icefs.inode import NO_INO
from icefs.vfs.attrs import FOREVER_S, Attr
from icefs.vfs.trees.listing import NamedEntries, Section
from icefs.worktree.model.nodes import Attr as NodeAttr
from icefs.worktree.model.nodes import TreeEntry


def kernel_attr(attr: NodeAttr) -> Attr:
    """Returns the attributes of a file of a working tree as the kernel has them."""
    nlink = 2 if attr.is_dir else attr.nlink
    times = attr.mtime_ns, attr.ctime_ns, attr.atime_ns
    # In order: keywords cost a tenth of a lookup.
    return Attr(attr.ino, attr.mode, nlink, attr.uid, attr.gid, attr.size, *times, FOREVER_S, FOREVER_S)


def list_working(entries: Iterable[tuple[str, TreeEntry]], own: Attr, hidden: str | None) -> Iterator[Section]:
    """Yields the entries of a directory in sections of those that share mode, links and owner.

    Args:
        entries: The entries, by name.
        own: The attributes of the directory.
        hidden: A name that is not listed.
    """
    groups: dict[tuple[int, int, int, int], list[tuple[bytes, int, int, int]]] = {}
    for name, (_, attr) in entries:
        if name == hidden:
            continue
        row = name.encode(errors="surrogatepass"), attr.ino, attr.size, attr.mtime_ns
        groups.setdefault((attr.mode, attr.nlink, attr.uid, attr.gid), []).append(row)
    # Listings have one time only, so the kernel asks again before it shows the others.
    blank = own._replace(attr_timeout_s=0.0, ino=NO_INO)
    for (mode, nlink, uid, gid), rows in groups.items():
        yield NamedEntries(blank._replace(mode=mode, nlink=nlink, uid=uid, gid=gid), rows)
