"""Trees: what branches, tags and snapshots look like in a mount.

root             the directories `branches`, `tags` and `snapshots`, and their trees
places           what the inode numbers and names of a tree stand for
listing          directory listings
snapshot_tree    a snapshot as a tree
branch_tree      a branch as a tree that follows its tip
advance          what changes when a branch gets another tip
follower         follows refs when they change in the repository
working_base     the life of the working tree over a branch
working_handles  open files of a working tree
base             the base snapshot of a working tree, by path
renames          inode numbers and times of what a commit renames
base_change      a change of base of a branch and its working tree
in_doubt         commits whose outcome was not known
late_commits     a commit that timed out, and that the store carried out after all
writable_branch  a branch that programs can write to
control_dir      the control directory `.icefs`: files whose content is made when they are opened
refusals         the last writes that a branch refused
"""
