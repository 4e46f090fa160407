"""Whole directories of Zarr v3 into a repository and out of it, straight through the engine.

directory_import  a directory becomes one commit
scan              finds the nodes and chunk files of a directory
chunk_files       the chunk files as a source of chunks, and what an earlier run has stored
ledger            the files that are uploaded and not committed yet
directory_export  a version of a repository becomes a directory
view_export       a view of a version becomes a directory of its files
view_writer       writes them, from many threads
view_versions     which files of the directory are those of a version
view_layouts      their layouts, each worked out once
export_files      writes the files of an export, from many threads
copying           copies ranges of bytes between files
tasks             tasks for several threads, with progress
marker            the record of an export in its directory
similar_names     names that a file system takes for one
progress          how far a transfer has come
disk_errors       errors of the user's directory
files             files in other formats: found, and combined
virtual           their arrays as virtual references
copied            their arrays as arrays of the repository
"""
