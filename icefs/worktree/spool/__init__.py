"""The state directory: what survives the daemon.

state         state directories: where they lie, and their locks
versions      versions of the state directory
opening       opens the database, compares its files, repairs what is damaged
journal       the database of rows
row_log       the second copy of the rows
errors        what the errors of SQLite mean
files         spool files: the bytes of written files
ahead         spool files made in advance
write_behind  starts to write dirty pages to disk before a commit waits for them
removal       removes spool files that nothing refers to
reserve       disk space held back, for what makes room
summary       what state directories hold, read without opening them
"""
