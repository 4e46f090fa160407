"""A working tree that lasts: its nodes with their rows and their bytes.

tree_core   the nodes, the lock, and the frame in which everything changes them
content     where a file's bytes are, and what it takes to change them
copies      private copies of files, made while the lock is free
lost_bytes  bytes that could not be stored
damage      what is damaged in a working tree
invariants  checks of the state, for tests
"""
