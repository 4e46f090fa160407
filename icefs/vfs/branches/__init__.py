"""A branch of the mount: its tip, the snapshot that it shows, and the working tree over that.

branch_tree          a branch: its snapshot tree, its tip, and where programs may write its writable branch
writable_branch      answers from the working tree, and asks the snapshot tree for what nobody changed
branch_changes       what changes a writable branch: its files and names
branch_base          what a writable branch stands on, and how that changes
base_change          a change of base of a branch and its working tree
in_doubt             commits whose outcome was not known
late_commits         a commit that timed out, and that the store carried out after all
working_life         the working tree: found on the disk or made, opened, closed
operations           how operations of the working tree run: on the event loop's thread, or in a worker thread
working_handles      open files of a writable branch
working_attrs        attributes and entries of a working tree as the kernel has them
removed_directories  directories that were removed while a program stands in them
metadata_checks      what a `zarr.json` must be
refusals             the last writes that a branch refused
session_base         the base snapshot of a working tree, by path, with the branch's inode numbers
settings             what writable branches of a mount share
"""
