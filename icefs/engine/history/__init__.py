"""What changed between snapshots, when, and by which commit.

ancestry        snapshots by id, and the ancestors of one
changes         how the keys of two snapshots differ
compared_log    a transaction log, made by comparing two snapshots
diff            the changes from a snapshot to a descendant, from transaction logs
graph           the tree of snapshots as rows to draw
versus          what one version has that another has not
key_times       the commit times of a snapshot's keys
origins         where a commit's metadata say that it came from, and the base of a merge
original_commits  where the changes of merged, picked and restored commits were made first
lineage         the commits that changed a node, and the last commit of each chunk
lineage_values  the values that `lineage` returns
lineage_cache   the database of lineages on this machine
"""
