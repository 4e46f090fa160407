"""Upkeep: checks, collection, expiration, sizes and upgrades.

fsck           checks a repository, and repairs it
fsck_sizes     chunks of a size that their codecs rule out
garbage        deletes the objects that nothing needs
expiration     removes old snapshots from the history
lost_updates   updates of `repo` that another writer overwrote
storage_stats  how many bytes a repository's chunks take
migrate        upgrades from spec 1 to spec 2
"""
