"""Whole directories of Zarr v3 into a repository and out of it, straight through the engine.

importing    a directory becomes one commit
scan         finds the nodes and chunk files of a directory
storing      the chunk files as a source of chunks, and what an earlier run has stored
ledger       the files that are uploaded and not committed yet
progress     how far a transfer has come
exporting    a version of a repository becomes a directory
view_exporting  a view of a version becomes a directory of its files
tasks        tasks for several threads, with progress
writing      writes the files of an export, from many threads
marker       the record of an export in its directory
folding      names that a file system takes for one
disk_errors  errors of the user's directory
"""
