"""A snapshot as a tree of directories and files.

snapshot_tree     the tree: what the kernel asks for, and the control directory
snapshot_files    the directories and files of one snapshot
finder            what names, numbers and paths lead to in a snapshot
attributes        the attributes of what is in a snapshot
snapshot_listing  the entries of a snapshot's directories
listing           directory listings, in sections and runs
control_dir       the directory `.icefs`: a table of files, whose content is made when they are opened
context           what all trees of a mount share, and what tells one from another
advance           what changes when a branch gets another tip: a plan
advancer          carries the plan out, and finds the names that lead elsewhere
renames           inode numbers and times of what a commit renames
"""
