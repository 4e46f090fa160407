"""Changes of base: after a commit, after a rebase, or to follow a branch.

plan         a change of base as values: the plan, and the outcome
base_change  the steps of a change of base
new_base     where directories and files of the tree are on the new base
decisions    what becomes of each file and whiteout
rescue       what only the old base has, and is copied up first
tree_edit    the change on the nodes, which can be taken back
tables       rows and tables that follow from the nodes
numbering    inode numbers and times, retained or given up
yielding     where a working tree gives way to the commits of others
"""
