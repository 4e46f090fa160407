"""Changes of base: after a commit, after a rebase, or to follow a branch.

base_change  puts a working tree on another base snapshot
outcome      what a change of base did
new_places   where the directories of a working tree are on the new base
yielding     where a working tree gives way to the commits of others
"""
