"""Exchange between repositories: histories of one come to another, with the ids that they have.

clone      a new repository, made of another
pull       histories come to a repository that is there
wanted     which branches and tags, and how deep
histories  the snapshots that are missing, and what they stand for where the history is cut
plan       what becomes of each branch and tag, and what would lose commits
needs      the objects that snapshots need, and those that are missing
objects    sets of objects, as columns
copying    copies objects from store to store
"""
