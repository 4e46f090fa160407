"""What programs do to a working tree.

namespace   lookup, create, remove, rename, link, list
files       open, read, write, sync
attributes  mode, owner, times, size
discard     drops uncommitted changes
"""
