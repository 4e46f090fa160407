"""Chunks on their way into the object store.

uploader    uploads the staged chunks of a commit, and returns their references
background  uploads chunks before a commit asks for them
log         the spool files that are in the store already: `uploads.db`
options     how chunks are stored
"""
