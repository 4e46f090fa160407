"""The disk cache in front of a remote store, for immutable bytes.

disk   the cache: its files, its limit, its lookups
entry  one file of the cache, checked when it is read
"""
