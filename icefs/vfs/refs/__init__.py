"""The mount's own directories, and the trees that they lead to.

root            the directories `branches`, `tags` and `snapshots`
as_of           the directory `as-of`, whose links lead to what a branch was at a time
branch_history  which snapshot was a branch's tip at a time
follower        follows refs when they change in the repository
snapshot_times  when snapshots were written, and which of them refs reach
mounted_trees   the trees of a mount, or the one that is all that is mounted
loaded_trees    bounds how many trees of tags and snapshots are in memory
"""
