"""Chunks on their way into the object store.

uploader      uploads the staged chunks of a commit, and returns their references
background    uploads chunks before a commit asks for them
quiet_files   closed files, until they have been the same for long enough
queue         the files that are to be uploaded: those that wait, and those under way
stored_files  the spool files that are in the store already
log           the record of them on the disk: `uploads.db`
options       how chunks are stored
"""
