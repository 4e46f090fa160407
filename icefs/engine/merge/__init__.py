"""Bringing versions together: merges, picked, reverted and restored ones, as ordinary commits.

operations   merge, cherry-pick, revert and restore, as commits to a branch
restoration  what a version has at a path, brought back
combine      three snapshots become the changes of one commit, or conflicts
agreement    whether merges from different bases come to the same
sides        whose change counts where two conflict
patch        what changed from one snapshot to another, with the references
references   the chunk references of arrays, compared
"""
