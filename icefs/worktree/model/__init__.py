"""The nodes of a working tree in memory; nothing here knows of disks.

nodes         files, directories and whiteouts
open_state    what a file has only while it is open
handles       open files
node_tree     the nodes over their base, and how to find them
materialise   nodes for what the base has and no node stands for yet
unfinished    files that a program is still writing
views         former states of nodes, for frozen trees
lost          bytes of a file that could not be stored
retained      inode numbers and times that committed files retain
retained_regions  retained numbers and times of renamed directories of chunks
reappearing   inode numbers for files that appear again under a removed name
"""
