"""Repositories at the root of a bucket whose keys begin with a slash.

The official library laid them down so until its version 2.1: `/repo` in place of `repo`. It finds out which of the two
is there, and so does this module, by the first request.
"""

from collections.abc import Callable, Iterator

from icefs.errors import AccessDeniedError, ObjectNotFoundError
from icefs.storage.s3.answers import ListPage
from icefs.storage.s3.object_reader import ObjectReader


def has_rooted_keys(reader: ObjectReader, pages: Callable[[str], Iterator[ListPage]]) -> bool:
    """Tells whether the repository at a bucket's root has keys that begin with a slash.

    One request tells where a repository of spec 2 is; without any, it takes four.

    Args:
        reader: Reads objects of the bucket.
        pages: Lists the objects below a prefix.

    Raises:
        StorageError: the bucket cannot be reached.
    """
    for name, is_rooted in (("repo", False), ("/repo", True)):
        try:
            reader.head(name, {})
        except (ObjectNotFoundError, AccessDeniedError):
            continue
        return is_rooted
    # Repositories of spec 1 have no such file.
    for prefix, is_rooted in (("refs/", False), ("/refs/", True)):
        try:
            if next(pages(prefix)).objects:
                return is_rooted
        except AccessDeniedError:
            return False
    return False
