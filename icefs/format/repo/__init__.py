"""The state of a repository: the `repo` file of spec 2, and the ref files of spec 1.

info            the `repo` file: refs, snapshots, status, configuration
snapshot_table  its list of snapshots, as columns
ops_log         its log of the latest updates
update          the updates of `repo`, as functions from state to state
refs_v1         branches and tags of spec 1
"""
