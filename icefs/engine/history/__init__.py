"""What changed between snapshots, when, and by which commit.

ancestry        the ancestors of a snapshot in spec 1
changes         how the keys of two snapshots differ
compared_log    a transaction log, made by comparing two snapshots
diff            the changes from a snapshot to a descendant, from transaction logs
graph           the tree of snapshots as rows to draw
key_times       the commit times of a snapshot's keys
lineage         the commits that changed a node, and the last commit of each chunk
lineage_values  the values that `lineage` returns
lineage_cache   the database of lineages on this machine
"""
