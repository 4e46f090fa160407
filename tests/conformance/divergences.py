"""Where icefs differs from the official library on purpose, numbered; anything else that differs is a bug.

A module or test that depends on one names it as `Divergence N`. `test_divergences.py` holds that each named number is
listed here.
"""

from typing import NamedTuple


class Divergence(NamedTuple):
    """One difference."""

    official: str
    icefs: str
    reason: str


DIVERGENCES: dict[int, Divergence] = {
    1: Divergence(
        "refuses to set a rectilinear chunk grid with a bare number for an axis, though it reads one that is there",
        "reads and sets it, as chunks of that size",
        "zarr-python 3.4.2 writes it",
    ),
    2: Divergence(
        "keeps the lowest 32 bits of a number of chunks",
        "refuses what does not fit",
        "an array of 2**32 chunks would become one without chunks",
    ),
    3: Divergence(
        "refuses a flatbuffer whose fields are not aligned",
        "reads it",
        "reading them harms nobody; no known writer makes them",
    ),
    4: Divergence(
        "fails on a compressed location in a manifest whose compression algorithm is 0",
        "takes the bytes as the location",
        "the schema says that they are",
    ),
    5: Divergence(
        "does not find references and arrays that are not sorted in their manifest, and lists them",
        "refuses the manifest, as it does where one is there twice",
        "a chunk that is there for one program and not for another is worse than an error",
    ),
    6: Divergence(
        "metadata values nest 1024 deep in MessagePack, without limit in FlexBuffers",
        "256 deep at most",
        "hostile files; nobody nests so deep",
    ),
    7: Divergence(
        "loses the end of a key with a NUL in FlexBuffers, silently",
        "refuses to write it",
        "what is read should be what was written",
    ),
    10: Divergence(
        "reads and lists every chunk as c/i/j, whatever the array's chunk key encoding",
        "reads and lists chunks under the keys that the array's metadata name",
        "zarr clients look for those; the repository holds chunk indices, not keys",
    ),
    11: Divergence(
        "writes, lists and reads references whose number of coordinates is not the array's",
        "refuses to read the chunks of an array with such references (FormatError), and of no other",
        "only a wrong key given to its store makes them; no directory tree can hold c/0 and c/0/0 both",
    ),
    12: Divergence(
        "takes c/00/0 and c/+1 as other names of c/0/0 and c/1",
        "takes canonical decimals only",
        "a key that is not listed must not exist",
    ),
    13: Divergence(
        "splits a key at its last letter c, so that abc/0/1 asks for chunk (0, 1) of /ab",
        "finds the array whose path the key starts with",
        "accident of parsing; what exists reads alike",
    ),
    14: Divergence(
        "list_dir of an array gives zarr.json and c, chunks or not, and nothing of what lies below it",
        "list_dir gives the names that the keys below have; c only where a chunk exists",
        "the Store contract of zarr-python, and what a mounted tree shows",
    ),
    15: Divergence(
        "list_dir leaves out parents of nodes that are no nodes themselves; list_prefix of one is an error",
        "lists them as what they are, directories",
        "list() has the keys below them",
    ),
    16: Divergence(
        "list_prefix and getsize_prefix of anything but a node's path raise bad-key-prefix",
        "list what is below any directory, nothing if there is none",
        "the Store contract of zarr-python",
    ),
    17: Divergence(
        "list_prefix and getsize_prefix of a path with a leading slash give nothing",
        "drop the slash, as get does",
        "one meaning for one path",
    ),
    18: Divergence(
        "a byte range that ends behind a chunk's end is an error; behind that of zarr.json, a panic",
        "cut in both cases",
        "the Store contract of zarr-python; HTTP does the same",
    ),
    19: Divergence(
        "the last n bytes of a zarr.json are all but the last n",
        "the last n bytes",
        "a bug there",
    ),
    20: Divergence(
        "a byte range that ends before it starts, or starts behind the end of zarr.json, panics",
        "invalid-byte-range",
        "as for chunks",
    ),
    21: Divergence(
        "a suffix longer than a chunk is an error",
        "all of the chunk",
        "the Store contract of zarr-python",
    ),
    22: Divergence(
        "getsize of a missing chunk is 0",
        "KeyMissingError, a KeyError and FileNotFoundError",
        "the Store contract of zarr-python; a missing zarr.json raises there too",
    ),
    23: Divergence(
        "exists and getsize of .zgroup, .zarray, .zattrs and .zmetadata raise key-not-found",
        "exists is false; getsize raises key-not-found",
        "the Store contract of zarr-python; get answers None there too",
    ),
    24: Divergence(
        "a chunk key below a group (c/0 of a root group) raises not-an-array",
        "the key is missing",
        "get of a missing key is None",
    ),
    25: Divergence(
        "get_partial_values with a missing key raises TypeError",
        "None in its place",
        "a bug there",
    ),
    26: Divergence(
        "a key with a trailing slash, or one that could only be a chunk key of another encoding, is invalid-key",
        "drops trailing slashes; the latter is missing",
        "whether it is valid depends on the array",
    ),
    27: Divergence(
        "a local repository of spec version 1 lists refs by percent-encoded file names, and cannot look those up",
        "lists the names that refs were created with",
        "a bug there: tags vanish from the list",
    ),
    28: Divergence(
        "an entity tag never matches a local file",
        "it matches the same file, with or without quotes",
        "a bug there",
    ),
    29: Divergence(
        "a local file of second S and a fraction is modified since S",
        "times are compared by the second",
        "references hold whole seconds only; writers take int(mtime)",
    ),
    30: Divergence(
        "a virtual chunk that starts behind its file's end fails as virtual-chunk-fetch",
        "invalid-object-size, as one that ends there",
        "it says what is wrong",
    ),
    31: Divergence(
        "the storage settings of the backend become part of the configuration, persisted too",
        "they stay what somebody set",
        "a repository copied to another backend would take them along",
    ),
    32: Divergence(
        "a default of max_concurrent_decodes comes from the machine's CPUs",
        "stays unset",
        "the configuration says what somebody set",
    ),
    33: Divergence(
        "two stores are equal only if they share a session",
        "read-only stores of the same snapshot of the same repository are equal",
        "zarr-python and dask compare stores that were pickled",
    ),
    34: Divergence(
        "set of a key that exists, with set_if_not_exists, is accepted by a read-only store",
        "refused like every write",
        "a store that only reads should not depend on what it holds",
    ),
    35: Divergence(
        "in spec version 1, an id that no snapshot has is a StorageError: its file is missing",
        "SnapshotNotFoundError, as in version 2",
        "one question, one answer",
    ),
    36: Divergence(
        "a file whose compressed body is damaged, or an empty manifest, is a StorageError of kind io or object-store",
        "FormatError, as for every other damage",
        "the disk did nothing wrong, and trying again helps nobody",
    ),
    37: Divergence(
        "gives what is left of a chunk object that is shorter than its reference says",
        "invalid-object-size",
        "wrong bytes are worse than an error",
    ),
    38: Divergence(
        "follows aliases in config.yaml",
        "refuses them",
        "no writer of configurations makes any, and they make a tree of any size of a small file",
    ),
    39: Divergence(
        "flush of a read-only session writes a snapshot like its own",
        "commit-not-allowed, as for commit and amend",
        "there is nothing to write",
    ),
    60: Divergence(
        "an array that both sides deleted and made anew is no conflict, and comes to be in the snapshot twice",
        "NewNodeConflictsWithExistingNode",
        "what they made is not ours to replace",
    ),
    61: Divergence(
        "moves are rebased over any commit without moves, and may leave a path twice, or a node without its parent",
        "MoveOperationCannotBeRebased, with the path, where a move does not fit what is there now",
        "nobody can read such a snapshot",
    ),
    62: Divergence(
        "a rebase whose base is not in the branch's history any more replays all of that history; it fails where a "
        "transaction log is gone, and may lose the changes",
        "replays the logs since the base, if expiration kept them; otherwise compares the snapshots",
        "conflicts are found that are there, and no others",
    ),
    63: Divergence(
        "in spec version 1, a commit to a branch that was deleted is a commit-conflict",
        "branch-not-found, as in version 2",
        "rebasing does not help",
    ),
    64: Divergence(
        "in spec version 1: a branch, or a repository, that exists already is a branch-update-conflict, a snapshot "
        "that "
        "does not is object-not-found, and a tag that was deleted is tag-already-exists",
        "the errors of version 2",
        "one question, one answer",
    ),
    65: Divergence(
        "a session that was committed can be flushed, which makes another snapshot of the same",
        "commit-not-allowed, as for a commit or an amend",
        "nobody means that",
    ),
    66: Divergence(
        "cannot upgrade a local repository with refs whose names are percent-encoded on the disk",
        "upgrades it, with the names that the refs were created with",
        "a bug there",
    ),
    67: Divergence(
        "shift_array takes an offset with more numbers than the array has dimensions, and panics with fewer",
        "invalid-chunk-index",
        "nobody can tell what is meant",
    ),
    68: Divergence(
        "reindex_array stores chunks under an index with another number of dimensions than the array; what its "
        "functions raise, or return that is no index, is an error of kind unknown",
        "what they raise comes out, and anything but an index of the array is invalid-chunk-index",
        "chunks of another rank can never be read; a program's own errors are its own",
    ),
    69: Divergence(
        "loses the metadata that a fork gave to a node which its origin had made before the fork, and what it did to "
        "nodes that the origin does not have",
        "merges the former; the latter, or another's change to the same node since, is merge-failed",
        "a bug there",
    ),
    70: Divergence(
        "merges an array and a group that two sessions made at one path, and commits both",
        "merge-failed, as where both are arrays",
        "nobody can read such a snapshot",
    ),
    71: Divergence(
        "merges the changes of a session of another repository",
        "merge-not-allowed",
        "its chunks are not there",
    ),
    72: Divergence(
        "a merge of several forks that fails keeps those before the one that fails",
        "keeps none of them",
        "a program can correct what is wrong, and merge again",
    ),
    73: Divergence(
        "the mode of a fork is readonly",
        "writable",
        "it writes",
    ),
    74: Divergence(
        "flushing a fork, and moving the chunks of an array without a regular grid, are errors of kind unknown",
        "commit-not-allowed and unimplemented",
        "programs can tell what is wrong",
    ),
    75: Divergence(
        "array_chunk_iterator of a group, or where no node is, yields nothing",
        "not-an-array, node-not-found",
        "as chunk_coordinates and everything else that is asked of an array",
    ),
    76: Divergence(
        "merges a fork into a session on a later snapshot, and so undoes what was committed in between",
        "merge-failed where these commits conflict with the fork's changes",
        "nobody's commit is undone without a word",
    ),
    77: Divergence(
        "of several forks that append the same chunk to an array keeps what the last one appended",
        "merge-failed",
        "each of them meant a step of its own",
    ),
    78: Divergence(
        "cuts a location of a virtual chunk at `?` and `#`, and drops control characters and spaces at its end",
        "refuses it when it is set, and the chunk when it is read",
        "other bytes than those of the object that was named would be the chunk; percent-encoding works in both",
    ),
    80: Divergence(
        "writes a snapshot with two nodes at one path when two sessions replace a node, and then reads the older one",
        "reads the newer one, and its next commit keeps that alone",
        "it is the one that the newest commit made",
    ),
    79: Divergence(
        "reads virtual chunks on S3 whose keys have `.` or `..` segments",
        "refuses such locations when they are set, and their chunks when they are read",
        "HTTP clients and proxies resolve these segments, so that the object may lie outside of the allowed prefix",
    ),
    81: Divergence(
        "raises ConflictError itself where a branch has moved, with a message that names the two snapshots alone",
        "raises BranchMovedError, a ConflictError whose facts list the commits in between; RebaseFailedError's message "
        "names the conflicts",
        "`except` takes both; who asks for the exact type gets a subclass",
    ),
    82: Divergence(
        "commits moves that put every node back where it was",
        "has no changes then, and nothing to commit",
        "nothing has changed",
    ),
    84: Divergence(
        "CompressionAlgorithm() is Zstd, and its members are no enum.Enum",
        "CompressionAlgorithm.default() is Zstd; its members, as those of ConflictType and VersionSelection, are",
        "an Enum lists its members and has their names",
    ),
}
