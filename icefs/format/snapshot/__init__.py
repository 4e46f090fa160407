"""Snapshot files: the groups and arrays of one version.

nodes   the values: nodes and manifest files
reader  reads snapshot files
writer  writes snapshot files
"""
