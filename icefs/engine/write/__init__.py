"""Writing: sessions with changes, and the commits that publish them.

repository       a repository that is written to: made, committed to, administered
session          a session that writes
context          what every writer to an open repository needs
draft            the base of a session, the changes to it, and the commits of them that were tried
changeset        the changes of a session
node_editor      makes, rewrites, deletes and moves the nodes of a session
chunk_editor     stores the chunks of a session, and sets and deletes their references
edited_chunks    the chunks of arrays, with the session's changes on top
consolidated     rebases over groups whose consolidated metadata both sides rewrote
moves            checks of the moves in a rearrange session
reindex          moves an array's chunks to other indices by their references
forks            sessions that write for another one, in other processes
pickling         repositories and sessions sent to other processes
gate             many writers for a moment each, or one commit
transactions     commit, amend, flush, rebase
snapshot_writer  writes the files of a snapshot
chunk_writer     stores many chunks side by side, and collects the references to them
packing          which chunks share an object
manifest_split   how chunk references are spread over manifests
collection_log   the collections of a repository, from its ops log
chunk_guard      keeps a commit from referring to chunks that garbage collection has deleted
clocks           compares this machine's clock with the store's
publish          the one conditional write that makes a snapshot visible
rebase           replays a session's changes over a newer tip
conflicts        conflicts between two sets of changes, and the solvers
news             what others committed to a branch meanwhile, for messages
turns            fair turns among processes that commit to one branch
store_probe      whether a store keeps the conditions of writes
"""
