"""Snapshot files: the groups and arrays of one version.

reader    reads snapshot files
writer    writes snapshot files
encoding  the codes and structs that both share
nodes     the values: nodes and manifest files
"""
