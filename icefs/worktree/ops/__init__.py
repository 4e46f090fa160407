"""What programs do to a working tree.

namespace   lookup, create, remove, rename, link, list
files       open, read, write, sync
attributes  mode, owner, times, size
removed     removed files that the kernel still knows
discard     drops uncommitted changes
"""
