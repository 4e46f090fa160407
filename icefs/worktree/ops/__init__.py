"""What programs do to a working tree.

entries     what stands where: lookup, listing, attributes
namespace   create, remove, rename, link
moves       what a rename does
removal     takes entries out of directories
files       open, read, write, sync
attributes  mode, owner, times, size
removed     removed files that the kernel still knows
discard     drops uncommitted changes
"""
