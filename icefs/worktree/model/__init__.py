"""The state of a working tree in memory.

nodes         files, directories and whiteouts
core          the state, and the frame in which everything changes it
places        which array a file is a chunk of
changes       the changes of a working tree, as a list
removed       removed files that the kernel still knows
lost          bytes of a file that could not be stored
kept          retained inode numbers and times
kept_regions  retained numbers and times of renamed directories of chunks
invariants    checks of the state, for tests
reappearing   inode numbers for files that appear again under a removed name
"""
