"""Inode numbers and times.

table        ranges of inode numbers, and the tree that each belongs to
tree_inodes  the numbers and times of one tree, whichever snapshot it shows
numbers      tables of numbers: of nodes, of an array's chunks
former       the numbers that chunks had before a directory of them was renamed
history      when each path changed, as far as the mount saw it
first_times  when each key changed before the mount began
"""
